"""What is known of the entries of an array before any number is computed.

Facts are arrays that broadcast to the array they are of: an axis along which a
fact is the same has length 1, so that a fact about a [L, 512] array of features
costs L numbers. Everything here is NumPy.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from parallel_ar.program import uniform

NEVER = np.int32(1 << 29)  # a due time: no output needs the entry
UNKNOWN = NEVER  # a ready time: the operation has no rule
HUGE = 1e8  # a score of -HUGE or less is masked: its exponential is zero


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
  """Facts of one array, each broadcastable to its shape, or None.

  Attributes:
    ready: int32, the first step at which the entry can be computed: 1 + the
      last step at which a value becomes known that it may read, 0 where it
      reads none. None where no entry reads any value.
    zero: bool, the entry is zero (False) whatever the values are.
    true: bool, the entry is true (not zero).
    low: bool, the entry is a masked score, below -HUGE.
  """

  ready: Any = None
  zero: Any = None
  true: Any = None
  low: Any = None

  @property
  def unknown(self) -> bool:
    """Whether some entry has no known ready time."""
    return self.ready is not None and bool((self.ready >= UNKNOWN).any())


def thin(a: np.ndarray) -> np.ndarray:
  """The array with every axis along which it is the same cut to length 1."""
  return uniform.thin(uniform.pressed(a))


def some(flags: Any) -> Any:
  """Flags, or None where none is set."""
  return flags if flags is not None and flags.any() else None


def of_constant(value: Any) -> Facts:
  """Facts of a known array."""
  try:
    a = np.asarray(value)
    if a.dtype.kind == 'V':
      a = a.astype(np.float32)
    zero = a == 0
  except TypeError:  # a random key
    return Facts()
  low = None
  if a.dtype.kind in 'fi':
    with np.errstate(invalid='ignore'):
      low = some(thin(a <= -HUGE))
  return Facts(None, some(thin(zero)), some(thin(~zero)), low)


def _all_of(join: np.ufunc, arrays: Iterable[Any]) -> Any:
  there = [a for a in arrays if a is not None]
  return functools.reduce(join, there) if there else None


def most(arrays: Iterable[Any]) -> Any:
  """The maximum of those that are there."""
  return _all_of(np.maximum, arrays)


def least(arrays: Iterable[Any]) -> Any:
  """The minimum of those that are there."""
  return _all_of(np.minimum, arrays)


def every(flags: Sequence[Any]) -> Any:
  """Where all flags are set; None is nowhere."""
  if any(f is None for f in flags):
    return None
  return some(functools.reduce(np.logical_and, flags))


def either(flags: Sequence[Any]) -> Any:
  """Where any flag is set; None is nowhere."""
  return most(flags)


def unless(skip: Any, a: Any, other: Any) -> Any:
  """`a`, but `other` where `skip` says so."""
  if a is None or skip is None:
    return a
  return np.where(skip, np.int32(other), a)


def fit(due: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """Due times of an operand that was broadcast along axes of length 1."""
  if not shape:
    return np.asarray(due.min(initial=NEVER))
  axes = tuple(a for a, n in enumerate(shape) if n == 1 and due.shape[a] > 1)
  return due.min(axes, keepdims=True) if axes else due


def groups(
  a: Sequence[int], b: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
  """Axes of two shapes of one size, in groups that a reshape keeps apart."""
  out, i, j = [], 0, 0
  while i < len(a) or j < len(b):
    left, right, m, n = [], [], 1, 1
    if i < len(a):
      left, m, i = [i], a[i], i + 1
    if j < len(b):
      right, n, j = [j], b[j], j + 1
    while m != n:
      if m < n:
        left.append(i)
        m, i = m * a[i], i + 1
      else:
        right.append(j)
        n, j = n * b[j], j + 1
    out.append((left, right))
  return out


def reshaped(
  a: np.ndarray, before: Sequence[int], after: Sequence[int]
) -> np.ndarray:
  """A fact of an array of shape `before` that is reshaped to `after`."""
  wide, shape = list(a.shape), []
  for left, right in groups(before, after):
    if all(a.shape[n] == 1 for n in left):
      shape += [1] * len(right)
    else:
      for n in left:
        wide[n] = before[n]
      shape += [after[n] for n in right]
  return np.broadcast_to(a, wide).reshape(shape)
