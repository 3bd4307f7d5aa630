"""A class of steps as one program: what is computed, read, and kept.

A step computes, of every array, a box that covers what is due. What a box needs
of another array is in a register, if the same step has just computed exactly
that; else the other array is kept.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from parallel_ar.decode import cuts as cutting
from parallel_ar.decode import rules
from parallel_ar.decode.cuts import Cut, Index, Indices
from parallel_ar.decode.facts import Facts
from parallel_ar.decode.schedule import Schedule
from parallel_ar.program.trace import Array, Op

Layouts = Mapping[Array, tuple[int, ...]]
# What only moves entries is not kept: its operand is read through it. Where
# much is read that is not new, only through what moves nothing in memory.
_VIEWS = frozenset('expand_dims slice split squeeze transpose'.split())
# Operations that fewer steps than this share need, and that cost more than this
# many entries, are left out at the other steps.
_BUSY, _DEAR = 0.75, 4096
_PRODUCTS = frozenset(('dot_general', 'conv_general_dilated'))
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
    mask: bool[K], the steps that run it; None for all.
  """

  op: Op
  needs: tuple[tuple[Array, Cut], ...]
  made: tuple[Cut | None, ...]
  run: Callable[[list[Any], Any], list[Any]]
  full: bool
  mask: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
  """Instructions that only some steps run.

  Attributes:
    mask: bool[K], which steps.
    instructions: what they run.
    exports: what is read outside: (array, cut).
  """

  mask: np.ndarray
  instructions: tuple[Instruction, ...]
  exports: tuple[tuple[Array, Cut], ...]


class Class(Indices):
  """Steps that run one program with other numbers.

  Attributes:
    instructions: what each of them runs, in order.
    kept: arrays that are read from what earlier steps have left.
    also: further arrays that are kept, for other classes.
  """

  def __init__(
    self,
    schedule: Schedule,
    low: np.ndarray,
    high: np.ndarray,
    per: int = 0,
  ):
    """Plans the steps at which what is due in [low[k], high[k]) is computed.

    Args:
      schedule: due times.
      low: int[K], of each step.
      high: int[K].
      per: steps of a row, see `Indices`.
    """
    super().__init__(len(low), per)
    self._schedule, self._low, self._high = schedule, low, high
    self._cuts: dict[Any, Any] = {}
    self._activity: dict[int, np.ndarray] = {}
    self._fresh: dict[Array, Cut] = {}
    self.instructions: list[Instruction] = []
    self.kept: dict[Array, list[Cut]] = {}
    self.views: dict[tuple[Array, Cut, int], tuple[int, Any, Any]] = {}
    self._mask: Any = None
    self.layouts: dict[Array, tuple[int, ...]] = {}
    self.also: set[Array] = set()
    self._wanted: list[tuple[Array, Cut]] = []
    self._masks = self._idle()
    for op in schedule.ready.ops:
      self._plan(op)

  def want(self, v: Array, cut: Cut) -> None:
    """Sees to it that a box can be read after the step."""
    self._wanted.append((v, cut))
    self.fetch(v, cut)

  def facts(self, v: Array) -> Facts:
    """See `Readiness.facts`."""
    return self._schedule.ready.facts(v)

  def iterations(self, op: Op) -> Index | None:
    """The iterations of a recurrence that are due."""
    due = self._schedule.items[op]
    cut = self.due(due, due.shape, self._low, self._high)
    assert cut is not None
    return cut[0]

  def _due(self, v: Array) -> Cut | None:
    due = self._schedule.of(v)
    if due is None:
      return None
    # Many arrays are due alike: what is found for one serves them all.
    key = due.shape, hashlib.blake2b(due.tobytes()).digest(), v.shape
    if key not in self._cuts:
      self._cuts[key] = self.due(due, v.shape, self._low, self._high)
    return self._cuts[key]

  def _plan(self, op: Op) -> None:
    whole: list[Any] = [(None,) * len(v.shape) for v in op.outputs]
    full = op in self._schedule.full
    cuts = whole if full else [self._due(v) for v in op.outputs]
    if all(c is None for c in cuts):
      return
    self._mask = self._masks.get(op)
    if not full:
      try:
        cuts = self._widened(op, cuts)
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
      Instruction(op, tuple(needs), tuple(cuts), run, full, self._mask)
    )
    self._mask = None

  def _widened(self, op: Op, cuts: list[Any]) -> list[Any]:
    """The boxes, whole along axes where that costs less than cuts.

    To cut some columns out of a matrix of weights costs more than to multiply
    by all of it. So the features of one channel are made with those of all,
    and what is made of them.
    """
    if op in self._schedule.items:
      return cuts
    step = rules.RULES[op.name].step
    for axis in range(max(len(v.shape) for v in op.outputs)):
      wide = [
        self.along(cut, v.shape, axis)
        for v, cut in zip(op.outputs, cuts, strict=True)
      ]
      if wide != cuts:
        needs, _, *_ = step(op, cuts, self)
        wider, _, *_ = step(op, wide, self)
        if self._cheap(op, [n for n in wider if n not in needs]):
          cuts = wide
    return cuts

  def _cheap(self, op: Op, more: list[tuple[Array, Cut]]) -> bool:
    """Whether larger boxes read nothing that the step would cut out."""
    of_values = [n for n in more if self.facts(n[0]).ready is not None]
    if not of_values:
      return op.name in _PRODUCTS and bool(more)
    made = [n for n in of_values if n[0] in self._fresh]
    return bool(made) and all(self.covers(*n, self._mask) for n in made)

  def covers(self, v: Array, cut: Cut, mask: Any) -> bool:
    """Whether the step itself has computed what is read."""
    fresh = self._fresh.get(v)
    if fresh is None or not all(
      f is None or f is i for f, i in zip(fresh, cut, strict=True)
    ):
      return False
    maker = self._schedule.ready.maker(v)
    return maker is None or _within(mask, self._masks.get(maker))

  def fetch(
    self, v: Array, cut: Cut, layout: tuple[int, ...] | None = None
  ) -> None:
    """Sees to it that a box can be read.

    Args:
      v: the array.
      cut: the box.
      layout: the order of its axes in memory that suits the reader.
    """
    if v.value is not None or self._viewed(v, cut):
      return
    op = self._schedule.ready.maker(v)
    if self.facts(v).ready is None:
      # What is spread over all places is stored once.
      if op is None or op.name != 'broadcast_in_dim':
        return
    elif self.covers(v, cut, self._mask):
      return
    elif op is None or not self._moves(op, v, cut):
      self.kept.setdefault(v, []).append(cut)
      if layout is not None:
        self.layouts.setdefault(v, layout)
      return
    n = op.outputs.index(v)
    cuts = [cut if m == n else None for m in range(len(op.outputs))]
    needs, run = rules.RULES[op.name].step(op, cuts, self)
    self.views[v, cut, id(self._mask)] = n, needs, run
    if layout is not None:
      layout = rules.moves.layout(op, layout)
    for source, own in needs:
      self.fetch(source, own, layout)

  def _viewed(self, v: Array, cut: Cut) -> bool:
    return (v, cut, id(self._mask)) in self.views

  def _idle(self) -> dict[Op, np.ndarray]:
    """The steps that run an operation, where many do not and it is dear."""
    masks: dict[bytes, np.ndarray] = {}
    costs: dict[bytes, float] = {}
    of: dict[Op, bytes] = {}
    for op in self._schedule.ready.ops:
      if op in self._schedule.full or op in self._schedule.items:
        continue
      mask = np.zeros(self.steps, bool)
      for v in op.outputs:
        if (due := self._schedule.of(v)) is not None:
          mask |= self._active(due)
      if not mask.any() or mask.mean() > _BUSY:
        continue
      key = mask.tobytes()
      of[op] = key
      masks.setdefault(key, mask)
      costs[key] = costs.get(key, 0.0) + self._cost(op)
    return {op: masks[k] for op, k in of.items() if costs[k] > _DEAR}

  def _active(self, due: np.ndarray) -> np.ndarray:
    key = id(due)
    if key not in self._activity:
      self._activity[key] = cutting.active(due, self._low, self._high)
    return self._activity[key]

  def _cost(self, op: Op) -> float:
    """Entries that are read and made, about."""
    cost = 0.0
    for v in op.outputs:
      if (cut := self._due(v)) is not None:
        cost += float(np.prod(cutting.sizes(cut, v.shape)))
    if op.name == 'dot_general':
      (axes, _), _ = op.params['dimension_numbers']
      cost *= float(np.prod([op.inputs[0].shape[a] for a in axes]))
    elif op.name == 'conv_general_dilated':
      kernel = op.inputs[1].shape
      outs = kernel[op.params['dimension_numbers'].rhs_spec[0]]
      cost *= float(np.prod(kernel)) / outs
    return cost

  @property
  def work(self) -> float:
    """Entries that all steps together read and make, about."""
    steps = lambda i: self.steps if i.mask is None else int(i.mask.sum())
    return sum(steps(i) * self._cost(i.op) for i in self.instructions)

  @functools.cached_property
  def grouped(self) -> list[Instruction | Group]:
    """The instructions, those of the same few steps together."""
    found: list[Instruction | Group] = []
    rest = list(self.instructions)
    while rest:
      first, *others = rest
      if first.mask is None:
        found.append(first)
        rest = others
        continue
      chosen, rest = [first], []
      skipped: set[Array] = set()
      for i in others:
        needs = set(self.reads(i))
        if i.mask is first.mask and not needs & skipped:
          chosen.append(i)
        else:
          rest.append(i)
          skipped.update(i.op.outputs)
      found.append(Group(first.mask, tuple(chosen), ()))
    return [self._exported(g, found) for g in found]

  def _exported(self, group: Instruction | Group, every: list) -> Any:
    if isinstance(group, Instruction):
      return group
    outside: set[Array] = set()
    for v, cut in self._wanted:
      outside.update(self._through(v, cut, None))
    for other in every:
      if other is not group:
        many = other.instructions if isinstance(other, Group) else [other]
        for i in many:
          outside.update(self.reads(i))
    exports = [
      (v, cut)
      for i in group.instructions
      for v, cut in zip(i.op.outputs, i.made, strict=True)
      if cut is not None and (v in self.also or v in self.kept or v in outside)
    ]
    return dataclasses.replace(group, exports=tuple(exports))

  def reads_once(self, made: Iterable[Op]) -> Iterable[Array]:
    """What the steps read of the results of operations that are run once."""
    once = {v for op in made for v in op.outputs}
    for i in self.instructions:
      yield from (v for v in self.reads(i) if v in once)
    for v, cut in self._wanted:
      yield from (w for w in self._through(v, cut, None) if w in once)

  def live(self, wanted: Iterable[Array]) -> list[Instruction]:
    """The instructions that make what is wanted."""
    needed, chosen = set(wanted), []
    for i in reversed(self.instructions):
      if any(v in needed for v in i.op.outputs):
        needed.update(self.reads(i))
        chosen.append(i)
    return chosen[::-1]

  def reads(self, i: Instruction) -> Iterable[Array]:
    """The arrays an instruction reads, those behind views as well."""
    for v, cut in i.needs:
      yield from self._through(v, cut, i.mask)

  def _through(self, v: Array, cut: Cut, mask: Any) -> Iterable[Array]:
    view = self.views.get((v, cut, id(mask)))
    if view is None:
      yield v
    else:
      for source, own in view[1]:
        yield from self._through(source, own, mask)

  def _moves(self, op: Op, v: Array, cut: Cut) -> bool:
    """Whether a box is read through the operation that makes its array."""
    if op in self._schedule.full:
      return False
    over = [
      a
      for a, (m, n) in enumerate(cutting.border(v.shape, [cut]))
      if m > 0 or n > 0
    ]
    if over:  # beyond the border are zeros, whatever the operand has there
      if op.name == 'broadcast_in_dim':
        kept = dict(
          zip(
            op.params['broadcast_dimensions'], op.inputs[0].shape, strict=True
          )
        )
        return all(kept.get(a) == v.shape[a] for a in over)
      return op.name in ('expand_dims', 'squeeze', 'transpose')
    if not self._mostly_old(v, cut):
      return op.name in _MOVES
    return op.name in _VIEWS and not rules.moves.is_strided(op)

  def _mostly_old(self, v: Array, cut: Cut) -> bool:
    """Whether a box is much larger than what of the array is new."""
    due = self._due(v)
    if due is None:
      return True
    new = np.prod(cutting.sizes(due, v.shape))
    return bool(np.prod(cutting.sizes(cut, v.shape)) > 4 * new)


def _within(mask: Any, other: Any) -> bool:
  """Whether all steps of a mask are steps of the other; None is all."""
  if other is None or mask is other:
    return True
  return mask is not None and bool((other | ~mask).all())
