"""The end of a pass: from scores or probabilities to whole frequencies.

  w_v = round(2^15 exp(l_v - max l)),   T = 2^r
  f_v = 1 + floor(w_v (T - V) / sum w),   and the most probable takes the rest

so that they sum to T and none is 0: every symbol has a code, and sampling is a
comparison of integers.
"""

import dataclasses
from typing import Any

import numpy as np

from parallel_ar.exact.builder import Grid, NotWhole
from parallel_ar.exact.lowering import TABLE_BITS, Formula, Lowering


def of_logit(l: Lowering, value: Any, precision: int) -> Grid:
  """int[E, 2] of the score of 1, by one table."""
  b, total = l.builder, 2**precision
  if isinstance(value, np.ndarray):
    value = l.grid(value)
  root = value.root if isinstance(value, Formula) else value
  inner = value.function if isinstance(value, Formula) else lambda x: x
  odds = lambda x: 0.5 * (1 + np.tanh(0.5 * inner(x)))
  scale = (total - 2) / total
  down = 0.5 / total  # what is rounded to the nearest is rounded down
  g = l.table(Formula(root, lambda x: scale * odds(x) - down, None), 1 / total)
  g = b.clip(dataclasses.replace(g, step=1.0), 0, total - 2)
  g = b.op('add', [g, b.constant(np.ones((), int))], (g.low + 1, g.high + 1))
  other = b.op(
    'sub',
    [b.constant(np.full(g.shape, total)), g],
    (total - g.high, total - g.low),
  )
  pair = [_column(l, v) for v in (other, g)]
  bound = min(v.low for v in pair), max(v.high for v in pair)
  axis = len(g.shape)
  shape = (*g.shape, 2)
  return b.op('concatenate', pair, bound, shape, 1.0, axis=axis)


def _column(l: Lowering, g: Grid) -> Grid:
  shape = (*g.shape, 1)
  return l.builder.op(
    'reshape', [g], (g.low, g.high), shape, params={'shape': list(shape)}
  )


def of_logits(l: Lowering, value: Any, precision: int) -> Grid:
  """int[E, V] of scores."""
  b = l.builder
  g = l.grid(value)
  if g.most > 2**28:
    g = b.fit(g, 24, l.span(g))
  axis = len(g.shape) - 1
  most = b.op(
    'most',
    [g],
    (g.low, g.high),
    g.shape[:-1],
    masked=g.masked,
    axes=[axis],
  )
  most = b.clip(most, g.low, g.high)
  wide = _over(l, most, g.shape)
  less = b.op(
    'sub',
    [g, wide],
    (min(g.low - g.high, 0), 0),
    masked=g.masked,
  )
  if g.masked is not None:
    low, high = b.bounds[less.id]
    b.bounds[less.id] = min(low, -(2**30)), high
  weights = l.grid(Formula(less, np.exp, (0.0, 1.0)))
  return of_weights(l, weights, precision)


def _over(l: Lowering, g: Grid, shape: tuple[int, ...]) -> Grid:
  """One number a row, over the row."""
  params = {'shape': list(shape), 'axes': list(range(len(shape) - 1))}
  return l.builder.op('broadcast', [g], (g.low, g.high), shape, params=params)


def of_weights(l: Lowering, g: Grid, precision: int) -> Grid:
  """int[E, V] of numbers that are proportional to probabilities."""
  b, total, size = l.builder, 2**precision, g.shape[-1]
  if 4 * size > total:
    raise NotWhole(f'{size} values have no room in {precision} bits')
  g = b.clip(b.fit(g, TABLE_BITS + 1, l.span(g)), 0, 2**TABLE_BITS - 1)
  axis = len(g.shape) - 1
  high = min(size * g.high, 2**31 - 1)
  sums = b.op('sum', [g], (0, high), g.shape[:-1], axes=[axis])
  sums = _over(l, b.clip(sums, 1, max(high, 1)), g.shape)
  spread = b.scale(g, total - size, 0, g.step)
  share = b.op(
    'quotient',
    [spread, sums],
    (0, total - size),
    step=1.0,
    shift=0,
    nearest=False,
  )
  one = b.constant(np.ones((), np.int8))
  share = b.op('add', [share, one], (1, 1 + total - size))
  given = b.op('sum', [share], (size, total), g.shape[:-1], axes=[axis])
  whole = b.constant(np.full(given.shape, total))
  rest = b.op('sub', [whole, given], (0, total - size))
  best = b.op('argmax', [g], (0, size - 1), g.shape[:-1], 1.0, axes=[axis])
  places = b.constant(np.broadcast_to(np.arange(size), g.shape))
  here = b.op(
    'eq', [_over(l, best, g.shape), places], (0, 1), step=1.0, truth=True
  )
  mine = b.op('number', [here], (0, 1), step=1.0)
  rest = b.op('mul', [_over(l, rest, g.shape), mine], (0, total - size))
  return b.op('add', [share, rest], (1, 1 + total - size), step=1.0)
