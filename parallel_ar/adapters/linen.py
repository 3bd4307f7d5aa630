"""Linen modules as records."""

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import current_trace, meta

from parallel_ar import order, partition
from parallel_ar.adapters.cache import Cache, of_one
from parallel_ar.adapters.network import (
  Fields,
  Network,
  call_with,
  make,
  one_more,
)
from parallel_ar.head import Head
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array, ArrayLike, Context, Params, PRNGKey

# What a module writes down beside its outputs, which nothing reads.
_NOTES = {'intermediates', 'params_axes', 'perturbations'}


def from_linen(
  module: nn.Module,
  *,
  event: jax.ShapeDtypeStruct | order.Shape,
  head: Head,
  rank: ArrayLike | None = None,
  start: float | None = None,
  batched: bool = False,
  call: Callable[[Any, Array, Context], Any] | None = None,
  train: Callable[[Any, Array, Context], Any] | None = None,
  **fields: Unpack[Fields],
) -> AutoregressiveModel:
  """Makes a model of a Linen module.

  Linen ends here. The module may own parameters only; a mutable collection
  would be state hidden from samplers. Partition metadata is taken off the
  parameters: `distributed` shards by their paths.

  Args:
    module: a module that takes symbols, and the context where there is one.
    event: shape of one x (int32), or its ShapeDtypeStruct.
    head: family of the conditionals.
    rank: int[E], the order of generation; raster by default.
    start: what is fed before the first symbol, see `from_apply`; None for a
      module that takes x itself and shifts inside.
    batched: whether the module takes and gives a leading batch axis.
    call: (module, tokens, context) -> outputs, where it is called otherwise:
      `lambda m, tokens, context: m(tokens, deterministic=True)`.
    train: as `call`, with dropout; training minimises -log p(x) under it, and
      hands it the random stream 'dropout'.
    **fields: further fields of the record, see `AutoregressiveModel`.

  Returns:
    The record.

  Raises:
    ValueError: the parts do not fit, or the module owns other collections.
  """
  name = type(module).__name__
  run = call or (lambda m, *args: call_with(m.__call__, *args))

  def init(key: PRNGKey, tokens: Array, context: Context) -> Params:
    rngs = {'params': key, 'dropout': jax.random.fold_in(key, 1)}
    variables = module.init(rngs, tokens, context, method=run)
    if extra := set(variables) - {'params', *_NOTES}:
      raise ValueError(
        f'{name} owns the collections {sorted(extra)}; a model may own only '
        'params. Batch statistics and mutable caches leak state between '
        'positions or examples.'
      )
    return meta.map_axis_meta(_opened, variables.get('params', {}))

  def apply(params: Params, tokens: Array, context: Context) -> Any:
    return module.apply({'params': params}, tokens, context, method=run)

  def noisy(params: Params, tokens: Array, context: Context, key: PRNGKey):
    rngs = {'dropout': key}
    return module.apply(
      {'params': params}, tokens, context, method=train, rngs=rngs
    )

  network = Network(
    # Linen's init would compile each operation alone, and shard boxes.
    jax.jit(partition.alone(init)),
    apply,
    noisy if train else None,
  )
  return make(
    network,
    event=event,
    head=head,
    start=start,
    rank=rank,
    batched=batched,
    fields={'name': name, **fields},
    seen=True,
  )


def linen_cache(
  module: nn.Module,
  length: int,
  *,
  batched: bool = True,
  call: Callable[[Any, Array, Context, Array], Any] | None = None,
) -> Cache:
  """The cache of a Linen module that has a collection 'cache'.

  Args:
    module: the module, as it generates; often another one of the same
      parameters, made with `decode=True`.
    length: symbols that it makes room for.
    batched: whether it takes and gives a leading batch axis.
    call: (module, tokens, context, position) -> outputs of tokens int32[1, 1]
      (or [1]), where it is called otherwise than `module(tokens)`.

  Returns:
    The cache, for `decode_from_cache`.
  """

  def run(m: Any, tokens: Array, context: Context, position: Array) -> Any:
    if call:
      return call(m, tokens, context, position)
    return call_with(m.__call__, tokens, context)

  def init(params: Params, context: Context) -> Any:
    tokens = jnp.zeros((1, length) if batched else (length,), jnp.int32)
    rngs = {'params': jax.random.key(0), 'dropout': jax.random.key(0)}
    context = one_more(context) if batched else context
    made = module.init(rngs, tokens, context, jnp.int32(0), method=run)
    if 'cache' not in made:
      raise ValueError(
        f"{type(module).__name__} makes no collection 'cache'. Give the "
        'module as it generates, made with decode=True perhaps.'
      )
    return meta.map_axis_meta(_opened, made['cache']), context

  def step(params: Params, cache: Any, token: Array, position: Array) -> Any:
    cache, context = cache
    tokens = token[None, None] if batched else token[None]
    outputs, changed = module.apply(
      {'params': params, 'cache': cache},
      tokens,
      context,
      position,
      method=run,
      mutable=['cache'],
    )
    new = meta.map_axis_meta(_opened, changed['cache'])
    return of_one(outputs, batched), (new, context)

  return Cache(init, step)


def outputs(
  function: Callable[..., Any], *args: Any
) -> tuple[Any, dict[str, Array]]:
  """What a function gives, and what every Linen module inside it gives.

  Args:
    function: one that calls modules, such as `model.conditionals`.
    *args: of it.

  Returns:
    (its result, path of a module -> the first floating-point array that it
    gave). What lives inside of loops and checkpoints only is left out, and so
    are models of other frameworks.
  """
  found: dict[str, Array] = {}
  level = current_trace()

  def watch(call: Any, given: Any, options: Any, context: Any) -> Any:
    out = call(*given, **options)
    if current_trace() == level:
      arrays = [a for a in jax.tree.leaves(out) if isinstance(a, jax.Array)]
      real = [a for a in arrays if jnp.issubdtype(a.dtype, jnp.floating)]
      found.update({'/'.join(context.module.path): a for a in real[:1]})
    return out

  with nn.intercept_methods(watch):
    result = function(*args)
  found.pop('', None)  # the whole network
  return result, found


def _opened(box: Any) -> Any:
  """What is in a box; `unbox` would shard it over whatever mesh is set."""
  while isinstance(box, meta.AxisMetadata):
    box = box.value if hasattr(box, 'value') else box.unbox()
  return box
