"""Rules of operations that act entry by entry."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from parallel_ar.decode.facts import HUGE
from parallel_ar.exact.builder import MASKED, Grid, NotWhole
from parallel_ar.exact.lowering import Formula, Lowering
from parallel_ar.program.trace import Op

_SAME = (
  'copy copy_p stop_gradient reduce_precision device_put sharding_constraint'
).split()
_COMPARE = 'eq ne lt le gt ge'.split()
_erf = np.vectorize(math.erf, otypes=[float])


def _logistic(x: np.ndarray) -> np.ndarray:
  return 0.5 * (1 + np.tanh(0.5 * x))


def _select(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
  return np.where(which, cases[1], cases[0])


# The numbers themselves, in float64: what a table is made of.
FUNCTIONS: dict[str, Callable[..., Any]] = {
  'abs': np.abs,
  'add': np.add,
  'add_any': np.add,
  'and': np.logical_and,
  'atan': np.arctan,
  'cbrt': np.cbrt,
  'ceil': np.ceil,
  'clamp': lambda low, x, high: np.clip(x, low, high),
  'cos': np.cos,
  'div': np.divide,
  'eq': np.equal,
  'erf': _erf,
  'erfc': lambda x: 1 - _erf(x),
  'exp': np.exp,
  'exp2': np.exp2,
  'expm1': np.expm1,
  'floor': np.floor,
  'ge': np.greater_equal,
  'gt': np.greater,
  'is_finite': np.isfinite,
  'le': np.less_equal,
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
  roots, parts = [], []
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
  if not formulas and op.name in _DIRECT:
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
  if op.name in _SAME:
    return lambda x: x
  if op.name == 'integer_pow':
    y = op.params['y']
    return lambda x: np.asarray(x, np.float64) ** y
  if op.name == 'convert_element_type':
    return _converted(op.params['new_dtype'])
  return FUNCTIONS.get(op.name)


def _converted(dtype: Any) -> Callable:
  kind = np.dtype(dtype).kind
  if kind == 'b':
    return lambda x: x != 0
  if kind in 'iu':
    return lambda x: np.trunc(np.asarray(x, np.float64))
  return lambda x: np.asarray(x, np.float64)


# ---------------------------------------------------------------------- direct


def _pair(l: Lowering, values: list[Any], room: int) -> list[Grid]:
  """Two operands on one grid."""
  a, b = values
  if isinstance(a, np.ndarray):
    b = l.grid(b)
    a = l.real(a, b)
  elif isinstance(b, np.ndarray):
    a = l.grid(a)
    b = l.real(b, a)
  grids = [l.grid(a), l.grid(b)]
  if any(g.masked is not None for g in grids):
    loose = [n for n, g in enumerate(grids) if g.masked is None]
    step = next(g.step for g in grids if g.masked is not None)
    for n in loose:
      grids[n] = l.builder.to_step(grids[n], step)
    if grids[0].step != grids[1].step:
      raise NotWhole('masked scores of two grids meet')
    return grids
  return l.builder.align(grids, [l.span(g) for g in grids], room)


def _add(l: Lowering, op: Op, values: list[Any]) -> Grid:
  a, b = _pair(l, values, 2**29)
  if op.name == 'sub':
    if b.masked is not None:
      raise NotWhole('a masked score is taken from a number')
    bound = a.low - b.high, a.high - b.low
  else:
    bound = a.low + b.low, a.high + b.high
  masked = a.masked if b.masked is None else b.masked
  if a.masked is not None and b.masked is not None:
    masked = a.masked | b.masked
  name = 'sub' if op.name == 'sub' else 'add'
  if masked is not None:
    if max(a.most, b.most) > 2**28:
      raise NotWhole('scores beside masked ones take more than 28 bits')
    if masked.any() and name == 'add':  # -HUGE plus a score is masked as well
      return _mask(l, l.builder.op(name, [a, b], bound, step=a.step), masked)
    made = l.builder.op(
      name, [a, b], bound, step=a.step, masked=np.asarray(masked)
    )
    low = MASKED - b.most
    l.builder.bounds[made.id] = min(low, bound[0]), bound[1]
    return made
  return l.builder.op(name, [a, b], bound, step=a.step)


def _mask(l: Lowering, g: Grid, masked: np.ndarray) -> Grid:
  """MASKED where a constant says so."""
  b = l.builder
  low, high = b.bounds[g.id]
  b.bounds[g.id] = min(low, 2 * MASKED), high
  mask = b.constant(np.broadcast_to(masked, g.shape))
  floor = b.constant(np.full(g.shape, MASKED))
  return b.op(
    'select',
    [mask, g, floor],
    (g.low, g.high),
    g.shape,
    g.step,
    masked=np.broadcast_to(masked, g.shape),
  )


def _mul(l: Lowering, op: Op, values: list[Any]) -> Grid:
  a, b = values
  if isinstance(a, np.ndarray):
    a, b = b, a
  if isinstance(b, np.ndarray):
    return _times(l, op, l.grid(a), b)
  a, b = l.grid(a), l.grid(b)
  if a.most * b.most > 2**30:
    a = l.builder.fit(a, 16, l.span(a))
    b = l.builder.fit(b, 16, l.span(b))
  if a.id == b.id and a.step == b.step:
    return l.builder.op('mul', [a, a], (0, a.most**2), step=a.step**2)
  ends = [p * q for p in (a.low, a.high) for q in (b.low, b.high)]
  return l.builder.op(
    'mul', [a, b], (min(ends), max(ends)), step=a.step * b.step
  )


def _times(l: Lowering, op: Op, a: Grid, c: np.ndarray) -> Grid:
  """A number changes the grid; other constants are multiplied with."""
  if op.outputs[0].dtype.kind in 'iu':
    b = l.on_step(c, 1.0)
    ends = [p * q for p in (a.low, a.high) for q in (b.low, b.high)]
    return l.builder.op('mul', [a, b], (min(ends), max(ends)))
  c = c.astype(np.float64)
  first = float(c.reshape(-1)[0])
  if (c == first).all() and a.masked is None and first != 0:
    return _by(l, a, first)
  a = l.builder.fit(a, 17, l.span(a))
  b, q = l.weights(c, min(TIMES_BITS, 31 - int(a.most).bit_length()))
  ends = [p * q for p in (a.low, a.high) for q in (b.low, b.high)]
  return l.builder.op(
    'mul', [a, b], (min(ends), max(ends)), step=a.step * b.step
  )


TIMES_BITS = 14


def _by(l: Lowering, a: Grid, number: float) -> Grid:
  if number < 0:
    a = l.builder.scale(a, -1, 0, a.step)
  return dataclasses.replace(a, step=a.step * abs(number))


def _div(l: Lowering, op: Op, values: list[Any]) -> Grid:
  a, b = values
  if isinstance(b, np.ndarray):
    if b.dtype.kind != 'f':
      raise NotWhole('whole numbers are divided')
    return _times(l, op, l.grid(a), 1 / b)
  b = l.grid(b)
  if l.span(b)[0] < 0:
    raise NotWhole('a divisor that may be below 0')
  b = l.builder.fit(b, 16, l.span(b))
  b = l.builder.clip(b, 1, max(b.high, 1))
  if isinstance(a, np.ndarray):
    a = l.grid(np.broadcast_to(a, b.shape), TIMES_BITS)
  else:
    a = l.builder.fit(l.grid(a), 18, l.span(a) if isinstance(a, Grid) else None)
  shift = max(0, 30 - max(a.most, 1).bit_length())
  bound = _quotients(a, b, shift)
  return l.builder.op(
    'quotient',
    [a, b],
    bound,
    a.shape,
    a.step / (b.step * 2.0**shift),
    shift=shift,
    nearest=True,
  )


def _quotients(a: Grid, b: Grid, shift: int) -> tuple[int, int]:
  ends = [
    ((p << shift) + (q >> 1)) // q
    for p in (a.low, a.high)
    for q in (b.low, b.high)
  ]
  return min(ends), max(ends)


def _root(l: Lowering, op: Op, values: list[Any]) -> Grid:
  """sqrt, and rsqrt as 2^30 / sqrt."""
  g = l.grid(values[0])
  if l.span(g)[0] < 0:
    raise NotWhole('a root of what may be below 0')
  b = l.builder
  reach = min(1.25 * l.span(g)[1], g.most * g.step)
  k = math.floor(math.log2(2**30 / max(reach / g.step, 1)))
  if k > 0:  # as many bits as there are: a root has half of them
    top = max(1, math.ceil(reach / g.step))
    g = b.to_step(b.clip(g, 0, min(top, 2**30 >> k)), g.step * 2.0**-k)
  else:
    g = b.clip(b.to_step(g, g.step * 2.0**-k), 0, 2**30)
  high = math.isqrt(g.high)
  r = b.op('root', [g], (0, high), step=math.sqrt(g.step))
  if op.name == 'sqrt':
    return r
  r = b.clip(r, 1, max(high, 1))
  one = b.constant(np.full(r.shape, 2**30))
  bound = _quotients(one, r, 0)
  return b.op(
    'quotient',
    [one, r],
    bound,
    r.shape,
    2.0**-30 / r.step,
    shift=0,
    nearest=True,
  )


def _extremum(l: Lowering, op: Op, values: list[Any]) -> Grid:
  for n in (0, 1):
    c = values[n]
    if isinstance(c, np.ndarray) and op.name == 'max' and (c <= -HUGE).all():
      return l.grid(values[1 - n])  # the maximum of a softmax from -inf on
  a, b = _pair(l, values, 2**30)
  if a.masked is not None or b.masked is not None:
    raise NotWhole('a masked score meets another array')
  pick = max if op.name == 'max' else min
  bound = pick(a.low, b.low), pick(a.high, b.high)
  return l.builder.op(op.name, [a, b], bound, step=a.step)


def _clamp(l: Lowering, op: Op, values: list[Any]) -> Grid:
  low, g, high = values
  if not isinstance(low, np.ndarray) or not isinstance(high, np.ndarray):
    raise NotWhole('its ends are no constants')
  g = l.grid(g)
  if low.size > 1 or high.size > 1:
    raise NotWhole('its ends differ from entry to entry')
  return l.builder.clip(
    g, round(float(low) / g.step), round(float(high) / g.step)
  )


def _neg(l: Lowering, op: Op, values: list[Any]) -> Grid:
  g = l.grid(values[0])
  return l.builder.scale(g, -1, 0, g.step)


def _abs(l: Lowering, op: Op, values: list[Any]) -> Grid:
  g = l.grid(values[0])
  minus = l.builder.scale(g, -1, 0, g.step)
  low = 0 if g.low <= 0 <= g.high else min(abs(g.low), abs(g.high))
  return l.builder.op('max', [g, minus], (low, g.most))


def _square(l: Lowering, op: Op, values: list[Any]) -> Grid:
  return _mul(l, op, [values[0], values[0]])


def _compare(l: Lowering, op: Op, values: list[Any]) -> Grid:
  if all(isinstance(v, Grid) and v.truth for v in values):
    a, b = (l.builder.op('number', [v], (0, 1)) for v in values)
  else:
    a, b = _pair(l, values, 2**30)
  return l.builder.op(op.name, [a, b], (0, 1), step=1.0, truth=True)


def _logic(l: Lowering, op: Op, values: list[Any]) -> Grid:
  grids = [
    l.builder.constant(v) if isinstance(v, np.ndarray) else l.grid(v)
    for v in values
  ]
  if not all(g.truth for g in grids):
    raise NotWhole('it is of bits, not of truth values')
  name = 'ne' if op.name == 'xor' else op.name
  if name == 'ne':
    grids = [l.builder.op('number', [g], (0, 1), truth=False) for g in grids]
  shape = op.outputs[0].shape
  return l.builder.op(name, grids, (0, 1), shape, 1.0, truth=True)


def _choose(l: Lowering, op: Op, values: list[Any]) -> Grid:
  which, *cases = values
  shape, b = op.outputs[0].shape, l.builder
  if len(cases) != 2:
    raise NotWhole('it chooses among more than two')
  for n in (0, 1):  # nan marks what the doors refuse, a label that is none
    c = cases[n]
    if isinstance(c, np.ndarray) and c.dtype.kind == 'f' and (c != c).all():
      return b.spread(l.grid(cases[1 - n]), shape)
  if isinstance(which, np.ndarray):
    sure = np.broadcast_to(which.astype(bool), shape)
    chooser = b.constant(sure)
  else:
    chooser, sure = b.spread(l.grid(which), shape), None
    if not chooser.truth:
      raise NotWhole('it chooses by a number')
  low = [isinstance(c, np.ndarray) and bool((c <= -HUGE).all()) for c in cases]
  if any(low):
    if all(low):
      raise NotWhole('all is masked')
    kept = b.spread(l.grid(cases[low.index(False)]), shape)
    if kept.most > 2**28:
      kept = b.fit(kept, 24, l.span(kept))
    floor = b.constant(np.full(shape, MASKED))
    pair = [floor, kept] if low[0] else [kept, floor]
    masked = np.zeros((1,) * len(shape), bool)
    if sure is not None:
      masked = ~sure if low[0] else sure
    if kept.masked is not None:
      masked = masked | kept.masked
    return b.op(
      'select',
      [chooser, *pair],
      (kept.low, kept.high),
      shape,
      kept.step,
      masked=masked,
    )
  truths = [
    v.truth
    if isinstance(v, Grid)
    else isinstance(v, np.ndarray) and v.dtype.kind == 'b'
    for v in cases
  ]
  if any(truths):
    pair = [
      b.constant(v) if isinstance(v, np.ndarray) else l.grid(v) for v in cases
    ]
    pair = [b.spread(g, shape) for g in pair]
    return b.op('select', [chooser, *pair], (0, 1), shape, 1.0, truth=True)
  if all(isinstance(c, np.ndarray) for c in cases):
    q = [l.grid(np.broadcast_to(c, shape)) for c in cases]
    pair = b.align(q, [l.span(g) for g in q], 2**30)
  else:
    pair = _pair(l, cases, 2**30)
  pair = [b.spread(g, shape) for g in pair]
  masks = [g.masked for g in pair if g.masked is not None]
  masked = np.zeros((1,) * len(shape), bool) if masks else None
  bound = min(g.low for g in pair), max(g.high for g in pair)
  return b.op(
    'select', [chooser, *pair], bound, shape, pair[0].step, masked=masked
  )


def _same(l: Lowering, op: Op, values: list[Any]) -> Any:
  return values[0]


def _convert(l: Lowering, op: Op, values: list[Any]) -> Any:
  g, kind = l.grid(values[0]), np.dtype(op.params['new_dtype']).kind
  b = l.builder
  if g.truth:
    return g if kind == 'b' else b.op('number', [g], (0, 1), step=1.0)
  if kind == 'b':
    zero = b.constant(np.zeros((), np.int8))
    return b.op('ne', [g, zero], (0, 1), step=1.0, truth=True)
  if kind in 'iu' and g.step != 1:
    raise NotWhole('real numbers become indices')
  return g


def _power(l: Lowering, op: Op, values: list[Any]) -> Any:
  if op.params['y'] == 2:
    return _square(l, op, values)
  if op.params['y'] == 1:
    return values[0]
  g = l.grid(values[0])
  return Formula(g, _function(op) or (lambda x: x), l.range(op))


_DIRECT: dict[str, Callable[..., Any]] = {
  'abs': _abs,
  'add': _add,
  'add_any': _add,
  'clamp': _clamp,
  'convert_element_type': _convert,
  'div': _div,
  'integer_pow': _power,
  'max': _extremum,
  'min': _extremum,
  'mul': _mul,
  'neg': _neg,
  'rsqrt': _root,
  'select_n': _choose,
  'sqrt': _root,
  'square': _square,
  'sub': _add,
  **dict.fromkeys(('and', 'or', 'not', 'xor'), _logic),
  **dict.fromkeys(_COMPARE, _compare),
  **dict.fromkeys(_SAME, _same),
}

RULES = dict.fromkeys((*FUNCTIONS, *_DIRECT), rule)
