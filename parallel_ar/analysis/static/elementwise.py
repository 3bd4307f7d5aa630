"""Rules of operations that act entry by entry."""

from collections.abc import Callable
from typing import Any

import ml_dtypes  # noqa: F401  NumPy learns bfloat16
import numpy as np

from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.value import Value

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
_SAME = ('copy', 'copy_p', 'stop_gradient', 'reduce_precision', 'device_put')
NAMES = (
  frozenset(_NUMPY)
  | frozenset(_SAME)
  | frozenset(
    'acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e '
    'bitcast_convert_type cbrt clamp clz complex conj convert_element_type '
    'cosh digamma erf erf_inv erfc exp2 igamma igammac imag integer_pow lgamma '
    'logistic nextafter polygamma population_count real regularized_incomplete_'
    'beta rem round rsqrt shift_left shift_right_arithmetic '
    'shift_right_logical sinh tan threefry2x32 xor zeta'.split()
  )
)


def compute(primitive: Any, params: Any, operands: Any) -> list[np.ndarray]:
  """The operation itself, on numbers; several results, or one in a list."""
  name = primitive.name
  with np.errstate(all='ignore'):
    if name in _SAME:
      return [np.asarray(operands[0])]
    if name in _NUMPY and not (
      name == 'div' and np.issubdtype(np.asarray(operands[0]).dtype, np.integer)
    ):
      return [_NUMPY[name](*operands)]
    out = primitive.bind(*operands, **params)
  out = out if primitive.multiple_results else [out]
  return [np.asarray(o) for o in out]


def rule(eqn: Any, operands: list[Value]) -> list[Value]:
  """What the results read: what the operands read at the same entry."""
  shape = tuple(eqn.outvars[0].aval.shape)
  if any(not _fits(v.shape, shape) for v in operands):
    raise values.UnknownForm('bits of another width')
  zero, rest = _zeros(eqn, operands, shape)
  known, numbers = _numbers(eqn, operands, shape, zero)
  reads = values.union([v.reads for v in operands], shape)
  if reads is not None:
    for gone in (zero, rest):
      reads = reads if gone is None else reads & ~gone
  low = _low(eqn, operands, shape)
  out = []
  for n, var in enumerate(eqn.outvars):
    number, is_known = None if numbers is None else numbers[n], known
    if rest is not None:  # an exponential of a masked score is known: zero
      is_known = rest if known is None else known | rest
      if number is None:
        number = np.zeros(shape, var.aval.dtype)
      number = np.where(rest, np.zeros_like(number), number)
    out.append(
      values.of_aval(
        var.aval,
        reads=reads,
        known=is_known,
        value=number,
        low=low,
        sampled=all(v.numeric for v in operands),
      )
    )
  return out


def _fits(own: tuple[int, ...], shape: tuple[int, ...]) -> bool:
  """Whether an operand is broadcast to the result."""
  tail = shape[len(shape) - len(own) :]
  return len(own) <= len(shape) and all(
    n in (1, m) for n, m in zip(own, tail, strict=True)
  )


def _zeros(
  eqn: Any, operands: list[Value], shape: tuple[int, ...]
) -> tuple[np.ndarray | None, np.ndarray | None]:
  """Entries that are zero because a factor is, and because a score is low."""
  name, zero = eqn.primitive.name, None
  factors = operands if name in ('mul', 'and') else operands[:1]
  if name in ('mul', 'and', 'div'):
    for v in factors:
      if v.known is not None:
        here = np.broadcast_to(v.nonzero() == 0, shape)
        zero = here if zero is None else zero | here
  rest = None
  if name in ('exp', 'exp2', 'logistic'):
    low = operands[0].is_low()
    rest = low if low.any() else None
  return zero, rest


def _numbers(
  eqn: Any,
  operands: list[Value],
  shape: tuple[int, ...],
  zero: np.ndarray | None,
) -> tuple[np.ndarray | None, list[np.ndarray] | None]:
  """What is known of the results, and the numbers."""
  known, numbers = None, None
  if all(v.known is not None for v in operands):
    known = np.logical_and.reduce(
      [np.broadcast_to(v.is_known(), shape) for v in operands]
    )
  if (known is not None and known.any()) or all(v.numeric for v in operands):
    numbers = [
      np.broadcast_to(n, shape)
      for n in compute(eqn.primitive, eqn.params, [v.value for v in operands])
    ]
    numbers = [
      n.astype(var.aval.dtype) if n.dtype != var.aval.dtype else n
      for n, var in zip(numbers, eqn.outvars, strict=True)
    ]
  if zero is not None and zero.any():
    known = zero if known is None else known | zero
    if numbers is None:
      numbers = [np.zeros(shape, var.aval.dtype) for var in eqn.outvars]
    numbers = [np.where(zero, np.zeros_like(n), n) for n in numbers]
  return known, numbers


def _low(
  eqn: Any, operands: list[Value], shape: tuple[int, ...]
) -> np.ndarray | None:
  """Entries that stay below -HUGE: a masked score plus or minus another."""
  name = eqn.primitive.name
  if not any(v.low is not None or v.known is not None for v in operands):
    return None
  low = lambda v: np.broadcast_to(v.is_low(), shape)
  if name in ('add', 'add_any'):
    return low(operands[0]) | low(operands[1])
  if name == 'sub':
    return low(operands[0]) & ~low(operands[1])
  if name == 'min':
    return low(operands[0]) | low(operands[1])
  if name in ('convert_element_type', *_SAME):
    return low(operands[0])
  if name in ('mul', 'div'):
    first, second = (
      operands
      if name == 'div' or (operands[1].known is not None)
      else operands[::-1]
    )
    if second.known is not None:
      big = second.known & (np.asarray(second.value) >= 1e-3)
      return low(first) & np.broadcast_to(big, shape)
  return None
