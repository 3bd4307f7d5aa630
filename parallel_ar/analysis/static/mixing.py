"""Rules of operations that combine entries: sums, windows, sorting."""

import dataclasses
import functools
from typing import Any

import numpy as np

from parallel_ar.analysis.static import movement, products, sets, totals
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.value import Doubt, Over, Value
from parallel_ar.program import uniform

_SUMS = {
  'reduce_and': np.bitwise_and,
  'reduce_max': np.maximum,
  'reduce_min': np.minimum,
  'reduce_or': np.bitwise_or,
  'reduce_prod': np.multiply,
  'reduce_sum': np.add,
}
REDUCTIONS = frozenset((*_SUMS, 'reduce_xor', 'argmax', 'argmin'))
CUMULATIVE = frozenset(
  ('cumsum', 'cumprod', 'cummax', 'cummin', 'cumlogsumexp')
)


_MASKED = 'a row may be wholly masked'


def reduce(eqn: Any, operands: list[Value]) -> list[Value]:
  """An entry reads all that is reduced, but what is masked in a maximum."""
  (v,) = operands
  name, axes = eqn.primitive.name, tuple(eqn.params['axes'])
  aval = eqn.outvars[0].aval
  fields: dict[str, Any] = {}
  reads: Any = v.reads
  if name == 'reduce_max' and v.real:
    reads, fields = _largest(eqn, v, axes)
  if name == 'reduce_sum' and v.faint is not None:
    some = uniform.over(np.logical_or, v.is_faint, v.is_zero)
    faint = uniform.reduced(np.logical_or, v.is_faint, axes)
    fields = {
      'faint': faint & uniform.reduced(np.logical_and, some, axes),
      'doubt': v.doubt,
    }
  if name == 'reduce_sum':
    fields['selects'] = v.selects
  if name in ('argmax', 'argmin', 'reduce_sum', 'reduce_prod') and v.real:
    fields['maybe'] = uniform.reduced(np.logical_or, v.is_maybe_low, axes)
  if reads is not None:
    reads = sets.gathered(reads, axes)
  known = v.known
  if known is not None:
    known = uniform.reduced(np.logical_and, known, axes)
  value = None
  if v.numeric or (uniform.some(known)):
    if name in _SUMS:
      value = _SUMS[name].reduce(np.asarray(v.value), axes)
    else:
      value = eqn.primitive.bind(v.value, **eqn.params)
    value = np.asarray(value).astype(aval.dtype)
  lo, hi = totals.of_reduction(name, v, axes, aval.dtype)
  return [
    values.of_aval(
      aval,
      reads=reads,
      known=known,
      value=value,
      sampled=v.numeric,
      exact=name == 'reduce_sum',
      lo=lo,
      hi=hi,
      **fields,
    )
  ]


def _largest(
  eqn: Any, v: Value, axes: tuple[int, ...]
) -> tuple[np.ndarray | None, dict[str, Any]]:
  """What a maximum over scores reads, and what is known of it.

  Masked entries are not read where one entry of the row is not masked for
  sure; where that cannot be told, they may be.
  """
  low, maybe, reads, doubt = v.is_low, v.is_maybe_low, v.reads, v.doubt
  along = lambda op, a: uniform.reduced(op, a, axes, keepdims=True)
  sure = ~along(np.logical_and, maybe)
  closed = along(np.logical_and, low)
  if reads is not None and uniform.some(low):
    reads = sets.without(reads, uniform.thin(low) & uniform.thin(sure))
    unsure = uniform.over(lambda a, b, c: a & ~b & ~c, low, sure, closed)
    if uniform.some(unsure):
      reads = sets.weaken(reads, unsure)
  if (along(np.logical_or, low) & ~sure & ~closed).any():
    doubt = doubt or Doubt(_MASKED, eqn)
  shape = tuple(n for a, n in enumerate(v.shape) if a not in axes)
  return reads, {
    'low': closed.reshape(shape),
    'scale': v.scale,
    'maybe': ~sure.reshape(shape),
    'over': (Over(v, axes, not shape and not v.shape, True),),
    'doubt': doubt,
  }


def cumulate(eqn: Any, operands: list[Value]) -> list[Value]:
  """An entry reads itself and what stands before it, or behind it."""
  (v,) = operands
  axis, back = eqn.params['axis'], eqn.params['reverse']

  def all_so_far(a: np.ndarray, axis: int, op: np.ufunc) -> np.ndarray:
    a = np.flip(a, axis) if back else a
    a = op.accumulate(a, axis)
    return np.flip(a, axis) if back else a

  reads, known, value = v.reads, v.known, None
  if reads is not None:
    reads = all_so_far(reads, axis + 2, np.bitwise_or)
  if known is not None:
    known = all_so_far(known, axis, np.logical_and)
  if v.numeric or (uniform.some(known)):
    value = np.asarray(eqn.primitive.bind(v.value, **eqn.params))
  aval = eqn.outvars[0].aval
  lo, hi = totals.of_running(eqn.primitive.name, v, axis, aval.dtype)
  return [
    values.of_aval(
      aval,
      reads=reads,
      known=known,
      value=value,
      sampled=v.numeric,
      exact=eqn.primitive.name == 'cumsum',
      lo=lo,
      hi=hi,
      maybe=_anywhere(v, aval),
      run=(eqn.primitive.name, v, axis, back),
    )
  ]


def _anywhere(v: Value, aval: Any) -> np.ndarray | None:
  """All entries, if any may be a masked score."""
  if not v.real or not uniform.some(v.is_maybe_low):
    return None
  return uniform.wide(True, aval.shape)


def window(eqn: Any, operands: list[Value]) -> list[Value]:
  """Sums and maxima over windows: an entry reads its window."""
  (v,) = operands
  p, shape = eqn.params, eqn.outvars[0].aval.shape
  reads = None if v.reads is None else uniform.thin(v.reads)
  ones = (1,) * len(v.shape)
  for axis, one in enumerate(
    zip(
      v.shape,
      shape,
      p['window_dimensions'],
      p['window_strides'],
      p['padding'],
      p.get('base_dilation') or ones,
      p.get('window_dilation') or ones,
      strict=True,
    )
  ):
    if reads is not None:
      taps = [
        products.taken(reads, axis + 2, tap) for tap in products.taps(*one)
      ]
      reads = functools.reduce(np.bitwise_or, taps)
  if v.reads is not None and reads is not None:
    reads = uniform.wide(reads, (*v.reads.shape[:2], *shape))
  aval = eqn.outvars[0].aval
  lo, hi = totals.of_window(eqn.primitive.name, v, p, aval.dtype)
  return [
    values.of_aval(aval, reads=reads, lo=lo, hi=hi, maybe=_anywhere(v, aval))
  ]


def sort(eqn: Any, operands: list[Value]) -> list[Value]:
  """Every place along the axis reads all of it; known keys only move."""
  axis, keys = eqn.params['dimension'], eqn.params['num_keys']
  if len(operands) == 1 and operands[0].run is not None:
    name, _, along, back = operands[0].run
    if along == axis and (name, back) in (('cummax', False), ('cummin', True)):
      return operands  # it does not fall
  if all(v.constant for v in operands[:keys]):
    shape = operands[0].shape
    index = np.broadcast_to(
      np.arange(shape[axis]).reshape(
        [-1 if n == axis else 1 for n in range(len(shape))]
      ),
      shape,
    ).astype(np.int32)
    params = {'dimension': axis, 'num_keys': keys, 'is_stable': True}
    heads = [v.value for v in operands[:keys]]
    *_, order = eqn.primitive.bind(*heads, index, **params)
    order = np.asarray(order)
    return [
      movement.moved(
        var.aval, [v], lambda a: np.take_along_axis(a, order, axis)
      )
      for var, v in zip(eqn.outvars, operands, strict=True)
    ]
  keyed = sets.union([v.reads for v in operands[:keys]], operands[0].shape)
  out = []
  for var, v in zip(eqn.outvars, operands, strict=True):
    reads = sets.union([keyed, v.reads], v.shape)
    out.append(_over(var.aval, v, reads, axis, v.shape[axis]))
  return out


def top_k(eqn: Any, operands: list[Value]) -> list[Value]:
  """The largest entries of an axis and their places read all of it."""
  (v,) = operands
  axis = eqn.params.get('axis', -1) % len(v.shape)
  best, place = eqn.outvars
  reads = v.reads
  if _of_either_sign(v):  # it takes -0 for less than 0
    every = sets.everywhere(v.derived, v.shape)
    reads = sets.union([reads, every], v.shape)
  last = np.float64(v.shape[axis] - 1)
  any_place = Value(v.shape, place.aval.dtype, lo=np.float64(0), hi=last)
  where = _over(place.aval, any_place, reads, axis, place.aval.shape[axis])
  where = dataclasses.replace(where, attained=v.reads is not None)
  return [_over(best.aval, v, v.reads, axis, best.aval.shape[axis]), where]


def _of_either_sign(v: Value) -> bool:
  """Whether it holds a known zero that may be -0."""
  inexact = values.kind(v.dtype) in 'fc'
  return inexact and v.derived is not None and uniform.some(v.is_zero)


def _over(
  aval: Any, v: Value, reads: np.ndarray | None, axis: int, count: int
) -> Value:
  """Entries of an axis in an order that is not known."""
  least, most = (np.asarray(b) for b in v.bounds)
  if least.ndim or most.ndim:
    least, most = np.min(least), np.max(most)
  fields = {'lo': least, 'hi': most, 'maybe': _anywhere(v, aval)}
  if reads is None:
    return values.of_aval(aval, **fields)
  whole = sets.gathered(reads, axis, keepdims=True)
  shape = [count if n == axis else size for n, size in enumerate(v.shape)]
  return values.of_aval(aval, reads=sets.union([whole], shape), **fields)


def of_keys(eqn: Any, operands: list[Value]) -> list[Value]:
  """Random bits and keys read what their key reads, key by key."""
  out = []
  for var in eqn.outvars:
    shape = tuple(var.aval.shape)
    tracks = []
    for v in operands:
      if (reads := v.reads) is None:
        continue
      if eqn.primitive.name == 'random_wrap':  # the last axes are one key
        last = range(len(shape), len(v.shape))
        reads = sets.gathered(reads, tuple(last))
      extra = (1,) * (len(shape) + 2 - reads.ndim)
      tracks.append(reads.reshape(*reads.shape, *extra))
    whole = sets.union(tracks, shape)
    out.append(values.of_aval(var.aval, reads=whole))
  return out


def unknown(eqn: Any, operands: list[Value]) -> list[Value]:
  """An operation without a rule: every result may read every operand.

  Where all operands are known, it is run; what parameters make is drawn.
  """
  plain = all(v.reads is None for v in operands)
  signs = [v.derived for v in operands if _of_either_sign(v)]
  if operands and not signs and all(v.constant for v in operands):
    try:
      found = eqn.primitive.bind(*(v.value for v in operands), **eqn.params)
      found = found if eqn.primitive.multiple_results else [found]
      return [values.of_constant(np.asarray(f)) for f in found]
    except Exception:  # cannot be run outside of its program: stay sound
      pass
  out = []
  for var in eqn.outvars:
    reads = sets.union([sets.spread(operands, False), *signs], ())
    reads = sets.everywhere(reads, var.aval.shape)
    inexact = values.kind(getattr(var.aval, 'dtype', None)) in 'fc'
    sampled = plain and inexact and not signs
    out.append(values.of_aval(var.aval, reads=reads, sampled=sampled))
  return out
