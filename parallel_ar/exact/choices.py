"""Rules of what compares, chooses, and changes the kind of numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from parallel_ar.decode.facts import HUGE
from parallel_ar.exact.arithmetic import pair
from parallel_ar.exact.builder import MASKED, MOST, Grid, NotWhole
from parallel_ar.exact.lowering import Lowering
from parallel_ar.program.trace import Op


def _extremum(l: Lowering, op: Op, values: list[Any]) -> Grid:
  for n in (0, 1):
    c = values[n]
    if isinstance(c, np.ndarray):  # beyond all entries, as an end of a softmax
      g = l.grid(values[1 - n])
      least = -HUGE if g.masked is not None else max(g.span[0], -HUGE)
      if (c <= least if op.name == 'max' else c >= g.span[1]).all():
        return g
  a, b = pair(l, values, 2**30)
  if a.masked is not None or b.masked is not None:
    raise NotWhole('a masked score meets another array')
  pick = max if op.name == 'max' else min
  bound = pick(a.low, b.low), pick(a.high, b.high)
  return l.builder.op(op.name, [a, b], bound, step=a.step)


def _clamp(l: Lowering, op: Op, values: list[Any]) -> Grid:
  low, g, high = values  # numbers; others are defined by max and min
  g = l.grid(g)
  ends = (min(max(c.item() / g.step, -MOST), MOST) for c in (low, high))
  return l.builder.clip(g, *map(round, ends))


def _compare(l: Lowering, op: Op, values: list[Any]) -> Grid:
  if all(isinstance(v, Grid) and v.truth for v in values):
    a, b = (l.builder.op('number', [v], (0, 1)) for v in values)
  else:
    a, b = pair(l, values, 2**30)
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
  for n, c in enumerate(cases):
    # nan marks what the doors refuse, a label that is none.
    if isinstance(c, np.ndarray) and c.dtype.kind == 'f' and (c != c).all():
      return b.spread(l.grid(cases[1 - n]), shape)
  sure = None
  if isinstance(which, np.ndarray):
    sure = np.broadcast_to(which.astype(bool), shape)
    chooser = b.constant(sure)
  else:
    chooser = b.spread(l.grid(which), shape)
    if not chooser.truth:
      raise NotWhole('it chooses by a number')
  low = [
    isinstance(c, np.ndarray) and bool(l.far_below(c, other).all())
    for c, other in zip(cases, reversed(cases), strict=True)
  ]
  if any(low):
    return _masked(l, chooser, sure, cases, low)
  grids = [b.spread(g, shape) for g in _cases(l, cases, shape)]
  truth = grids[0].truth
  masks = any(g.masked is not None for g in grids)
  masked: Any = np.zeros((1,) * len(shape), bool) if masks else None
  bound = min(g.low for g in grids), max(g.high for g in grids)
  return b.op(
    'select', [chooser, *grids], bound, shape, grids[0].step, truth, masked
  )


def _cases(l: Lowering, cases: list[Any], shape: Any) -> list[Grid]:
  """Both cases on one grid, or truth values."""
  known = [isinstance(c, np.ndarray) for c in cases]
  truths = [
    c.dtype.kind == 'b' if isinstance(c, np.ndarray) else l.grid(c).truth
    for c in cases
  ]
  if any(truths):
    return [
      l.builder.constant(c) if isinstance(c, np.ndarray) else l.grid(c)
      for c in cases
    ]
  if all(known):
    grids = [l.grid(np.broadcast_to(c, shape)) for c in cases]
    return l.builder.align(grids, [l.span(g) for g in grids], 2**30)
  return pair(l, cases, 2**30)


def _masked(
  l: Lowering, chooser: Grid, sure: Any, cases: list[Any], low: list[bool]
) -> Grid:
  """Scores, and MASKED where a constant below -HUGE was chosen."""
  b, shape = l.builder, chooser.shape
  if all(low):
    raise NotWhole('all is masked')
  kept = b.spread(l.grid(cases[low.index(False)]), shape)
  if kept.most > 2**28:
    kept = b.fit(kept, 24, l.span(kept))
  floor = b.constant(np.full(shape, MASKED))
  grids = [floor, kept] if low[0] else [kept, floor]
  masked = np.zeros((1,) * len(shape), bool)
  if sure is not None:
    masked = ~sure if low[0] else sure
  if kept.masked is not None:
    masked = masked | kept.masked
  bound = kept.low, kept.high
  return b.op(
    'select', [chooser, *grids], bound, shape, kept.step, masked=masked
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


SAME = (
  'copy copy_p stop_gradient reduce_precision device_put sharding_constraint'
).split()
RULES: dict[str, Callable[..., Any]] = {
  'clamp': _clamp,
  'convert_element_type': _convert,
  'max': _extremum,
  'min': _extremum,
  'select_n': _choose,
  **dict.fromkeys(('and', 'or', 'not', 'xor'), _logic),
  **dict.fromkeys(('eq', 'ne', 'lt', 'le', 'gt', 'ge'), _compare),
  **dict.fromkeys(SAME, _same),
}
