"""Rules of operations that combine entries: products, sums, sorting."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from parallel_ar.analysis.static import sets, totals
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.value import Doubt, Over, Value

_SUMS = {
  'reduce_and': np.logical_and,
  'reduce_max': np.maximum,
  'reduce_min': np.minimum,
  'reduce_or': np.logical_or,
  'reduce_prod': np.multiply,
  'reduce_sum': np.add,
}
REDUCTIONS = frozenset((*_SUMS, 'reduce_xor', 'argmax', 'argmin'))
CUMULATIVE = frozenset(
  ('cumsum', 'cumprod', 'cummax', 'cummin', 'cumlogsumexp')
)


_MASKED = 'a row may be wholly masked'
_NOT_FINITE = 'a factor of zero meets a number that may be infinite or nan'


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
    fields = {
      'faint': (v.is_faint() | v.is_zero()).all(axes) & v.is_faint().any(axes),
      'doubt': v.doubt,
    }
  if name in ('argmax', 'argmin', 'reduce_sum', 'reduce_prod') and v.real:
    fields['maybe'] = v.is_maybe_low().any(axes)
  if reads is not None:
    reads = reads.any(tuple(a + 2 for a in axes))
  known = None if v.known is None else v.known.all(axes)
  value = None
  if v.numeric or (known is not None and known.any()):
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
  low, maybe = v.is_low(), v.is_maybe_low()
  reads, sure = v.reads, (~maybe).any(axes, keepdims=True)
  closed = low.all(axes, keepdims=True)
  doubt = v.doubt
  if low.any() and reads is not None:
    reads = reads & ~(low & sure)
    unsure = low & ~sure & ~closed
    if unsure.any():
      reads = np.where(unsure, sets.weaken(reads), reads)
  if (low.any(axes, keepdims=True) & ~sure & ~closed).any():
    doubt = doubt or Doubt(_MASKED, eqn)
  shape = tuple(n for a, n in enumerate(v.shape) if a not in axes)
  return reads, {
    'low': closed.reshape(shape),
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
    reads = all_so_far(reads, axis + 2, np.logical_or)
  if known is not None:
    known = all_so_far(known, axis, np.logical_and)
  if v.numeric or (known is not None and known.any()):
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
    )
  ]


def _anywhere(v: Value, aval: Any) -> np.ndarray | None:
  """All entries, if any may be a masked score."""
  if not v.real or not v.is_maybe_low().any():
    return None
  return np.ones(aval.shape, bool)


def dot_general(eqn: Any, operands: list[Value]) -> list[Value]:
  """An entry reads the products that have no factor known to be zero."""
  left, right = operands
  aval = eqn.outvars[0].aval
  (left_axes, right_axes), (left_batch, right_batch) = eqn.params[
    'dimension_numbers'
  ]

  def matrix(
    a: np.ndarray, rank: int, axes: Any, batch: Any, last: bool
  ) -> np.ndarray:
    """[..., *batch, rows, contracted], or the two exchanged."""
    lead = a.ndim - rank
    rows = [n for n in range(rank) if n not in (*axes, *batch)]
    order = [*batch, *rows, *axes] if last else [*batch, *axes, *rows]
    a = a.transpose(*range(lead), *(lead + n for n in order))
    sizes = a.shape[lead : lead + len(batch)]
    inner = a.shape[lead + len(batch) :]
    first = len(rows) if last else len(axes)
    return a.reshape(
      *a.shape[:lead],
      *sizes,
      math.prod(inner[:first]),
      math.prod(inner[first:]),
    )

  of_left = lambda a: matrix(a, len(left.shape), left_axes, left_batch, True)
  of_right = lambda a: matrix(
    a, len(right.shape), right_axes, right_batch, False
  )

  def combine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found = of_left(a.astype(np.float32)) @ of_right(b.astype(np.float32))
    lead = found.shape[
      : max(a.ndim - len(left.shape), b.ndim - len(right.shape))
    ]
    return (found > 0.5).reshape(*lead, *aval.shape)

  return [_product(eqn, operands, combine)]


def convolve(eqn: Any, operands: list[Value]) -> list[Value]:
  """As `dot_general`, over the taps that are not known to be zero."""
  left, right = operands
  params = dict(eqn.params) | {'preferred_element_type': None}

  def combine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float32), b.astype(np.float32)
    apply = lambda a, b: eqn.primitive.bind(a, b, **params)
    over = a if a.ndim > len(left.shape) else b
    rank = len(left.shape) if over is a else len(right.shape)
    lead = over.shape[: over.ndim - rank]
    if not lead:
      return np.asarray(apply(a, b)) > 0.5
    flat = over.reshape(-1, *over.shape[len(lead) :])
    axes = (0, None) if over is a else (None, 0)
    both = (flat, b) if over is a else (a, flat)
    found = np.asarray(jax.jit(jax.vmap(apply, axes))(*both)) > 0.5
    return found.reshape(*lead, *found.shape[1:])

  return [_product(eqn, operands, combine)]


def _product(
  eqn: Any,
  operands: list[Value],
  combine: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Value:
  """A sum of products: what it reads, where it is zero, and its bounds.

  Args:
    eqn: the operation.
    operands: its two factors.
    combine: of masks [..., left] and [..., right], one of them without leading
      axes: whether any product of the sum has both.

  Returns:
    Its result. A product with a factor known to be zero reads nothing if the
    other is finite; if it may not be finite, or the zero is in doubt, it may
    read the other.
  """
  left, right = operands
  aval = eqn.outvars[0].aval
  reads, doubt = None, values.doubt_of(operands)
  for v, other in ((left, right), (right, left)):
    if v.reads is None:
      continue
    put = lambda a, b, v=v: combine(a, b) if v is left else combine(b, a)
    surely = ~(other.is_zero() | other.is_faint())
    found = put(v.reads, surely)
    wild = ~v.is_finite()
    for read, mask, why in (
      (v.reads, other.is_faint(), None),
      (v.reads & wild, other.is_zero(), _NOT_FINITE),
    ):
      if mask.any() and read.any():
        more = sets.weaken(put(read, mask))
        if why and doubt is None and (more & ~found).any():
          doubt = Doubt(why, eqn)
        found = found | more
    reads = found if reads is None else reads | found
  value, known = None, None
  if all(v.numeric for v in operands):
    value = eqn.primitive.bind(*(v.value for v in operands), **eqn.params)
    known = np.full(aval.shape, all(v.constant for v in operands))
  lo, hi = totals.of_product(left, right, aval)
  faint = None
  if left.faint is not None or right.faint is not None:
    some = lambda v: ~v.is_zero()
    sure = lambda v: ~(v.is_zero() | v.is_faint())
    faint = combine(some(left), some(right)) & ~combine(sure(left), sure(right))
  maybe = None
  if any(v.real and v.is_maybe_low().any() for v in operands):
    maybe = np.ones(aval.shape, bool)
  return values.of_aval(
    aval,
    reads=reads,
    known=known,
    value=None if value is None else np.asarray(value),
    sampled=value is not None,
    exact=True,
    lo=lo,
    hi=hi,
    faint=faint,
    doubt=doubt,
    maybe=maybe,
  )


def window(eqn: Any, operands: list[Value]) -> list[Value]:
  """Sums and maxima over windows: an entry reads its window."""
  (v,) = operands
  p = eqn.params
  reads = None
  if v.reads is not None:
    sum_of = lambda a: jax.lax.reduce_window(
      a,
      0.0,
      jax.lax.add,
      p['window_dimensions'],
      p['window_strides'],
      p['padding'],
      p.get('base_dilation'),
      p.get('window_dilation'),
    )
    flat = v.reads.reshape(-1, *v.shape).astype(np.float32)
    found = np.asarray(jax.jit(jax.vmap(sum_of))(flat)) > 0.5
    reads = found.reshape(*v.reads.shape[:2], *found.shape[1:])
  aval = eqn.outvars[0].aval
  lo, hi = totals.of_window(eqn.primitive.name, v, p, aval.dtype)
  return [
    values.of_aval(aval, reads=reads, lo=lo, hi=hi, maybe=_anywhere(v, aval))
  ]


def sort(eqn: Any, operands: list[Value]) -> list[Value]:
  """Every place along the axis reads all of it; known keys only move."""
  axis, keys = eqn.params['dimension'], eqn.params['num_keys']
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
      values.moved(var.aval, [v], lambda a: np.take_along_axis(a, order, axis))
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
  where = _over(place.aval, v, v.reads, axis, place.aval.shape[axis])
  last = np.float64(v.shape[axis] - 1)
  where = dataclasses.replace(where, lo=np.float64(0), hi=last, maybe=None)
  return [_over(best.aval, v, v.reads, axis, best.aval.shape[axis]), where]


def _over(
  aval: Any, v: Value, reads: np.ndarray | None, axis: int, count: int
) -> Value:
  """Entries of an axis in an order that is not known."""
  least, most = (np.asarray(b) for b in v.bounds())
  if least.ndim or most.ndim:
    least, most = np.min(least), np.max(most)
  fields = {'lo': least, 'hi': most, 'maybe': _anywhere(v, aval)}
  if reads is None:
    return values.of_aval(aval, **fields)
  whole = reads.any(axis + 2, keepdims=True)
  whole = np.repeat(whole, count, axis + 2)
  return values.of_aval(aval, reads=whole, **fields)


def of_keys(eqn: Any, operands: list[Value]) -> list[Value]:
  """Random bits and keys read what their key reads; many keys, perhaps."""
  one = all(len(v.shape) < 2 for v in operands)
  out = []
  for var in eqn.outvars:
    reads = sets.everywhere(sets.spread(operands, one), var.aval.shape)
    out.append(values.of_aval(var.aval, reads=reads))
  return out


def unknown(eqn: Any, operands: list[Value]) -> list[Value]:
  """An operation without a rule: every result may read every operand.

  Where all operands are known, it is run; what parameters make is drawn.
  """
  plain = all(v.reads is None for v in operands)
  if operands and all(v.constant for v in operands):
    try:
      found = eqn.primitive.bind(*(v.value for v in operands), **eqn.params)
      found = found if eqn.primitive.multiple_results else [found]
      return [values.of_constant(np.asarray(f)) for f in found]
    except Exception:  # cannot be run outside of its program: stay sound
      pass
  out = []
  for var in eqn.outvars:
    reads = sets.everywhere(sets.spread(operands, False), var.aval.shape)
    inexact = values.kind(getattr(var.aval, 'dtype', None)) in 'fc'
    out.append(values.of_aval(var.aval, reads=reads, sampled=plain and inexact))
  return out
