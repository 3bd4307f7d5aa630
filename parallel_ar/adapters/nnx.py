"""NNX modules as records."""

from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import jax

from parallel_ar import order
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


def from_nnx(
  module: Any,
  *,
  event: jax.ShapeDtypeStruct | order.Shape,
  head: Head,
  start: float | None,
  rank: ArrayLike | None = None,
  batched: bool = True,
  call: Callable[[Any, Array, Context], Any] | None = None,
  train: Callable[[Any, Array, Context], Any] | None = None,
  **fields: Unpack[Fields],
) -> AutoregressiveModel:
  """Makes a model of an NNX module.

  Parameters are the module's `nnx.Param`, as nested dicts. All else that it
  holds (tables, the state of random streams) is constant; it runs in
  evaluation mode, without dropout.

  Args:
    module: how it is made, (rngs: nnx.Rngs) -> module; or a module, whose own
      weights `init` then gives for every key.
    event: shape of one x (int32), or its ShapeDtypeStruct.
    head: family of the conditionals.
    start: what is fed before the first symbol, or None; see `from_apply`.
    rank: int[E], the order of generation; raster by default.
    batched: whether the module takes and gives a leading batch axis.
    call: (module, tokens, context) -> outputs, where it is called otherwise
      than `module(tokens)`, or `module(tokens, context)` with a context.
    train: as `call`, on the module in training mode, whose random streams are
      seeded anew at each step; training minimises -log p(x) under it.
    **fields: further fields of the record, see `AutoregressiveModel`.

  Returns:
    The record.

  Raises:
    ValueError: the parts do not fit, or the module holds batch statistics or a
      cache.
  """
  from flax import nnx

  new = _maker(module)
  parts = _split(lambda: new(0), nnx.Param)
  name = _check(parts.shapes())

  def init(key: PRNGKey, tokens: Array, context: Context) -> Params:
    return nnx.to_pure_dict(nnx.state(new(key), nnx.Param))

  run = call or (lambda m, *args: call_with(m.__call__, *args))

  def apply(params: Params, tokens: Array, context: Context) -> Any:
    made = parts.bound(params)
    made.eval()
    return run(made, tokens, context)

  def noisy(params: Params, tokens: Array, context: Context, key: PRNGKey):
    made = parts.bound(params)
    made.train()
    _reseed(made, key)
    return (train or run)(made, tokens, context)

  return make(
    Network(jax.jit(init), apply, noisy if train else None),
    event=event,
    head=head,
    start=start,
    rank=rank,
    batched=batched,
    fields={'name': name, **fields},
  )


def _check(made: Any) -> str:
  """The name of a module that owns parameters only."""
  from flax import nnx

  name = type(made).__name__
  for kind in (nnx.BatchStat, nnx.Cache):
    if held := nnx.to_flat_state(nnx.state(made, kind)):
      path = '.'.join(map(str, held[0][0]))
      raise ValueError(
        f'{name} holds {kind.__name__} at {path}; a model may own only '
        'parameters. Batch statistics and mutable caches leak state between '
        'positions or examples. A cache belongs in a decode path, see '
        'par.nnx_cache.'
      )
  return name


def _reseed(made: Any, key: PRNGKey) -> None:
  """Gives each random stream of a module a key of its own."""
  from flax import nnx

  nodes = [node for _, node in nnx.iter_graph(made)]
  streams = {n.tag for n in nodes if isinstance(n, nnx.RngStream)}
  seeds: dict[str, Any] = {
    tag: jax.random.fold_in(key, n) for n, tag in enumerate(sorted(streams))
  }
  nnx.reseed(made, **seeds)


def nnx_cache(
  module: Any,
  length: int,
  *,
  batched: bool = True,
  prepare: Callable[[Any], Any] | None = None,
  call: Callable[[Any, Array, Context, Array], Any] | None = None,
) -> Cache:
  """The cache of an NNX module: its variables of kind `nnx.Cache`.

  Args:
    module: the module, or how it is made, (rngs: nnx.Rngs) -> module.
    length: symbols that it makes room for.
    batched: whether it takes and gives a leading batch axis.
    prepare: (module) -> None makes the cache; by default `init_cache` of every
      `nnx.MultiHeadAttention` in it, which are set to decode=True.
    call: (module, tokens, context, position) -> outputs of tokens int32[1, 1]
      (or [1]), where it is called otherwise than `module(tokens)`.

  Returns:
    The cache, for `decode_from_cache`.

  Raises:
    ValueError: the module holds no cache after `prepare`.
  """
  from flax import nnx

  def attention(made: Any) -> None:
    lead = (1, length) if batched else (length,)
    for _, node in nnx.iter_graph(made):
      if isinstance(node, nnx.MultiHeadAttention):
        node.decode = True
        node.init_cache((*lead, node.in_features))

  new = _maker(module)

  def made() -> Any:
    it = new(0)
    it.eval()
    (prepare or attention)(it)
    return it

  parts = _split(made, nnx.Param, nnx.Cache)
  if not jax.tree.leaves(parts.states[1]):
    raise ValueError(
      f'{type(parts.shapes()).__name__} holds no nnx.Cache after `prepare`. '
      'Give prepare= a function that makes it.'
    )

  def init(params: Params, context: Context) -> Any:
    cache = nnx.to_pure_dict(nnx.state(made(), nnx.Cache))
    return cache, one_more(context) if batched else context

  def step(params: Params, cache: Any, token: Array, position: Array) -> Any:
    cache, context = cache
    it = parts.bound(params, cache)
    tokens = token[None, None] if batched else token[None]
    if call:
      outputs = call(it, tokens, context, position)
    else:
      outputs = call_with(it.__call__, tokens, context)
    new = nnx.to_pure_dict(nnx.state(it, nnx.Cache))
    return of_one(outputs, batched), (new, context)

  return Cache(init, step)


def _maker(module: Any) -> Callable[[Any], Any]:
  """How a module is made of a key or a seed; one that is there, of itself."""
  from flax import nnx

  if not isinstance(module, nnx.Module):
    return lambda key: module(nnx.Rngs(key))
  graph, *states = nnx.split(module)
  # Variables belong to the trace that made them, so each call has its own.
  return lambda key: nnx.merge(graph, *jax.tree.map(lambda a: a, states))


class _Split(NamedTuple):
  """A module of which some kinds of variables come with each call.

  Attributes:
    graph: what it is made of.
    states: shapes of its variables, kind after kind, and of the rest.
    rest: values of the rest, which are constant.
  """

  graph: Any
  states: list[Any]
  rest: Any

  def shapes(self) -> Any:
    """The module with shapes for arrays."""
    from flax import nnx

    return nnx.merge(self.graph, *self.states)

  def bound(self, *given: Any) -> Any:
    """The module with these values, a dict for each kind."""
    from flax import nnx

    own = jax.tree.map(lambda a: a, self.states)
    for state, values in zip(own, (*given, self.rest), strict=True):
      nnx.replace_by_pure_dict(state, values)
    return nnx.merge(self.graph, *own)


def _split(made: Callable[[], Any], *kinds: Any) -> _Split:
  """Splits what `made` makes into kinds of variables and a constant rest."""
  from flax import nnx

  graph, *states = nnx.split(nnx.eval_shape(made), *kinds, ...)
  rest = lambda: nnx.to_pure_dict(nnx.split(made(), *kinds, ...)[-1])
  # XLA makes no weights where only the rest is asked for.
  return _Split(graph, states, jax.jit(rest)())
