"""What is known of an array before any number is computed.

Every entry of an array is one of

  known     the same number for all inputs and parameters (masks, zeros, iota)
  free      a number of the parameters alone
  reading   a number that may depend on some positions of the input

and entries that read carry two sets of positions: all that they MAY read, which
is sound, and those of them that they read FIRMLY, by an operation whose result
depends on every operand in general. A set that may be read, but not firmly,
comes from an operation that reads one of many places and does not say which.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

MAY, FIRM = 0, 1
HUGE = 1e8  # a score of -HUGE or less is masked: its exponential is zero


class UnknownForm(Exception):
  """A rule meets a form of its primitive that it does not cover.

  The result is then taken to read everything, which is sound.
  """


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
  """One array of the program.

  Attributes:
    shape: of the array.
    dtype: of the array.
    value: its numbers where they are known, and everywhere where `sampled`.
    known: bool[shape], entries whose numbers are the same for all parameters.
    reads: bool[2, B, *shape], see the module; None where nothing is read.
    low: bool[shape], entries that lie below -HUGE whatever they read.
    sampled: the array reads nothing, and `value` is complete: what it is
      under random parameters.
    linear: the array as a linear map, see `spectral`.
  """

  shape: tuple[int, ...]
  dtype: Any
  value: np.ndarray | None = None
  known: np.ndarray | None = None
  reads: np.ndarray | None = None
  low: np.ndarray | None = None
  sampled: bool = False
  linear: Any = None

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
    """Whether there is a number for every entry, known or sampled."""
    return self.sampled or self.constant

  def is_known(self) -> np.ndarray:
    """bool[shape]."""
    return np.zeros(self.shape, bool) if self.known is None else self.known

  def is_low(self) -> np.ndarray:
    """bool[shape], below -HUGE, known or not."""
    low = np.zeros(self.shape, bool) if self.low is None else self.low
    if self.known is None or not np.issubdtype(self.dtype, np.floating):
      return low
    return low | (self.known & (np.asarray(self.value) <= -HUGE))

  def nonzero(self) -> np.ndarray:
    """float32[shape], 0 where the entry is known to be zero, else 1."""
    if self.known is None:
      return np.ones(self.shape, np.float32)
    return (~(self.known & (self.value == 0))).astype(np.float32)


def of_constant(a: Any) -> Value:
  """A known array."""
  a = np.asarray(a)
  return Value(a.shape, a.dtype, a, np.ones(a.shape, bool))


def of_aval(aval: Any, **fields: Any) -> Value:
  """A Value of a variable's shape and dtype; without reads unless empty."""
  known, reads = fields.get('known'), fields.get('reads')
  if known is not None and not known.any():
    fields['known'] = None
  if reads is not None and not reads.any():
    fields['reads'] = None
  if fields.get('known') is None and not fields.get('sampled'):
    fields['value'] = None
  low = fields.get('low')
  if low is not None and not low.any():
    fields['low'] = None
  shape = tuple(aval.shape)
  return Value(shape, getattr(aval, 'dtype', None), **fields)


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
  fields['sampled'] = all(v.numeric for v in operands)
  if fields['sampled'] or any(v.known is not None for v in operands):
    known = [np.zeros(1, bool)] + [v.is_known().reshape(-1) for v in operands]
    fields['known'] = np.concatenate(known)[where]
    rows = [np.zeros(1, aval.dtype)]
    for v in operands:
      value = np.zeros(v.size, aval.dtype) if v.value is None else v.value
      rows.append(np.asarray(value).reshape(-1).astype(aval.dtype))
    fields['value'] = np.concatenate(rows)[where]
  if any(v.low is not None for v in operands):
    low = [np.zeros(1, bool)]
    for v in operands:
      low.append(
        (np.zeros(v.size, bool) if v.low is None else v.low).reshape(-1)
      )
    fields['low'] = np.concatenate(low)[where]
  return of_aval(aval, **fields)


def union(tracks: Sequence[np.ndarray | None], shape: Any) -> np.ndarray | None:
  """The union of sets, each broadcast to `shape`."""
  out = None
  for reads in tracks:
    if reads is None:
      continue
    lead, own = reads.shape[:2], reads.shape[2:]
    ones = (1,) * (len(shape) - len(own))
    reads = reads.reshape(*lead, *ones, *own)
    reads = np.broadcast_to(reads, (*lead, *shape))
    out = reads if out is None else out | reads
  return out


def join(aval: Any, values: Sequence[Value]) -> Value:
  """What holds of an array that is one of several."""
  reads = union([v.reads for v in values], aval.shape)
  fields: dict[str, Any] = {'reads': reads}
  if all(v.known is not None for v in values):
    first = values[0]
    known = first.is_known().copy()
    for v in values[1:]:
      known &= v.is_known() & (v.value == first.value)
    fields |= {'known': known, 'value': first.value if known.any() else None}
  fields['low'] = np.logical_and.reduce([v.is_low() for v in values])
  return of_aval(aval, **fields)


def spread(values: Sequence[Value], firm: bool) -> np.ndarray | None:
  """What any entry of any of the arrays reads: bool[2, B] or None."""
  out: Any = None
  for v in values:
    if v.reads is not None:
      flat = v.reads.reshape(*v.reads.shape[:2], -1).any(-1)
      out = flat if out is None else out | flat
  if out is not None and not firm:
    out = np.stack([out[MAY], np.zeros_like(out[FIRM])])
  return out


def everywhere(sets: np.ndarray | None, shape: Any) -> np.ndarray | None:
  """The sets bool[2, B] at every entry of an array."""
  if sets is None:
    return None
  lead = sets.reshape(*sets.shape, *(1,) * len(shape))
  return np.broadcast_to(lead, (*sets.shape, *shape))
