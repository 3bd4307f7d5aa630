"""Operations on grids: every emission proves the bound of what it makes.

A `Grid` is an array of integers q that stands for the numbers q * step. The
builder writes down the operations of a program, computes for each the bound of
its entries from the bounds of what it reads, and refuses what could leave the
31 bits that an int32 has.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from parallel_ar.exact.reference import Op

MOST = 2**31 - 1
MASKED = -(2**29)  # a score that no maximum takes, and whose exponential is 0
MARGIN = 1.25  # of the range that examples have shown
Span = tuple[float, float]


class NotWhole(ValueError):
  """An operation that cannot be made of whole numbers."""


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
  """An array of the program: real numbers q * step, low <= q <= high.

  Attributes:
    id: its number in the program.
    shape: of the array.
    step: of the grid; 1 for what was whole before.
    low: the least q, of those that are not masked.
    high: the largest q.
    truth: it holds truth values.
    masked: bool, where entries are MASKED for sure; None where none ever is.
    zero: bool, where entries are 0 whatever the values are, as behind the
      exponential of a masked score; None where that is not known.
  """

  id: int
  shape: tuple[int, ...]
  step: float
  low: int
  high: int
  truth: bool = False
  masked: Any = None
  zero: Any = None

  @property
  def most(self) -> int:
    """The largest |q|."""
    return max(abs(self.low), abs(self.high))

  @property
  def span(self) -> Span:
    """The range of the numbers themselves."""
    return self.low * self.step, self.high * self.step


class Builder:
  """Writes a program down.

  Attributes:
    ops: of the program, so far.
    constants: number -> integers or truth values.
    trained: numbers of the constants that are made of parameters.
    shapes: number -> shape.
    bounds: number -> (least, most).
  """

  def __init__(self):
    self.ops: list[Op] = []
    self.constants: dict[int, np.ndarray] = {}
    self.trained: set[int] = set()
    self.shapes: dict[int, tuple[int, ...]] = {}
    self.bounds: dict[int, tuple[int, int]] = {}

  def _new(self, shape: Any, low: int, high: int) -> int:
    number = len(self.shapes)
    self.shapes[number] = tuple(int(n) for n in shape)
    self.bounds[number] = int(low), int(high)
    return number

  def input(self, shape: Any, step: float, low: int, high: int) -> Grid:
    """An input of the program."""
    return Grid(self._new(shape, low, high), tuple(shape), step, low, high)

  def constant(self, a: Any, step: float = 1.0, trained: bool = False) -> Grid:
    """Known integers, or truth values."""
    a = np.asarray(a)
    low, high = (int(a.min()), int(a.max())) if a.size else (0, 0)
    if a.dtype != bool:
      if max(abs(low), abs(high)) > MOST:
        raise NotWhole(f'a constant of {max(abs(low), abs(high)):.3g}')
      a = a.astype(np.min_scalar_type(-max(abs(low), abs(high)) - 1))
    number = self._new(a.shape, low, high)
    self.constants[number] = a
    if trained:
      self.trained.add(number)
    return Grid(number, a.shape, step, low, high, a.dtype == bool)

  def op(
    self,
    name: str,
    inputs: list[Grid],
    bound: tuple[int, int],
    shape: Any = None,
    step: float | None = None,
    truth: bool = False,
    masked: Any = None,
    params: dict[str, Any] | None = None,
    zero: Any = None,
    **others: Any,
  ) -> Grid:
    """An operation; step and shape are those of its inputs by default.

    Raises:
      NotWhole: its entries could leave 31 bits.
    """
    low, high = map(int, bound)
    if max(abs(low), abs(high)) > MOST:
      raise NotWhole(
        f'its sums may reach {max(abs(low), abs(high)):.3g}, and an int32 '
        f'holds {MOST}: take fewer bits'
      )
    first = inputs[0]
    if shape is None:
      shape = np.broadcast_shapes(*(g.shape for g in inputs))
    least = min(low, MASKED) if masked is not None else low
    number = self._new(shape, least, high)
    self.ops.append(
      Op(name, tuple(g.id for g in inputs), number, params or others)
    )
    step = first.step if step is None else step
    zero = self._zero(name, inputs, shape) if zero is None else zero
    return Grid(number, tuple(shape), step, low, high, truth, masked, zero)

  def _zero(self, name: str, inputs: list[Grid], shape: Any) -> Any:
    """Where the result is zero because an operand is."""
    over = {'clip': 1, 'mul': 2, 'quotient': 1, 'scale': 1}.get(name, 0)
    found = [g.zero for g in inputs[:over] if g.zero is not None]
    if not found:
      return None
    return np.broadcast_to(functools.reduce(np.logical_or, found), shape)

  def cleared(self, g: Grid) -> Grid:
    """What is 0 for sure, said so once more, where a sum reads it.

    It is 0 already; but whoever looks for what an output reads sees a product
    with 0, and not that a scale or a quotient of 0 is 0.
    """
    if g.zero is None:
      return g
    keep = self.constant((~np.broadcast_to(g.zero, g.shape)).astype(np.int8))
    bound = min(g.low, 0), max(g.high, 0)
    return self.op('mul', [g, keep], bound, step=g.step)

  # ------------------------------------------------------------------- grids

  def scale(self, g: Grid, times: int, shift: int, step: float) -> Grid:
    """(q times + half) >> shift, on the grid that this is of."""
    g = numbers(g)
    if times == 1 and shift == 0:
      return dataclasses.replace(g, step=step)
    half = (1 << shift) >> 1
    if g.most * abs(times) + half > MOST:
      raise NotWhole('a product of a scale leaves 31 bits: take fewer bits')
    ends = sorted(((q * times + half) >> shift) for q in (g.low, g.high))
    return self.op(
      'scale', [g], (ends[0], ends[1]), step=step, times=times, shift=shift
    )

  def to_step(self, g: Grid, step: float) -> Grid:
    """The numbers on another grid: exact on a finer one, else rounded."""
    ratio = g.step / step
    if ratio == 1:
      return g
    fraction, exponent = math.frexp(ratio)
    if fraction == 0.5:
      k = exponent - 1
      if k > 0:
        return self.scale(g, 1 << k, 0, step)
      return self.scale(g, 1, min(-k, 30), step)
    bits = max(g.most, 1).bit_length()
    if bits > 16:  # room for a factor of 14 bits
      g = self.scale(g, 1, bits - 16, g.step * 2.0 ** (bits - 16))
      return self.to_step(g, step)
    shift = max(14 - exponent, 0)
    if shift > 30:
      return self.scale(g, 1, 30, step)
    return self.scale(g, round(ratio * 2**shift), shift, step)

  def spread(self, g: Grid, shape: tuple[int, ...]) -> Grid:
    """The same entries along new or longer axes."""
    if g.shape == shape:
      return g
    lead = len(shape) - len(g.shape)
    axes = [n + lead for n in range(len(g.shape))]
    masked = None if g.masked is None else np.broadcast_to(g.masked, shape)
    params = {'shape': list(shape), 'axes': axes}
    bound = g.low, g.high
    return self.op(
      'broadcast', [g], bound, shape, g.step, g.truth, masked, params
    )

  def clip(self, g: Grid, low: int, high: int) -> Grid:
    """Kept between two integers."""
    low, high = int(low), int(high)
    if low <= g.low and g.high <= high and g.masked is None:
      return g
    bound = max(g.low, low), min(g.high, high)
    bound = min(bound[0], high), max(bound[1], low)
    if g.masked is not None:
      bound = min(low, bound[0]), bound[1]
    return self.op('clip', [g], bound, low=low, high=high)

  def fit(self, g: Grid, bits: int, span: Span | None = None) -> Grid:
    """At most `bits` bits, sign included: shifted and clipped if it has more.

    Args:
      g: the array.
      bits: of the result.
      span: what examples have shown, from which the shift is chosen.
    """
    most = 2 ** (bits - 1) - 1
    if numbers(g).most <= most:
      return g
    reach = g.most * g.step
    if span is not None:
      reach = min(reach, MARGIN * max(map(abs, span)))
    k = max(0, math.ceil(math.log2(max(reach, 1e-30) / (most * g.step))))
    g = self.to_step(g, g.step * 2.0**k)
    return self.clip(g, -most, most)

  def align(
    self, grids: list[Grid], spans: list[Span], room: int
  ) -> list[Grid]:
    """The same grid for all: the finest, unless that takes more than `room`."""
    step = min(g.step for g in grids)
    if max(g.most * g.step for g in grids) / step > room:
      grids = [self.fit(g, 20, s) for g, s in zip(grids, spans, strict=True)]
      step = min(g.step for g in grids)
      while max(g.most * g.step for g in grids) / step > 2**24:
        step *= 2
    return [self.to_step(g, step) for g in grids]


def numbers(g: Grid) -> Grid:
  """It, where none of its entries is a masked score."""
  if g.masked is not None:
    raise NotWhole(
      'a masked score is only compared, subtracted from, multiplied with one '
      'number above 0, and exp'
    )
  return g


def quantized(c: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
  """Integers of `bits` bits and their step, a power of two, of real numbers."""
  most = 2 ** (bits - 1) - 1
  reach = float(np.abs(c).max(initial=0.0))
  if not math.isfinite(reach):
    raise NotWhole('a constant is not finite')
  if reach == 0:
    return np.zeros(c.shape, np.int64), 1.0
  step = 2.0 ** math.ceil(math.log2(reach / most))
  q = np.clip(np.rint(c / step), -most, most).astype(np.int64)
  while q.any() and not (q & 1).any():  # what is even is on a coarser grid
    q, step = q >> 1, 2 * step
  return q, step
