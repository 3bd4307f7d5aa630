"""Rules of operations that move entries along axes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.decode import cuts as cutting
from parallel_ar.decode import facts as known
from parallel_ar.decode.facts import NEVER, Facts
from parallel_ar.decode.rules.rule import NoRule, Rule, Step

Move = Callable[..., Any]


def moved(ins: list[Facts], move: Move) -> Facts:
  """Facts of entries that `move` puts elsewhere.

  Args:
    ins: facts of the operands.
    move: of one fact of each operand (arrays that broadcast to them) to that
      of the result.

  Returns:
    The facts.
  """

  def each(name: str, blank: Any) -> Any:
    own = [getattr(f, name) for f in ins]
    if all(a is None for a in own):
      return None
    return move(*(blank if a is None else a for a in own))

  flag = lambda name: known.some(each(name, np.zeros((), bool)))
  ready = each('ready', np.int32(0))
  return Facts(ready, flag('zero'), flag('true'), flag('low'))


def _rule(forward: Any, backward: Any, step: Any) -> Rule:
  """Of one operand and one result."""
  return Rule(
    lambda op, ins: [moved(ins[:1], lambda a: forward(op, axes_of(op, a)))],
    lambda op, ins, outs, dues: [
      backward(op, dues[0]),
      *[None] * (len(op.inputs) - 1),
    ],
    step,
  )


def axes_of(op: Any, a: Any) -> Any:
  """A blank fact with the axes of the operand."""
  rank = len(op.inputs[0].shape)
  return a if a.ndim == rank else a.reshape([1] * rank)


# ------------------------------------------------------------------ transpose


def _transpose_step(op: Any, cuts: list[Any], at: Any) -> Step:
  axes = op.params['permutation']
  back = np.argsort(axes)
  need = tuple(cuts[0][n] for n in back)
  return [(op.inputs[0], need)], lambda v, k: [jax.lax.transpose(v[0], axes)]


TRANSPOSE = _rule(
  lambda op, a: a.transpose(op.params['permutation']),
  lambda op, due: due.transpose(np.argsort(op.params['permutation'])),
  _transpose_step,
)


# -------------------------------------------------------------------- reshape


def _reshape_ready(op: Any, ins: list[Facts]) -> list[Facts]:
  before, after = op.inputs[0].shape, op.outputs[0].shape
  turned = op.name == 'reshape' and op.params['dimensions'] is not None
  if turned or 0 in before:
    raise NoRule
  move = lambda a: known.reshaped(axes_of(op, a), before, after)
  return [moved(ins[:1], move)]


def _reshape_step(op: Any, cuts: list[Any], at: Any) -> Step:
  before, after = op.inputs[0].shape, op.outputs[0].shape
  need: list[Any] = [None] * len(before)
  picks: list[Any] = []  # (shape of a group in a box, where its entries are)
  for left, right in known.groups(before, after):
    size = int(np.prod([after[n] for n in right]))
    if all(cuts[0][n] is None for n in right):
      picks.append((size, None))
      continue
    own = [cuts[0][n] for n in right]
    flat = at.numbers(own, [after[n] for n in right])
    dims = [before[n] for n in left]
    if len([n for n in dims if n > 1]) == 1:
      # One axis: entries in any order.
      for n in left:
        need[n] = at.of(flat, before[n]) if before[n] > 1 else None
      picks.append((flat.shape[1], None))
      continue
    axes, where = at.project(flat, dims)
    for n, index in zip(left, axes, strict=True):
      need[n] = index
    box = [
      i.size if i is not None else n for i, n in zip(axes, dims, strict=True)
    ]
    picks.append((int(np.prod(box)), where))
  out = cutting.sizes(cuts[0], after)

  def run(values: list[Any], k: Any) -> list[Any]:
    v = values[0].reshape([n for n, _ in picks])
    for axis, (_, where) in enumerate(picks):
      if where is not None:
        v = jnp.take(v, cutting.entry(where, k), axis, mode='clip')
    return [v.reshape(out)]

  return [(op.inputs[0], tuple(need))], run


RESHAPE = Rule(
  _reshape_ready,
  lambda op, ins, outs, dues: [
    known.reshaped(dues[0], op.outputs[0].shape, op.inputs[0].shape),
    *[None] * (len(op.inputs) - 1),
  ],
  _reshape_step,
)


# ----------------------------------------------------------- broadcast_in_dim


def _broadcast(op: Any, a: np.ndarray) -> np.ndarray:
  shape = [1] * len(op.outputs[0].shape)
  for n, axis in zip(a.shape, op.params['broadcast_dimensions'], strict=True):
    shape[axis] = n
  return a.reshape(shape)


def _broadcast_due(op: Any, due: np.ndarray) -> np.ndarray:
  axes, shape = op.params['broadcast_dimensions'], op.inputs[0].shape
  others = tuple(n for n in range(due.ndim) if n not in axes)
  return known.fit(due.min(others), shape) if due.ndim else due


def _broadcast_step(op: Any, cuts: list[Any], at: Any) -> Step:
  axes, shape = op.params['broadcast_dimensions'], op.inputs[0].shape
  whole = op.outputs[0].shape
  need = tuple(
    cuts[0][axis] if n == whole[axis] else None
    for n, axis in zip(shape, axes, strict=True)
  )
  out = cutting.sizes(cuts[0], whole)
  run = lambda v, k: [jax.lax.broadcast_in_dim(v[0], out, axes)]
  return [(op.inputs[0], need)], run


BROADCAST = _rule(_broadcast, _broadcast_due, _broadcast_step)


# ------------------------------------------------------------- slice and rev


def _bounds(op: Any) -> list[tuple[int, int, int]]:
  """(start, stride, count) of each axis."""
  if op.name == 'rev':
    turned = op.params['dimensions']
    return [
      (n - 1, -1, n) if a in turned else (0, 1, n)
      for a, n in enumerate(op.inputs[0].shape)
    ]
  if op.name == 'dynamic_slice':
    sizes = op.params['slice_sizes']
    starts = [int(v.value) for v in op.inputs[1:]]
    each = zip(starts, op.inputs[0].shape, sizes, strict=True)
    return [(min(max(s, 0), n - m), 1, m) for s, n, m in each]
  strides = op.params['strides'] or (1,) * len(op.inputs[0].shape)
  return list(
    zip(op.params['start_indices'], strides, op.outputs[0].shape, strict=True)
  )


def _slice(op: Any, a: np.ndarray) -> np.ndarray:
  for axis, (start, stride, count) in enumerate(_bounds(op)):
    if a.shape[axis] > 1:
      a = a.take(start + stride * np.arange(count), axis)
  return a


def _slice_due(op: Any, due: np.ndarray) -> np.ndarray:
  for axis, (start, stride, count) in enumerate(_bounds(op)):
    n = op.inputs[0].shape[axis]
    if count == n and (due.shape[axis] == 1 or stride == 1):
      continue
    shape = list(due.shape)
    shape[axis] = n
    wide = np.full(shape, NEVER, np.int32)
    at: list[Any] = [slice(None)] * due.ndim
    at[axis] = start + stride * np.arange(count)
    wide[tuple(at)] = due
    due = wide
  return due


def _slice_step(op: Any, cuts: list[Any], at: Any) -> Step:
  need = []
  for index, n, (start, stride, count) in zip(
    cuts[0], op.inputs[0].shape, _bounds(op), strict=True
  ):
    table = start + stride * at.places(index, count)
    need.append(at.of(table, n))
  return [(op.inputs[0], tuple(need))], lambda v, k: v


SLICE = _rule(_slice, _slice_due, _slice_step)


def layout(op: Any, axes: tuple[int, ...]) -> tuple[int, ...] | None:
  """The order of the operand's axes that gives the result this order."""
  if op.name == 'transpose':
    return tuple(op.params['permutation'][n] for n in axes)
  if op.name in ('expand_dims', 'squeeze'):
    shape, out = op.inputs[0].shape, op.outputs[0].shape
    ones = [n for n, size in enumerate(shape) if size == 1]
    rest = [n for n, size in enumerate(shape) if size != 1]
    kept = [n for n, size in enumerate(out) if size != 1]
    return (*ones, *(rest[kept.index(n)] for n in axes if n in kept))
  return axes if op.name in ('slice', 'split', 'rev', 'pad') else None


def is_strided(op: Any) -> bool:
  """Whether a part is cut out that does not lie together in memory."""
  if op.name not in ('slice', 'split'):
    return False
  before, after = op.inputs[0].shape, op.outputs[0].shape
  long = [n for n, size in enumerate(before) if size > 1]
  return any(before[n] != after[n] for n in long[1:])


RULES = {
  'broadcast_in_dim': BROADCAST,
  'expand_dims': RESHAPE,
  'reshape': RESHAPE,
  'rev': SLICE,
  'slice': SLICE,
  'squeeze': RESHAPE,
  'transpose': TRANSPOSE,
}
