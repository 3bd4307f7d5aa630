"""What a derived cache computes, keeps and costs, operation by operation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.analysis import complexity
from parallel_ar.analysis.static import frames
from parallel_ar.decode import cuts
from parallel_ar.decode.derive import Derived, derive_decode, derived
from parallel_ar.decode.plan import Instruction
from parallel_ar.model import AutoregressiveModel


@dataclasses.dataclass(frozen=True)
class Operation:
  """One operation of the pass, and what a step makes of it.

  Attributes:
    name: of the primitive.
    where: 'file.py:line' of the user's line.
    shape: of its first result in the pass.
    part: of that, what a step computes.
    how: 'once' where it reads no value and is run before the first step, 'cut'
      where a step computes a part, 'full' where a step runs all of it.
    share: of the steps that run it.
    kept: whether the result is kept for later steps.
  """

  name: str
  where: str
  shape: tuple[int, ...]
  part: tuple[int, ...]
  how: str
  share: float
  kept: bool


@dataclasses.dataclass(frozen=True)
class Explanation:
  """What `explain_decode` found; `str` prints it.

  Attributes:
    name: of the model.
    steps: D, its positions.
    operations: of the pass, in order; those that no output needs are left out.
    kept: floats (or integers) that are kept between steps, of one example.
    arrays: how many arrays they are.
    whole: entries of all arrays of the pass.
    step: floating-point operations of a step.
    one_pass: of the pass.
    block: slots of a row, where the path has blocks; else 0.
    groups: steps of a sample by groups of one rank, where the path has them;
      else 0.
    recomputed: whether nothing could be cut, as the pass seems to read what is
      not known yet, so that a step is a pass.
  """

  name: str
  steps: int
  operations: tuple[Operation, ...]
  kept: int
  arrays: int
  whole: int
  step: float
  one_pass: float
  block: int
  groups: int
  recomputed: bool = False

  @property
  def in_full(self) -> tuple[Operation, ...]:
    """Operations that every step runs on whole arrays."""
    return tuple(o for o in self.operations if o.how == 'full')

  def __str__(self) -> str:
    if self.recomputed:
      return (
        f'{self.name}: no cache. Seen operation by operation, an output reads '
        'what is not known when it is drawn, so each step is one full pass; '
        'analysis.static.check(model) says by which operation.'
      )
    rows = [f'  {"operation":<22} {"computed":<18} {"of":<18} how   where']
    for o in self.operations:
      show = lambda shape: 'x'.join(map(str, shape)) or '1'
      note = ', kept' if o.kept else ''
      if o.share < 1:
        note += f', {o.share:.0%} of the steps'
      rows.append(
        f'  {o.name:<22} {show(o.part):<18} {show(o.shape):<18} {o.how:<5} '
        f'{o.where}{note}'
      )
    count = lambda how: sum(o.how == how for o in self.operations)
    rows.append(
      f'{self.name}: {count("cut")} operations are cut, {count("full")} run in '
      f'full at every step, {count("once")} once. {self.kept:,} numbers in '
      f'{self.arrays} arrays are kept, of {self.whole:,} that the pass makes. '
      f'A step costs {self.step:,.0f} operations, the pass {self.one_pass:,.0f}'
      f': {self.steps} steps are {self.steps * self.step / self.one_pass:.2f} '
      'passes.'
    )
    if self.block:
      rows.append(
        f'Rows of {self.block} slots: what a whole row can have is computed '
        'when it begins.'
      )
    if self.groups:
      rows.append(f'Groups of one rank: {self.groups} steps draw a sample.')
    return '\n'.join(rows)


def explain_decode(model: AutoregressiveModel) -> Explanation:
  """Says what the derived cache of a model computes, keeps and costs.

  Args:
    model: the model; a decode path of its own is not looked at.

  Returns:
    The explanation: print it, or read its fields.
  """
  found = derived(model)
  if found is None:
    return Explanation(
      model.name, model.num_positions, (), 0, 0, 0, 0, 0, 0, 0, True
    )
  params = jax.eval_shape(model.init, jax.random.key(0))
  specs = params, model.context
  cache = jax.eval_shape(found.init, *specs)
  value = model.event.shape[model.rank.ndim :]
  one = jax.ShapeDtypeStruct((1, *value), model.event.dtype)
  step = complexity.count(
    lambda p, c, v: found.extend(p, c, jnp.int32(0), v), params, cache, one
  )
  args = params, model.event, model.context
  one_pass = complexity.count(model.conditionals, *args)
  operations = [
    *_once(found),
    *(_cut(found, i) for i in found.plan.instructions),
  ]
  entries = lambda v: int(np.prod(v.shape))
  path = derive_decode(model)
  return Explanation(
    name=model.name,
    steps=model.num_positions,
    operations=tuple(operations),
    kept=sum(map(entries, found.kept)),
    arrays=len(found.kept),
    whole=sum(entries(v) for op in found.ready.ops for v in op.outputs),
    step=step.work,
    one_pass=one_pass.work,
    block=path.blocks.size if path.blocks else 0,
    groups=model.depth if path.groups else 0,
  )


def _once(found: Derived) -> list[Operation]:
  rows = []
  for op in found.ready.once:
    where, _ = frames.place_of(op.outer or op.eqn)
    shape = op.outputs[0].shape
    kept = any(v in found.fixed for v in op.outputs)
    rows.append(Operation(op.name, where, shape, shape, 'once', 1.0, kept))
  return rows


def _cut(found: Derived, i: Instruction) -> Operation:
  n = next(n for n, cut in enumerate(i.made) if cut is not None)
  v, cut = i.op.outputs[n], i.made[n]
  assert cut is not None
  where, _ = frames.place_of(i.op.outer or i.op.eqn)
  return Operation(
    name=i.op.name,
    where=where,
    shape=v.shape,
    part=cuts.sizes(cut, v.shape),
    how='full' if i.full else 'cut',
    share=1.0 if i.mask is None else float(np.mean(i.mask)),
    kept=any(v in found.kept for v in i.op.outputs),
  )
