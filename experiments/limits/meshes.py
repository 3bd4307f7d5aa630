"""Training steps on meshes of virtual devices, in a process of their own."""

import functools
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import alone
from parallel_ar import models
from parallel_ar.analysis import collectives, timing
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import sharding
from parallel_ar.training import configuration, optimizer, state, step


class Measured(NamedTuple):
  """A step on a mesh.

  Attributes:
    sizes: of the mesh.
    batch: examples of the step.
    seconds: float[rounds], taken in turn with the other meshes.
    memory: bytes of one device: arguments, results and temporaries.
    calls: collectives of a step.
    sent: bytes that one device sends in a step.
  """

  sizes: dict[str, int]
  batch: int
  seconds: np.ndarray
  memory: int
  calls: int
  sent: float


def measure(
  config: ConfigDict,
  wanted: list[tuple[dict[str, int], int]],
  devices: int,
  rounds: int,
) -> list[Measured]:
  """Compiles and runs the step of a config on virtual devices of one CPU.

  The devices share the cores of the machine, so the seconds say what sharding
  costs in operations and copies, and nothing about links; memory, calls and
  bytes are those of any devices whose compiler divides the step alike.

  Args:
    config: of a run.
    wanted: meshes, each with the examples of its step.
    devices: virtual ones.
    rounds: timed, all meshes in turn.

  Returns:
    What was measured, in the order of `wanted`.

  Raises:
    RuntimeError: the process ended early.
  """
  before = os.environ.get('NPROC')
  os.environ['NPROC'] = '32'  # read before JAX: see docs/scaling.md
  try:
    args = configuration.to_json(config), wanted, devices, rounds
    return alone.run(f'{devices} virtual devices', _measured, *args)
  finally:
    if before is None:
      del os.environ['NPROC']
    else:
      os.environ['NPROC'] = before


def _measured(
  config: Any, wanted: Any, devices: int, rounds: int
) -> list[Measured]:
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', devices)
  made = [_step(configuration.from_json(config), *one) for one in wanted]
  programs = {str(k): run for k, (run, _) in enumerate(made)}
  times = timing.in_turn(programs, rounds=rounds, warmup=2)
  found = []
  for k, (sizes, batch) in enumerate(wanted):
    program = made[k][1]
    memory = program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    traffic = collectives.census(program.as_text()).values()
    found.append(
      Measured(
        sizes,
        batch,
        times.seconds[str(k)],
        int(held + memory.output_size_in_bytes - memory.alias_size_in_bytes),
        sum(t.calls for t in traffic),
        sum(t.sent for t in traffic),
      )
    )
  return found


def _step(
  config: ConfigDict, sizes: dict[str, int], batch: int
) -> tuple[Callable[[], Any], Any]:
  """The step on a mesh as a callable, and its program."""
  built = models.build(config.model)
  rule = optimizer.make(config.optimizer, steps=config.train.steps)
  decay = config.train.ema_decay
  update = step.make_train_step(
    built,
    rule,
    schedule=optimizer.schedule(config.optimizer, steps=config.train.steps),
    ema_decay=decay,
  )
  create = functools.partial(state.create, built[0], rule, ema=decay > 0)
  mesh = mesh_lib.make(sizes)
  sharding.check(config.model.name, mesh)
  key = jax.random.key(0)
  shapes = jax.eval_shape(create, key)
  places = sharding.state_shardings(shapes, config.model.name, mesh)
  with jax.set_mesh(mesh):
    now = jax.jit(create, out_shardings=places)(key)
    data = mesh_lib.place(_events(built[0], batch))
    program = (
      jax.jit(update, donate_argnums=0, out_shardings=(places, None))
      .lower(now, data)
      .compile()
    )
  kept = [now]

  def run() -> None:
    kept[0], metrics = program(kept[0], data)
    jax.block_until_ready((kept[0], metrics))

  return run, program


def _events(model: Any, batch: int) -> dict[str, Any]:
  """Random events; the time of a step does not depend on them."""
  values = model.head.num_values or 2
  shape = batch, *model.event.shape
  x = np.random.default_rng(0).integers(values, size=shape)
  zeros = lambda s: np.zeros((batch, *s.shape), s.dtype)
  context = jax.tree.map(zeros, model.context)
  return {'x': x.astype(model.event.dtype), 'context': context}


def all_of(devices: int, **sizes: int) -> dict[str, int]:
  """The four sizes, `data` taking what the others leave of the devices."""
  return mesh_lib.fill({'data': -1, **sizes}, devices)


def parts(sizes: dict[str, int]) -> int:
  """Devices of a mesh."""
  return math.prod(sizes.values())
