"""A class of steps as one program: what is computed, read, and kept.

A step computes, of every array, a box that covers what is due. What a box needs
of another array is in a register, if the same step has just computed exactly
that; else the other array is kept.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from parallel_ar.decode import cuts as cutting
from parallel_ar.decode import facts as known
from parallel_ar.decode import rules
from parallel_ar.decode.cuts import Cut, Index, Indices
from parallel_ar.decode.facts import NEVER, Facts
from parallel_ar.decode.schedule import Schedule
from parallel_ar.program.trace import Array, Op

Border = tuple[tuple[int, int], ...]
# What only moves entries is not kept: its operand is read through it. Where
# much is read that is not new, only through what moves nothing in memory.
_VIEWS = frozenset('expand_dims slice split squeeze transpose'.split())
_MOVES = _VIEWS | frozenset(
  'broadcast_in_dim concatenate pad reshape rev'.split()
)


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
  """One operation of a step.

  Attributes:
    op: the operation.
    needs: what it reads: (array, cut).
    made: the cut of each output; None where none is made.
    run: (values of `needs`, k) -> the outputs.
    full: whether whole arrays are computed.
  """

  op: Op
  needs: tuple[tuple[Array, Cut], ...]
  made: tuple[Cut | None, ...]
  run: Callable[[list[Any], Any], list[Any]]
  full: bool


class Class:
  """Steps that run one program with other numbers.

  Attributes:
    steps: how many there are.
    instructions: what each of them runs, in order.
    kept: arrays that are read from what earlier steps have left.
  """

  def __init__(
    self,
    schedule: Schedule,
    low: np.ndarray,
    high: np.ndarray,
    wanted: Iterable[tuple[Array, Cut]] = (),
  ):
    """Plans the steps at which what is due in [low[k], high[k]) is computed.

    Args:
      schedule: due times.
      low: int[K], of each step.
      high: int[K].
      wanted: what is read after the step.
    """
    self.steps = len(low)
    self.places_of = Indices(len(low))
    self._schedule, self._low, self._high = schedule, low, high
    self._cuts: dict[Any, Any] = {}
    self._fresh: dict[Array, Cut] = {}
    self.instructions: list[Instruction] = []
    self.kept: dict[Array, list[Cut]] = {}
    self.views: dict[tuple[Array, Cut], tuple[int, Any, Any]] = {}
    self.layouts: dict[Array, tuple[int, ...]] = {}
    for op in schedule.ready.ops:
      self._plan(op)
    for v, cut in wanted:
      self.fetch(v, cut)

  # What rules ask for.

  def of(self, table: np.ndarray, size: int | None) -> Index | None:
    """See `Indices.of`."""
    return self.places_of.of(table, size)

  def covering(self, present: np.ndarray) -> Index | None:
    """See `Indices.covering`."""
    return self.places_of.covering(present)

  def places(self, index: Index | None, size: int) -> np.ndarray:
    """See `Indices.places`."""
    return self.places_of.places(index, size)

  def project(self, flat: np.ndarray, dims: Any) -> Any:
    """See `Indices.project`."""
    return self.places_of.project(flat, dims)

  def facts(self, v: Array) -> Facts:
    """See `Readiness.facts`."""
    return self._schedule.ready.facts(v)

  def iterations(self, op: Op) -> Index | None:
    """The iterations of a recurrence that are due."""
    due = self._schedule.items[op]
    cut = self.places_of.due(due, due.shape, self._low, self._high)
    assert cut is not None
    return cut[0]

  def _due(self, v: Array) -> Cut | None:
    due = self._schedule.of(v)
    if due is None:
      return None
    key = id(due), v.shape
    if key not in self._cuts:
      self._cuts[key] = self.places_of.due(due, v.shape, self._low, self._high)
    return self._cuts[key]

  def _plan(self, op: Op) -> None:
    whole = [(None,) * len(v.shape) for v in op.outputs]
    full = op in self._schedule.full
    if full:
      cuts: list[Any] = list(whole)
    else:
      cuts = [self._due(v) for v in op.outputs]
    if all(c is None for c in cuts):
      return
    if not full:
      try:
        needs, run, *made = rules.RULES[op.name].step(op, cuts, self)
      except rules.NoRule:
        full = True
    if full:
      needs = [(v, (None,) * len(v.shape)) for v in op.inputs]
      run, made = (lambda values, k: op.bind(*values)), [whole]
    for n, (v, cut) in enumerate(needs):
      layout = None
      if op.name == 'dot_general' and not full:
        layout = rules.products.layout(op, n)
      self.fetch(v, cut, layout)
    cuts = made[0] if made else cuts
    for v, cut in zip(op.outputs, cuts, strict=True):
      if cut is not None:
        self._fresh[v] = cut
    self.instructions.append(
      Instruction(op, tuple(needs), tuple(cuts), run, full)
    )

  def covers(self, v: Array, cut: Cut) -> bool:
    """Whether the step itself has computed what is read."""
    fresh = self._fresh.get(v)
    return fresh is not None and all(
      f is None or f is i for f, i in zip(fresh, cut, strict=True)
    )

  def fetch(
    self, v: Array, cut: Cut, layout: tuple[int, ...] | None = None
  ) -> None:
    """Sees to it that a box can be read.

    Args:
      v: the array.
      cut: the box.
      layout: the order of its axes in memory that suits the reader.
    """
    varies = v.value is None and self.facts(v).ready is not None
    if not varies or self.covers(v, cut) or (v, cut) in self.views:
      return
    op = self._schedule.ready.maker(v)
    through = _VIEWS if self._mostly_old(v, cut) else _MOVES
    if op is None or op.name not in through or op in self._schedule.full:
      self.kept.setdefault(v, []).append(cut)
      if layout is not None:
        self.layouts.setdefault(v, layout)
      return
    n = op.outputs.index(v)
    cuts = [cut if m == n else None for m in range(len(op.outputs))]
    needs, run = rules.RULES[op.name].step(op, cuts, self)
    self.views[v, cut] = n, needs, run
    if layout is not None:
      layout = rules.moves.layout(op, layout)
    for source, own in needs:
      self.fetch(source, own, layout)

  def _mostly_old(self, v: Array, cut: Cut) -> bool:
    """Whether a box is much larger than what of the array is new."""
    due = self._due(v)
    if due is None:
      return True
    new = np.prod(cutting.sizes(due, v.shape))
    return bool(np.prod(cutting.sizes(cut, v.shape)) > 4 * new)


class Run:
  """One step that is run: registers, and what is kept."""

  def __init__(
    self,
    plan: Class,
    k: Any,
    fixed: Mapping[Array, Any],
    kept: dict[Array, Any],
    borders: Mapping[Array, Border],
    layouts: Mapping[Array, tuple[int, ...]],
    at: Callable[[Array, Cut], Cut] = lambda v, cut: cut,
  ):
    """Prepares it.

    Args:
      plan: its class.
      k: the step, counted in the class.
      fixed: arrays that read no value.
      kept: what earlier steps have left; replaced as it is written.
      borders: zeros around what is kept.
      layouts: order of the axes of what is kept, where it is not the array's.
      at: from places in an array to places in what is kept of it.
    """
    self.kept = kept
    self._plan, self._k, self._fixed = plan, k, fixed
    self._borders, self._layouts, self._at = borders, layouts, at
    self._fresh: dict[Array, tuple[Cut, Any]] = {}

  def all(self, only: Iterable[Instruction] | None = None) -> None:
    """Runs the instructions."""
    for i in self._plan.instructions if only is None else only:
      values = [self.read(v, cut) for v, cut in i.needs]
      found = i.run(values, self._k)
      for v, cut, value in zip(i.op.outputs, i.made, found, strict=False):
        if cut is None:
          continue
        self._fresh[v] = cut, value
        if v in self.kept:
          axes, own = self._stored(v, cut)
          self.kept[v] = cutting.write(
            self.kept[v],
            value.transpose(axes),
            own,
            self._k,
            [self._borders[v][n] for n in axes],
          )

  def _stored(self, v: Array, cut: Cut) -> tuple[tuple[int, ...], Cut]:
    """The order of axes in memory, and a cut in it."""
    axes = self._layouts.get(v, tuple(range(len(v.shape))))
    own = self._at(v, cut)
    return axes, tuple(own[n] for n in axes)

  def read(self, v: Array, cut: Cut) -> Any:
    """A box of an array."""
    if v.value is not None:
      return _constant(v, cut, self._k)
    if (v, cut) in self._plan.views:
      n, needs, run = self._plan.views[v, cut]
      return run([self.read(*need) for need in needs], self._k)[n]
    if v in self._fresh and self._plan.covers(v, cut):
      fresh, value = self._fresh[v]
      rest = tuple(
        None if f is not None else i for f, i in zip(fresh, cut, strict=True)
      )
      return cutting.read(value, rest, self._k)
    if v in self.kept:
      axes, own = self._stored(v, cut)
      border = [self._borders[v][n] for n in axes]
      found = cutting.read(self.kept[v], own, self._k, border)
      return found.transpose(np.argsort(axes))
    return cutting.read(self._fixed[v], cut, self._k)


def _constant(v: Array, cut: Cut, k: Any) -> Any:
  """A box of a constant; an axis along which it is the same is not stored."""
  if not isinstance(v.value, np.ndarray):
    return cutting.read(v.value, cut, k)
  a = known.thin(v.value)
  own = tuple(
    None if n == 1 else i for i, n in zip(cut, a.shape, strict=True)
  )
  shape = cutting.sizes(cut, v.shape)
  return jnp.broadcast_to(cutting.read(jnp.asarray(a), own, k), shape)


def live(
  instructions: Iterable[Instruction], wanted: Iterable[Array]
) -> list[Instruction]:
  """Those that make what is wanted."""
  needed, chosen = set(wanted), []
  for i in reversed(list(instructions)):
    if any(v in needed for v in i.op.outputs):
      needed.update(v for v, _ in i.needs)
      chosen.append(i)
  return chosen[::-1]


def border(v: Array, cuts: Iterable[Cut]) -> Border:
  """How far cuts reach over the ends of an array."""
  found = [(0, 0)] * len(v.shape)
  for cut in cuts:
    for axis, index in enumerate(cut):
      if index is not None:
        low, high = found[axis]
        found[axis] = (
          max(low, -int(index.table.min())),
          max(high, int(index.table.max()) - v.shape[axis] + 1),
        )
  return tuple(found)


def never(due: Any) -> bool:
  """Whether nothing of an array is due."""
  return due is None or bool((due >= NEVER).all())
