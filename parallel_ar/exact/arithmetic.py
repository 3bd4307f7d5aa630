"""Rules of sums, products, quotients and roots of integers."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from parallel_ar.exact.builder import MASKED, Grid, NotWhole, numbers
from parallel_ar.exact.lowering import Lowering
from parallel_ar.program.trace import Op

_FACTOR_BITS = 14  # of a constant that entries are multiplied with


def pair(l: Lowering, values: list[Any], room: int) -> list[Grid]:
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
  name, values = _with_mask(l, op, values)
  a, b = pair(l, values, 2**29)
  if name == 'add':
    bound = a.low + b.low, a.high + b.high
  else:
    bound = a.low - b.high, a.high - b.low
  masks = [g.masked for g in (a, b) if g.masked is not None]
  if not masks:
    return l.builder.op(name, [a, b], bound, step=a.step)
  if name == 'sub' and b.masked is not None:
    raise NotWhole('a masked score is taken from a number')
  if max(a.most, b.most) > 2**28:
    raise NotWhole('scores beside masked ones take more than 28 bits')
  masked = np.logical_or.reduce(np.broadcast_arrays(*masks))
  made = l.builder.op(name, [a, b], bound, step=a.step, masked=masked)
  low, high = l.builder.bounds[made.id]
  lowest = len(masks) * MASKED - max(a.most, b.most)
  l.builder.bounds[made.id] = min(low, lowest), high
  if name == 'add' and masked.any():  # a score and -HUGE are MASKED again
    return _mask(l, made, masked)
  return made


def _with_mask(l: Lowering, op: Op, values: list[Any]) -> tuple[str, list[Any]]:
  """('add' or 'sub', the operands), where a constant may be a mask.

  Scores beside it keep 24 bits: it goes on their grid, not they on its.
  """
  name = 'sub' if op.name == 'sub' else 'add'
  at = [n for n, v in enumerate(values) if isinstance(v, np.ndarray)]
  if len(at) != 1 or values[at[0]].dtype.kind != 'f':
    return name, values
  c, scores = values[at[0]], l.grid(values[1 - at[0]])
  if name == 'sub' and at == [1]:
    c = -c
  elif name == 'sub':
    return name, values
  low = l.far_below(c, scores)
  if not low.any() or low.all() or scores.masked is not None:
    return name, values
  scores = l.builder.fit(scores, 24, l.span(scores))
  return 'add', [scores, np.where(low, -np.inf, c)]


def _mask(l: Lowering, g: Grid, masked: np.ndarray) -> Grid:
  """MASKED where a constant says so."""
  b = l.builder
  masked = np.broadcast_to(masked, g.shape)
  grids = [b.constant(masked), g, b.constant(np.full(g.shape, MASKED))]
  bound = g.low, g.high
  return b.op('select', grids, bound, g.shape, g.step, masked=masked)


def _mul(l: Lowering, op: Op, values: list[Any]) -> Grid:
  a, b = values
  if isinstance(a, np.ndarray):
    a, b = b, a
  if isinstance(b, np.ndarray):
    return _times(l, op, l.grid(a), b)
  a, b = numbers(l.grid(a)), numbers(l.grid(b))
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
  if (c == first).all() and (first > 0 if a.masked is not None else first):
    return _by(l, a, first)
  a = l.builder.fit(a, 17, l.span(a))
  b, q = l.weights(c, min(_FACTOR_BITS, 31 - int(a.most).bit_length()))
  ends = [p * q for p in (a.low, a.high) for q in (b.low, b.high)]
  return l.builder.op(
    'mul', [a, b], (min(ends), max(ends)), step=a.step * b.step
  )


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
  if isinstance(a, np.ndarray):
    a = l.grid(np.broadcast_to(a, b.shape), _FACTOR_BITS)
  else:
    a = l.builder.fit(l.grid(a), 18, l.span(a) if isinstance(a, Grid) else None)
  below = l.span(b)[0] < 0
  b = l.builder.fit(b, 16, l.span(b))
  if below:
    a, b = _above(l, a, b)
  b = l.builder.clip(b, 1, max(b.high, 1))
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


def _above(l: Lowering, a: Grid, b: Grid) -> tuple[Grid, Grid]:
  """a / b as sign(b) a / |b|."""
  zero = l.builder.constant(np.zeros((), np.int8))
  sign = l.builder.op('lt', [b, zero], (0, 1), step=1.0, truth=True)
  shape = np.broadcast_shapes(a.shape, b.shape)
  a, sign = (l.builder.spread(g, shape) for g in (a, sign))
  minus = l.builder.scale(a, -1, 0, a.step)
  a = l.builder.op('select', [sign, a, minus], (-a.most, a.most), step=a.step)
  return a, _magnitude(l, b)


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


def _neg(l: Lowering, op: Op, values: list[Any]) -> Grid:
  g = l.grid(values[0])
  return l.builder.scale(g, -1, 0, g.step)


def _abs(l: Lowering, op: Op, values: list[Any]) -> Grid:
  return _magnitude(l, l.grid(values[0]))


def _magnitude(l: Lowering, g: Grid) -> Grid:
  minus = l.builder.scale(g, -1, 0, g.step)
  low = 0 if g.low <= 0 <= g.high else min(abs(g.low), abs(g.high))
  return l.builder.op('max', [g, minus], (low, g.most))


def square(l: Lowering, op: Op, values: list[Any]) -> Grid:
  """q q, which is never below 0."""
  return _mul(l, op, [values[0], values[0]])


RULES: dict[str, Callable[..., Any]] = {
  'abs': _abs,
  'add': _add,
  'add_any': _add,
  'div': _div,
  'mul': _mul,
  'neg': _neg,
  'rsqrt': _root,
  'sqrt': _root,
  'square': square,
  'sub': _add,
}
