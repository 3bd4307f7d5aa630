"""Rules of operations that act entry by entry."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from parallel_ar.exact import arithmetic, choices
from parallel_ar.exact.builder import Grid, NotWhole
from parallel_ar.exact.lowering import Formula, Lowering
from parallel_ar.program.trace import Op


def _logistic(x: np.ndarray) -> np.ndarray:
  return 0.5 * (1 + np.tanh(0.5 * x))


def _select(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
  return np.where(which, cases[1], cases[0])


def _bits(function: Callable) -> Callable:
  whole = lambda a: np.asarray(a).astype(np.int64)
  return lambda *a: function(*map(whole, a)).astype(np.float64)


# Of whole numbers: a division rounds to 0, as XLA's does.
_WHOLE: dict[str, Callable[..., Any]] = {
  'and': _bits(np.bitwise_and),
  'div': lambda a, b: np.trunc(np.divide(a, b)),
  'not': _bits(np.bitwise_not),
  'or': _bits(np.bitwise_or),
  'rem': np.fmod,
  'shift_left': _bits(np.left_shift),
  'shift_right_arithmetic': _bits(np.right_shift),
  'xor': _bits(np.bitwise_xor),
}

# The numbers themselves, in float64: what a table is made of.
FUNCTIONS: dict[str, Callable[..., Any]] = {
  'abs': np.abs,
  'acos': np.arccos,
  'acosh': np.arccosh,
  'add': np.add,
  'add_any': np.add,
  'and': np.logical_and,
  'asin': np.arcsin,
  'asinh': np.arcsinh,
  'atan': np.arctan,
  'atan2': np.arctan2,
  'atanh': np.arctanh,
  'cbrt': np.cbrt,
  'ceil': np.ceil,
  'clamp': lambda low, x, high: np.clip(x, low, high),
  'cos': np.cos,
  'cosh': np.cosh,
  'digamma': special.digamma,
  'div': np.divide,
  'eq': np.equal,
  'erf': special.erf,
  'erf_inv': special.erfinv,
  'erfc': special.erfc,
  'exp': np.exp,
  'exp2': np.exp2,
  'expm1': np.expm1,
  'floor': np.floor,
  'ge': np.greater_equal,
  'gt': np.greater,
  'is_finite': np.isfinite,
  'le': np.less_equal,
  'lgamma': special.gammaln,
  'log': np.log,
  'log1p': np.log1p,
  'logistic': _logistic,
  'lt': np.less,
  'max': np.maximum,
  'min': np.minimum,
  'mul': np.multiply,
  'ne': np.not_equal,
  'neg': np.negative,
  'not': np.logical_not,
  'or': np.logical_or,
  'pow': np.power,
  'rem': np.fmod,
  'round': np.rint,
  'rsqrt': lambda x: 1 / np.sqrt(x),
  'select_n': _select,
  'sign': np.sign,
  'sin': np.sin,
  'sinh': np.sinh,
  'sqrt': np.sqrt,
  'square': np.square,
  'sub': np.subtract,
  'tan': np.tan,
  'tanh': np.tanh,
  'xor': np.logical_xor,
}


def _of_numbers(op: Op) -> bool:
  """Whether it is of bits or quotients of whole numbers, by a table alone."""
  name = op.name in _WHOLE
  return name and op.outputs[0].dtype.kind in 'iu'


def rule(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  """A formula where it is one of one array, else integers."""
  found = _formula(l, op, values)
  if found is not None:
    return [found]
  direct = _DIRECT.get(op.name)
  if direct is None:
    raise NotWhole('it is a function of more than one array')
  made = direct(l, op, values)
  return [made]


def _formula(l: Lowering, op: Op, values: list[Any]) -> Formula | None:
  """The operation as a function of the one array that it reads, or None."""
  roots: list[Grid] = []
  parts: list[Callable[..., Any]] = []
  for v in values:
    if isinstance(v, np.ndarray):
      c = v.reshape(-1)[:1]
      if v.size == 0 or (v != c).any():
        return None
      parts.append(lambda x, c=c: c)
    elif isinstance(v, Formula):
      roots.append(v.root)
      parts.append(v.function)
    else:
      roots.append(v)
      parts.append(_number(v))
  formulas = any(isinstance(v, Formula) for v in values)
  if not roots or any(
    (r.id, r.step) != (roots[0].id, roots[0].step) for r in roots
  ):
    return None
  if not formulas and op.name in _DIRECT and not _of_numbers(op):
    return None
  function = _function(op)
  if function is None or roots[0].shape != op.outputs[0].shape:
    return None
  return Formula(
    roots[0],
    lambda x: function(*(part(x) for part in parts)),
    l.range(op),
  )


def _number(g: Grid) -> Callable:
  return (lambda x: x > 0.5) if g.truth else (lambda x: x)


def _function(op: Op) -> Callable | None:
  if op.name in choices.SAME:
    return lambda x: x
  if op.name == 'integer_pow':
    y = op.params['y']
    return lambda x: np.asarray(x, np.float64) ** y
  if op.name == 'convert_element_type':
    return _converted(op.params['new_dtype'])
  if _of_numbers(op):
    return _WHOLE[op.name]
  if op.name == 'round' and not op.params['rounding_method'].value:
    return lambda x: np.trunc(x + np.copysign(0.5, x))  # away from 0
  return FUNCTIONS.get(op.name)


def _converted(dtype: Any) -> Callable:
  kind = np.dtype(dtype).kind
  if kind == 'b':
    return lambda x: x != 0
  if kind in 'iu':
    return lambda x: np.trunc(np.asarray(x, np.float64))
  return lambda x: np.asarray(x, np.float64)


def _power(l: Lowering, op: Op, values: list[Any]) -> Any:
  if op.params['y'] == 2:
    return arithmetic.square(l, op, values)
  if op.params['y'] == 1:
    return values[0]
  g = l.grid(values[0])
  return Formula(g, _function(op) or (lambda x: x), l.range(op))


_DIRECT: dict[str, Callable[..., Any]] = {
  **arithmetic.RULES,
  **choices.RULES,
  'integer_pow': _power,
}
RULES = dict.fromkeys((*FUNCTIONS, *_WHOLE, *_DIRECT), rule)
