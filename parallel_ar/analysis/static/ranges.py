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

from parallel_ar.analysis.static import functions
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.value import HUGE, SOME, Bounds, Value

_COMPLEX = (
  'abs add add_any complex conj convert_element_type copy imag mul neg real '
  'square sub'
).split()
_COMPARISONS = ('eq', 'ge', 'gt', 'le', 'lt', 'ne')


def of(eqn: Any, operands: Sequence[Value]) -> Bounds:
  """The bounds of the (first) result of an elementwise operation."""
  dtype = getattr(eqn.outvars[0].aval, 'dtype', None)
  kind = values.kind(dtype)
  if kind == 'c' or any(values.kind(v.dtype) == 'c' for v in operands):
    return _complex(eqn, operands, kind, dtype)
  rule = _RULES.get(eqn.primitive.name)
  if rule is None or kind == 'k':
    return values.of_dtype(dtype)
  name, each = eqn.primitive.name, [v.bounds for v in operands]
  twice = len(operands) == 2 and operands[0] is operands[1]
  below = name == 'sub' and above(operands) is not None
  key = None
  if all(b.ndim == 0 for pair in each for b in pair):
    numbers = b''.join(b.tobytes() for pair in each for b in pair)
    kinds = tuple(str(v.dtype) for v in operands)
    form = str([eqn.params.get(p) for p in _FORMS])
    key = name, str(dtype), kinds, form, numbers, twice, below
    if key in _FOUND:
      return _FOUND[key]
  with np.errstate(all='ignore'):
    lo, hi = rule(eqn, each)
    if twice:
      lo, hi = _of_twice(name, operands[0], lo, hi)
    if below:
      hi = np.minimum(hi, 0.0)  # nan stays nan
    found = fit(dtype, lo, hi)
  if key is not None and len(_FOUND) < 1 << 16:
    _FOUND[key] = found
  return found


_FORMS = ('y', 'rounding_method', 'exponent_bits', 'mantissa_bits')
_FOUND: dict[Any, Bounds] = {}  # what single numbers gave, by all it depends on


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
    if np.dtype(dtype).itemsize == 8:  # bounds have 53 bits
      bad = bad | (np.maximum(-lo, hi) >= 2.0**53)
    return np.where(bad, least, lo), np.where(bad, most, hi)
  nan = np.isnan(lo) | np.isnan(hi)
  info = ml_dtypes.finfo(dtype)
  largest = float(info.max)
  eps = float(info.eps)
  own = np.dtype(dtype)
  out = []
  for bound, down in ((lo, True), (hi, False)):
    unknown = np.abs(bound) >= values.UNKNOWN
    far = np.abs(bound) > largest
    clipped = np.clip(bound, -largest, largest)
    near = clipped.astype(own).astype(np.float64)
    step = np.abs(near) * eps + float(info.smallest_subnormal)
    outer = near - step if down else near + step
    # A number that is rounded may be so twice, as x / 3 by x * (1 / 3).
    rounded = np.where(near != clipped, outer, near)
    rounded = np.where(far, np.sign(bound) * np.inf, rounded)
    unknown = unknown & np.isfinite(bound)
    out.append(np.where(unknown, np.sign(bound) * SOME, rounded))
  lo, hi = out
  tiny = float(info.tiny)  # below, a processor may take it for zero
  lo = np.where((lo > 0) & (lo < tiny), 0.0, lo)
  hi = np.where((hi < 0) & (hi > -tiny), 0.0, hi)
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
  if name not in _COMPLEX:
    return values.of_dtype(dtype)
  good = np.logical_and.reduce([v.finite for v in operands])
  if not good:
    return values.of_dtype(dtype)
  lo, hi = values.finite()
  return (np.float64(0), hi) if name == 'abs' else (lo, hi)


def _of_twice(name: str, v: Value, lo: Any, hi: Any) -> Bounds:
  """Of an array and itself."""
  if name == 'mul':
    return np.where(np.isnan(lo), lo, np.maximum(lo, 0.0)), hi
  if name in _COMPARISONS and v.finite:
    truth = np.float64(name in ('eq', 'ge', 'le'))
    return truth, truth
  return lo, hi


def _corners(a: Bounds, b: Bounds, op: Callable) -> Bounds:
  each = [op(x, y) for x in a for y in b]
  return np.minimum.reduce(np.broadcast_arrays(*each)), np.maximum.reduce(
    np.broadcast_arrays(*each)
  )


def _add(eqn: Any, each: list[Bounds]) -> Bounds:
  (a, b), (c, d) = each
  nan = (np.isneginf(a) & np.isposinf(d)) | (np.isposinf(b) & np.isneginf(c))
  return functions.mark(nan, a + c, b + d)


def _sub(eqn: Any, each: list[Bounds]) -> Bounds:
  return _add(eqn, [each[0], _neg(eqn, each[1:])])


def _mul(eqn: Any, each: list[Bounds]) -> Bounds:
  (a, b), (c, d) = each
  infinite = lambda lo, hi: np.isinf(lo) | np.isinf(hi)
  zero = lambda lo, hi: (lo <= 0) & (hi >= 0)
  nan = (infinite(a, b) & zero(c, d)) | (infinite(c, d) & zero(a, b))
  # inf times a bound of zero that is not attained with it: see `nan`.
  product = lambda x, y: np.where(
    (x == 0) | (y == 0), 0.0, functions.times(x, y)
  )
  lo, hi = _corners((a, b), (c, d), product)
  broken = np.isnan(a) | np.isnan(b) | np.isnan(c) | np.isnan(d)
  return functions.mark(nan | broken, lo, hi)


def _div(eqn: Any, each: list[Bounds]) -> Bounds:
  (a, b), (c, d) = each
  dtype = eqn.outvars[0].aval.dtype
  whole = values.kind(dtype) in 'iu'
  zero = ~((c > 0) | (d < 0))
  both = (np.isinf(a) | np.isinf(b)) & (np.isinf(c) | np.isinf(d))
  if not whole:
    zero = ~((c >= smallest(dtype)) | (d <= -smallest(dtype)))
  lo, hi = _corners(
    (a, b),
    (c, d),
    lambda x, y: functions.times(x, 1 / np.where(y == 0, 1.0, y)),
  )
  if whole:
    all_of = values.of_dtype(dtype)
    ends = np.trunc(lo), np.trunc(hi)
    return tuple(
      np.where(zero, a, e) for a, e in zip(all_of, ends, strict=True)
    )
  # A finite number over one that is bounded away from zero is finite, but its
  # size is known only where both are. A division may be compiled to a product
  # with the inverse, which is exact for powers of 2.
  exact = (c == d) & (np.frexp(c)[0] == 0.5)
  error = np.where(exact, 0.0, 2 * float(ml_dtypes.finfo(dtype).eps))
  lo, hi = lo - error * np.abs(lo), hi + error * np.abs(hi)
  return functions.mark(zero | both, lo, hi)


def _neg(eqn: Any, each: list[Bounds]) -> Bounds:
  ((a, b),) = each[:1]
  return -b, -a


def _abs(eqn: Any, each: list[Bounds]) -> Bounds:
  ((a, b),) = each
  least = np.where((a <= 0) & (b >= 0), 0.0, np.minimum(np.abs(a), np.abs(b)))
  return functions.mark(np.isnan(a), least, np.maximum(np.abs(a), np.abs(b)))


def _square(eqn: Any, each: list[Bounds]) -> Bounds:
  a, b = _abs(eqn, each)
  return functions.times(a, a), functions.times(b, b)


def _one_minus_square(eqn: Any, each: list[Bounds]) -> Bounds:
  one = np.float64(1), np.float64(1)
  return _sub(eqn, [one, _square(eqn, each)])


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

  def raise_(x: Any) -> Any:
    size = np.where(np.abs(x) >= values.UNKNOWN, SOME, np.abs(x) ** n)
    size = np.where((np.abs(x) < values.UNKNOWN) & (size > 1e150), np.inf, size)
    return np.sign(x) ** n * np.where(np.isinf(x), np.inf, size)

  if n % 2:
    return raise_(a), raise_(b)
  a, b = _abs(eqn, each)
  return raise_(a), raise_(b)


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
  (a, b), (c, d) = each
  dtype, name = eqn.outvars[0].aval.dtype, eqn.primitive.name
  least, most = values.of_dtype(dtype)
  if values.kind(dtype) == 'b' and name in ('and', 'or'):
    return (_smaller if name == 'and' else _larger)(eqn, each)
  if values.kind(dtype) != 'b' and name == 'and':
    plain = (a >= 0) & (c >= 0)
    most = np.where(plain, np.minimum(b, d), most)
    return np.where(plain, 0.0, least), most
  return least, most


def _not(eqn: Any, each: list[Bounds]) -> Bounds:
  ((a, b),) = each
  if values.kind(eqn.outvars[0].aval.dtype) == 'b':
    return 1.0 - b, 1.0 - a
  return -b - 1, -a - 1


def _is_finite(eqn: Any, each: list[Bounds]) -> Bounds:
  ((a, b),) = each
  sure = np.isfinite(a) & np.isfinite(b)
  return np.where(sure, 1.0, 0.0), np.float64(1)


_same = _monotone(lambda x: x)
_RULES: dict[str, Callable[[Any, list[Bounds]], Bounds]] = {
  'abs': _abs,
  'add': _add,
  'add_any': _add,
  'and': _logic,
  'atan': functions.bounded(-1.6, 1.6),
  'cbrt': functions.rising(np.cbrt, -np.inf),
  'ceil': _monotone(np.ceil),
  'clamp': _clamp,
  'convert_element_type': functions.converted,
  'copy': _same,
  'copy_p': _same,
  'cos': functions.wave,
  'device_put': _same,
  'div': _div,
  'erf': functions.rising(special.erf, -np.inf, -1, 1),
  'erfc': functions.bounded(0, 2),
  'exp': functions.exponential(np.exp, 0.0),
  'exp2': functions.exponential(np.exp2, 0.0),
  'expm1': functions.exponential(np.expm1, 1.0),
  'floor': _monotone(np.floor),
  'integer_pow': _integer_pow,
  'is_finite': _is_finite,
  'log': functions.logarithm(np.log, 0.0),
  'log1p': functions.logarithm(np.log1p, -1.0),
  'log2': functions.logarithm(np.log2, 0.0),
  'logistic': functions.rising(special.expit, -np.inf, 0, 1),
  'max': _larger,
  'min': _smaller,
  'mul': _mul,
  'neg': _neg,
  'one_minus_square': _one_minus_square,
  'not': _not,
  'or': _logic,
  'reduce_precision': functions.reduced,
  'rem': _remainder,
  'round': functions.to_whole,
  'rsqrt': functions.one_over_root,
  'sign': _monotone(np.sign),
  'sin': functions.wave,
  'sqrt': functions.root,
  'square': _square,
  'stop_gradient': _same,
  'sub': _sub,
  'tanh': functions.rising(np.tanh, -np.inf, -1, 1),
  **dict.fromkeys(_COMPARISONS, _compare),
}


def under(test: Any, truth: bool, v: Value) -> Bounds:
  """The bounds of an entry where a comparison of it came out so."""
  name, left, right = test
  lo, hi = v.bounds
  if v is right and v is not left:
    turned = {'gt': 'lt', 'ge': 'le', 'lt': 'gt', 'le': 'ge'}
    name, other = turned.get(name, name), left
  else:
    other = right
  below, above_ = other.bounds
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
