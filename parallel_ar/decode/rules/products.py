"""Rules of matrix products and convolutions."""

from typing import Any

import numpy as np

from parallel_ar.decode import facts as known
from parallel_ar.decode.facts import NEVER, Facts
from parallel_ar.decode.rules.rule import NoRule, Rule, Step

_CHUNK = 1 << 26  # entries of a comparison that is made at once


# ---------------------------------------------------------------- dot_general


class _Axes:
  """The axes of a product: batch, rows of each side, contracted."""

  def __init__(self, op: Any):
    (self.lc, self.rc), (self.lb, self.rb) = op.params['dimension_numbers']
    left, right = (v.shape for v in op.inputs)
    self.lf = [n for n in range(len(left)) if n not in (*self.lc, *self.lb)]
    self.rf = [n for n in range(len(right)) if n not in (*self.rc, *self.rb)]
    self.left, self.right = left, right

  def out_of_left(self, axis: int) -> int | None:
    """The axis of the result that an axis of the left is."""
    if axis in self.lb:
      return list(self.lb).index(axis)
    if axis in self.lf:
      return len(self.lb) + self.lf.index(axis)
    return None

  def out_of_right(self, axis: int) -> int | None:
    """The axis of the result that an axis of the right is."""
    if axis in self.rb:
      return list(self.rb).index(axis)
    if axis in self.rf:
      return len(self.lb) + len(self.lf) + self.rf.index(axis)
    return None

  def spread(self, a: Any, right: bool) -> Any:
    """[batch..., left rows..., right rows..., contracted...]."""
    if a is None:
      return None
    batch, free, inner = (
      (self.rb, self.rf, self.rc) if right else (self.lb, self.lf, self.lc)
    )
    a = a.transpose([*batch, *free, *inner])
    shape, b, f = list(a.shape), len(batch), len(free)
    if right:
      shape[b:b] = [1] * len(self.lf)
    else:
      shape[b + f : b + f] = [1] * len(self.rf)
    return a.reshape(shape)

  def back(self, a: np.ndarray, right: bool) -> np.ndarray:
    """From the axes of `spread` to those of an operand, by the minimum."""
    b, l, r = len(self.lb), len(self.lf), len(self.rf)
    drop = range(b, b + l) if right else range(b + l, b + l + r)
    a = a.min(tuple(drop))
    batch, free, inner = (
      (self.rb, self.rf, self.rc) if right else (self.lb, self.lf, self.lc)
    )
    return a.transpose(np.argsort([*batch, *free, *inner]))


def _dot_ready(op: Any, ins: list[Facts]) -> list[Facts]:
  axes = _Axes(op)
  inner = tuple(
    range(len(op.outputs[0].shape), len(op.outputs[0].shape) + len(axes.lc))
  )
  found = None
  zeros = [axes.spread(f.zero, n == 1) for n, f in enumerate(ins)]
  for n, f in enumerate(ins):
    if f.ready is None:
      continue
    ready = axes.spread(f.ready, n == 1)
    part = _over(ready, zeros[1 - n], inner, np.maximum, 0)
    found = part if found is None else np.maximum(found, part)
  zero = known.either(zeros)
  if zero is not None:
    zero = known.some(zero.all(inner))
  return [Facts(known.unless(zero, found, 0), zero)]


def _over(
  a: np.ndarray, skip: Any, axes: tuple[int, ...], join: Any, blank: int
) -> np.ndarray:
  """Joins along axes what is not skipped, without a large intermediate."""
  if skip is None:
    return join.reduce(a, axes) if axes else a
  shape = np.broadcast_shapes(a.shape, skip.shape)
  if int(np.prod(shape)) <= _CHUNK or not a.ndim or shape[0] == 1:
    return join.reduce(np.where(skip, np.int32(blank), a), axes)
  rows = max(1, _CHUNK * shape[0] // int(np.prod(shape)))
  cut = lambda b, n: b if b.shape[0] == 1 else b[n : n + rows]
  parts = [
    join.reduce(np.where(cut(skip, n), np.int32(blank), cut(a, n)), axes)
    for n in range(0, shape[0], rows)
  ]
  return np.concatenate(parts) if 0 not in axes else join.reduce(parts)


def _dot_due(
  op: Any, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  axes = _Axes(op)
  due = dues[0].reshape([*dues[0].shape, *[1] * len(axes.lc)])
  b, l, r = len(axes.lb), len(axes.lf), len(axes.rf)
  found: list[Any] = []
  for n in range(2):
    if ins[n].ready is None:
      found.append(None)
      continue
    skip = axes.spread(ins[1 - n].zero, n == 0)
    own = axes.spread(ins[n].zero, n == 1)
    drop = tuple(range(b, b + l) if n == 1 else range(b + l, b + l + r))
    if skip is None:
      part = due.min(drop, keepdims=True)
    else:
      shape = np.broadcast_shapes(due.shape, skip.shape)
      if int(np.prod(shape)) > 8 * _CHUNK:
        raise NoRule
      part = np.where(skip, NEVER, due).min(drop, keepdims=True)
    if own is not None:
      part = np.where(own, NEVER, part)
    found.append(axes.back(part, n == 1))
  return found


def masked(
  at: Any, zero: Any, shape: Any, axis: int, cut_of: dict[int, Any]
) -> Any:
  """The places along a summed axis that what is due reads: an Index or None.

  Args:
    at: the class of steps.
    zero: where an operand contributes nothing, or None.
    shape: of the operand.
    axis: the summed axis.
    cut_of: of the other axes that are cut, their Index.
  """
  if zero is None or zero.shape[axis] == 1:
    return None
  rows = [n for n, i in cut_of.items() if zero.shape[n] > 1]
  others = tuple(n for n in range(zero.ndim) if n != axis and n not in rows)
  if len(rows) > 1:
    return None
  reads = ~zero.all(others)
  if not rows:
    present = np.broadcast_to(reads, (at.steps, shape[axis]))
  else:
    if rows[0] > axis:
      reads = reads.T
    present = reads[cut_of[rows[0]].table].any(1)
  if not present.any():
    return None
  return at.covering(present)


def _dot_step(op: Any, cuts: list[Any], at: Any) -> Step:
  axes, (cut,) = _Axes(op), cuts
  left = [
    None if (o := axes.out_of_left(n)) is None else cut[o]
    for n in range(len(axes.left))
  ]
  right = [
    None if (o := axes.out_of_right(n)) is None else cut[o]
    for n in range(len(axes.right))
  ]
  for l, r in zip(axes.lc, axes.rc, strict=True):
    own = lambda c: {n: i for n, i in enumerate(c) if i is not None}
    index = masked(
      at, at.facts(op.inputs[0]).zero, axes.left, l, own(left)
    ) or masked(at, at.facts(op.inputs[1]).zero, axes.right, r, own(right))
    if index is not None and index.run:
      left[l] = right[r] = index
      break  # one is enough, and others would have to agree
  needs = [(op.inputs[0], tuple(left)), (op.inputs[1], tuple(right))]
  return needs, lambda v, k: op.bind(*v)


def layout(op: Any, n: int) -> tuple[int, ...]:
  """The order of an operand's axes in memory that a product reads as it is."""
  axes = _Axes(op)
  if n == 0:
    return (*axes.lb, *axes.lf, *axes.lc)
  return (*axes.rb, *axes.rc, *axes.rf)


DOT = Rule(_dot_ready, _dot_due, _dot_step)


RULES = {'dot_general': DOT}
