"""Rules of operations that act entry by entry."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from parallel_ar.analysis.static import masks, movement, ranges, sets
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.masks import (
  COMPARISONS,
  EXPONENTIALS,
  ROUNDED,
  SAME,
)
from parallel_ar.analysis.static.value import SOME, Doubt, Over, Value
from parallel_ar.program import uniform

# Of stand-ins these are computed, not drawn afresh: polynomials, and parts.
_EXACT = frozenset(
  'add add_any complex conj convert_element_type copy imag mul neg real square '
  'sub'.split()
)
_UNLESS_MASKED = 'a row may be wholly masked'
_NOT_FINITE = 'a factor of zero meets a number that may be infinite or nan'

# How NumPy computes what is known; the rest is computed by JAX.
_NUMPY: dict[str, Callable[..., Any]] = {
  'abs': np.abs,
  'add': np.add,
  'add_any': np.add,
  'and': np.bitwise_and,
  'ceil': np.ceil,
  'cos': np.cos,
  'div': np.divide,
  'eq': np.equal,
  'exp': np.exp,
  'expm1': np.expm1,
  'floor': np.floor,
  'ge': np.greater_equal,
  'gt': np.greater,
  'is_finite': np.isfinite,
  'le': np.less_equal,
  'log': np.log,
  'log1p': np.log1p,
  'lt': np.less,
  'max': np.maximum,
  'min': np.minimum,
  'mul': np.multiply,
  'ne': np.not_equal,
  'neg': np.negative,
  'not': np.invert,
  'or': np.bitwise_or,
  'pow': np.power,
  'sign': np.sign,
  'sin': np.sin,
  'sqrt': np.sqrt,
  'square': np.square,
  'sub': np.subtract,
  'tanh': np.tanh,
}
_OTHER_TESTS = ('is_finite', 'le_to', 'lt_to')
# To these both zeros are one, or they hand its sign on.
_EITHER_ZERO = frozenset(
  (*(_NUMPY.keys() - {'pow'}), *SAME, *ROUNDED, *EXPONENTIALS)
) | frozenset(
  'acos asin asinh atanh clamp complex conj cosh erf erf_inv erfc imag log2 '
  'nextafter one_minus_square real sinh tan'.split()
)
_EITHER_COMPLEX_ZERO = frozenset(
  (*SAME, 'add', 'add_any', 'abs', 'complex', 'conj', 'convert_element_type')
) | frozenset('div eq exp imag mul ne neg real square sub'.split())
NAMES = (
  frozenset(_NUMPY)
  | frozenset(SAME)
  | frozenset(ROUNDED)
  | frozenset(
    'acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e '
    'bitcast_convert_type cbrt clamp clz complex conj cosh digamma '
    'erf erf_inv erfc exp2 igamma igammac imag integer_pow lgamma '
    'log2 logistic nextafter one_minus_square polygamma polynomial '
    'population_count real regularized_incomplete_beta rem round rsqrt '
    'le_to lt_to shift_left shift_right_arithmetic shift_right_logical sinh '
    'tan threefry2x32 xor zeta'.split()
  )
)


def compute(primitive: Any, params: Any, operands: Any) -> list[np.ndarray]:
  """The operation itself, on numbers; several results, or one in a list."""
  name = primitive.name
  with np.errstate(all='ignore'):
    if name in SAME:
      return [np.asarray(operands[0])]
    if name in _NUMPY and not (
      name == 'div' and np.issubdtype(np.asarray(operands[0]).dtype, np.integer)
    ):
      return [uniform.over(_NUMPY[name], *operands)]
    out = primitive.bind(*operands, **params)
  out = out if primitive.multiple_results else [out]
  return [np.asarray(o) for o in out]


def rule(eqn: Any, operands: list[Value]) -> list[Value]:
  """What the results read: what the operands read at the same entry."""
  name, shape = eqn.primitive.name, tuple(eqn.outvars[0].aval.shape)
  bits = name == 'bitcast_convert_type' and operands[0].shape != shape
  if bits or any(not _fits(v.shape, shape) for v in operands):
    raise values.UnknownForm('bits of another width')
  if name == 'sub' and (before := _sum_before(eqn, operands)) is not None:
    return [before]
  zero, faint, doubt = _zeros(eqn, operands)
  known, numbers = _numbers(eqn, operands, shape, zero)
  reads = sets.union([v.reads for v in operands], shape)
  if name == 'max':
    reads = masks.larger(operands, shape)
  if reads is not None:
    if name in (*COMPARISONS, *_OTHER_TESTS) and not _varies(operands):
      reads = sets.weaken(reads)
    if zero is not None:
      reads = sets.without(reads, zero)
    if faint is not None and name in ('mul', 'and', 'div', *EXPONENTIALS):
      reads = sets.weaken(reads, faint)
  lo, hi = _bounds(eqn, operands)
  low, maybe, capped, scale = masks.scores(eqn, operands, lo, hi)
  signed = _by_sign_of_zero(eqn, operands)
  if signed is not None:
    every = sets.everywhere(values.derived_of(operands), shape)
    reads = sets.union([reads, sets.without(every, ~signed)], shape)
    known = None if known is None else known & ~signed
    if not np.issubdtype(eqn.outvars[0].aval.dtype, np.integer):
      lo, hi = (np.where(signed, np.nan, b) for b in (lo, hi))
  out = []
  for n, var in enumerate(eqn.outvars):
    fields: dict[str, Any] = {}
    if n == 0 and len(eqn.outvars) == 1:
      fields = {'lo': lo, 'hi': hi} | _relations(eqn, operands)
    out.append(
      values.of_aval(
        var.aval,
        reads=reads,
        known=known,
        value=None if numbers is None else numbers[n],
        low=low,
        maybe=maybe,
        faint=faint,
        doubt=doubt,
        capped=capped,
        scale=scale,
        sampled=signed is None and all(v.numeric for v in operands),
        exact=name in (*_EXACT, *SAME)
        and all(values.kind(v.dtype) in 'fc' for v in operands),
        **fields,
      )
    )
  return out


def _by_sign_of_zero(eqn: Any, operands: list[Value]) -> np.ndarray | None:
  """Entries by an operation that tells -0 from 0, of a zero of either sign.

  0 * x is known, but for its sign.
  """
  name, some = eqn.primitive.name, operands
  kinds = [values.kind(v.dtype) for v in operands]
  if name in (_EITHER_COMPLEX_ZERO if 'c' in kinds else _EITHER_ZERO):
    if name != 'div':
      return None
    some = operands[1:]
  if name == 'integer_pow' and eqn.params['y'] >= 0:
    return None
  zeros = [
    v.is_zero
    for v in some
    if v.derived is not None and values.kind(v.dtype) in 'fc'
  ]
  if not any(map(uniform.some, zeros)):
    return None
  return functools.reduce(np.logical_or, map(uniform.thin, zeros))


def _bounds(eqn: Any, operands: list[Value]) -> values.Bounds:
  """What parameters alone make is finite, unless it was infinite before."""
  lo, hi = ranges.of(eqn, operands)
  dtype = getattr(eqn.outvars[0].aval, 'dtype', None)
  if any(v.reads is not None for v in operands) or dtype is None:
    return lo, hi
  if values.kind(dtype) not in 'fc' or not all(v.finite for v in operands):
    return lo, hi
  least, most = values.finite()
  return (
    np.where(np.isfinite(lo), lo, least),
    np.where(np.isfinite(hi), hi, most),
  )


def _varies(operands: list[Value]) -> bool:
  """Whether a comparison that is not decided goes both ways, in general.

  It does where a number of any size is compared, or integers that are all
  taken. Where the bounds are computed, they may be too wide.
  """
  if len(operands) < 2 or operands[0] is operands[1]:
    return False
  if all(v.attained or v.constant for v in operands):
    return True
  return any(
    v.real and not np.any(np.abs(bound) < SOME)
    for v in operands
    for bound in v.bounds
  )


def _relations(eqn: Any, operands: list[Value]) -> dict[str, Any]:
  """What else is known of the result: see `Value`."""
  name, first = eqn.primitive.name, operands[0]
  selects = any(v.selects for v in operands)
  if name in COMPARISONS:
    selects = any(v.reads is not None for v in operands)
    return {'test': (name, *operands), 'selects': selects}
  if name in SAME:
    return {
      'over': first.over,
      'peak': first.peak,
      'attained': first.attained,
      'selects': selects,
    }
  if name == 'convert_element_type':
    same = first.dtype == eqn.outvars[0].aval.dtype
    return {
      'attained': first.attained,
      'over': first.over if same else (),
      'peak': first.peak,
      'selects': selects,
    }
  if name in ('mul', 'and', 'or', 'not', 'div'):
    return {'selects': selects}
  if name == 'max':
    nothing = [
      v.constant and bool(np.all(v.value == -np.inf)) for v in operands
    ]
    shape = eqn.outvars[0].aval.shape
    over = [Over(v, (), True, False) for v in operands if v.shape == shape]
    for v, alone in zip(operands, nothing[::-1], strict=True):
      if v.shape == shape:
        over += [
          dataclasses.replace(o, exact=o.exact and alone) for o in v.over
        ]
    return {'over': tuple(over)}
  if name in ('exp', 'exp2'):
    return {'peak': first.peak}
  if name == 'sub':
    fields: dict[str, Any] = {'attained': _shifted(operands)}
    above = ranges.above(operands)
    if above is not None and above.exact and operands[1].finite:
      fields['peak'] = above.axes
    return fields
  if name in ('add', 'neg'):
    return {'attained': _shifted(operands)}
  return {}


def _sum_before(eqn: Any, operands: list[Value]) -> Value | None:
  """A running sum of integers less what it ended with: the sum before."""
  left, right = operands
  if not left.sums(right) or values.kind(left.dtype) not in 'iu':
    return None
  _, _, axis, back = left.run
  ends: list[Any] = [slice(None)] * len(left.shape)
  ends[axis] = slice(1, None) if back else slice(None, -1)
  shape = tuple(1 if n == axis else m for n, m in enumerate(left.shape))
  none = values.of_constant(np.zeros(shape, left.dtype))

  def move(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    parts = [b, a[tuple(ends)]]
    return np.concatenate(parts[::-1] if back else parts, axis)

  return movement.moved(eqn.outvars[0].aval, [left, none], move)


def _shifted(operands: list[Value]) -> bool:
  """Whether all but one are whole numbers that are known."""
  moving = [v for v in operands if not v.constant]
  whole = all(
    np.all(np.asarray(v.value) == np.round(np.asarray(v.value)))
    for v in operands
    if v.constant
  )
  return len(moving) == 1 and moving[0].attained and bool(whole)


def _fits(own: tuple[int, ...], shape: tuple[int, ...]) -> bool:
  """Whether an operand is broadcast to the result."""
  tail = shape[len(shape) - len(own) :]
  return len(own) <= len(shape) and all(
    n in (1, m) for n, m in zip(own, tail, strict=True)
  )


def _zeros(
  eqn: Any, operands: list[Value]
) -> tuple[np.ndarray | None, np.ndarray | None, Doubt | None]:
  """Entries that are zero for sure, and that are but for a doubt."""
  name, thin = eqn.primitive.name, uniform.thin
  if name in ('mul', 'and', 'div'):
    zero: Any = np.False_
    faint: Any = np.False_
    doubt = values.doubt_of(operands)
    left, right = operands
    pairs = [(left, right)]
    if name != 'div':
      pairs.append((right, left))
    for v, other in pairs:
      if v.known is None and v.faint is None:
        continue
      here, sure = thin(v.is_zero), thin(other.is_finite)
      if name == 'div':  # zero over infinity is zero
        lo, hi = other.bounds
        away = ranges.smallest(v.dtype)
        sure = (lo >= away) | (hi <= -away)
      zero = zero | (here & sure)
      unsure = here & ~sure
      if unsure.any():
        doubt = doubt or Doubt(_NOT_FINITE, eqn)
      faint = faint | unsure | thin(v.is_faint)
    return masks.given(zero), masks.given(faint & ~zero), doubt
  if name in EXPONENTIALS:
    (v,) = operands
    low, faint = thin(v.is_low), thin(v.is_faint)
    return masks.given(low & ~faint), masks.given(faint), v.doubt
  if name == 'sub' and operands[0].real:
    left, right = operands
    if uniform.some(left.is_low):
      faint = thin(left.is_low) & thin(right.is_maybe_low)
      if faint.any():
        doubt = right.doubt or Doubt(_UNLESS_MASKED, eqn)
        return None, faint, doubt
  if name in (*SAME, *ROUNDED, 'neg', 'real', 'imag'):
    return None, operands[0].faint, operands[0].doubt
  if name == 'max' and operands[0].real:  # of a masked score and zero
    each = [
      thin(v.is_low) & ~thin(v.is_faint) & thin(other.is_zero)
      for v, other in (operands, operands[::-1])
    ]
    if (each[0] | each[1]).any():
      return each[0] | each[1], None, None
  if name in ('add', 'add_any', 'max', 'min'):
    if all(v.faint is None for v in operands):
      return None, None, values.doubt_of(operands)
    nothing = [thin(v.is_zero) for v in operands]
    each = [
      z | thin(v.is_faint) for v, z in zip(operands, nothing, strict=True)
    ]
    faint = each[0] & each[1] & ~(nothing[0] & nothing[1])
    return None, masks.given(faint), values.doubt_of(operands)
  return None, None, None


def _numbers(
  eqn: Any,
  operands: list[Value],
  shape: tuple[int, ...],
  zero: np.ndarray | None,
) -> tuple[np.ndarray | None, list[np.ndarray] | None]:
  """What is known of the results, and the numbers."""
  known: Any = None
  numbers: Any = None
  if all(v.known is not None for v in operands):
    known = functools.reduce(
      np.logical_and, [uniform.thin(v.is_known) for v in operands]
    )
  if uniform.some(known) or all(v.numeric for v in operands):
    numbers = [
      uniform.wide(n.astype(var.aval.dtype, copy=False), shape)
      for n, var in zip(
        compute(eqn.primitive, eqn.params, [v.value for v in operands]),
        eqn.outvars,
        strict=True,
      )
    ]
  if zero is not None:
    known = zero if known is None else known | zero
    if numbers is None:
      numbers = [np.zeros((), var.aval.dtype) for var in eqn.outvars]
    clear = lambda m, n: np.where(m, np.zeros((), n.dtype), n)
    numbers = [uniform.over(clear, zero, n) for n in numbers]
    numbers = [uniform.wide(n, shape) for n in numbers]
  return known, numbers
