"""From a traced pass to a program of whole numbers.

Every array of the pass is one of three things on the way:

  an array of constants    real numbers, put on a grid where they are used
  a Grid                   integers of the program
  a Formula                a function of ONE grid's entries, not computed yet

so that a chain of operations on one array, a GELU say, becomes one table.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from parallel_ar.decode.facts import HUGE
from parallel_ar.exact import calibrate
from parallel_ar.exact.builder import (
  MARGIN,
  MASKED,
  Builder,
  Grid,
  NotWhole,
  Span,
  quantized,
)
from parallel_ar.program.trace import Array, Op, Program

TABLE_BITS = 15  # of the entries of a table
_FLOOR = 1000.0  # exp(-1000) is 0, with the largest score of a row far above
Rule = Callable[['Lowering', Op, list[Any]], list[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Formula:
  """f(root), entry by entry.

  Attributes:
    root: the array.
    function: NumPy, float64 -> float64 or bool.
    span: what examples have shown of it; None where it is no number.
  """

  root: Grid
  function: Callable[[np.ndarray], np.ndarray]
  span: Span | None


class Lowering:
  """One pass on its way to whole numbers.

  Attributes:
    builder: what is written.
    weight_bits: of products' constants.
    activation_bits: of what they meet.
    index_bits: of a table's index.
  """

  def __init__(
    self,
    rules: Mapping[str, Rule],
    ranges: Mapping[Array, Span],
    weight_bits: int,
    activation_bits: int,
  ):
    self.rules = rules
    self.builder = Builder()
    self.weight_bits = weight_bits
    self.activation_bits = activation_bits
    self.index_bits = min(activation_bits + 3, 14)
    self._ranges = ranges
    self._spans: dict[tuple[int, float], Span] = {}
    self._tables: dict[tuple[Formula, int], Grid] = {}
    self._known: dict[Array, Any] = {}

  def run(self, program: Program, inputs: list[Grid]) -> list[Any]:
    """The program's results.

    Raises:
      NotWhole: names the operation and its line.
    """
    for v, g in zip(program.inputs, inputs, strict=True):
      self._known[v] = g
      if span := self._ranges.get(v):
        self._spans[g.id, g.step] = span
    for op in program.ops:
      rule = self.rules.get(op.name)
      if rule is None:
        raise calibrate.refusal(op, 'no rule says what it is on a grid')
      try:
        results = rule(self, op, [self.value(v) for v in op.inputs])
      except NotWhole as error:
        raise calibrate.refusal(op, error) from error
      for v, result in zip(op.outputs, results, strict=True):
        self._known[v] = result
        if isinstance(result, Grid) and (span := self._ranges.get(v)):
          self._spans.setdefault((result.id, result.step), span)
    return [self.value(v) for v in program.outputs]

  def value(self, v: Array) -> Any:
    """A constant as NumPy has it, or what was made of an array."""
    if v.value is None:
      return self._known[v]
    a = np.asarray(v.value)
    return a if a.dtype.kind in 'biu' else a.astype(np.float64)

  def span(self, g: Grid) -> Span:
    """What examples have shown, else what is proved."""
    return self._spans.get((g.id, g.step), g.span)

  def keep_span(self, before: Grid, after: Grid) -> None:
    """What was seen of an array holds of its moved entries."""
    self._spans.setdefault((after.id, after.step), self.span(before))

  def range(self, op: Op) -> Span | None:
    """What examples have shown of an operation's result."""
    return self._ranges.get(op.outputs[0])

  # ---------------------------------------------------------------- constants

  def weights(self, c: np.ndarray, bits: int) -> tuple[Grid, np.ndarray]:
    """A constant of a product: on its grid, and its integers.

    Where it is zero for sure is told to the program, since that is what makes
    it causal.
    """
    q, step = quantized(c, bits)
    g = self.builder.constant(q, step, trained=c.dtype.kind == 'f')
    zero = c == 0
    if c.ndim > 1 and zero.any() and not zero.all():
      keep = self.builder.constant(1 - zero.astype(np.int8))
      g = self.builder.op('mul', [g, keep], (g.low, g.high), step=step)
    return g, q

  def on_step(self, c: np.ndarray, step: float) -> Grid:
    """A constant on a grid that is given, MASKED where it is -HUGE or less."""
    low = c <= -HUGE if c.dtype.kind == 'f' else np.zeros(c.shape, bool)
    q = np.rint(np.where(low, 0, c) / step)
    if not np.abs(q).max(initial=0) <= 2**30:
      raise NotWhole(f'a constant of {np.abs(c).max():.3g} on a grid of {step}')
    q = np.where(low, MASKED, q).astype(np.int64)
    trained = c.dtype.kind == 'f' and c.size > 1 and not low.any()
    g = self.builder.constant(q, step, trained)
    if low.any():
      kept = q[~low] if (~low).any() else np.zeros(1, int)
      bound = int(kept.min()), int(kept.max())
      g = dataclasses.replace(g, low=bound[0], high=bound[1], masked=low)
    return g

  def far_below(self, c: Any, scores: Any) -> np.ndarray:
    """Where a constant stands for a masked score beside these.

    It is -HUGE or less, or so far below all scores that its exponential is 0
    as well: some write -1e4.
    """
    if not isinstance(c, np.ndarray) or c.dtype.kind != 'f':
      return np.zeros(np.shape(c), bool)
    if isinstance(scores, np.ndarray):
      return c <= -HUGE
    reach = max(map(abs, self.span(self.grid(scores))))
    return c <= -min(HUGE, max(_FLOOR, 4 * reach))

  def real(self, value: Any, like: Grid) -> Grid:
    """An operand that meets `like`: constants come to a grid fine enough."""
    if not isinstance(value, np.ndarray):
      return self.grid(value)
    step, c = like.step, np.asarray(value)
    if c.dtype.kind != 'f':
      return self.on_step(c, step)
    there = np.where(c <= -HUGE, 0, c)
    reach = max(float(np.abs(there).max(initial=0)), like.most * like.step)
    for _ in range(16):
      rest = there / step
      if reach / step > 2**20 or np.allclose(rest, np.rint(rest), 0, 1e-6):
        break
      step /= 2
    return self.on_step(c, step)

  # ------------------------------------------------------------------- tables

  def grid(self, value: Any, bits: int = TABLE_BITS) -> Grid:
    """A grid: a formula becomes a table, which is made once."""
    if isinstance(value, Grid):
      return value
    if isinstance(value, np.ndarray):
      q, step = quantized(value, TABLE_BITS)
      return self.builder.constant(q, step, trained=value.dtype.kind == 'f')
    key = value, bits
    if key not in self._tables:
      made = self._table(value, bits)
      if value.span is not None:
        self._spans[made.id, made.step] = value.span
      self._tables[key] = made
    return self._tables[key]

  def _table(self, f: Formula, bits: int) -> Grid:
    sample = self._values(f, np.linspace(*self._domain(f.root), 4097))
    if sample.dtype == bool:
      return self.table(f, 1.0)
    most = 2 ** (bits - 1) - 1
    reach = max(float(np.abs(sample).max()), 1e-30)
    return self.table(f, 2.0 ** math.ceil(math.log2(reach / most)))

  def table(self, f: Formula, step: float) -> Grid:
    """A formula on a grid of this step, by a look-up."""
    b, root = self.builder, f.root
    low, high = self._domain(root)
    sample = self._values(f, np.linspace(low, high, 4097))
    if sample.dtype != bool:
      low, high = _moving(sample, low, high, step)
    k = 0
    while (high - low) / (root.step * 2.0**k) > 2**self.index_bits:
      k += 1
    index_step = root.step * 2.0**k
    first, last = (
      int(np.floor(low / index_step)),
      int(np.ceil(high / index_step)),
    )
    entries = self._values(f, np.arange(first, last + 1) * index_step)
    t = b.constant(np.rint(entries / step), trained=True)
    index = dataclasses.replace(root, masked=None)
    if root.masked is not None:
      index = b.clip(root, max(first << k, MASKED), last << k)
      index = dataclasses.replace(index, masked=None)
    index = b.clip(b.to_step(index, index_step), first, last)
    bound = t.low, t.high
    g = b.op('table', [index, t], bound, root.shape, step, low=first)
    if root.masked is not None:
      if entries[0] != 0 and abs(entries[0]) >= step / 2:
        raise NotWhole('a masked score goes where it is not zero')
      if root.masked.any():
        zero = b.constant(np.zeros(g.shape, np.int8))
        mask = b.constant(np.broadcast_to(root.masked, g.shape))
        bound = min(g.low, 0), max(g.high, 0)
        g = b.op(
          'select', [mask, g, zero], bound, g.shape, step, zero=root.masked
        )
    if entries.dtype == bool:
      zero = b.constant(np.zeros((), np.int8))
      g = b.op('ne', [g, zero], (0, 1), step=1.0, truth=True)
    return g

  def _domain(self, g: Grid) -> Span:
    """Where a function of the array is looked at."""
    low, high = self.span(g)
    wider = (MARGIN - 1) * max(abs(low), abs(high))
    low, high = max(low - wider, g.span[0]), min(high + wider, g.span[1])
    if g.masked is not None:
      low = -64.0
    return low, max(high, low + g.step)

  def _values(self, f: Formula, x: np.ndarray) -> np.ndarray:
    with np.errstate(all='ignore'):
      y = np.broadcast_to(np.asarray(f.function(x)), x.shape)
    if y.dtype == bool:
      return y
    y = y.astype(np.float64)
    if f.span is not None:  # beside what was seen, as far as a margin
      low, high = f.span
      wider = (MARGIN - 1) * max(abs(low), abs(high))
      y = np.clip(y, low - wider, high + wider)
    return np.nan_to_num(y)


def _moving(y: np.ndarray, low: float, high: float, step: float) -> Span:
  """The part of a domain outside of which a function stands still."""
  x = np.linspace(low, high, len(y))
  left = np.flatnonzero(np.abs(y - y[0]) > step / 2)
  right = np.flatnonzero(np.abs(y - y[-1]) > step / 2)
  if not left.size:
    return low, min(high, low + (x[1] - x[0]))
  first, last = max(left[0] - 1, 0), min(right[-1] + 1, len(y) - 1)
  return float(x[first]), float(x[max(last, first + 1)])
