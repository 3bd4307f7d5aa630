"""Which entries of an array a class of steps touches.

A class is a number of steps that run one program, with tables in place of
numbers: at step k, `Index.table[k]` are the places along one axis. A cut is one
`Index` an axis, or None for the whole axis.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Cut = tuple[Any, ...]  # an Index or None for each axis
Border = tuple[tuple[int, int], ...]
_WASTE = 2.0  # how much longer a run without gaps may be than the places
_SHARE = 0.25  # of an axis, from which on all of it may be made


class Index:
  """Places along one axis, int32[K, m]; equal ones are one object."""

  def __init__(self, table: np.ndarray):
    """Makes it; `Indices` hands them out."""
    self.table = table
    steps = table - table[:, :1]
    self.run = bool((steps == np.arange(table.shape[1])).all())

  @property
  def size(self) -> int:
    """Places at a step."""
    return int(self.table.shape[1])

  def start(self, k: Any) -> Any:
    """The first place at step k."""
    row, column, per = stepped(k)
    first = self.table[:, 0].astype(np.int64).reshape(-1, per)
    rise, slope = (
      int(d[:1].sum()) for d in (np.diff(first[:, 0]), np.diff(first[0]))
    )
    line = np.arange(len(first))[:, None] * rise + np.arange(per) * slope
    if not (first == line + first[0, 0]).all():
      return entry(self.table[:, 0], k)
    at = int(first[0, 0])
    at = at + row * rise if rise else at
    return at + column * slope if slope else at

  def at(self, k: Any) -> Any:
    """All places at step k."""
    return entry(self.table, k)


class Step(NamedTuple):
  """Step `row * per + column` of a class whose steps come in rows."""

  row: Any
  column: Any
  per: int


def stepped(k: Any) -> Step:
  """A step of any class."""
  return k if isinstance(k, Step) else Step(k, 0, 1)


def entry(table: np.ndarray, k: Any) -> Any:
  """Entry k of a table; of a short one where all rows of it are alike."""
  row, column, per = stepped(k)
  grid = table.reshape(-1, per, *table.shape[1:])
  if (grid == grid[:1]).all():
    table, k = grid[0], column
  elif (grid == grid[:, :1]).all():
    table, k = grid[:, 0], row
  else:
    k = row * per + column
  if len(table) == 1:
    return jnp.asarray(table[0])
  return jax.lax.dynamic_index_in_dim(
    jnp.asarray(table), k, 0, keepdims=False, allow_negative_indices=False
  )


class Indices:
  """The tables of one class of K steps."""

  def __init__(self, steps: int, per: int = 0):
    """Makes an empty set of tables, of steps in rows of `per`; 0 is one row."""
    self.steps, self.per = steps, per or steps
    self._known: dict[Any, Index] = {}

  def of(self, table: np.ndarray, size: int | None) -> Index | None:
    """The Index of a table [K, m] of an axis; None where it is all of it."""
    table = np.ascontiguousarray(
      np.broadcast_to(table, (self.steps, table.shape[-1])), np.int32
    )
    whole = np.arange(table.shape[1])
    if table.shape[1] == size and (table == whole).all():
      return None
    key = table.shape, table.tobytes()
    return self._known.setdefault(key, Index(table))

  def covering(self, present: np.ndarray) -> Index | None:
    """The Index of places bool[K, n]; every step gets the same number."""
    n = present.shape[1]
    filled = np.asarray(present.any(1))
    present = present[self._nearest(filled)]
    counts = present.sum(1)
    first = present.argmax(1)
    last = n - 1 - present[:, ::-1].argmax(1)
    longest, widest = int(counts.max()), int((last - first).max()) + 1
    if widest <= max(_WASTE * longest, 1):
      start = np.minimum(first, n - widest)
      return self.of(start[:, None] + np.arange(widest), n)
    table = np.argsort(~present, axis=1, kind='stable')[:, :longest]
    reach = np.minimum(np.arange(longest), counts[:, None] - 1)
    return self.of(np.take_along_axis(table, reach, 1), n)

  def moving(self, present: np.ndarray) -> Index | None:
    """A run of places that moves on evenly, None where it cannot.

    From its first use to its last each of the places bool[K, n] is in it.
    """
    n = present.shape[1]
    there = present.any(1)
    first = np.where(there, present.argmax(1), n)
    last = np.where(there, n - 1 - present[:, ::-1].argmax(1), -1)
    first = np.minimum.accumulate(first[::-1])[::-1]
    last = np.maximum.accumulate(last)
    moved = int(np.median(np.diff(first))) * np.arange(self.steps)
    start = (first - moved).min() + moved
    size = int((last - start).max()) + 1
    if not moved.any() or size >= n:
      return None
    return self.of(start[:, None] + np.arange(size), None)

  def _nearest(self, filled: np.ndarray) -> np.ndarray:
    """For steps at which nothing is due, those whose places they repeat.

    That is the one before, or the next, of their own row, else of any.
    """
    found = np.where(filled, np.arange(len(filled)), -1)
    for per in (self.per, len(filled)):
      rows = np.maximum.accumulate(found.reshape(-1, per), 1)
      first = rows[np.arange(len(rows)), (rows >= 0).argmax(1)]
      found = np.where(rows < 0, first[:, None], rows).reshape(-1)
    return found

  def due(
    self, due: np.ndarray, shape: Sequence[int], low: Any, high: Any
  ) -> Cut | None:
    """What of an array is due at steps [low[k], high[k]); None is nothing."""
    if not active(due, low, high).any():
      return None
    cut: list[Any] = [None] * len(shape)
    places = [a for a, n in enumerate(due.shape) if n > 1]
    top = int(high.max())
    flat = np.minimum(due, top).reshape(-1)
    for axis in places:
      present = np.zeros((top + 1, due.shape[axis]), bool)
      others = due.size // due.shape[axis]
      inner = int(np.prod(due.shape[axis + 1 :]))
      where = np.arange(due.size) // inner % due.shape[axis] if others else 0
      present[flat, where] = True
      present[top] = False
      if (high - low == 1).all():
        cut[axis] = self.covering(present[low])
        continue
      sums = np.concatenate(
        [np.zeros((1, due.shape[axis]), int), present.cumsum(0)]
      )
      cut[axis] = self.covering(sums[high] > sums[low])
    return tuple(cut)

  def places(self, index: Index | None, size: int) -> np.ndarray:
    """Places [K, m] along an axis."""
    if index is not None:
      return index.table
    return np.broadcast_to(np.arange(size, dtype=np.int32), (self.steps, size))

  def along(
    self, cut: Cut | None, shape: Sequence[int], axis: int
  ) -> Cut | None:
    """The cut with all of an axis, if a good share of it recurs in each row."""
    if cut is None or axis >= len(cut) or (index := cut[axis]) is None:
      return cut
    rows = index.table.reshape(-1, self.per, index.size)
    if index.size < _SHARE * shape[axis] or (rows != rows[:1]).any():
      return cut
    return (*cut[:axis], None, *cut[axis + 1 :])

  def numbers(self, cut: Sequence[Any], dims: Sequence[int]) -> np.ndarray:
    """The entries of a box in row-major order of `dims`, int[K, M]."""
    flat = np.zeros((self.steps, 1), np.int64)
    for index, n in zip(cut, dims, strict=True):
      table = self.places(index, n)
      flat = (flat[:, :, None] * n + table[:, None]).reshape(self.steps, -1)
    return flat

  def positions(self, index: Index | None, size: int) -> np.ndarray:
    """Where each place of an axis stands among the places, int[K, size]."""
    table = self.places(index, size)
    found = np.zeros((self.steps, size), np.int64)
    rows = np.arange(self.steps)[:, None]
    # The first of equal places: later assignments win.
    found[rows, table[:, ::-1]] = np.arange(table.shape[1])[::-1]
    return found

  def project(
    self, flat: np.ndarray, dims: Sequence[int]
  ) -> tuple[list[Any], np.ndarray | None]:
    """A box that covers entries of an array of shape `dims`.

    Args:
      flat: int[K, M], their numbers in row-major order.
      dims: the shape.

    Returns:
      An Index an axis, and where in the box the entries are, int[K, M]; None
      where the box is exactly them, in order.
    """
    axes: list[Any] = []
    where = np.zeros_like(flat)
    rows = np.arange(self.steps)[:, None]
    for axis, n in enumerate(dims):
      inner = int(np.prod(dims[axis + 1 :]))
      at = flat // inner % n
      present = np.zeros((self.steps, n), bool)
      present[rows, at] = True
      index = self.covering(present)
      size = n if index is None else index.size
      where = where * size + self.positions(index, n)[rows, at]
      axes.append(index)
    box = int(np.prod(sizes(tuple(axes), tuple(dims))))
    if flat.shape[1] == box and (where == np.arange(box)).all():
      return axes, None
    return axes, where


def active(due: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  """bool[K], whether anything is due at steps [low[k], high[k])."""
  top = int(high.max())
  counts = np.bincount(np.minimum(due, top).reshape(-1), minlength=top + 1)
  counts[top] = 0
  sums = np.append(0, counts.cumsum())
  return np.asarray(sums[high] > sums[low])


def sizes(cut: Cut, shape: Sequence[int]) -> tuple[int, ...]:
  """Shape of what a cut of an array of this shape holds."""
  return tuple(
    n if i is None else i.size for i, n in zip(cut, shape, strict=True)
  )


def border(shape: Sequence[int], cuts: Iterable[Cut]) -> Border:
  """How far cuts reach over the ends of an array."""
  found = [(0, 0)] * len(shape)
  for cut in cuts:
    for axis, index in enumerate(cut):
      if index is not None:
        low, high = found[axis]
        low = max(low, -int(index.table.min()))
        high = max(high, int(index.table.max()) - shape[axis] + 1)
        found[axis] = low, high
  return tuple(found)


def update(a: Any, value: Any, starts: Sequence[Any]) -> Any:
  """An array with the part that begins at `starts` replaced."""
  return _update(a, value, *(jnp.int32(s) for s in starts))


# JAX maps a dynamic slice to a gather and an update to a scatter, even where
# all examples are at the same place; here they stay what they are. Tangents,
# which custom_vmap cannot transpose, take JAX's way.


@functools.cache
def _slice(sizes: tuple[int, ...]) -> Any:
  """A part of an array: (a, *starts) -> the part of these sizes."""

  def plain(a: Any, *starts: Any) -> Any:
    return jax.lax.dynamic_slice(a, starts, sizes, allow_negative_indices=False)

  mapped = jax.custom_batching.custom_vmap(plain)
  cut = jax.custom_jvp(mapped)

  @mapped.def_vmap
  def _(count: int, mapped: list[bool], a: Any, *starts: Any) -> Any:
    if any(mapped[1:]):
      axes = [0 if m else None for m in mapped]
      return jax.vmap(plain, axes)(a, *starts), True
    if not mapped[0]:
      return cut(a, *starts), False
    return _slice((count, *sizes))(a, jnp.int32(0), *starts), True

  @cut.defjvp
  def _(primals: Any, tangents: Any) -> Any:
    return cut(*primals), plain(tangents[0], *primals[1:])

  return cut


def _replaced(a: Any, value: Any, *starts: Any) -> Any:
  return jax.lax.dynamic_update_slice(
    a, value, starts, allow_negative_indices=False
  )


_mapped = jax.custom_batching.custom_vmap(_replaced)
_update = jax.custom_jvp(_mapped)  # an array with a part replaced


@_mapped.def_vmap
def _(count: int, mapped: list[bool], a: Any, value: Any, *starts: Any) -> Any:
  if any(mapped[2:]):
    axes = [0 if m else None for m in mapped]
    return jax.vmap(_replaced, axes)(a, value, *starts), True
  a, value = (
    v if m else jnp.broadcast_to(v, (count, *v.shape))
    for v, m in zip((a, value), mapped[:2], strict=True)
  )
  return _update(a, value, jnp.int32(0), *starts), True


@_update.defjvp
def _(primals: Any, tangents: Any) -> Any:
  return _update(*primals), _replaced(*tangents[:2], *primals[2:])


def read(
  a: Any, cut: Cut, k: Any, border: Sequence[tuple[int, int]] | None = None
) -> Any:
  """The entries of a cut at step k; zeros where it reaches over the border.

  Args:
    a: the array, with `border` zeros before and after each axis.
    cut: what is read.
    k: the step.
    border: of the array; none by default.

  Returns:
    An array of the sizes of the cut.
  """
  edge = border or [(0, 0)] * a.ndim
  dims = [n - lo - hi for n, (lo, hi) in zip(a.shape, edge, strict=True)]
  wider = [(0, 0)] * a.ndim
  for axis, index in enumerate(cut):
    if index is not None:
      lo, hi = edge[axis]
      short = -int(index.table.min()) - lo
      over = int(index.table.max()) - (dims[axis] - 1) - hi
      wider[axis] = max(short, 0), max(over, 0)
  if any(w != (0, 0) for w in wider):
    a = jnp.pad(a, wider)
    edge = [(l + w, h + v) for (l, h), (w, v) in zip(edge, wider, strict=True)]
  starts, lengths = [], []
  for axis, index in enumerate(cut):
    lo, _ = edge[axis]
    if index is None:
      starts.append(lo)
      lengths.append(dims[axis])
    elif index.run:
      starts.append(index.start(k) + lo)
      lengths.append(index.size)
    else:
      starts.append(0)
      lengths.append(a.shape[axis])
  if tuple(lengths) != a.shape:
    if all(isinstance(s, int) for s in starts):
      ends = [s + n for s, n in zip(starts, lengths, strict=True)]
      a = jax.lax.slice(a, starts, ends)
    else:
      a = _slice(tuple(lengths))(a, *(jnp.int32(s) for s in starts))
  for axis, index in enumerate(cut):
    if index is not None and not index.run:
      a = jnp.take(a, index.at(k) + edge[axis][0], axis, mode='clip')
  return a


def write(
  a: Any, value: Any, cut: Cut, k: Any, border: Sequence[tuple[int, int]]
) -> Any:
  """The array with the entries of a cut replaced."""
  value = value.astype(a.dtype)
  if all(i is None or i.run for i in cut):
    starts = [
      jnp.int32(lo if i is None else i.start(k) + lo)
      for i, (lo, _) in zip(cut, border, strict=True)
    ]
    return update(a, value, starts)
  at = []
  for axis, (index, (lo, hi)) in enumerate(zip(cut, border, strict=True)):
    n = a.shape[axis] - lo - hi
    places = jnp.arange(n) if index is None else index.at(k)
    at.append((places + lo).reshape([-1] + [1] * (a.ndim - axis - 1)))
  return a.at[tuple(at)].set(value)
