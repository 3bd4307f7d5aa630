"""The programs of a config, compiled for a mesh and not run.

  train    one update of the state, whose memory is donated
  pass     log p(x) of a batch
  cached   samples by the model's path, its own or the derived one, unproved
  codec    the fixed point that the codec's lanes decode

A compiler tells what each needs: bytes of arguments and temporaries, floating-
point operations, collectives. It needs no device, only their description: the
virtual devices of a CPU, or the chips of `topology.devices`, for which
XLA:TPU compiles.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from parallel_ar import coding, likelihood, precision, samplers, target
from parallel_ar import models as models_lib
from parallel_ar.analysis import collectives, complexity
from parallel_ar.coding import lanes
from parallel_ar.data import pipeline
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import sharding, topology
from parallel_ar.partition import AXES
from parallel_ar.training import optimizer, state, step

KINDS = ('train', 'pass', 'cached', 'codec')


class Compiled(NamedTuple):
  """What XLA says of one device.

  Attributes:
    arguments: bytes of what goes in, and of results that are not donated.
    temporary: bytes of everything else at the fullest moment.
    flops: floating-point operations; the body of a loop counts once.
    traffic: bytes that pass through its memory, counted alike.
    collectives: kind -> Traffic, loops counted.
  """

  arguments: int
  temporary: int
  flops: float
  traffic: float
  collectives: dict[str, collectives.Traffic]

  @property
  def memory(self) -> int:
    """Bytes in all."""
    return self.arguments + self.temporary

  @property
  def sent(self) -> float:
    """Bytes that a device sends."""
    return sum(kind.sent for kind in self.collectives.values())


class Program(NamedTuple):
  """A function with the shapes, and places, of its arguments.

  Attributes:
    function: pure.
    arguments: ShapeDtypeStructs.
    options: of `jax.jit`.
  """

  function: Callable[..., Any]
  arguments: tuple[Any, ...]
  options: dict[str, Any]


class Programs:
  """The programs of a config."""

  def __init__(self, config: ConfigDict):
    """Builds the models; compiles nothing."""
    self.config, self.family = config, config.model.name
    self.models = models_lib.build(config.model)
    rule, create = state.of_config(config, self.models[0])
    rate = optimizer.schedule(config.optimizer, steps=config.train.steps)
    decay = config.train.ema_decay
    self._step = step.make_train_step(
      self.models, rule, schedule=rate, ema_decay=decay
    )
    self.state = jax.eval_shape(create, jax.random.key(0))

  def batch(self, size: int) -> dict[str, Any]:
    """Shapes of a batch of so many examples, in the dtype that is sent."""
    model = self.models[0]
    lead = lambda s: jax.ShapeDtypeStruct((size, *s.shape), s.dtype)
    kind = model.event.dtype
    if jnp.issubdtype(kind, jnp.integer):
      kind = pipeline.dtype(model.head.num_values or 2**31)
    x = jax.ShapeDtypeStruct((size, *model.event.shape), kind)
    return {'x': x, 'context': jax.tree.map(lead, model.context)}

  def state_bytes(
    self, sizes: dict[str, int], local: int, tiled: bool = False
  ) -> float:
    """Bytes of the state and the batch on one device.

    Args:
      sizes: of the mesh.
      local: examples of one device.
      tiled: as they lie in the memory of a TPU.
    """
    mesh = AbstractMesh(tuple(sizes[axis] for axis in AXES), AXES)
    places = sharding.state_shardings(self.state, self.family, mesh)
    parts = [
      (place.shard_shape(leaf.shape), leaf.dtype)
      for leaf, place in zip(
        jax.tree.leaves(self.state), jax.tree.leaves(places), strict=True
      )
    ]
    parts += [(s.shape, s.dtype) for s in jax.tree.leaves(self.batch(local))]
    plain = lambda shape, dtype: math.prod(shape) * dtype.itemsize
    return sum((topology.stored_bytes if tiled else plain)(*p) for p in parts)

  def cut(self, parts: int) -> float:
    """Share of the parameters' bytes that so many parts of `fsdp` cut."""
    mesh = AbstractMesh((1, parts, 1, 1), AXES)
    places = sharding.param_shardings(self.state.params, self.family, mesh)
    cut = total = 0
    for leaf, place in zip(
      jax.tree.leaves(self.state.params), jax.tree.leaves(places), strict=True
    ):
      size = math.prod(leaf.shape) * leaf.dtype.itemsize
      total += size
      cut += size * (place.shard_shape(leaf.shape) != leaf.shape)
    return cut / total

  def work(self, kind: str, size: int) -> float:
    """Floating-point operations of all devices together.

    Counted from what is traced, with loops; a loop whose end depends on data,
    as that of the codec, counts one turn.
    """
    made = self.program(kind, None, size)
    return complexity.count(made.function, *made.arguments).work

  def program(self, kind: str, mesh: Mesh | None, size: int) -> Program:
    """A program, to be traced under the mesh.

    Args:
      kind: one of KINDS.
      mesh: where its arguments lie; None for no place.
      size: examples of the whole batch, a multiple of `batch_parts(mesh)`.

    Raises:
      ValueError: an unknown kind, or a codec of continuous values.
    """
    model, now, batch = self.models[0], self.state, self.batch(size)
    options: dict[str, Any] = {}
    run: Callable[..., Any]
    spread = lambda tree: tree
    if mesh is not None:
      places = sharding.state_shardings(now, self.family, mesh)
      now = sharding.with_shardings(now, places)
      over = mesh_lib.batch_sharding(mesh)
      spread = lambda tree: jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=over), tree
      )
      if kind == 'train':
        options['out_shardings'] = places, None
    batch = spread(batch)
    x, context = batch['x'], batch['context']
    wide = lambda s, dtype: spread(jax.ShapeDtypeStruct(s.shape, dtype))
    if kind == 'train':
      return Program(self._step, (now, batch), options | {'donate_argnums': 0})
    if kind == 'pass':
      run = functools.partial(likelihood.log_prob, model)
      return Program(run, (now.params, x, context), options)
    if kind == 'cached':
      keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))
      return Program(_draw(model), (now.params, spread(keys), context), options)
    if kind == 'codec':
      if model.head.num_values is None:
        raise ValueError(f'{model.name} has continuous values: no codec.')
      run = functools.partial(lanes.solve, model, coding.PRECISION)
      x = wide(x, jnp.int32)
      args = now.params, x, context, x, jax.ShapeDtypeStruct((), jnp.bool_)
      return Program(run, args, options)
    raise ValueError(f'--programs={kind}: expected some of {", ".join(KINDS)}.')

  def level(self, kind: str) -> str:
    """The level of `precision` that a program is compiled at.

    Args:
      kind: one of KINDS.
    """
    levels = {'train': self.config.train.precision, 'codec': 'highest'}
    return str(levels.get(kind, self.config.evaluate.precision))

  def compile(
    self,
    kind: str,
    sizes: dict[str, int],
    local: int,
    devices: Sequence[Any] | None = None,
  ) -> Compiled:
    """Compiles a program for a mesh and `local` examples a device.

    Args:
      kind: one of KINDS.
      sizes: of the mesh.
      local: examples of one device.
      devices: what the mesh is made of; those of JAX here by default.

    Returns:
      What XLA says of it.

    Raises:
      ValueError: a mesh that the family cannot use.
    """
    mesh = mesh_lib.make(sizes, devices)
    sharding.check(self.family, mesh)
    made = self.program(kind, mesh, local * mesh_lib.batch_parts(mesh))
    platform = mesh.devices.flat[0].platform
    with jax.set_mesh(mesh), target.on(platform):
      with precision.scope(self.level(kind)):
        jitted = jax.jit(made.function, **made.options)
        return _read(jitted.lower(*made.arguments).compile())


def _draw(model: Any) -> Callable[..., Any]:
  sampler = samplers.cached(model, verify=False)
  return lambda params, keys, context: sampler(params, keys, context).x


def _read(compiled: Any) -> Compiled:
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
  return Compiled(
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes,
    memory.temp_size_in_bytes,
    cost.get('flops', 0.0),
    cost.get('bytes accessed', 0.0),
    collectives.census(compiled.as_text()),
  )
