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
(`low`), for sure not, or perhaps (`maybe`). All of it is `uniform` where it can
be.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes  # noqa: F401  NumPy learns bfloat16
import numpy as np

from parallel_ar.analysis.static import sets
from parallel_ar.program import uniform

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
    reads: uint64[2, W, *shape], see `sets`; None where nothing is read.
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
    capped: bool[shape], entries that lie below HUGE, masked or not.
    scale: what low entries were multiplied by: they lie below -HUGE * scale.
    derived: uint64[2, W], what the array was made of, though it may read
      nothing: a known zero of such an array may have either sign.
    selects: some entries may be exactly zero, as a comparison of data says.
    run: (name, operand, axis, reverse) of a running sum or maximum.
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
  capped: np.ndarray | None = None
  scale: float = 1.0
  derived: np.ndarray | None = None
  selects: bool = False
  run: Any = None

  @functools.cached_property
  def size(self) -> int:
    """Number of entries."""
    return math.prod(self.shape)

  @functools.cached_property
  def constant(self) -> bool:
    """Whether every entry is known."""
    return uniform.every(self.known)

  @property
  def numeric(self) -> bool:
    """Whether there is a number for every entry, known or a stand-in."""
    return self.sampled or self.constant

  @functools.cached_property
  def real(self) -> bool:
    """Whether it holds real floating-point numbers."""
    return kind(self.dtype) == 'f'

  def flags(self, name: str) -> np.ndarray:
    """bool[shape]: `known`, `low`, `maybe` or `faint`, as it is given."""
    given = getattr(self, name)
    return uniform.flags(False, self.shape) if given is None else given

  @functools.cached_property
  def bounds(self) -> Bounds:
    """(lo, hi), to be broadcast to the shape."""
    if self.lo is None or self.hi is None:
      lo, hi = of_dtype(self.dtype)
    else:
      lo, hi = self.lo, self.hi
    if self.known is None or kind(self.dtype) not in 'fiub':
      return lo, hi
    number = uniform.thin(self.value).astype(np.float64)
    known = uniform.thin(self.known)
    if self.constant:
      return number, number
    each = lambda b: np.where(known, number, uniform.thin(b))
    lo, hi = (uniform.thin(uniform.pressed(each(b))) for b in (lo, hi))
    return lo, hi

  @property
  def is_known(self) -> np.ndarray:
    """bool[shape]."""
    return self.flags('known')

  @functools.cached_property
  def finite(self) -> bool:
    """Whether all entries are neither infinite nor nan."""
    return uniform.every(self.is_finite)

  @functools.cached_property
  def is_finite(self) -> np.ndarray:
    """bool[shape], neither infinite nor nan."""
    if self.constant:
      number = uniform.thin(self.value)
      if kind(self.dtype) not in 'fc':
        number = np.zeros((), bool)
      elif number.dtype.kind == 'V':
        number = number.astype(np.float64)
      return uniform.wide(np.isfinite(number), self.shape)
    lo, hi = self.bounds
    return uniform.wide(np.isfinite(lo) & np.isfinite(hi), self.shape)

  @functools.cached_property
  def is_low(self) -> np.ndarray:
    """bool[shape], below -HUGE, known or not."""
    low = self.flags('low')
    if not self.real:
      return low
    with np.errstate(invalid='ignore'):
      below = self.bounds[1] <= -HUGE
      return uniform.over(np.logical_or, low, below)

  @functools.cached_property
  def is_maybe_low(self) -> np.ndarray:
    """bool[shape], may be a masked score, or the negative of one."""
    maybe = uniform.over(np.logical_or, self.is_low, self.flags('maybe'))
    if not self.real:
      return maybe
    lo, hi = self.bounds
    wild = ~(np.isfinite(lo) & np.isfinite(hi))
    for bound in (lo, hi):
      size = np.abs(bound)
      wild = wild | ((size >= HUGE) & (size < UNKNOWN))
    return uniform.over(np.logical_or, maybe, wild)

  @functools.cached_property
  def is_zero(self) -> np.ndarray:
    """bool[shape], known to be zero."""
    if self.known is None:
      return uniform.flags(False, self.shape)
    zero = uniform.over(
      lambda known, number: known & (number == 0), self.known, self.value
    )
    return uniform.pressed(zero)

  @property
  def is_capped(self) -> np.ndarray:
    """bool[shape], surely below HUGE: numbers, or scores but for their mask."""
    capped = uniform.over(
      lambda maybe, capped: ~maybe | capped,
      self.is_maybe_low,
      self.flags('capped'),
    )
    return uniform.over(np.logical_or, capped, self.bounds[1] < HUGE)

  def sums(self, terms: 'Value') -> bool:
    """Whether it is the running sum of these."""
    return bool(self.run) and self.run[0] == 'cumsum' and self.run[1] is terms

  @property
  def is_faint(self) -> np.ndarray:
    """bool[shape]."""
    return self.flags('faint')


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
  known = uniform.flags(True, a.shape)
  return Value(a.shape, a.dtype, uniform.pressed(a), known)


def of_aval(aval: Any, **fields: Any) -> Value:
  """A Value of a variable's shape and dtype; without reads unless empty.

  What is computed from parameters alone is taken to be finite. Stand-ins are
  drawn afresh unless the numbers given are `exact`, polynomials of others.
  """
  exact = fields.pop('exact', False)
  shape, dtype = tuple(aval.shape), getattr(aval, 'dtype', None)
  for name in ('known', 'low', 'maybe', 'faint', 'capped'):
    given = fields.get(name)
    if given is not None:
      fields[name] = uniform.wide(given, shape) if uniform.some(given) else None
  if not uniform.some(fields.get('reads')):
    fields['reads'] = None
  lo, hi = fields.get('lo'), fields.get('hi')
  if lo is None and fields['reads'] is None and kind(dtype) in 'fc':
    fields['lo'], fields['hi'] = finite()
  elif lo is not None:
    fields['lo'], fields['hi'] = uniform.thin(lo), uniform.thin(hi)
    if kind(dtype) in 'fiub':
      _settle(shape, dtype, fields)
  if (
    fields.get('sampled')
    and not exact
    and not uniform.every(fields.get('known'))
  ):
    fields['value'] = stand_in(
      shape, dtype, fields.get('known'), fields.get('value')
    )
  elif fields.get('known') is None and not fields.get('sampled'):
    fields['value'] = None
  return Value(shape, dtype, **fields)


def _settle(shape: Any, dtype: Any, fields: dict) -> None:
  """An entry with equal bounds is known, and reads nothing."""
  lo, hi = fields['lo'], fields['hi']
  one = (lo == hi) & np.isfinite(lo)
  if not one.any():
    return
  known, value = fields.get('known'), fields.get('value')
  number = np.where(one, lo, 0).astype(dtype)
  if value is not None:
    fresh = one if known is None else one & ~uniform.thin(known)
    number = np.where(fresh, number, uniform.thin(value)).astype(dtype)
  if known is not None:
    one = one | uniform.thin(known)
  fields['known'] = uniform.wide(one, shape)
  fields['value'] = uniform.wide(number, shape)
  if fields.get('reads') is not None:
    fields['reads'] = sets.without(fields['reads'], one)
    if not uniform.some(fields['reads']):
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

  def draw() -> Any:
    numbers = _DRAW.random(shape, np.float32) * 2 - 1
    return numbers + np.copysign(np.float32(0.5), numbers)

  numbers = draw() + 1j * draw() if kind(dtype) == 'c' else draw()
  numbers = numbers.astype(dtype)
  return numbers if known is None else np.where(known, value, numbers)


def derived_of(values: Sequence[Value]) -> Any:
  """What arrays were made of."""
  return next((v.derived for v in values if v.derived is not None), None)


def doubt_of(values: Sequence[Value]) -> Doubt | None:
  """The first doubt."""
  return next((v.doubt for v in values if v.doubt is not None), None)


def join(aval: Any, values: Sequence[Value]) -> Value:
  """What holds of an array that is one of several."""
  reads = sets.union([v.reads for v in values], aval.shape)
  fields: dict[str, Any] = {'reads': reads}
  if all(v.known is not None for v in values):
    first = values[0]
    known = first.is_known
    for v in values[1:]:
      same = uniform.over(np.equal, v.value, first.value)
      known = uniform.over(np.logical_and, known, v.is_known)
      known = uniform.over(np.logical_and, known, same)
    fields |= {'known': known, 'value': first.value}
  both = lambda op, each: functools.reduce(
    lambda a, b: uniform.over(op, a, b), each
  )
  fields['low'] = both(np.logical_and, [v.is_low for v in values])
  fields['maybe'] = both(np.logical_or, [v.is_maybe_low for v in values])
  fields['faint'] = both(np.logical_or, [v.is_faint for v in values])
  fields['capped'] = both(np.logical_and, [v.is_capped for v in values])
  fields['scale'] = min(v.scale for v in values)
  fields['doubt'] = doubt_of(values)
  fields['derived'] = derived_of(values)
  fields['selects'] = any(v.selects for v in values)
  least, most = zip(*(v.bounds for v in values), strict=True)
  fields['lo'] = both(np.minimum, least)
  fields['hi'] = both(np.maximum, most)
  return of_aval(aval, **fields)
