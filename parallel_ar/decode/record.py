"""Incremental evaluation: what a family brings so that no work is repeated.

A `Decode` computes conditionals slot after slot, or several slots in a block of
any length. Where slots come in rows, `Blocks` says so: given all rows before
it, a row is a small autoregressive model of its own, and what the rows before
have to say is computed once for the whole row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import order
from parallel_ar.memo import once
from parallel_ar.types import Array, Context, Dist, Params

_ZERO = jax.ShapeDtypeStruct((), jnp.int32)  # slots count in int32


class Blocks(NamedTuple):
  """Incremental evaluation by blocks of `size` slots; D is a multiple of it.

  Attributes:
    size: slots of a block, for an image those of a row.
    init: (params, context) -> cache, before any block.
    begin: (params, cache, b, previous[size]) -> (cache, given). `previous`
      holds the values of block b - 1 and is ignored at b = 0; `given` is what
      the slots of block b are conditioned on.
    conditionals: (params, given, x[size]) -> dist of all slots of the block,
      slot j reading x[:j] only. ONE pass over the block.
    start: (params, given) -> inner cache, before slot 0 of the block.
    extend: (params, given, inner, j, previous) -> (dist of slot j, inner);
      `previous` is the value of slot j - 1, ignored at j = 0.
  """

  size: int
  init: Callable[[Params, Context], Any]
  begin: Callable[[Params, Any, Any, Any], tuple[Any, Any]]
  conditionals: Callable[[Params, Any, Any], Dist]
  start: Callable[[Params, Any], Any]
  extend: Callable[[Params, Any, Any, Any, Any], tuple[Dist, Any]]


class Groups(NamedTuple):
  """Incremental evaluation by groups of one rank, which are drawn at once.

  Attributes:
    init: (params, context) -> cache, before rank 0.
    extend: (params, cache, level, x) -> (dist, cache): conditionals of all
      positions, right at those of rank `level`; it reads the values of lower
      ranks only. Ranks come one after another; one may be asked for again.
  """

  init: Callable[[Params, Context], Any]
  extend: Callable[[Params, Any, Any, Any], tuple[Dist, Any]]


class Decode(NamedTuple):
  """Incremental evaluation; k counts slots of the generation order.

  Attributes:
    init: (params, context) -> cache.
    extend: (params, cache, k, previous[n]) -> (dist of slots k..k+n-1, cache);
      `previous` holds the values of slots k-1..k+n-2 (the first is ignored at
      k = 0).
    rewind: (cache, k) -> cache, ready to extend from slot k again.
    resize: (cache, n) -> the cache with room for slots 0..n-1 only, n static;
      None where the cost of a slot does not depend on the room.
    blocks: the path by rows, where there is one.
    groups: the path by groups of one rank, where there is one.
  """

  init: Callable[[Params, Context], Any]
  extend: Callable[[Params, Any, Any, Any], tuple[Dist, Any]]
  rewind: Callable[[Any, Any], Any]
  resize: Callable[[Any, int], Any] | None = None
  blocks: Blocks | None = None
  groups: Groups | None = None


def slot_by_slot(
  slot: Callable[[Params, Any, Array, Array], tuple[Dist, Any]],
) -> Callable[[Params, Any, Any, Any], tuple[Dist, Any]]:
  """The `extend` of a path that knows one slot at a time.

  Args:
    slot: (params, cache, k, value of slot k - 1) -> (dist of slot k, cache).

  Returns:
    (params, cache, k, previous[n]) -> (dist of slots k..k+n-1, cache), a scan.
  """

  def extend(
    params: Params, cache: Any, k: Any, previous: Any
  ) -> tuple[Dist, Any]:
    dist: Dist

    def step(carry: tuple, value: Any) -> tuple:
      cache, k = carry
      dist, cache = slot(params, cache, k, value)
      return (cache, k + 1), dist

    first = cache, jnp.asarray(k, jnp.int32)
    (cache, _), dist = jax.lax.scan(step, first, previous)
    return dist, cache

  return extend


class _Store(NamedTuple):
  """What `from_blocks` keeps: the state before every block and every slot."""

  x: Array  # [D], values so far
  outer: Any  # [D / size + 1, ...]
  given: Any  # [D / size, ...]
  inner: Any  # [D + 1, ...]


def from_blocks(
  blocks: Blocks, value: jax.ShapeDtypeStruct, num: int
) -> Decode:
  """The path by slots that a path by blocks implies.

  It keeps the states before all blocks and before all slots, so that a rewind
  is free: what stands beyond slot k is written again before it is read.

  Args:
    blocks: the path by blocks.
    value: shape and dtype of the value of one slot.
    num: D, a multiple of the size of a block.

  Returns:
    The path by slots, with `blocks` in it.
  """
  size = blocks.size

  def init(params: Params, context: Context) -> _Store:
    outer = blocks.init(params, context)
    x = jnp.zeros((num, *value.shape), value.dtype)
    outer, given = jax.eval_shape(blocks.begin, params, outer, _ZERO, x[:size])
    inner = jax.eval_shape(blocks.start, params, given)
    first = blocks.init(params, context)
    return _Store(
      x,
      _write(_room(outer, num // size + 1), first, 0),
      _room(given, num // size),
      _room(inner, num + 1),
    )

  def slot(
    params: Params, store: _Store, k: Array, value: Array
  ) -> tuple[Dist, _Store]:
    # Slot -1 writes slot 0, which is written again before it is read.
    store = store._replace(x=_write(store.x, value, jnp.maximum(k - 1, 0)))
    b, j = jnp.divmod(k, size)

    def begin(store: _Store) -> tuple:
      last = jax.lax.dynamic_slice_in_dim(
        store.x, jnp.maximum(b - 1, 0) * size, size
      )
      outer, given = blocks.begin(params, _read(store.outer, b), b, last)
      return outer, given, blocks.start(params, given)

    def go_on(store: _Store) -> tuple:
      outer, given = _read(store.outer, b + 1), _read(store.given, b)
      return outer, given, _read(store.inner, k)

    outer, given, inner = jax.lax.cond(j == 0, begin, go_on, store)
    dist, inner = blocks.extend(params, given, inner, j, value)
    return dist, store._replace(
      outer=_write(store.outer, outer, b + 1),
      given=_write(store.given, given, b),
      inner=_write(store.inner, inner, k + 1),
    )

  extend = slot_by_slot(slot)
  return Decode(init, extend, rewind=lambda cache, k: cache, blocks=blocks)


class _Group(NamedTuple):
  """What `from_groups` keeps."""

  x: Array  # [D, ...], values so far
  dist: Dist  # of all positions whose group has begun
  cache: Any


def from_groups(
  groups: Groups, event: jax.ShapeDtypeStruct, rank: Any
) -> Decode:
  """The path by slots that a path by groups implies.

  The first slot of a group evaluates the group and leaves what the others need,
  so that a rewind is free.

  Args:
    groups: the path by groups.
    event: shape and dtype of one x.
    rank: int[E].

  Returns:
    The path by slots, with `groups` in it.
  """
  slots, num, lead = order.slots(rank), rank.size, rank.ndim
  level_of = rank.reshape(-1)[slots]
  first_of = np.append(True, level_of[1:] != level_of[:-1])
  levels, firsts, at_slot = (
    jnp.asarray(a) for a in (level_of, first_of, slots)
  )

  def init(params: Params, context: Context) -> _Group:
    x = jnp.zeros(event.shape, event.dtype)
    cache = groups.init(params, context)
    spec, _ = jax.eval_shape(groups.extend, params, cache, 0, x)
    dist = jax.tree.map(lambda d: jnp.zeros(d.shape, d.dtype), spec)
    return _Group(x.reshape(num, *event.shape[lead:]), dist, cache)

  def slot(
    params: Params, store: _Group, k: Array, value: Array
  ) -> tuple[Dist, _Group]:
    # Slot -1 does not exist: send its write out of bounds.
    at = jnp.where(k > 0, at_slot[jnp.maximum(k - 1, 0)], num)
    x = store.x.at[at].set(value.astype(store.x.dtype), mode='drop')
    store = store._replace(x=x)

    def begin() -> _Group:
      here = jnp.asarray(rank) == levels[k]
      new, cache = groups.extend(
        params, store.cache, levels[k], x.reshape(event.shape)
      )
      put = lambda new, old: jnp.where(
        here.reshape(*here.shape, *[1] * (new.ndim - lead)), new, old
      )
      return _Group(x, jax.tree.map(put, new, store.dist), cache)

    store = jax.lax.cond(firsts[k], begin, lambda: store)
    flat = lambda d: d.reshape(num, *d.shape[lead:])
    return jax.tree.map(lambda d: flat(d)[at_slot[k]], store.dist), store

  extend = slot_by_slot(slot)
  return Decode(init, extend, rewind=lambda cache, k: cache, groups=groups)


def recompute_decode(model: Any) -> Decode:
  """Incremental evaluation of any model, by one full pass for each block.

  The slow reference behind every fast path: correct for any causal function,
  and D passes for a sample. The cache is the event drawn so far; what stands
  there beyond slot k is not read, because the model is causal.

  Args:
    model: an `AutoregressiveModel`.

  Returns:
    The path, the same one at every call.
  """
  path: Decode = once(model, 'recompute_decode', lambda: _recompute(model))
  return path


def _recompute(model: Any) -> Decode:
  slots = jnp.asarray(order.slots(model.rank))
  num_positions = model.num_positions
  value_shape = model.event.shape[model.rank.ndim :]

  def init(params: Params, context: Context) -> Any:
    flat = (num_positions, *value_shape)
    return jnp.zeros(flat, model.event.dtype), context

  def extend(params, cache, k, previous):
    x, context = cache
    n = previous.shape[0]
    at = k - 1 + jnp.arange(n, dtype=jnp.int32)
    # Slot -1 does not exist: send its write out of bounds, where it is dropped.
    target = jnp.where(at < 0, num_positions, slots[jnp.maximum(at, 0)])
    x = x.at[target].set(previous.astype(x.dtype), mode='drop')
    dist = model.conditionals(params, x.reshape(model.event.shape), context)
    here = jax.lax.dynamic_slice_in_dim(slots, k, n)
    lead = model.rank.ndim
    dist = jax.tree.map(
      lambda d: d.reshape((num_positions,) + d.shape[lead:])[here], dist
    )
    return dist, (x, context)

  return Decode(init=init, extend=extend, rewind=lambda cache, k: cache)


def _room(tree: Any, n: int) -> Any:
  return jax.tree.map(lambda a: jnp.zeros((n, *a.shape), a.dtype), tree)


def _read(tree: Any, n: Any) -> Any:
  at = jax.lax.dynamic_index_in_dim
  return jax.tree.map(lambda a: at(a, n, 0, keepdims=False), tree)


def _write(tree: Any, value: Any, n: Any) -> Any:
  put = jax.lax.dynamic_update_index_in_dim
  return jax.tree.map(
    lambda a, v: put(a, jnp.asarray(v, a.dtype), n, 0), tree, value
  )
