"""Between which bounds sums, products and other reductions lie.

As `ranges`, for operations that combine entries: a sum is rounded in any order,
and a sum of numbers that are not negative is not negative.
"""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from parallel_ar.analysis.static import functions, ranges
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.value import HUGE, SOME, Bounds, Value
from parallel_ar.program import uniform


def of_reduction(
  name: str, v: Value, axes: tuple[int, ...], dtype: Any
) -> Bounds:
  """The bounds of a reduction over axes."""
  count = int(np.prod([v.shape[a] for a in axes], dtype=int))
  if name in ('argmax', 'argmin'):
    return np.float64(0), np.float64(max(v.shape[axes[0]] - 1, 0))
  if name in ('reduce_and', 'reduce_or') and values.kind(dtype) != 'b':
    return values.of_dtype(dtype)
  if values.kind(dtype) == 'c':
    return _of_finite(bool(v.finite), dtype)
  lo, hi = v.bounds
  with np.errstate(all='ignore'):
    if name in ('reduce_max', 'reduce_or'):
      least = _over_axes(lo, v, axes, np.maximum)
      some = _over_axes(lo == -SOME, v, axes, np.logical_or)
      least = np.where(some & (least <= -HUGE), -SOME, least)
      return least, _over_axes(hi, v, axes, np.maximum)
    if name in ('reduce_min', 'reduce_and'):
      return _over_axes(lo, v, axes, np.minimum), _over_axes(
        hi, v, axes, np.minimum
      )
    if name == 'reduce_sum' and count:
      return _sum(lo, hi, v, axes, count, dtype)
  if name == 'reduce_prod':
    return _repeated(v, dtype, count)
  return values.of_dtype(dtype)


def _over_axes(a: np.ndarray, v: Value, axes: Any, op: Callable) -> np.ndarray:
  if a.ndim == 0:
    return a
  return uniform.thin(uniform.reduced(op, uniform.wide(a, v.shape), axes))


def _sum(
  lo: Any, hi: Any, v: Value, axes: Any, count: int, dtype: Any
) -> Bounds:
  if lo.ndim or hi.ndim:
    whole = [uniform.wide(b, v.shape) for b in (lo, hi)]
    lo, hi = map(uniform.thin, np.broadcast_arrays(*whole))
    total = lambda a: uniform.total(uniform.wide(a, v.shape), axes)
    least, most = total(lo), total(hi)
    size = total(np.maximum(np.abs(lo), np.abs(hi)))
    each = lambda op, a: uniform.reduced(op, uniform.wide(a, v.shape), axes)
    mixed = each(np.logical_or, np.isneginf(lo)) & each(
      np.logical_or, np.isposinf(hi)
    )
    nothing = each(np.logical_and, lo >= 0)
    all_below = each(np.logical_and, hi <= 0)
  else:
    least, most = functions.times(lo, count), functions.times(hi, count)
    size = np.maximum(np.abs(least), np.abs(most))
    mixed = np.isneginf(lo) & np.isposinf(hi)
    nothing, all_below = lo >= 0, hi <= 0
  if values.kind(dtype) == 'f':  # rounded in some order
    error = np.where(
      size < values.UNKNOWN,
      size * count * float(ml_dtypes.finfo(dtype).eps),
      0.0,
    )
    least, most = least - error, most + error
  least = np.where(nothing, np.maximum(least, 0.0), least)
  most = np.where(all_below, np.minimum(most, 0.0), most)
  if v.peak is not None and set(v.peak) <= set(axes):
    least = np.where(nothing, np.maximum(least, 1.0), least)
  return ranges.fit(
    dtype, *functions.mark(mixed | np.isnan(least), least, most)
  )


def _repeated(v: Value, dtype: Any, count: int) -> Bounds:
  """A product of up to `count`, of which some may be missing."""
  lo, hi = v.bounds
  if values.kind(dtype) not in 'f':
    return values.of_dtype(dtype)
  if np.all((lo >= -1) & (hi <= 1)):
    return np.float64(0.0 if np.all(lo >= 0) else -1), np.float64(1)
  size = np.max(np.maximum(np.abs(lo), np.abs(hi)), initial=1.0)
  if not size < values.UNKNOWN:
    return _of_finite(bool(np.all(np.isfinite(lo) & np.isfinite(hi))), dtype)
  with np.errstate(over='ignore'):
    most = size**count * (1 + functions.SLACK * count)
  most = np.where(most > 1e150, np.inf, most)
  return ranges.fit(dtype, -most, most)


def _of_finite(sure: bool, dtype: Any) -> Bounds:
  return values.finite() if sure else values.of_dtype(dtype)


def of_running(name: str, v: Value, axis: int, dtype: Any) -> Bounds:
  """The bounds of a running sum, product, maximum or minimum."""
  if values.kind(dtype) == 'c' or name == 'cumlogsumexp':
    return _of_finite(bool(v.finite), dtype)
  lo, hi = (np.asarray(b) for b in v.bounds)
  if not v.size:
    return values.of_dtype(dtype)
  least, most = np.min(lo), np.max(hi)
  if name in ('cummax', 'cummin'):
    return least, most
  if name == 'cumprod':
    return _repeated(v, dtype, v.shape[axis])
  row = Value((v.shape[axis],), v.dtype)
  with np.errstate(all='ignore'):
    a, b = _sum(least, most, row, (0,), v.shape[axis], dtype)
    return np.minimum(a, least), np.maximum(b, most)


def of_product(left: Value, right: Value, aval: Any) -> Bounds:
  """The bounds of a sum of products, the same for all entries."""
  dtype = aval.dtype
  if not (left.finite and right.finite):
    return values.of_dtype(dtype)
  if any(values.kind(v.dtype) == 'c' for v in (left, right)):
    return values.finite()
  if not left.size or not right.size:
    return np.float64(0), np.float64(0)
  (a, b), (c, d) = left.bounds, right.bounds
  size = lambda lo, hi: max(
    float(np.max(np.abs(lo))), float(np.max(np.abs(hi)))
  )
  terms = min(left.size, right.size)
  with np.errstate(all='ignore'):
    most = functions.times(np.float64(size(a, b)), size(c, d))
    most = functions.times(most, terms * (1 + functions.SLACK))
    positive = np.all(a >= 0) and np.all(c >= 0)
    return ranges.fit(dtype, np.where(positive, 0.0, -most), most)


def of_window(name: str, v: Value, params: Any, dtype: Any) -> Bounds:
  """The bounds of a sum or maximum over windows, the same for all."""
  if not v.size or values.kind(dtype) == 'c':
    return values.of_dtype(dtype)
  lo, hi = v.bounds
  least, most = np.min(lo), np.max(hi)
  padded = any(a or b for a, b in params['padding'])
  if name == 'reduce_window_sum':
    count = int(np.prod(params['window_dimensions']))
    row = Value((count,), v.dtype)
    with np.errstate(all='ignore'):
      a, b = _sum(least, most, row, (0,), count, dtype)
    return (np.minimum(a, 0.0), np.maximum(b, 0.0)) if padded else (a, b)
  return values.of_dtype(dtype) if padded else (least, most)


def either(aval: Any, some: list[Value]) -> dict[str, Any]:
  """What is known of an array each of whose entries is one of any of these."""
  if not all(v.size for v in some):
    return {}
  each = [v.bounds for v in some]
  fields: dict[str, Any] = {
    'lo': np.min([np.min(lo) for lo, _ in each]),
    'hi': np.max([np.max(hi) for _, hi in each]),
  }
  if any(v.real and uniform.some(v.is_maybe_low) for v in some):
    fields['maybe'] = uniform.wide(True, aval.shape)
  return fields


def bounds_of(v: Value) -> dict[str, Any]:
  """What is known of the size of its entries."""
  lo, hi = v.bounds
  return {'lo': lo, 'hi': hi, 'maybe': v.maybe}
