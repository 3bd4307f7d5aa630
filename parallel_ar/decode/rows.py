"""The derived path by blocks: what a row can have at once, and what it cannot.

When a row begins, the row before it is known: what later rows read of it is
computed in one go (`closing`), and then what can be had of the new row before
its first slot (`opening`). A slot computes the rest, in windows of the kept
arrays that hold what the row reads and makes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.decode import cuts as cutting
from parallel_ar.decode.cuts import Cut, Indices
from parallel_ar.decode.plan import Class, border
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
    self.slot = Class(self.schedule, 2 * k + 1, 2 * k + 2)
    self.row = Class(self.schedule, begins + 1, begins + 2 * size)
    self.opening = Class(self.schedule, begins, begins + 1)
    last = begins[np.maximum(b - 1, 0)]
    self.closing = Class(self.schedule, last + 1, last + 2 * size)
    self.slot_leaves = self._leaves(self.slot, k[:, None])
    of_rows = b[:, None] * size + np.arange(size)
    self.row_leaves = self._leaves(self.row, of_rows)
    x, shape = derived.x, derived.model.rank.shape
    before = np.where(k % size == 0, k, k - 1)
    ends = (None,) * (len(x.shape) - len(shape))
    self.previous = (*self._box(self.slot, before[:, None], shape), *ends)
    self.own = (*self._box(self.row, of_rows, shape), *ends)
    closed = of_rows[np.maximum(b - 1, 0)]
    self.last = (*self._box(self.closing, closed, shape), *ends)
    self._keep()

  def _box(self, plan: Class, k: np.ndarray, shape: Any) -> list[Any]:
    axes, where = plan.project(self.derived.slots[k], shape)
    assert where is None, 'rows are boxes'
    return axes

  def _leaves(self, plan: Class, k: np.ndarray) -> list[tuple[Array, Cut]]:
    shape = self.derived.model.rank.shape
    axes = self._box(plan, k, shape)
    leaves = []
    for v in self.derived.ready.outputs:
      cut = (*axes, *(None,) * (len(v.shape) - len(axes)))
      plan.want(v, cut)
      leaves.append((v, cut))
    return leaves

  def _keep(self) -> None:
    """What is kept between blocks, and the windows of it that a block uses."""
    x = self.derived.x
    needs: dict[Array, list[tuple[Class, Cut]]] = {}
    for plan in (self.slot, self.row):
      for v, cuts in plan.kept.items():
        needs.setdefault(v, []).extend((plan, cut) for cut in cuts)
    needs.setdefault(x, []).append((self.slot, self.previous))
    needs[x].append((self.row, self.own))
    for plan in (self.slot, self.row):
      for i in plan.instructions:
        for v, made in zip(i.op.outputs, i.made, strict=True):
          if v in needs and made is not None:
            needs[v].append((plan, made))
    outer = [self.opening, self.closing]
    every: dict[Array, list[Cut]] = {x: [self.last]}
    for plan in outer:
      for v, cuts in plan.kept.items():
        every.setdefault(v, []).extend(cuts)
    self.borders = {
      v: border(v, [*every.get(v, ()), *(c for _, c in needs.get(v, ()))])
      for v in {**every, **needs}
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
    fixed = {v for op in self.derived.ready.once for v in op.outputs}
    constant = [
      v
      for plan in (self.slot, self.row, *outer)
      for i in plan.instructions
      for v in plan.reads(i)
      if v in fixed
    ] + [v for v in self.derived.ready.outputs if v in fixed]
    self.fixed = list(dict.fromkeys(constant))

  def _window(self, v: Array, needs: list[tuple[Class, Cut]]) -> Cut:
    """The places of an array that a block uses, borders counted."""
    cut: list[Any] = []
    for axis, n in enumerate(v.shape):
      low, high = self.borders[v][axis]
      present = np.zeros((self.count, low + n + high), bool)
      for plan, own in needs:
        index = own[axis]
        if index is None:
          present[:, low : low + n] = True
          continue
        per = plan.steps // self.count
        b = np.repeat(np.arange(self.count), per)[:, None]
        present[b, index.table + low] = True
      cut.append(self.indices.covering(present))
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

  def _at(self, plan: Class) -> Any:
    """From places in an array to places in its window."""
    known: dict[Any, Any] = {}
    per = plan.steps // self.count

    def place(v: Array, cut: Cut) -> Cut:
      found: list[Any] = []
      for axis, index in enumerate(cut):
        window, n = self.windows[v][axis], v.shape[axis]
        low, high = self.borders[v][axis]
        key = id(index), id(window), n, low
        if key not in known:
          whole = low + n + high
          table = self.indices.places(window, whole)
          position = np.zeros((self.count, whole), np.int64)
          rows = np.arange(self.count)[:, None]
          position[rows, table[:, ::-1]] = np.arange(table.shape[1])[::-1]
          b = np.repeat(np.arange(self.count), per)[:, None]
          places = plan.places(index, n) + low
          known[key] = plan.of(position[b, places], table.shape[1]), index
        found.append(known[key][0])
      return tuple(found)

    return place

  def _open(self, v: Array, run: Run, b: Any, at: Any) -> Any:
    """The window of an array as a block begins."""
    window, axes = self.windows[v], tuple(range(len(v.shape)))
    axes = self.layouts.get(v, axes)
    if v in run.kept:
      return cutting.read(run.kept[v], tuple(window[n] for n in axes), b)
    edges = zip(v.shape, self.borders[v], strict=True)
    shape = cutting.sizes(window, [low + n + high for n, (low, high) in edges])
    a = jnp.zeros([shape[n] for n in axes], v.dtype)
    if (made := run.made(v)) is None:
      return a
    cut, value = made
    own = at(v, cut)
    none = [(0, 0)] * len(axes)
    value = value.transpose(axes)
    return cutting.write(a, value, tuple(own[n] for n in axes), b, none)

  def blocks(self) -> Blocks:
    """The record."""
    at_slot, at_row = self._at(self.slot), self._at(self.row)
    at_open = self._at(self.opening)
    derived, none = (
      self.derived,
      {v: ((0, 0),) * len(v.shape) for v in self.windows},
    )
    lead = derived.model.rank.ndim

    def init(params: Params, context: Context) -> _Outer:
      known = derived.once(params, context)
      kept = tuple(
        derived.blank(v, self.borders[v], self.layouts) for v in self.kept
      )
      return _Outer(kept, tuple(known[v] for v in self.fixed), context)

    def environment(params: Params, outer: Any) -> dict[Array, Any]:
      fixed = derived.environment(params, outer.context)
      fixed.update(zip(self.fixed, outer.fixed, strict=True))
      return fixed

    def begin(
      params: Params, cache: _Outer, b: Any, previous: Any
    ) -> tuple[_Outer, _Given]:
      b = jnp.asarray(b, jnp.int32)
      fixed = environment(params, cache)
      kept = dict(zip(self.kept, cache.kept, strict=True))
      x = derived.x
      box = cutting.sizes(self.last, x.shape)
      kept[x] = cutting.write(
        kept[x], previous.reshape(box), self.last, b, self.borders[x]
      )
      close = Run(self.closing, b, fixed, kept, self.borders, self.layouts)
      close.all(self.to_close)
      start = Run(
        self.opening, b, fixed, close.kept, self.borders, self.layouts
      )
      start.all()
      windows = {v: self._open(v, start, b, at_open) for v in self.windows}
      given = _Given(
        b,
        tuple(windows[v] for v in self.shared),
        tuple(windows[v] for v in self.inner),
        cache.fixed,
        cache.context,
      )
      kept_now = tuple(start.kept[v] for v in self.kept)
      return dataclasses.replace(cache, kept=kept_now), given

    def values(run: Run, leaves: Any) -> Dist:
      dist = []
      for v, cut in leaves:
        d = run.read(v, cut)
        dist.append(d.reshape(-1, *v.shape[lead:]))
      return jax.tree.unflatten(derived.tree, dist)

    def at_work(given: _Given, inner: Any) -> dict[Array, Any]:
      kept = dict(zip(self.shared, given.shared, strict=True))
      kept.update(zip(self.inner, inner, strict=True))
      return kept

    def conditionals(params: Params, given: _Given, x: Any) -> Dist:
      kept, event = at_work(given, given.inner), derived.x
      box = cutting.sizes(self.own, event.shape)
      kept[event] = cutting.write(
        kept[event],
        x.reshape(box),
        at_row(event, self.own),
        given.b,
        none[event],
      )
      run = Run(
        self.row,
        given.b,
        environment(params, given),
        kept,
        none,
        self.layouts,
        at_row,
      )
      run.all()
      return values(run, self.row_leaves)

    def extend(
      params: Params, given: _Given, inner: Any, j: Any, previous: Any
    ) -> tuple[Dist, Any]:
      k = given.b * self.size + j
      kept, event = at_work(given, inner), derived.x
      box = cutting.sizes(self.previous, event.shape)
      kept[event] = cutting.write(
        kept[event],
        previous.reshape(box),
        at_slot(event, self.previous),
        k,
        none[event],
      )
      run = Run(
        self.slot,
        k,
        environment(params, given),
        kept,
        none,
        self.layouts,
        at_slot,
      )
      run.all()
      dist = jax.tree.map(lambda d: d[0], values(run, self.slot_leaves))
      return dist, tuple(run.kept[v] for v in self.inner)

    return Blocks(
      self.size,
      init,
      begin,
      conditionals,
      lambda params, given: given.inner,
      extend,
    )


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
