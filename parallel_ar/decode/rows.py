"""The derived path by blocks: what a row can have at once, and what it cannot.

When a row begins, the row before it is known: what later rows read of it is
computed in one go (`closing`), and then what can be had of the new row before
its first slot (`opening`). A slot computes the rest, in windows of the kept
arrays that hold what the row reads and makes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.decode import cuts as cutting
from parallel_ar.decode.cuts import Cut, Index, Indices, Step
from parallel_ar.decode.plan import Class
from parallel_ar.decode.record import Blocks
from parallel_ar.decode.run import Run
from parallel_ar.decode.schedule import Schedule
from parallel_ar.program.trace import Array
from parallel_ar.types import Context, Dist, Params


def size_of(slots: np.ndarray, shape: tuple[int, ...]) -> int:
  """Slots of a row of an event drawn row by row, or column by column; or 0."""
  if len(shape) < 2 or slots.size == 1:
    return 0
  order = slots.reshape(-1)
  by_rows = np.arange(order.size)
  by_columns = by_rows.reshape(shape[0], -1).T.reshape(-1)
  for wanted, size in (
    (by_rows, order.size // shape[0]),
    (by_columns, shape[0]),
  ):
    if (order == wanted).all() and 1 < size < order.size:
      return size
  return 0


class Rows:
  """The programs of a path by blocks."""

  def __init__(self, derived: Any, size: int):
    """Plans them.

    Args:
      derived: the path by slots, a `derive.Derived`.
      size: slots of a block.
    """
    self.derived, self.size = derived, size
    self.count = derived.num // size
    ready = derived.ready
    self.schedule = Schedule(ready, derived.due, block=size)
    k, b = np.arange(derived.num), np.arange(self.count)
    begins = 2 * size * b
    self.slot = Class(self.schedule, 2 * k + 1, 2 * k + 2, size)
    self.row = Class(self.schedule, begins + 1, begins + 2 * size, 1)
    self.opening = Class(self.schedule, begins, begins + 1, 1)
    last = begins[np.maximum(b - 1, 0)]
    self.closing = Class(self.schedule, last + 1, last + 2 * size, 1)
    of_rows = b[:, None] * size + np.arange(size)
    at_slot = self._box(self.slot, k[:, None])
    at_row = self._box(self.row, of_rows)
    self.slot_leaves = derived.leaves(self.slot, at_slot)
    self.row_leaves = derived.leaves(self.row, at_row)
    before = np.where(k % size == 0, k, k - 1)
    # Values: of a slot before, of a row, and of the row before.
    ends = (None,) * (len(derived.x.shape) - derived.model.rank.ndim)
    self.previous = (*self._box(self.slot, before[:, None]), *ends)
    self.own = (*at_row, *ends)
    closed = of_rows[np.maximum(b - 1, 0)]
    self.last = (*self._box(self.closing, closed), *ends)
    self._keep()
    self._places = {
      plan: self._at(plan, self.windows)
      for plan in (self.slot, self.row, self.opening)
    }
    self._outer = {
      plan: self._at(plan, self.frames) for plan in (self.opening, self.closing)
    }

  def _box(self, plan: Class, k: np.ndarray) -> list[Any]:
    shape = self.derived.model.rank.shape
    axes, where = plan.project(self.derived.slots[k], shape)
    assert where is None, 'rows are boxes'
    return axes

  def _keep(self) -> None:
    """What is kept between blocks, and the windows of it that a block uses."""
    x = self.derived.x
    outer = [self.opening, self.closing]
    needs, every = self._uses(self.slot, self.row), self._uses(*outer)
    needs.setdefault(x, []).append((self.slot, self.previous))
    needs[x].append((self.row, self.own))
    every.setdefault(x, []).append((self.closing, self.last))
    self.borders = {
      v: cutting.border(v.shape, [c for _, c in (*every.get(v, ()), *some)])
      for v, some in {**dict.fromkeys(every, ()), **needs}.items()
    }
    self.indices = Indices(self.count)
    self.windows = {v: self._window(v, some) for v, some in needs.items()}
    kept = {x, *self.opening.kept, *(v for v in needs if self._older(v))}
    while True:  # what a row closes with may read what must be kept for it
      self.to_close = self.closing.live(kept)
      read = {v for i in self.to_close for v in self.closing.reads(i)}
      more = read & set(self.closing.kept) - kept
      if not more:
        break
      kept |= more
    self.kept = [v for v in self.borders if v in kept]
    self.frames = {v: self._frame(v, every.get(v, [])) for v in self.kept}
    self.layouts = {
      v: a
      for plan in (self.slot, self.row, *outer)
      for v, a in plan.layouts.items()
      if v is not x
    }
    ours = {v for i in self.slot.instructions for v in i.op.outputs} | {x}
    self.inner = [v for v in needs if v in ours]
    self.shared = [v for v in needs if v not in ours]
    for plan in outer:
      plan.also.update((*self.kept, *self.windows))
    once = self.derived.ready.once
    constant = [
      v for plan in (self.slot, self.row, *outer) for v in plan.reads_once(once)
    ]
    self.fixed = list(dict.fromkeys(constant))

  def _uses(self, *plans: Class) -> dict[Array, list[tuple[Class, Cut]]]:
    """What is read, of what others have kept, and what is made of that."""
    found: dict[Array, list[tuple[Class, Cut]]] = {}
    for plan in plans:
      for v, cuts in plan.kept.items():
        found.setdefault(v, []).extend((plan, cut) for cut in cuts)
    for plan in plans:
      for i in plan.instructions:
        for v, made in zip(i.op.outputs, i.made, strict=True):
          if v in found and made is not None:
            found[v].append((plan, made))
    return found

  def _present(
    self, v: Array, axis: int, uses: list[tuple[Class, Cut]]
  ) -> np.ndarray:
    """Which places of an axis each block uses, borders counted."""
    low, high = self.borders[v][axis]
    n = v.shape[axis]
    present = np.zeros((self.count, low + n + high), bool)
    for plan, cut in uses:
      places = plan.places(cut[axis], n) + low
      b = np.repeat(np.arange(self.count), plan.steps // self.count)[:, None]
      first = plan is self.closing  # before the first block there is none
      present[b[first:], places[first:]] = True
    return present

  def _window(self, v: Array, uses: list[tuple[Class, Cut]]) -> Cut:
    """The places of an array that the slots of a block use."""
    axes = range(len(v.shape))
    return tuple(self.indices.covering(self._present(v, n, uses)) for n in axes)

  def _frame(self, v: Array, uses: list[tuple[Class, Cut]]) -> Cut:
    """The places of an array that are kept as a block begins."""
    if self.derived.ready.facts(v).low is not None:
      return (None,) * len(v.shape)  # zeros are no blank for it
    cut: list[Any] = []
    for axis, index in enumerate(self.windows.get(v, (None,) * len(v.shape))):
      present = self._present(v, axis, uses)
      if v in self.windows:
        places = self.indices.places(index, present.shape[1])
        present[np.arange(self.count)[:, None], places] = True
      cut.append(self.indices.moving(present))
    return tuple(cut)

  def _older(self, v: Array) -> bool:
    """Whether a window holds what was computed before its block began."""
    due = self.schedule.of(v)
    if v is self.derived.x:
      return True
    if due is None:
      return False
    due = np.broadcast_to(due, v.shape)
    for b in range(self.count):
      part = due
      for axis, (index, (low, _)) in enumerate(
        zip(self.windows[v], self.borders[v], strict=True)
      ):
        if index is not None:
          at = index.table[b] - low
          part = part.take(at[(at >= 0) & (at < v.shape[axis])], axis)
      if (part < 2 * self.size * b).any():
        return True
    return False

  def _at(self, plan: Class, kept: Mapping[Array, Cut]) -> Any:
    """From places in an array to places in its window, or its frame."""
    known: dict[Any, Any] = {}
    b = np.repeat(np.arange(self.count), plan.steps // self.count)

    def place(v: Array, cut: Cut) -> Cut:
      found: list[Any] = []
      for axis, index in enumerate(cut):
        own, n = kept[v][axis], v.shape[axis]
        low, high = self.borders[v][axis]
        key = id(index), id(own), n, low
        if key not in known:
          whole = low + n + high
          places = plan.places(index, n) + low
          table = self._inside(own, whole, b, places)
          if plan is self.closing:  # before the first block: as before others
            table[0] = table[1]
          size = whole if own is None else own.size
          known[key] = plan.of(table, size), index
        found.append(known[key][0])
      return tuple(found)

    return place

  def _inside(
    self, index: Index | None, size: int, b: np.ndarray, places: np.ndarray
  ) -> np.ndarray:
    """Where places int[K, m] stand among those of an axis at blocks int[K]."""
    if index is not None and index.run:
      return places - index.table[b, :1]
    return self.indices.positions(index, size)[b[:, None], places]

  def _open(self, v: Array, run: Run, b: Any) -> Any:
    """The window of an array as a block begins."""
    axes = self.layouts.get(v, tuple(range(len(v.shape))))
    edges = zip(v.shape, self.borders[v], strict=True)
    dims = [low + n + high for n, (low, high) in edges]
    if v in run.kept:
      held: list[Any] = []
      every = np.arange(self.count)
      for n in axes:
        frame, window = self.frames[v][n], self.windows[v][n]
        places = self.indices.places(window, dims[n])
        size = dims[n] if frame is None else frame.size
        inside = self._inside(frame, dims[n], every, places)
        held.append(self.indices.of(inside, size))
      return cutting.read(run.kept[v], tuple(held), b)
    shape = cutting.sizes(self.windows[v], dims)
    a = jnp.zeros([shape[n] for n in axes], v.dtype)
    if (made := run.made(v)) is None:
      return a
    (cut, value), none = made, [(0, 0)] * len(axes)
    value = value.transpose(axes)
    if (at := self._strays(v, cut)) is not None:
      spots = jnp.ix_(*(cutting.entry(at[n], b) for n in axes))
      return a.at[spots].set(value, mode='drop')
    own = self._places[self.opening](v, cut)
    return cutting.write(a, value, tuple(own[n] for n in axes), b, none)

  def _strays(self, v: Array, cut: Cut) -> list[np.ndarray] | None:
    """Where what opening makes stands in a window; its size means nowhere.

    A block whose entries are zeros repeats places of another. None without one.
    """
    found, stray = [], False
    for index, window, n, (low, high) in zip(
      cut, self.windows[v], v.shape, self.borders[v], strict=True
    ):
      held = self.indices.places(window, low + n + high)
      same = (self.opening.places(index, n) + low)[:, :, None] == held[:, None]
      there = same.any(2)
      stray = stray or not there.all()
      found.append(np.where(there, same.argmax(2), held.shape[1]))
    return found if stray else None

  def _moved(self, v: Array, a: Any) -> Any:
    """What is kept of an array, a block further on; zeros are new."""
    axes = self.layouts.get(v, tuple(range(len(v.shape))))
    config = [(0, 0, 0)] * len(axes)
    for n, axis in enumerate(axes):
      if (frame := self.frames[v][axis]) is not None:
        step = int(frame.table[1, 0] - frame.table[0, 0])
        config[n] = -step, step, 0
    return jax.lax.pad(a, jnp.zeros((), a.dtype), config)

  def _blank(self, v: Array) -> Any:
    """What is kept of an array before the first block."""
    blank = self.derived.blank(v, self.borders[v], self.layouts)
    axes = self.layouts.get(v, tuple(range(len(v.shape))))
    frame = [self.frames[v][axis] for axis in axes]
    return blank[tuple(slice(i and i.size) for i in frame)]

  def blocks(self) -> Blocks:
    """The record."""
    start = lambda params, given: given.inner
    return Blocks(
      self.size, self.init, self.begin, self.conditionals, start, self.extend
    )

  def init(self, params: Params, context: Context) -> '_Outer':
    """Before the first block."""
    known = self.derived.once(params, context)
    kept = tuple(self._blank(v) for v in self.kept)
    return _Outer(kept, tuple(known[v] for v in self.fixed), context)

  def begin(
    self, params: Params, cache: '_Outer', b: Any, previous: Any
  ) -> tuple['_Outer', '_Given']:
    """Closes the block before, and opens block b."""
    b = jnp.asarray(b, jnp.int32)
    x, fixed = self.derived.x, self._fixed(params, cache)
    pairs = zip(self.kept, cache.kept, strict=True)
    kept = {v: self._moved(v, a) for v, a in pairs}
    close, at = self._outer[self.closing], self._outer[self.opening]
    none = {v: ((0, 0),) * len(v.shape) for v in self.borders}
    value = previous.reshape(cutting.sizes(self.last, x.shape))
    value = jnp.where(b > 0, value, jnp.zeros_like(value))
    kept[x] = cutting.write(kept[x], value, close(x, self.last), b, none[x])
    end = Run(
      self.closing, b, fixed, kept, none, self.layouts, close, exists=b > 0
    )
    end.all(self.to_close)
    start = Run(self.opening, b, fixed, end.kept, none, self.layouts, at)
    start.all()
    windows = {v: self._open(v, start, b) for v in self.windows}
    given = _Given(
      b,
      tuple(windows[v] for v in self.shared),
      tuple(windows[v] for v in self.inner),
      cache.fixed,
      cache.context,
    )
    kept_now = tuple(start.kept[v] for v in self.kept)
    return dataclasses.replace(cache, kept=kept_now), given

  def conditionals(self, params: Params, given: '_Given', x: Any) -> Dist:
    """Of all slots of the block, given its values."""
    row = self.row, given.b, self.own, x
    run = self._step(params, given, given.inner, *row)
    return self._values(run, self.row_leaves)

  def extend(
    self, params: Params, given: '_Given', inner: Any, j: Any, previous: Any
  ) -> tuple[Dist, Any]:
    """Of slot j of the block, given the value before it."""
    k = Step(given.b, j, self.size)
    slot = self.slot, k, self.previous, previous
    run = self._step(params, given, inner, *slot)
    dist = jax.tree.map(lambda d: d[0], self._values(run, self.slot_leaves))
    return dist, tuple(run.kept[v] for v in self.inner)

  def _fixed(self, params: Params, cache: Any) -> dict[Array, Any]:
    fixed = self.derived.environment(params, cache.context)
    fixed.update(zip(self.fixed, cache.fixed, strict=True))
    return fixed

  def _step(
    self,
    params: Params,
    given: '_Given',
    inner: Any,
    plan: Class,
    k: Any,
    cut: Cut,
    value: Any,
  ) -> Run:
    """A step inside a block: values are put into the window, and it is run."""
    x, at = self.derived.x, self._places[plan]
    kept = dict(zip(self.shared, given.shared, strict=True))
    kept.update(zip(self.inner, inner, strict=True))
    none = {v: ((0, 0),) * len(v.shape) for v in self.borders}
    value = value.reshape(cutting.sizes(cut, x.shape))
    kept[x] = cutting.write(kept[x], value, at(x, cut), k, none[x])
    fixed = self._fixed(params, given)
    run = Run(plan, k, fixed, kept, none, self.layouts, at)
    run.all()
    return run

  def _values(self, run: Run, leaves: Any) -> Dist:
    lead = self.derived.model.rank.ndim
    dist = [run.read(v, cut).reshape(-1, *v.shape[lead:]) for v, cut in leaves]
    return jax.tree.unflatten(self.derived.tree, dist)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Outer:
  """What is kept between blocks."""

  kept: tuple[Any, ...]
  fixed: tuple[Any, ...]
  context: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Given:
  """What the slots of a block are given: windows of what is kept."""

  b: Any
  shared: tuple[Any, ...]
  inner: tuple[Any, ...]
  fixed: tuple[Any, ...]
  context: Any
