"""Arrays that are the same along an axis have one entry there.

What is known of an array of features is mostly the same for all of them. Such
an axis is broadcast, with stride 0: the shape is whole for who does not care,
and the functions here compute one entry.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def thin(a: Any) -> np.ndarray:
  """The array, with every axis that is broadcast cut to length 1."""
  a = np.asarray(a)
  if 0 not in a.strides:
    return a
  sides = zip(a.strides, a.shape, strict=True)
  return a[tuple(_FIRST if s == 0 and n > 1 else _ALL for s, n in sides)]


_FIRST, _SECOND, _ALL = slice(0, 1), slice(1, 2), slice(None)


def wide(a: Any, shape: Sequence[int]) -> np.ndarray:
  """The array, broadcast to a shape."""
  a, shape = np.asarray(a), tuple(shape)
  return a if a.shape == shape else np.broadcast_to(a, shape)


@functools.lru_cache(maxsize=4096)
def flags(truth: bool, shape: tuple[int, ...]) -> np.ndarray:
  """bool[shape], the same everywhere."""
  return np.broadcast_to(np.bool_(truth), shape)


def pressed(a: Any, lead: int = 0) -> np.ndarray:
  """The array; axes from `lead` on along which it is the same are broadcast."""
  a = np.asarray(a)
  small = thin(a)
  for axis in range(lead, a.ndim):
    if small.shape[axis] > 1:
      before = (_ALL,) * axis
      first = small[(*before, _FIRST)]
      if _same(small[(*before, _SECOND)], first) and _same(small, first):
        small = first
  return wide(small, a.shape)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
  equal = a == b
  if a.dtype.kind in 'fc' and not equal.all():
    equal = equal | ((a != a) & (b != b))
  return bool(equal.all())


def over(op: Callable[..., Any], *arrays: Any) -> np.ndarray:
  """A function of the entries of arrays that are broadcast to one another."""
  shapes = set(map(np.shape, arrays))
  shape = shapes.pop() if len(shapes) == 1 else np.broadcast_shapes(*shapes)
  return wide(op(*map(thin, arrays)), shape)


def reduced(op: Any, a: Any, axes: Any, keepdims: bool = False) -> np.ndarray:
  """A reduction over axes in which an entry counts once, however often."""
  axes = (axes,) if isinstance(axes, int) else tuple(axes)
  axes = tuple(axis % a.ndim for axis in axes)
  small = op.reduce(thin(a), axis=axes, keepdims=True)
  kept = [1 if n in axes else size for n, size in enumerate(a.shape)]
  out = wide(small, kept)
  return out if keepdims else out.squeeze(axes)


def total(a: np.ndarray, axes: Sequence[int]) -> np.ndarray:
  """A sum over axes."""
  small = thin(a)
  times = math.prod(a.shape[n] // small.shape[n] for n in axes if small.size)
  kept = [size for n, size in enumerate(a.shape) if n not in axes]
  return wide(small.sum(tuple(axes)) * times, kept)


def some(a: Any) -> bool:
  """Whether any entry is set."""
  return a is not None and bool(thin(a).any())


def every(a: Any) -> bool:
  """Whether all entries are set."""
  return a is not None and bool(thin(a).all())
