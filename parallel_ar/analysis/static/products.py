"""Rules of sums of products: matrix products and convolutions."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from parallel_ar.analysis.static import sets, totals
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.value import Doubt, Value
from parallel_ar.program import uniform

_NOT_FINITE = 'a factor of zero meets a number that may be infinite or nan'
_SELECTED = 'the data select what is summed'
_Combine = Callable[[np.ndarray, np.ndarray], np.ndarray]


def dot_general(eqn: Any, operands: list[Value]) -> list[Value]:
  """An entry reads the products that have no factor known to be zero."""
  left, right = operands
  aval = eqn.outvars[0].aval
  (left_axes, right_axes), (left_batch, right_batch) = eqn.params[
    'dimension_numbers'
  ]

  def parts(a: np.ndarray, rank: int, axes: Any, batch: Any) -> np.ndarray:
    """[*lead, *batch, *rows, *contracted]."""
    lead = range(a.ndim - rank)
    rows = [n for n in range(rank) if n not in (*axes, *batch)]
    return a.transpose(*lead, *(len(lead) + n for n in (*batch, *rows, *axes)))

  def combine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a = parts(a, len(left.shape), left_axes, left_batch)
    b = parts(b, len(right.shape), right_axes, right_batch)
    count, batch = len(left_axes), len(left_batch)
    # Along axes that are contracted both have one entry, or both have all.
    a, b = _matched(a, b, count)
    shape = lambda c: c.shape[c.ndim - count :]
    lead = lambda c, rank: c.shape[: c.ndim - rank]
    rows = a.shape[a.ndim - len(left.shape) + batch : a.ndim - count]
    columns = b.shape[b.ndim - len(right.shape) + batch : b.ndim - count]
    size = math.prod(shape(a))
    both = lead(a, len(left.shape)), lead(b, len(right.shape))
    each_batch = [
      c.shape[c.ndim - len(v.shape) : c.ndim - len(v.shape) + batch]
      for c, v in ((a, left), (b, right))
    ]
    a = a.reshape(*both[0], *each_batch[0], math.prod(rows), size)
    b = b.reshape(*both[1], *each_batch[1], math.prod(columns), size)
    found = sets.product(a, b.swapaxes(-1, -2))
    whole = found.reshape(*found.shape[:-2], *rows, *columns)
    return uniform.wide(
      whole, (*whole.shape[: whole.ndim - len(aval.shape)], *aval.shape)
    )

  return [_product(eqn, operands, combine)]


def _matched(
  a: np.ndarray, b: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Two factors, thin; of the last `count` axes each is 1 in both or whole.

  Where one is the same along an axis, it is enough what any of the other has.
  """
  a, b = uniform.thin(a), uniform.thin(b)
  for axis in range(-count, 0):
    if a.shape[axis] == 1:
      b = sets.any_along(b, axis)
    elif b.shape[axis] == 1:
      a = sets.any_along(a, axis)
  return a, b


def convolve(eqn: Any, operands: list[Value]) -> list[Value]:
  """As `dot_general`, over the taps that are not known to be zero."""
  p = eqn.params
  if p['batch_group_count'] != 1:
    raise values.UnknownForm('groups of a batch')
  aval, groups = eqn.outvars[0].aval, p['feature_group_count']
  left_spec, right_spec, out_spec = p['dimension_numbers']
  left, right = operands
  steps = [
    taps(left.shape[i], aval.shape[o], right.shape[k], *one)
    for i, o, k, *one in zip(
      left_spec[2:],
      out_spec[2:],
      right_spec[2:],
      p['window_strides'],
      p['padding'],
      p['lhs_dilation'],
      p['rhs_dilation'],
      strict=True,
    )
  ]

  def laid_out(a: np.ndarray, spec: Any, split: int) -> np.ndarray:
    """[*lead, *space, groups, rest, other], of features split in groups."""
    lead = a.ndim - len(spec)
    first, second = spec[split], spec[1 - split]
    order = [*spec[2:], first, second]
    a = a.transpose(*range(lead), *(lead + n for n in order))
    n = a.shape[-2]
    a = a.reshape(*a.shape[:-2], groups, n // groups, a.shape[-1])
    return uniform.thin(a)

  def combine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = laid_out(a, left_spec, 1), laid_out(b, right_spec, 0)
    out = _over_taps(a, b, steps)
    ahead = out.ndim - len(steps) - 3
    size = [aval.shape[n] for n in out_spec]
    out = uniform.wide(
      out,
      (*out.shape[:ahead], *size[2:], groups, size[1] // groups, size[0]),
    )
    out = out.reshape(*out.shape[:-3], size[1], size[0])
    order = [*out_spec[2:], out_spec[1], out_spec[0]]
    back = [ahead + int(n) for n in np.argsort(order)]
    return out.transpose(*range(ahead), *back)

  return [_product(eqn, operands, combine)]


Tap = tuple[np.ndarray, np.ndarray]


def _over_taps(
  a: np.ndarray, b: np.ndarray, steps: list[list[Tap]]
) -> np.ndarray:
  """Whether any tap has both: [*lead, *space, G, O, N].

  Args:
    a: [*lead, *space, G, I, N], of the left factor.
    b: [*lead, *taps, G, O, I], of the kernel.
    steps: the taps of each axis of space.
  """
  rank, out = len(steps), None
  space, lead = a.ndim - 3 - rank, b.ndim - 3 - rank
  for tap in itertools.product(*(range(len(step)) for step in steps)):
    at = tuple(0 if b.shape[lead + n] == 1 else t for n, t in enumerate(tap))
    kernel = b[(slice(None),) * lead + at]
    if not kernel.any():
      continue
    part = a
    for n, t in enumerate(tap):
      part = taken(part, space + n, steps[n][t])
    ones = (1,) * rank
    kernel = kernel.reshape(*kernel.shape[:-3], *ones, *kernel.shape[-3:])
    found = sets.product(kernel, part)
    out = found if out is None else out | found
  if out is None:
    ahead = a.shape[:space] or b.shape[:lead]
    out = np.zeros((*ahead, *(1,) * (rank + 3)), (a if space else b).dtype)
  return out


def taps(
  size: int,
  out: int,
  window: int,
  stride: int,
  padding: tuple[int, int],
  base: int,
  dilation: int,
) -> list[Tap]:
  """For each tap of a window which entry each result has, and whether one."""
  taps = []
  for t in range(window):
    at = np.arange(out) * stride + t * dilation - padding[0]
    inside = (at >= 0) & (at <= (size - 1) * base) & (at % base == 0)
    taps.append((np.where(inside, at // base, 0), inside))
  return taps


def taken(a: np.ndarray, axis: int, tap: Tap) -> np.ndarray:
  """The entries of one tap along an axis, nothing where there is none."""
  index, inside = tap
  if a.shape[axis] > 1:
    a = a.take(index, axis)
  if inside.all():
    return a
  ones = (1,) * (a.ndim - axis % a.ndim - 1)
  return np.where(inside.reshape(-1, *ones), a, np.zeros((), a.dtype))


def _product(
  eqn: Any,
  operands: list[Value],
  combine: _Combine,
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
  reads, doubt = _product_reads(eqn, operands, combine)
  value, known = None, None
  if all(v.numeric for v in operands):
    value = eqn.primitive.bind(*(v.value for v in operands), **eqn.params)
    known = uniform.wide(all(v.constant for v in operands), aval.shape)
  lo, hi = totals.of_product(left, right, aval)
  faint = None
  if left.faint is not None or right.faint is not None:
    some = lambda v: uniform.over(np.logical_not, v.is_zero)
    faint = combine(some(left), some(right))
    faint = faint & ~combine(_surely(left), _surely(right))
  maybe = None
  if any(v.real and uniform.some(v.is_maybe_low) for v in operands):
    maybe = uniform.wide(True, aval.shape)
  return values.of_aval(
    aval,
    reads=reads,
    known=known,
    value=None if value is None else np.asarray(value),
    sampled=value is not None,
    exact=all(values.kind(v.dtype) in 'fc' for v in operands),
    lo=lo,
    hi=hi,
    faint=faint,
    doubt=doubt,
    maybe=maybe,
  )


def _product_reads(
  eqn: Any, operands: list[Value], combine: _Combine
) -> tuple[np.ndarray | None, Doubt | None]:
  """What a sum of products reads, and what stays in doubt; see `_product`."""
  left, right = operands
  aval = eqn.outvars[0].aval
  reads, doubt = None, values.doubt_of(operands)
  for v, other in ((left, right), (right, left)):
    if v.reads is None:
      continue
    shape = *v.reads.shape[:2], *aval.shape
    pair = lambda a, b, v=v: (a, b) if v is left else (b, a)
    put = lambda a, b, to=shape, of=pair: uniform.wide(combine(*of(a, b)), to)
    found: Any = put(v.reads, _surely(other))
    if other.selects and other.reads is not None:
      found = sets.weaken(found)
      doubt = doubt or Doubt(_SELECTED, eqn)
    for read, mask, why in (
      (v.reads, other.is_faint, None),
      (None if v.finite else v.reads, other.is_zero, _NOT_FINITE),
    ):
      if read is not None and uniform.some(mask):
        if why:
          read = sets.without(read, v.is_finite)
        more = sets.weaken(put(read, mask))
        if why and doubt is None and (more & ~found).any():
          doubt = Doubt(why, eqn)
        found = sets.union([found, more], aval.shape)
    reads = sets.union([reads, found], aval.shape)
  return reads, doubt


def _surely(v: Value) -> np.ndarray:
  """Entries that are not zero, not even but for a doubt."""
  return uniform.over(lambda a, b: ~(a | b), v.is_zero, v.is_faint)
