"""A pass with its times: what the derived paths have in common.

Steps may be slots or groups of one rank: `Timed` has the program, when its
entries are ready and due, and what all steps share.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.decode import rules
from parallel_ar.decode.cuts import Border, Cut
from parallel_ar.decode.facts import HUGE
from parallel_ar.decode.plan import Class, Layouts
from parallel_ar.decode.schedule import NotCausal, Readiness, Schedule
from parallel_ar.program import trace
from parallel_ar.program.trace import Array
from parallel_ar.types import Context, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """What a derived path keeps.

  Attributes:
    kept: arrays of the pass, in the order of the plan.
    fixed: arrays that read no value.
    context: of the example.
  """

  kept: tuple[Any, ...]
  fixed: tuple[Any, ...]
  context: Any


class Timed:
  """A model's pass, and when each entry of it is ready and due.

  Attributes:
    model: the model.
    tree: structure of the conditionals.
    x: the event, as an array of the pass.
    params: the parameters, likewise.
    context: the context, likewise.
    ready: what is ready when.
    due: int32 of each output, the step it is due at.
    schedule: due times.
    kept: arrays that are kept between steps.
    fixed: arrays that read no value and that steps read.
    borders: zeros around what is kept.
    layouts: order of the axes of what is kept, where it is not the array's.
  """

  kept: list[Array]
  fixed: list[Array]
  borders: dict[Array, Border]
  layouts: Layouts

  def __init__(self, model: Any, params: Any, step: np.ndarray):
    """Traces the pass and times it.

    Args:
      model: the model.
      params: its parameters, shapes and dtypes.
      step: int32[E], the step that makes the value of each position.

    Raises:
      NotCausal: a value seems to be read before it is known.
    """
    self.model = model
    self.tree = jax.tree.structure(
      jax.eval_shape(model.conditionals, params, model.event, model.context)
    )
    program = trace.trace(
      model.conditionals, params, model.event, model.context
    )
    count = len(jax.tree.leaves(params))
    self.params = program.inputs[:count]
    self.x = x = program.inputs[count]
    self.context = program.inputs[count + 1 :]
    # Of the positions, for an array that leads with them.
    wide = lambda v: step.reshape(
      step.shape + (1,) * (len(v.shape) - step.ndim)
    )
    due = lambda ready: [wide(v) for v in ready.outputs]
    try:
      self.ready = Readiness(program, x, wide(x) + 1)
      self.schedule = Schedule(self.ready, due(self.ready))
    except NotCausal:  # a turn of a loop reads more than its own item
      self.ready = Readiness(program, x, wide(x) + 1, recurrences=False)
      self.schedule = Schedule(self.ready, due(self.ready))
    self.due = due(self.ready)

  def leaves(self, plan: Class, axes: list[Any]) -> list[tuple[Array, Cut]]:
    """The conditionals of a box of positions, to be read after a step."""
    found = []
    for v in self.ready.outputs:
      cut = (*axes, *(None,) * (len(v.shape) - len(axes)))
      plan.want(v, cut)
      found.append((v, cut))
    return found

  def environment(self, params: Params, context: Context) -> dict[Array, Any]:
    """Parameters and context, by the array they are."""
    known = dict(zip(self.params, jax.tree.leaves(params), strict=True))
    known.update(zip(self.context, jax.tree.leaves(context), strict=True))
    return known

  def once(self, params: Params, context: Context) -> dict[Array, Any]:
    """All arrays that read no value."""
    known = self.environment(params, context)
    for op in self.ready.once:
      values = [v.value if v.value is not None else known[v] for v in op.inputs]
      known.update(zip(op.outputs, op.bind(*values), strict=True))
    return known

  def known(self, params: Params, cache: Cache) -> dict[Array, Any]:
    """What steps read that reads no value, from the cache."""
    known = self.environment(params, cache.context)
    known.update(zip(self.fixed, cache.fixed, strict=True))
    return known

  def blank(self, v: Array, edge: Border, layouts: Layouts) -> Any:
    """A kept array before the first step; what is masked stays masked."""
    a = jnp.zeros(v.shape, v.dtype)
    if (low := self.ready.facts(v).low) is not None:
      a = jnp.where(low, -HUGE, a).astype(v.dtype)
    return jnp.pad(a, edge).transpose(layouts.get(v, tuple(range(a.ndim))))

  def init(self, params: Params, context: Context) -> Cache:
    """Before the first step: arrays without values, and states at rest."""
    known = self.once(params, context)
    kept = {v: self.blank(v, self.borders[v], self.layouts) for v in self.kept}
    for op in self.schedule.items:
      for v, carry in rules.loops.first_states(op):
        start = carry.value if carry.value is not None else known[carry]
        kept[v] = kept[v].at[0].set(start)
    return Cache(
      tuple(kept.values()), tuple(known[v] for v in self.fixed), context
    )
