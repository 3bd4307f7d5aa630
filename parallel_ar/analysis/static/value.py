"""What is known of an array before any number is computed.

Every entry of an array is one of

  known     the same number for all inputs and parameters (masks, zeros, iota)
  free      a number of the parameters alone
  reading   a number that may depend on some positions of the input

and entries that read carry two sets of positions: all that they MAY read, which
is sound, and those of them that they read FIRMLY, by an operation whose result
depends on every operand in general. A set that may be read, but not firmly,
comes from an operation that reads one of many places and does not say which.

Beside the sets stands what is known of the number itself: an interval, which
also says whether it is finite, and whether it is a masked score for sure
(`low`), for sure not, or perhaps (`maybe`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  NumPy learns bfloat16
import numpy as np

from parallel_ar.analysis.static import sets

HUGE = 1e8  # a score of -HUGE or less is masked: its exponential is zero
SOME = 1e300  # bound of a finite number of unknown size
UNKNOWN = 1e200  # what is beyond came of such a number

Bounds = tuple[Any, Any]  # float64, arrays or scalars


class UnknownForm(Exception):
  """A rule meets a form of its primitive that it does not cover.

  The result is then taken to read everything, which is sound.
  """


@dataclasses.dataclass(frozen=True)
class Doubt:
  """Why an entry that is zero in general may not be, and where that arises."""

  why: str
  eqn: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Over:
  """That no entry of an array, along some axes, is larger than an entry here.

  Attributes:
    array: the array.
    axes: along which it is compared; the others are those of this array.
    aligned: whether this array has the axes of that one, of length 1 or more.
    exact: whether an entry here is the largest of them.
  """

  array: 'Value'
  axes: tuple[int, ...]
  aligned: bool
  exact: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
  """One array of the program.

  Attributes:
    shape: of the array.
    dtype: of the array.
    value: its numbers where they are known, and everywhere where `sampled`.
    known: bool[shape], entries whose numbers are the same for all parameters.
    reads: bool[2, B, *shape], see the module; None where nothing is read.
    lo, hi: float64, broadcast to `shape`: the entry lies between them; SOME is
      a finite number of unknown size, nan says that it may be nan.
    low: bool[shape], entries that lie below -HUGE whatever they read.
    maybe: bool[shape], entries that may lie beyond -HUGE or HUGE.
    faint: bool[shape], entries that are zero (before an exponential: low) but
      for the doubt. What is read through them is not read firmly.
    doubt: of the faint entries.
    sampled: the array reads nothing, and `value` is complete: the entries that
      are not known are stand-ins for whatever the parameters make of them.
    linear: the array as a linear map, see `spectral`.
    attained: every entry takes each of the integers between its bounds.
    over: arrays that are nowhere larger.
    peak: axes along which some entry is the largest, 0 (or its exponential, 1).
    test: (name, left, right) of a comparison.
  """

  shape: tuple[int, ...]
  dtype: Any
  value: np.ndarray | None = None
  known: np.ndarray | None = None
  reads: np.ndarray | None = None
  lo: Any = None
  hi: Any = None
  low: np.ndarray | None = None
  maybe: np.ndarray | None = None
  faint: np.ndarray | None = None
  doubt: Doubt | None = None
  sampled: bool = False
  linear: Any = None
  attained: bool = False
  over: tuple[Over, ...] = ()
  peak: tuple[int, ...] | None = None
  test: Any = None

  @property
  def size(self) -> int:
    """Number of entries."""
    return int(np.prod(self.shape))

  @property
  def constant(self) -> bool:
    """Whether every entry is known."""
    return self.known is not None and bool(self.known.all())

  @property
  def numeric(self) -> bool:
    """Whether there is a number for every entry, known or a stand-in."""
    return self.sampled or self.constant

  @property
  def real(self) -> bool:
    """Whether it holds real floating-point numbers."""
    return kind(self.dtype) == 'f'

  def is_known(self) -> np.ndarray:
    """bool[shape]."""
    return np.zeros(self.shape, bool) if self.known is None else self.known

  def bounds(self) -> Bounds:
    """(lo, hi), to be broadcast to the shape."""
    if self.lo is None or self.hi is None:
      lo, hi = of_dtype(self.dtype)
    else:
      lo, hi = self.lo, self.hi
    if self.known is None or kind(self.dtype) not in 'fiub':
      return lo, hi
    number = np.asarray(self.value).astype(np.float64)
    if self.constant:
      return number, number
    return np.where(self.known, number, lo), np.where(self.known, number, hi)

  def is_finite(self) -> np.ndarray:
    """bool[shape], neither infinite nor nan."""
    if self.constant:
      known = np.isfinite(np.asarray(self.value).astype(np.complex128))
      return np.broadcast_to(known, self.shape)
    lo, hi = self.bounds()
    return np.broadcast_to(np.isfinite(lo) & np.isfinite(hi), self.shape)

  def is_low(self) -> np.ndarray:
    """bool[shape], below -HUGE, known or not."""
    low = np.zeros(self.shape, bool) if self.low is None else self.low
    if not self.real:
      return low
    with np.errstate(invalid='ignore'):
      return low | (self.bounds()[1] <= -HUGE)

  def is_maybe_low(self) -> np.ndarray:
    """bool[shape], may be a masked score, or the negative of one."""
    maybe = self.is_low()
    if self.maybe is not None:
      maybe = maybe | self.maybe
    if not self.real:
      return maybe
    lo, hi = self.bounds()
    huge = lambda a: (np.abs(a) >= HUGE) & (np.abs(a) < UNKNOWN)
    wild = ~(np.isfinite(lo) & np.isfinite(hi))
    return maybe | huge(lo) | huge(hi) | wild

  def is_zero(self) -> np.ndarray:
    """bool[shape], known to be zero."""
    if self.known is None:
      return np.zeros(self.shape, bool)
    return self.known & (np.asarray(self.value) == 0)

  def is_faint(self) -> np.ndarray:
    """bool[shape]."""
    return np.zeros(self.shape, bool) if self.faint is None else self.faint

  def nonzero(self) -> np.ndarray:
    """float32[shape], 0 where the entry is known to be zero, else 1."""
    return (~self.is_zero()).astype(np.float32)


def kind(dtype: Any) -> str:
  """'f' real, 'c' complex, 'i', 'u', 'b', or 'k' for keys."""
  try:
    dtype = np.dtype(dtype)
  except TypeError:
    return 'k'
  return 'f' if dtype.kind == 'V' else dtype.kind


def of_dtype(dtype: Any) -> Bounds:
  """The bounds of an array of which nothing is known."""
  what = kind(dtype)
  if what in 'iu':
    info = np.iinfo(dtype)
    return np.float64(info.min), np.float64(info.max)
  if what == 'b':
    return np.float64(0), np.float64(1)
  return np.float64(np.nan), np.float64(np.nan)


def finite() -> Bounds:
  """The bounds of finite numbers of unknown size."""
  return np.float64(-SOME), np.float64(SOME)


def of_constant(a: Any) -> Value:
  """A known array."""
  a = np.asarray(a)
  return Value(a.shape, a.dtype, a, np.ones(a.shape, bool))


def of_aval(aval: Any, **fields: Any) -> Value:
  """A Value of a variable's shape and dtype; without reads unless empty.

  What is computed from parameters alone is taken to be finite. Stand-ins are
  drawn afresh unless the numbers given are `exact`, polynomials of others.
  """
  exact = fields.pop('exact', False)
  shape, dtype = tuple(aval.shape), getattr(aval, 'dtype', None)
  for name in ('known', 'reads', 'low', 'maybe', 'faint'):
    if fields.get(name) is not None and not fields[name].any():
      fields[name] = None
  lo, hi = fields.get('lo'), fields.get('hi')
  if lo is None and fields.get('reads') is None and kind(dtype) in 'fc':
    fields['lo'], fields['hi'] = finite()
  elif lo is not None and kind(dtype) in 'fiub':
    _settle(shape, dtype, lo, hi, fields)
  if fields.get('sampled') and not exact and not _whole(fields.get('known')):
    fields['value'] = stand_in(
      shape, dtype, fields.get('known'), fields.get('value')
    )
  elif fields.get('known') is None and not fields.get('sampled'):
    fields['value'] = None
  return Value(shape, dtype, **fields)


def _whole(known: np.ndarray | None) -> bool:
  return known is not None and bool(known.all())


def _settle(shape: Any, dtype: Any, lo: Any, hi: Any, fields: dict) -> None:
  """An entry with equal bounds is known, and reads nothing."""
  one = (lo == hi) & np.isfinite(lo)
  if not np.any(one):
    return
  one = np.broadcast_to(one, shape)
  known, value = fields.get('known'), fields.get('value')
  number = np.where(one, lo, 0).astype(dtype)
  if value is not None:
    fresh = one if known is None else one & ~known
    number = np.where(fresh, number, value).astype(dtype)
  if known is not None:
    one = one | known
  fields['known'], fields['value'] = one, number
  if fields.get('reads') is not None:
    fields['reads'] = fields['reads'] & ~one
    if not fields['reads'].any():
      fields['reads'] = None


_DRAW = np.random.default_rng(0)


def stand_in(
  shape: tuple[int, ...],
  dtype: Any,
  known: Any = None,
  value: Any = None,
) -> Any:
  """Numbers away from zero that stand for all, but where they are known.

  What is a polynomial of them is zero, with probability 1, only if it is zero
  whatever the numbers are. So every array that parameters make by anything but
  a polynomial is drawn afresh: a threshold that is not reached today, as in
  relu(p - 5), hides nothing.
  """
  if kind(dtype) not in 'fc':
    return value
  draw = lambda: _DRAW.uniform(0.5, 1.5, shape) * _DRAW.choice([-1, 1], shape)
  numbers = draw() + 1j * draw() if kind(dtype) == 'c' else draw()
  numbers = numbers.astype(dtype)
  return numbers if known is None else np.where(known, value, numbers)


def moved(
  aval: Any,
  operands: Sequence[Value],
  move: Callable[..., Any],
) -> Value:
  """The result of an operation that only moves entries.

  Args:
    aval: of the result.
    operands: what is moved.
    move: takes an int32 array of the shape of each operand, and returns the
      result of the operation on them. Entries are numbered from 1; a result
      of 0 or less is an entry of no operand.

  Returns:
    The Value.
  """
  ids, start = [], 1
  for v in operands:
    count = np.arange(start, start + v.size, dtype=np.int32)
    ids.append(count.reshape(v.shape))
    start += v.size
  where = np.maximum(np.asarray(move(*ids)), 0)
  return picked(aval, operands, where)


def picked(aval: Any, operands: Sequence[Value], where: np.ndarray) -> Value:
  """The entries `where` of the operands laid out in one row, from 1 on."""
  fields: dict[str, Any] = {}
  if any(v.reads is not None for v in operands):
    like = next(v.reads for v in operands if v.reads is not None)
    tracks = like.shape[:2]
    flat = [np.zeros((*tracks, 1), bool)]
    for v in operands:
      empty = np.zeros((*tracks, v.size), bool)
      flat.append(
        empty if v.reads is None else v.reads.reshape(*tracks, v.size)
      )
    fields['reads'] = np.concatenate(flat, -1)[..., where]

  def row(own: Callable[[Value], Any], first: Any) -> np.ndarray:
    rows = [np.broadcast_to(own(v), v.shape).reshape(-1) for v in operands]
    return np.concatenate([np.asarray([first]), *rows])[where]

  complete = all(v.numeric for v in operands)
  if complete or any(v.known is not None for v in operands):
    fields['known'] = row(Value.is_known, False)
    number = lambda v: (
      np.zeros(v.shape, aval.dtype)
      if v.value is None
      else np.asarray(v.value).astype(aval.dtype)
    )
    fields['value'] = row(number, np.zeros((), aval.dtype))
  for name in ('low', 'maybe', 'faint'):
    each = [getattr(v, name) for v in operands]
    if any(flags is not None for flags in each):
      flat = [
        np.zeros(v.size, bool) if flags is None else flags.reshape(-1)
        for v, flags in zip(operands, each, strict=True)
      ]
      fields[name] = np.concatenate([np.zeros(1, bool), *flat])[where]
  ends = [v.bounds() for v in operands]
  same = np.array([[np.max(lo), np.max(hi)] for lo, hi in ends if lo.size])
  alike = all(lo.ndim == 0 and hi.ndim == 0 for lo, hi in ends)
  if alike and len(same) and (same == same[0]).all() and (where > 0).all():
    fields['lo'], fields['hi'] = ends[0]
  else:
    fields['lo'] = row(lambda v: v.bounds()[0], 0.0)
    fields['hi'] = row(lambda v: v.bounds()[1], 0.0)
  fields['doubt'] = doubt_of(operands)
  fields['attained'] = any(v.attained for v in operands) and all(
    v.attained or v.constant for v in operands
  )
  return of_aval(aval, sampled=complete, exact=True, **fields)


def doubt_of(values: Sequence[Value]) -> Doubt | None:
  """The first doubt."""
  return next((v.doubt for v in values if v.doubt is not None), None)


def join(aval: Any, values: Sequence[Value]) -> Value:
  """What holds of an array that is one of several."""
  reads = sets.union([v.reads for v in values], aval.shape)
  fields: dict[str, Any] = {'reads': reads}
  if all(v.known is not None for v in values):
    first = values[0]
    known = first.is_known().copy()
    for v in values[1:]:
      known &= v.is_known() & (v.value == first.value)
    fields |= {'known': known, 'value': first.value if known.any() else None}
  fields['low'] = np.logical_and.reduce([v.is_low() for v in values])
  fields['maybe'] = np.logical_or.reduce([v.is_maybe_low() for v in values])
  fields['faint'] = np.logical_or.reduce([v.is_faint() for v in values])
  fields['doubt'] = doubt_of(values)
  each = [v.bounds() for v in values]
  fields['lo'], fields['hi'] = each[0]
  for lo, hi in each[1:]:
    fields['lo'] = np.minimum(fields['lo'], lo)
    fields['hi'] = np.maximum(fields['hi'], hi)
  return of_aval(aval, **fields)
