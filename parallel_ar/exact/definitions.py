"""Operations that are written as others before anything is put on a grid.

Each says its operation in terms of those that have a rule, so that examples
show the ranges of all that lies between:

  products, logarithms of sums along an axis    joined by halves, log2 n turns
  windows                                       a shift for every tap
  sort, top_k       an entry goes to the place of how many come before it
  slices whose place the event says             look-ups
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from parallel_ar.exact.builder import NotWhole
from parallel_ar.program.trace import Op

_TAPS = 1 << 10  # of a window
_PAIRS = 1 << 22  # entries that are compared with one another
Function = Callable[..., Any]


def of(op: Op) -> Function | None:
  """What the operation is, as a function of its operands; None for itself.

  Raises:
    NotWhole: what has a definition for other parameters.
  """
  make = _DEFINITIONS.get(op.name)
  return None if make is None else make(op)


# ------------------------------------------------------------- along an axis


def _log_add(a: Any, b: Any) -> Any:
  """log(e^a + e^b) = max + log(1 + e^-|a - b|)."""
  return lax.max(a, b) + lax.log1p(lax.exp(-lax.abs(a - b)))


def _running(op: Op, join: Function) -> Function:
  """Prefixes y_k = x_1 . ... . x_k, each joined of two halves."""
  axis, reverse = op.params['axis'], op.params['reverse']

  def function(x: Any) -> Any:
    size, by = x.shape[axis], 1
    cut = functools.partial(lax.slice_in_dim, axis=axis)
    x = lax.rev(x, (axis,)) if reverse else x
    while by < size:
      joined = join(cut(x, 0, size - by), cut(x, by, size))
      x, by = lax.concatenate([cut(x, 0, by), joined], axis), 2 * by
    return lax.rev(x, (axis,)) if reverse else x

  return function


def _cummin(op: Op) -> Function:
  axis, reverse = op.params['axis'], op.params['reverse']
  return lambda x: -lax.cummax(-x, axis, reverse)


def _product(op: Op) -> Function:
  """Halves times halves."""
  axes = op.params['axes']

  def function(x: Any) -> Any:
    x = jnp.moveaxis(x, axes, range(len(axes)))
    x = x.reshape(-1, *x.shape[len(axes) :])
    while len(x) > 1:
      half = len(x) // 2
      x = jnp.concatenate([x[:half] * x[half : 2 * half], x[2 * half :]])
    return x[0]

  return function


# -------------------------------------------------------------------- windows


def _window(op: Op, join: Function, edge: bool) -> Function:
  """A sum, or an extremum, of every window: tap after tap."""
  p = op.params
  sizes, by = p['window_dimensions'], p['window_dilation']
  if math.prod(sizes) > _TAPS:
    raise NotWhole(f'a window of {math.prod(sizes)} entries')
  pads = [tuple(map(int, pad)) for pad in p['padding']]
  padded = [n for n, pad in enumerate(pads) if pad != (0, 0)]
  if edge and any(
    p['base_dilation'][n] > 1
    or by[n] > 1
    or not 0 <= min(pads[n]) <= max(pads[n]) < sizes[n]
    for n in range(len(sizes))
    if n in padded or p['base_dilation'][n] > 1
  ):
    raise NotWhole('an extremum of entries far apart, or of none')

  def function(x: Any) -> Any:
    if edge:  # one at the edge is in every window that reaches over it
      x = jnp.pad(x, pads, mode='edge') if padded else x
    else:
      config = [
        (*a, d - 1) for a, d in zip(pads, p['base_dilation'], strict=True)
      ]
      x = lax.pad(x, jnp.zeros((), x.dtype), config)
    reach = [(n - 1) * d for n, d in zip(sizes, by, strict=True)]
    seen = []
    for tap in np.ndindex(*sizes):
      first = [t * d for t, d in zip(tap, by, strict=True)]
      last = [n - r + f for n, r, f in zip(x.shape, reach, first, strict=True)]
      seen.append(lax.slice(x, first, last, p['window_strides']))
    return functools.reduce(join, seen)

  return function


# ---------------------------------------------------------------------- order


def _ranks(x: Any, falling: bool) -> Any:
  """How many entries of the last axis come before each; equal ones by place."""
  size = x.shape[-1]
  if x.size * size > _PAIRS:
    raise NotWhole(f'{x.size * size} pairs are compared: too many')
  shape = *x.shape, size
  one, other = (
    jnp.broadcast_to(jnp.expand_dims(x, n), shape) for n in (-1, -2)
  )
  before = other > one if falling else other < one
  earlier = np.broadcast_to(np.tril(np.ones((size, size), bool), -1), shape)
  return (before | ((other == one) & earlier)).astype(jnp.int32).sum(-1)


def _in_place(x: Any, ranks: Any, count: int) -> Any:
  """y_r = the entry of rank r, of the first `count`."""
  kind = jnp.int32 if x.dtype == bool else x.dtype
  shape = *x.shape[:-1], count, x.shape[-1]
  over = lambda a: jnp.broadcast_to(a[..., None, :], shape)
  here = over(ranks) == lax.broadcasted_iota(jnp.int32, shape, x.ndim - 1)
  return (over(x).astype(kind) * here.astype(kind)).sum(-1).astype(x.dtype)


def _sort(op: Op) -> Function:
  axis = op.params['dimension']
  if op.params['num_keys'] != 1:
    raise NotWhole(f'it sorts by {op.params["num_keys"]} keys')

  def function(*arrays: Any) -> Any:
    arrays = tuple(jnp.moveaxis(a, axis, -1) for a in arrays)
    ranks = _ranks(arrays[0], False)
    out = (_in_place(a, ranks, a.shape[-1]) for a in arrays)
    return [jnp.moveaxis(a, -1, axis) for a in out]

  return function


def _top(op: Op) -> Function:
  count = int(op.params['k'])
  axis = op.params.get('axis', op.params.get('operand_dim', -1))

  def function(x: Any) -> Any:
    x = jnp.moveaxis(x, axis, -1)
    ranks = _ranks(x, True)
    places = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    out = _in_place(x, ranks, count), _in_place(places, ranks, count)
    return [jnp.moveaxis(a, -1, axis) for a in out]

  return function


# --------------------------------------------------------------------- places


def _known(starts: Any) -> bool:
  return all(v.value is not None for v in starts)


def _slice(op: Op) -> Function | None:
  """A look-up along every axis whose start the event says."""
  if _known(op.inputs[1:]):
    return None
  sizes = op.params['slice_sizes']

  def function(x: Any, *starts: Any) -> Any:
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
      if size < x.shape[axis]:
        first = jnp.clip(start, 0, x.shape[axis] - size)
        at = first + np.arange(size, dtype=np.int32)
        x = jnp.take(x, at, axis=axis, mode='clip')
    return x

  return function


def _update(op: Op) -> Function:
  """Each entry of the whole, from the part where that lies over it."""
  known = _known(op.inputs[2:])

  def function(x: Any, part: Any, *starts: Any) -> Any:
    inside: Any = np.ones((1,) * x.ndim, bool)
    config = []
    for axis, (start, size) in enumerate(zip(starts, part.shape, strict=True)):
      most = x.shape[axis] - size
      places = np.arange(x.shape[axis], dtype=np.int32)
      if known:
        first = min(max(int(start), 0), most)
        config.append((first, most - first, 0))
      else:
        first = jnp.clip(start, 0, most)
        part = jnp.take(part, places - first, axis=axis, mode='clip')
      shape = [-1 if n == axis else 1 for n in range(x.ndim)]
      there = (places >= first) & (places < first + size)
      inside = inside & there.reshape(shape)
    if known:
      part = lax.pad(part, jnp.zeros((), part.dtype), config)
    return lax.select(jnp.broadcast_to(inside, x.shape), part, x)

  if not known:
    return function
  fixed = [np.asarray(v.value) for v in op.inputs[2:]]
  return lambda x, part, *_: function(x, part, *fixed)


def _unstack(op: Op) -> Function:
  axis = op.params['axis']
  return lambda x: [
    lax.index_in_dim(x, n, axis, keepdims=False) for n in range(x.shape[axis])
  ]


# -------------------------------------------------------------------- choices


def _clamp(op: Op) -> Function | None:
  low, _, high = op.inputs
  if all(v.value is not None and np.size(v.value) == 1 for v in (low, high)):
    return None
  return lambda low, x, high: lax.min(
    lax.max(x, jnp.broadcast_to(low, x.shape)), jnp.broadcast_to(high, x.shape)
  )


def _choose(op: Op) -> Function | None:
  """One of many, or by a number, as choices of two."""
  if op.inputs[0].dtype == bool:
    return None

  def function(which: Any, first: Any, *cases: Any) -> Any:
    for n, case in enumerate(cases):
      later = jnp.broadcast_to(which > n, first.shape)
      first = lax.select(later, case, first)
    return first

  return function


_DEFINITIONS: dict[str, Callable[[Op], Function | None]] = {
  'clamp': _clamp,
  'cumlogsumexp': functools.partial(_running, join=_log_add),
  'cummin': _cummin,
  'cumprod': functools.partial(_running, join=lax.mul),
  'dynamic_slice': _slice,
  'dynamic_update_slice': _update,
  'reduce_prod': _product,
  'reduce_window_max': functools.partial(_window, join=lax.max, edge=True),
  'reduce_window_min': functools.partial(_window, join=lax.min, edge=True),
  'reduce_window_sum': functools.partial(_window, join=lax.add, edge=False),
  'select_n': _choose,
  'sort': _sort,
  'top_k': _top,
  'unstack': _unstack,
}
