"""Between which bounds the result of an operation on entries lies.

Interval arithmetic [lo, hi] in float64, rounded outwards to the array's own
type. Bounds of nan say that the result may be nan. A finite number of unknown
size has the bounds -SOME and SOME, and sums and products of such numbers are
assumed to stay finite; where a bound is a number, it is computed, and what
may exceed the largest number of the type is infinite.
"""

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from scipy import special

from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.value import HUGE, SOME, Bounds, Value

_UNKNOWN = 1e200
_COMPARISONS = ('eq', 'ge', 'gt', 'le', 'lt', 'ne')
# What a computed function may be off by, relative to the exact one.
_SLACK = 1e-5


def of(eqn: Any, operands: Sequence[Value]) -> Bounds:
  """The bounds of the (first) result of an elementwise operation."""
  dtype = getattr(eqn.outvars[0].aval, 'dtype', None)
  kind = values.kind(dtype)
  if kind == 'c' or any(values.kind(v.dtype) == 'c' for v in operands):
    return _complex(eqn, operands, kind, dtype)
  rule = _RULES.get(eqn.primitive.name)
  if rule is None or kind == 'k':
    return values.of_dtype(dtype)
  with np.errstate(all='ignore'):
    lo, hi = rule(eqn, [v.bounds() for v in operands])
    if len(operands) == 2 and operands[0] is operands[1]:
      lo, hi = _of_twice(eqn.primitive.name, operands[0], lo, hi)
    if eqn.primitive.name == 'sub' and above(operands) is not None:
      hi = np.minimum(hi, 0.0)  # nan stays nan
    return fit(dtype, lo, hi)


def above(operands: Sequence[Value]) -> values.Over | None:
  """That the second is nowhere smaller than the first, where it is known."""
  left, right = operands
  found = [o for o in right.over if o.array is left and o.aligned]
  return max(found, key=lambda o: o.exact, default=None)


def fit(dtype: Any, lo: Any, hi: Any) -> Bounds:
  """Bounds as the type holds them: rounded outwards, wrapped or infinite."""
  lo, hi = np.asarray(lo, np.float64), np.asarray(hi, np.float64)
  kind = values.kind(dtype)
  if kind in 'iub':
    least, most = values.of_dtype(dtype)
    bad = ~((lo >= least) & (hi <= most))
    return np.where(bad, least, lo), np.where(bad, most, hi)
  nan = np.isnan(lo) | np.isnan(hi)
  info = ml_dtypes.finfo(dtype)
  largest = float(info.max)
  eps = float(info.eps)
  own = np.dtype(dtype)
  out = []
  for bound, down in ((lo, True), (hi, False)):
    unknown = np.abs(bound) >= _UNKNOWN
    far = np.abs(bound) > largest
    clipped = np.clip(bound, -largest, largest)
    near = clipped.astype(own).astype(np.float64)
    step = np.abs(near) * eps + float(info.smallest_subnormal)
    outer = near - step if down else near + step
    inside = near > clipped if down else near < clipped
    rounded = np.where(inside, outer, near)
    rounded = np.where(far, np.sign(bound) * np.inf, rounded)
    unknown = unknown & np.isfinite(bound)
    out.append(np.where(unknown, np.sign(bound) * SOME, rounded))
  lo, hi = out
  # A lower bound beyond the largest number does not bound: it may round to it.
  lo = np.where(np.isposinf(lo), largest, lo)
  hi = np.where(np.isneginf(hi), -largest, hi)
  return np.where(nan, np.nan, lo), np.where(nan, np.nan, hi)


def smallest(dtype: Any) -> float:
  """The smallest number that does not divide like a zero."""
  if values.kind(dtype) in 'iu':
    return 1.0
  return float(ml_dtypes.finfo(dtype).tiny)


def _complex(eqn: Any, operands: Any, kind: str, dtype: Any) -> Bounds:
  """Of complex numbers only whether they are finite is kept."""
  name = eqn.primitive.name
  if name not in (
    'abs add add_any complex conj convert_element_type copy imag mul neg real '
    'square sub'
  ).split():
    return values.of_dtype(dtype)
  good = np.logical_and.reduce([np.all(v.is_finite()) for v in operands])
  if not good:
    return values.of_dtype(dtype)
  lo, hi = values.finite()
  return (np.float64(0), hi) if name == 'abs' else (lo, hi)


def _of_twice(name: str, v: Value, lo: Any, hi: Any) -> Bounds:
  """Of an array and itself."""
  if name == 'mul':
    return np.where(np.isnan(lo), lo, np.maximum(lo, 0.0)), hi
  if name in _COMPARISONS and np.all(v.is_finite()):
    truth = np.float64(name in ('eq', 'ge', 'le'))
    return truth, truth
  return lo, hi


def _corners(a: Bounds, b: Bounds, op: Callable) -> Bounds:
  each = [op(x, y) for x in a for y in b]
  return np.minimum.reduce(np.broadcast_arrays(*each)), np.maximum.reduce(
    np.broadcast_arrays(*each)
  )


def _mark(nan: Any, lo: Any, hi: Any) -> Bounds:
  return np.where(nan, np.nan, lo), np.where(nan, np.nan, hi)


def _add(eqn: Any, each: list[Bounds]) -> Bounds:
  (a, b), (c, d) = each
  nan = (np.isneginf(a) & np.isposinf(d)) | (np.isposinf(b) & np.isneginf(c))
  return _mark(nan, a + c, b + d)


def _sub(eqn: Any, each: list[Bounds]) -> Bounds:
  return _add(eqn, [each[0], _neg(eqn, each[1:])])


def _mul(eqn: Any, each: list[Bounds]) -> Bounds:
  (a, b), (c, d) = each
  infinite = lambda lo, hi: np.isinf(lo) | np.isinf(hi)
  zero = lambda lo, hi: (lo <= 0) & (hi >= 0)
  nan = (infinite(a, b) & zero(c, d)) | (infinite(c, d) & zero(a, b))
  # inf times a bound of zero that is not attained with it: see `nan`.
  times = lambda x, y: np.where((x == 0) | (y == 0), 0.0, _times(x, y))
  lo, hi = _corners((a, b), (c, d), times)
  broken = np.isnan(a) | np.isnan(b) | np.isnan(c) | np.isnan(d)
  return _mark(nan | broken, lo, hi)


def _times(x: Any, y: Any) -> Any:
  """A product; beyond float64 of finite numbers it is of unknown size."""
  out = x * y
  finite = np.isfinite(x) & np.isfinite(y) & np.isinf(out)
  return np.where(finite, np.sign(out) * SOME, out)


def _div(eqn: Any, each: list[Bounds]) -> Bounds:
  (a, b), (c, d) = each
  dtype = eqn.outvars[0].aval.dtype
  whole = values.kind(dtype) in 'iu'
  zero = ~((c > 0) | (d < 0))
  both = (np.isinf(a) | np.isinf(b)) & (np.isinf(c) | np.isinf(d))
  if not whole:
    zero = ~((c >= smallest(dtype)) | (d <= -smallest(dtype)))
  lo, hi = _corners((a, b), (c, d), lambda x, y: _times(x, 1 / np.where(y == 0, 1.0, y)))
  if whole:
    all_of = values.of_dtype(dtype)
    ends = np.trunc(lo), np.trunc(hi)
    return tuple(np.where(zero, a, e) for a, e in zip(all_of, ends, strict=True))
  # A finite number over one that is bounded away from zero is finite, but its
  # size is known only where both are.
  return _mark(zero | both, lo, hi)


def _neg(eqn: Any, each: list[Bounds]) -> Bounds:
  ((a, b),) = each[:1]
  return -b, -a


def _abs(eqn: Any, each: list[Bounds]) -> Bounds:
  ((a, b),) = each
  least = np.where((a <= 0) & (b >= 0), 0.0, np.minimum(np.abs(a), np.abs(b)))
  return _mark(np.isnan(a), least, np.maximum(np.abs(a), np.abs(b)))


def _square(eqn: Any, each: list[Bounds]) -> Bounds:
  a, b = _abs(eqn, each)
  return _times(a, a), _times(b, b)


def _integer_pow(eqn: Any, each: list[Bounds]) -> Bounds:
  n = eqn.params['y']
  if n == 0:
    return np.float64(1), np.float64(1)
  if n < 0:
    one = np.float64(1), np.float64(1)
    return _div(eqn, [one, _power(eqn, each, -n)])
  return _power(eqn, each, n)


def _power(eqn: Any, each: list[Bounds], n: int) -> Bounds:
  ((a, b),) = each
  raise_ = lambda x: np.where(
    np.isfinite(x) & np.isinf(x**n), np.sign(x) ** n * SOME, x**n
  )
  if n % 2:
    return raise_(a), raise_(b)
  a, b = _abs(eqn, each)
  return raise_(a), raise_(b)


def _wide(lo: Any, hi: Any) -> Bounds:
  """Room for the error of a computed function."""
  return lo - _SLACK * np.abs(lo), hi + _SLACK * np.abs(hi)


def _exponential(function: Callable, offset: float) -> Callable:
  """exp, exp2 and expm1: they overflow, but not below zero."""

  def bounds(eqn: Any, each: list[Bounds]) -> Bounds:
    ((a, b),) = each
    lo, hi = _wide(*(np.minimum(function(x), 1e100) for x in (a, b)))
    lo = np.maximum(lo, -offset)
    hi = np.where(b <= 0, np.minimum(hi, 1.0 - offset), hi)
    hi = np.where(hi > 1e50, np.inf, hi)
    return _mark(np.isnan(a) | np.isnan(b), lo, hi)

  return bounds


def _rising(
  function: Callable, start: float, least: float = -SOME, most: float = SOME
) -> Callable:
  """A function that grows from `start` on, and is nan before."""

  def bounds(eqn: Any, each: list[Bounds]) -> Bounds:
    ((a, b),) = each
    nan = np.isnan(a) | np.isnan(b) | (a < start)
    lo, hi = _wide(function(a), function(b))
    return _mark(nan, np.maximum(lo, least), np.minimum(hi, most))

  return bounds


def _root(eqn: Any, each: list[Bounds]) -> Bounds:
  ((a, b),) = each
  nan = np.isnan(a) | np.isnan(b) | (a < 0)
  of = lambda x: np.where(np.abs(x) >= _UNKNOWN, np.sign(x) * np.abs(x), x)
  lo, hi = np.sqrt(of(a)), np.where(b >= _UNKNOWN, b, np.sqrt(of(b)))
  return _mark(nan, *_wide(lo, hi))


def _one_over_root(eqn: Any, each: list[Bounds]) -> Bounds:
  ((a, b),) = each
  nan = np.isnan(a) | np.isnan(b) | (a < 0)
  hi = np.where(a == 0, np.inf, 1 / np.sqrt(np.maximum(a, 1e-300)))
  lo = np.where(b >= _UNKNOWN, 0.0, 1 / np.sqrt(np.maximum(b, 1e-300)))
  return _mark(nan, *_wide(lo, hi))


def _logarithm(function: Callable, pole: float) -> Callable:
  def bounds(eqn: Any, each: list[Bounds]) -> Bounds:
    ((a, b),) = each
    nan = np.isnan(a) | np.isnan(b) | (a < pole)
    lo = np.where(a <= pole, -np.inf, function(np.maximum(a, pole)))
    hi = np.where(b <= pole, -np.inf, function(np.maximum(b, pole)))
    hi = np.where(b >= _UNKNOWN, 1e3, hi)
    return _mark(nan, *_wide(lo, hi))

  return bounds


def _wave(eqn: Any, each: list[Bounds]) -> Bounds:
  ((a, b),) = each
  nan = ~(np.isfinite(a) & np.isfinite(b))
  return _mark(nan, np.float64(-1), np.float64(1))


def _monotone(function: Callable) -> Callable:
  def bounds(eqn: Any, each: list[Bounds]) -> Bounds:
    ((a, b),) = each[:1]
    return function(a), function(b)

  return bounds


def _larger(eqn: Any, each: list[Bounds]) -> Bounds:
  (a, b), (c, d) = each
  lo = np.maximum(a, c)
  # At least a masked score, but of unknown size: no masked score by that.
  unknown = (np.minimum(a, c) == -SOME) & (lo <= -HUGE)
  return np.where(unknown, -SOME, lo), np.maximum(b, d)


def _smaller(eqn: Any, each: list[Bounds]) -> Bounds:
  (a, b), (c, d) = each
  return np.minimum(a, c), np.minimum(b, d)


def _clamp(eqn: Any, each: list[Bounds]) -> Bounds:
  least, x, most = each
  return _smaller(eqn, [_larger(eqn, [least, x]), most])


def _convert(eqn: Any, each: list[Bounds]) -> Bounds:
  ((a, b),) = each
  dtype = eqn.outvars[0].aval.dtype
  kind = values.kind(dtype)
  if kind == 'b':
    zero = (a == 0) & (b == 0)
    other = (a > 0) | (b < 0)
    return np.where(other, 1.0, 0.0), np.where(zero, 0.0, 1.0)
  if kind in 'iu':
    return np.trunc(a), np.trunc(b)
  return a, b


def _remainder(eqn: Any, each: list[Bounds]) -> Bounds:
  (a, b), (c, d) = each
  same = (a >= 0) & (b < c)
  good = (c > 0) & np.isfinite(a) & np.isfinite(b) & np.isfinite(d)
  lo = np.where(a >= 0, 0.0, -d)
  hi = np.where(b <= 0, 0.0, d)
  least, most = values.of_dtype(eqn.outvars[0].aval.dtype)
  lo, hi = np.where(good, lo, least), np.where(good, hi, most)
  return np.where(same, a, lo), np.where(same, b, hi)


def _compare(eqn: Any, each: list[Bounds]) -> Bounds:
  (a, b), (c, d) = each
  name = eqn.primitive.name
  apart = (b < c) | (a > d)
  equal = (a == b) & (c == d) & (a == c)
  true, false = {
    'gt': (a > d, b <= c),
    'ge': (a >= d, b < c),
    'lt': (b < c, a >= d),
    'le': (b <= c, a > d),
    'eq': (equal, apart),
    'ne': (apart, equal),
  }[name]
  return np.where(true, 1.0, 0.0), np.where(false, 0.0, 1.0)


def _logic(eqn: Any, each: list[Bounds]) -> Bounds:
  dtype = eqn.outvars[0].aval.dtype
  if values.kind(dtype) != 'b':
    (a, b), (c, d) = each
    name = eqn.primitive.name
    plain = (a >= 0) & (c >= 0)
    least, most = values.of_dtype(dtype)
    if name == 'and':
      return np.where(plain, 0.0, least), np.where(
        plain, np.minimum(b, d), most
      )
    return values.of_dtype(dtype)
  name = eqn.primitive.name
  if name == 'and':
    return _smaller(eqn, each)
  if name == 'or':
    return _larger(eqn, each)
  return values.of_dtype(dtype)


def _not(eqn: Any, each: list[Bounds]) -> Bounds:
  ((a, b),) = each
  if values.kind(eqn.outvars[0].aval.dtype) == 'b':
    return 1.0 - b, 1.0 - a
  return -b - 1, -a - 1


def _is_finite(eqn: Any, each: list[Bounds]) -> Bounds:
  ((a, b),) = each
  sure = np.isfinite(a) & np.isfinite(b)
  return np.where(sure, 1.0, 0.0), np.float64(1)


def _bounded(least: float, most: float) -> Callable:
  def bounds(eqn: Any, each: list[Bounds]) -> Bounds:
    nan = np.logical_or.reduce([np.isnan(a) | np.isnan(b) for a, b in each])
    return _mark(nan, np.float64(least), np.float64(most))

  return bounds


_same = _monotone(lambda x: x)
_RULES: dict[str, Callable[[Any, list[Bounds]], Bounds]] = {
  'abs': _abs,
  'add': _add,
  'add_any': _add,
  'and': _logic,
  'atan': _bounded(-1.6, 1.6),
  'cbrt': _rising(np.cbrt, -np.inf),
  'ceil': _monotone(np.ceil),
  'clamp': _clamp,
  'convert_element_type': _convert,
  'copy': _same,
  'copy_p': _same,
  'cos': _wave,
  'device_put': _same,
  'div': _div,
  'erf': _rising(special.erf, -np.inf, -1, 1),
  'erfc': _bounded(0, 2),
  'exp': _exponential(np.exp, 0.0),
  'exp2': _exponential(np.exp2, 0.0),
  'expm1': _exponential(np.expm1, 1.0),
  'floor': _monotone(np.floor),
  'integer_pow': _integer_pow,
  'is_finite': _is_finite,
  'log': _logarithm(np.log, 0.0),
  'log1p': _logarithm(np.log1p, -1.0),
  'logistic': _rising(special.expit, -np.inf, 0, 1),
  'max': _larger,
  'min': _smaller,
  'mul': _mul,
  'neg': _neg,
  'not': _not,
  'or': _logic,
  'reduce_precision': _same,
  'rem': _remainder,
  'round': _monotone(np.round),
  'rsqrt': _one_over_root,
  'sign': _monotone(np.sign),
  'sin': _wave,
  'sqrt': _root,
  'square': _square,
  'stop_gradient': _same,
  'sub': _sub,
  'tanh': _rising(np.tanh, -np.inf, -1, 1),
  **dict.fromkeys(_COMPARISONS, _compare),
}


def of_reduction(
  name: str, v: Value, axes: tuple[int, ...], dtype: Any
) -> Bounds:
  """The bounds of a reduction over axes."""
  count = int(np.prod([v.shape[a] for a in axes], dtype=int))
  if name in ('argmax', 'argmin'):
    return np.float64(0), np.float64(max(v.shape[axes[0]] - 1, 0))
  if values.kind(dtype) == 'c':
    return _of_finite(bool(np.all(v.is_finite())), dtype)
  lo, hi = v.bounds()
  with np.errstate(all='ignore'):
    if name in ('reduce_max', 'reduce_or'):
      least = _over_axes(lo, v, axes, np.max)
      some = _over_axes(lo == -SOME, v, axes, np.any)
      least = np.where(some & (least <= -HUGE), -SOME, least)
      return least, _over_axes(hi, v, axes, np.max)
    if name in ('reduce_min', 'reduce_and'):
      return _over_axes(lo, v, axes, np.min), _over_axes(hi, v, axes, np.min)
    if name == 'reduce_sum' and count:
      return _sum(lo, hi, v, axes, count, dtype)
  if name == 'reduce_prod':
    return _repeated(v, dtype)
  return values.of_dtype(dtype)


def _over_axes(a: np.ndarray, v: Value, axes: Any, op: Callable) -> np.ndarray:
  if a.ndim == 0:
    return a
  return op(np.broadcast_to(a, v.shape), axis=axes)


def _sum(
  lo: Any, hi: Any, v: Value, axes: Any, count: int, dtype: Any
) -> Bounds:
  if lo.ndim or hi.ndim:
    whole = [np.broadcast_to(b, v.shape) for b in (lo, hi)]
    least, most = (b.sum(axis=axes) for b in whole)
    size = np.maximum(*map(np.abs, whole)).sum(axis=axes)
    mixed = np.isneginf(whole[0]).any(axes) & np.isposinf(whole[1]).any(axes)
    nothing = (whole[0] >= 0).all(axes)
    all_below = (whole[1] <= 0).all(axes)
  else:
    least, most = _times(lo, count), _times(hi, count)
    size = np.maximum(np.abs(least), np.abs(most))
    mixed = np.isneginf(lo) & np.isposinf(hi)
    nothing, all_below = lo >= 0, hi <= 0
  if values.kind(dtype) == 'f':  # rounded in some order
    error = np.where(
      size < _UNKNOWN, size * count * float(ml_dtypes.finfo(dtype).eps), 0.0
    )
    least, most = least - error, most + error
  least = np.where(nothing, np.maximum(least, 0.0), least)
  most = np.where(all_below, np.minimum(most, 0.0), most)
  if v.peak is not None and set(v.peak) <= set(axes):
    least = np.where(nothing, np.maximum(least, 1.0), least)
  return fit(dtype, *_mark(mixed | np.isnan(least), least, most))


def _repeated(v: Value, dtype: Any) -> Bounds:
  """A product of many: of unknown size, but not where none exceeds 1."""
  lo, hi = v.bounds()
  if values.kind(dtype) not in 'f':
    return values.of_dtype(dtype)
  if np.all((lo >= -1) & (hi <= 1)):
    return np.float64(0.0 if np.all(lo >= 0) else -1), np.float64(1)
  return _of_finite(bool(np.all(np.isfinite(lo) & np.isfinite(hi))), dtype)


def _of_finite(sure: bool, dtype: Any) -> Bounds:
  return values.finite() if sure else values.of_dtype(dtype)


def of_running(name: str, v: Value, axis: int, dtype: Any) -> Bounds:
  """The bounds of a running sum, product, maximum or minimum."""
  if values.kind(dtype) == 'c' or name == 'cumlogsumexp':
    return _of_finite(bool(np.all(v.is_finite())), dtype)
  lo, hi = (np.asarray(b) for b in v.bounds())
  if not v.size:
    return values.of_dtype(dtype)
  least, most = np.min(lo), np.max(hi)
  if name in ('cummax', 'cummin'):
    return least, most
  if name == 'cumprod':
    return _repeated(v, dtype)
  row = Value((v.shape[axis],), v.dtype)
  with np.errstate(all='ignore'):
    a, b = _sum(least, most, row, (0,), v.shape[axis], dtype)
    return np.minimum(a, least), np.maximum(b, most)


def of_product(left: Value, right: Value, aval: Any) -> Bounds:
  """The bounds of a sum of products, the same for all entries."""
  dtype = aval.dtype
  if not (np.all(left.is_finite()) and np.all(right.is_finite())):
    return values.of_dtype(dtype)
  if any(values.kind(v.dtype) == 'c' for v in (left, right)):
    return values.finite()
  if not left.size or not right.size:
    return np.float64(0), np.float64(0)
  (a, b), (c, d) = left.bounds(), right.bounds()
  size = lambda lo, hi: max(float(np.max(np.abs(lo))), float(np.max(np.abs(hi))))
  terms = min(left.size, right.size)
  with np.errstate(all='ignore'):
    most = _times(np.float64(size(a, b)), size(c, d))
    most = _times(most, terms * (1 + _SLACK))
    positive = np.all(a >= 0) and np.all(c >= 0)
    return fit(dtype, np.where(positive, 0.0, -most), most)


def of_window(name: str, v: Value, params: Any, dtype: Any) -> Bounds:
  """The bounds of a sum or maximum over windows, the same for all."""
  if not v.size or values.kind(dtype) == 'c':
    return values.of_dtype(dtype)
  lo, hi = v.bounds()
  least, most = np.min(lo), np.max(hi)
  padded = any(a or b for a, b in params['padding'])
  if name == 'reduce_window_sum':
    count = int(np.prod(params['window_dimensions']))
    row = Value((count,), v.dtype)
    with np.errstate(all='ignore'):
      a, b = _sum(least, most, row, (0,), count, dtype)
    return (np.minimum(a, 0.0), np.maximum(b, 0.0)) if padded else (a, b)
  return values.of_dtype(dtype) if padded else (least, most)


def under(test: Any, truth: bool, v: Value) -> Bounds:
  """The bounds of an entry where a comparison of it came out so."""
  name, left, right = test
  lo, hi = v.bounds()
  if v is right and v is not left:
    turned = {'gt': 'lt', 'ge': 'le', 'lt': 'gt', 'le': 'ge'}
    name, other = turned.get(name, name), left
  else:
    other = right
  below, above_ = other.bounds()
  if not truth:  # a nan compares false: it stays
    sure = np.isfinite(lo) & np.isfinite(hi)
    name = {'gt': 'le', 'ge': 'lt', 'lt': 'ge', 'le': 'gt', 'ne': 'eq'}.get(
      name, ''
    )
    if not np.all(sure):
      return lo, hi
  number = lambda b, rest: np.where(np.isnan(b), rest, b)
  if name in ('gt', 'ge'):
    return np.maximum(number(lo, -np.inf), below), number(hi, np.inf)
  if name in ('lt', 'le'):
    return number(lo, -np.inf), np.minimum(number(hi, np.inf), above_)
  if name == 'eq':
    return np.maximum(number(lo, -np.inf), below), np.minimum(
      number(hi, np.inf), above_
    )
  return lo, hi
