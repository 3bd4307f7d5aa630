"""The operations of whole-number programs, in NumPy.

Arrays are int64 or bool. Nothing overflows: a program's bounds are below 2^31.
"""

from collections.abc import Callable
from typing import Any

import numpy as np


def _scale(p: dict, a: Any) -> Any:
  half = (1 << p['shift']) >> 1
  return (a * p['times'] + half) >> p['shift']


def _quotient(p: dict, a: Any, b: Any) -> Any:
  above = b >> 1 if p['nearest'] else 0
  return ((a << p['shift']) + above) // b


def _root(p: dict, a: Any) -> Any:
  r = np.floor(np.sqrt(a.astype(np.float64))).astype(np.int64)
  r -= r * r > a
  return r + ((r + 1) * (r + 1) <= a)


def _dot(p: dict, a: Any, b: Any) -> Any:
  (lc, rc), (lb, rb) = p['dimensions']
  free = lambda n, used: [i for i in range(n) if i not in used]
  lf, rf = free(a.ndim, [*lc, *lb]), free(b.ndim, [*rc, *rb])
  size = lambda c, axes: int(np.prod([c.shape[n] for n in axes], dtype=int))
  left = a.transpose([*lb, *lf, *lc]).reshape(
    size(a, lb), size(a, lf), size(a, lc)
  )
  right = b.transpose([*rb, *rc, *rf]).reshape(
    size(b, rb), size(b, rc), size(b, rf)
  )
  shape = [
    *(a.shape[n] for n in lb),
    *(a.shape[n] for n in lf),
    *(b.shape[n] for n in rf),
  ]
  return _product(left, right, p['partial']).reshape(shape)


def _product(a: Any, b: Any, partial: int) -> Any:
  """Sums below 2^53 are whole in float64 too, whose products are fast."""
  if partial < 2**53:
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
  return a @ b


def _conv(p: dict, x: Any, w: Any) -> Any:
  """[batch, features, *space] and [outputs, inputs, *taps], tap after tap."""
  x, w = x.transpose(p['lhs']), w.transpose(p['rhs'])
  for axis, by in enumerate(p['spread']):
    shape = list(x.shape)
    shape[axis + 2] = (shape[axis + 2] - 1) * by + 1
    wide = np.zeros(shape, x.dtype)
    wide[(slice(None),) * (axis + 2) + (slice(None, None, by),)] = x
    x = wide
  x = _pad({'config': [(0, 0, 0)] * 2 + [(a, b, 0) for a, b in p['pad']]}, x, 0)
  group = p['groups']
  taps = [
    (n - 1) * d + 1 for n, d in zip(w.shape[2:], p['dilation'], strict=True)
  ]
  sizes = [
    (n - t) // s + 1
    for n, t, s in zip(x.shape[2:], taps, p['strides'], strict=True)
  ]
  x = x.reshape(x.shape[0], group, -1, *x.shape[2:])
  w = w.reshape(group, -1, *w.shape[1:])
  total: Any = 0
  for tap in np.ndindex(*w.shape[3:]):
    at = tuple(
      slice(t * d, t * d + (n - 1) * s + 1, s)
      for t, d, n, s in zip(
        tap, p['dilation'], sizes, p['strides'], strict=True
      )
    )
    seen = x[(slice(None), slice(None), slice(None), *at)]
    of = w[(slice(None), slice(None), slice(None), *tap)]
    flat = seen.reshape(*seen.shape[:3], -1)
    total = total + _product(of[None], flat, p['partial'])
  total = total.reshape(total.shape[0], -1, *sizes)
  return total.transpose(np.argsort(p['out']))


def _pad(p: dict, a: Any, value: Any) -> Any:
  for axis, (low, high, inside) in enumerate(p['config']):
    n = a.shape[axis]
    shape = list(a.shape)
    shape[axis] = max(n + inside * max(n - 1, 0), 0)
    whole = (slice(None),) * axis
    out = np.full(shape, value, a.dtype)
    out[(*whole, slice(None, None, inside + 1))] = a
    cut = slice(max(-low, 0), shape[axis] - max(-high, 0))
    out = out[(*whole, cut)]
    wide = [(0, 0)] * a.ndim
    wide[axis] = max(low, 0), max(high, 0)
    a = np.pad(out, wide, constant_values=value)
  return a


def _broadcast(p: dict, a: Any) -> Any:
  shape = [1] * len(p['shape'])
  for n, axis in zip(a.shape, p['axes'], strict=True):
    shape[axis] = n
  return np.broadcast_to(a.reshape(shape), p['shape'])


def _slice(p: dict, a: Any) -> Any:
  cuts = zip(p['start'], p['stop'], p['step'], strict=True)
  return a[tuple(slice(*cut) for cut in cuts)]


def _gather(p: dict, a: Any, indices: Any) -> Any:
  """A look-up with indices that are kept inside."""
  grid = np.indices(p['shape'], sparse=True)
  batch = [grid[d] for d in range(len(grid)) if d not in p['offset']]
  at: list[Any] = [0] * a.ndim
  for k, axis in enumerate(p['starts']):
    most = a.shape[axis] - p['sizes'][axis]
    start = np.clip(indices[..., k], 0, most)
    at[axis] = start[tuple(batch)] if batch else start
  for axis, place in zip(p['batched'], p['index_batched'], strict=True):
    at[axis] = at[axis] + batch[place]
  inside = [n for n in range(a.ndim) if n not in (*p['dropped'], *p['batched'])]
  for axis, d in zip(inside, p['offset'], strict=True):
    at[axis] = at[axis] + grid[d]
  return np.broadcast_to(a[tuple(at)], p['shape'])


def _scatter(p: dict, a: Any, indices: Any, updates: Any) -> Any:
  """Writes, or adds; what would be outside is left out."""
  grid = np.indices(updates.shape)
  batch = [grid[d] for d in range(len(grid)) if d not in p['window']]
  at: list[Any] = [np.zeros(updates.shape, int) for _ in range(a.ndim)]
  inside = [
    n for n in range(a.ndim) if n not in (*p['inserted'], *p['batched'])
  ]
  sizes = dict.fromkeys(range(a.ndim), 1)
  for axis, d in zip(inside, p['window'], strict=True):
    at[axis] = at[axis] + grid[d]
    sizes[axis] = updates.shape[d]
  fits = np.ones(updates.shape, bool)
  for k, axis in enumerate(p['starts']):
    start = indices[..., k][tuple(batch)] if batch else indices[..., k]
    fits &= (start >= 0) & (start <= a.shape[axis] - sizes[axis])
    at[axis] = at[axis] + start
  for axis, place in zip(p['batched'], p['index_batched'], strict=True):
    at[axis] = at[axis] + batch[place]
  out = np.array(a)
  where = tuple(i[fits] for i in at)
  if p['add']:
    np.add.at(out, where, updates[fits])
  else:
    out[where] = updates[fits]
  return out


def _select(p: dict, which: Any, *cases: Any) -> Any:
  if which.dtype == bool:
    return np.where(which, cases[1], cases[0])
  shape = cases[0].shape
  return np.choose(np.broadcast_to(which, shape), cases)


def _running(join: Any) -> Callable:
  def op(p: dict, a: Any) -> Any:
    flip = (lambda a: np.flip(a, p['axis'])) if p['reverse'] else lambda a: a
    return flip(join.accumulate(flip(a), p['axis']))

  return op


def _over(reduce: Callable) -> Callable:
  return lambda p, a: reduce(a, axis=tuple(p['axes']))


def _each(function: Callable) -> Callable:
  return lambda p, *arrays: function(*arrays)


OPS: dict[str, Callable[..., Any]] = {
  'add': _each(np.add),
  'all': _over(np.all),
  'and': _each(np.logical_and),
  'any': _over(np.any),
  'argmax': lambda p, a: np.argmax(a, p['axes'][0]),
  'broadcast': _broadcast,
  'clip': lambda p, a: np.clip(a, p['low'], p['high']),
  'concatenate': lambda p, *a: np.concatenate(a, p['axis']),
  'conv': _conv,
  'cummax': _running(np.maximum),
  'cumsum': _running(np.add),
  'dot': _dot,
  'eq': _each(np.equal),
  'gather': _gather,
  'ge': _each(np.greater_equal),
  'gt': _each(np.greater),
  'le': _each(np.less_equal),
  'lt': _each(np.less),
  'max': _each(np.maximum),
  'min': _each(np.minimum),
  'most': _over(np.max),
  'least': _over(np.min),
  'mul': _each(np.multiply),
  'ne': _each(np.not_equal),
  'not': _each(np.logical_not),
  'number': lambda p, a: a.astype(np.int64),
  'or': _each(np.logical_or),
  'pad': lambda p, a: _pad(p, a, p['value']),
  'quotient': _quotient,
  'reshape': lambda p, a: a.reshape(p['shape']),
  'rev': lambda p, a: np.flip(a, p['axes']),
  'root': _root,
  'scale': _scale,
  'scatter': _scatter,
  'select': _select,
  'slice': _slice,
  'sub': _each(np.subtract),
  'sum': _over(np.sum),
  'table': lambda p, a, t: t[a - p['low']],
  'transpose': lambda p, a: a.transpose(p['axes']),
}
