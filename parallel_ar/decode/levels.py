"""The derived path by groups of one rank: a step makes a whole group.

The schedule is that of slots with the rank in place of the slot. Groups are
steps of one program, whose boxes are those of the largest; where that would be
much more work, those of like size are.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import order
from parallel_ar.decode import cuts as cutting
from parallel_ar.decode.cuts import Cut
from parallel_ar.decode.plan import Class
from parallel_ar.decode.run import Run
from parallel_ar.decode.timed import Cache, Timed
from parallel_ar.program.trace import Array
from parallel_ar.types import Dist, Params

_WASTE = 1.25  # how much more work one program for all groups may be


class _Program(NamedTuple):
  """Groups that are steps of one program.

  Attributes:
    levels: int[K], their ranks.
    plan: of the steps.
    leaves: how the conditionals are read.
  """

  levels: np.ndarray
  plan: Class
  leaves: list[tuple[Array, Cut]]


class Levels(Timed):
  """A model's pass, and the programs of its steps group by group."""

  def __init__(self, model: Any, params: Any):
    """Traces the pass and plans the steps; `params` has shapes and dtypes.

    Raises:
      NotCausal: a slot seems to read another of its own group.
    """
    super().__init__(model, params, model.rank.astype(np.int32))
    sizes = np.bincount(model.rank.reshape(-1))
    one = self._plan(sizes, np.zeros(len(sizes), int))
    # A step has at most twice the work of its own group.
    many = self._plan(sizes, np.ceil(np.log2(sizes)).astype(int))
    work = lambda programs: sum(p.plan.work for p in programs)
    self._programs = one if work(one) <= _WASTE * work(many) else many
    self._keep()

  def _plan(self, sizes: np.ndarray, labels: np.ndarray) -> list[_Program]:
    """The levels of each label as steps of one program."""
    slots, first = order.slots(self.model.rank), np.cumsum(sizes) - sizes
    found = []
    for label in np.unique(labels):
      levels = np.flatnonzero(labels == label)
      plan = Class(self.schedule, levels, levels + 1)
      last = sizes[levels][:, None] - 1
      reach = np.minimum(np.arange(last.max() + 1), last)
      flat = slots[first[levels][:, None] + reach]
      axes, _ = plan.project(flat, self.model.rank.shape)
      found.append(_Program(levels, plan, self.leaves(plan, axes)))
    return found

  def _keep(self) -> None:
    """What a group reads of what those before it have left."""
    plans = [p.plan for p in self._programs]
    cuts: dict[Array, list[Cut]] = {self.x: []}
    for plan in plans:
      for v, some in plan.kept.items():
        cuts.setdefault(v, []).extend(some)
    self.borders = {
      v: cutting.border(v.shape, some) for v, some in cuts.items()
    }
    self.layouts = {
      v: axes
      for plan in plans
      for v, axes in plan.layouts.items()
      if v is not self.x
    }
    self.kept = [v for v in cuts if v is not self.x]
    for plan in plans:
      plan.also.update(self.kept)
    once = [v for plan in plans for v in plan.reads_once(self.ready.once)]
    self.fixed = list(dict.fromkeys(once))

  def extend(
    self, params: Params, cache: Cache, level: Any, x: Any
  ) -> tuple[Dist, Cache]:
    """Conditionals of the positions of a rank, see `Groups`."""
    known = self.known(params, cache)
    x = jnp.pad(x, self.borders[self.x])
    which, step = np.zeros((2, self.model.depth), np.int32)

    def branch(program: _Program) -> Any:
      def run(k: Any, kept: tuple[Any, ...]) -> Any:
        now = {self.x: x, **dict(zip(self.kept, kept, strict=True))}
        ran = Run(program.plan, k, known, now, self.borders, self.layouts)
        ran.all()
        dist = []
        for v, cut in program.leaves:
          blank, none = jnp.zeros(v.shape, v.dtype), [(0, 0)] * len(v.shape)
          dist.append(cutting.write(blank, ran.read(v, cut), cut, k, none))
        return dist, tuple(ran.kept[v] for v in self.kept)

      return run

    for n, program in enumerate(self._programs):
      which[program.levels] = n
      step[program.levels] = np.arange(len(program.levels))
    at = jnp.asarray(which)[level], jnp.asarray(step)[level]
    branches = [branch(program) for program in self._programs]
    dist, kept = jax.lax.switch(at[0], branches, at[1], cache.kept)
    return jax.tree.unflatten(self.tree, dist), Cache(
      kept, cache.fixed, cache.context
    )
