"""Rules of matrix products and convolutions."""

from typing import Any

import jax
import jax.numpy as jnp
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


# ---------------------------------------------------------------- convolution


class _Conv:
  """A convolution: its axes, and which entries each tap reads."""

  def __init__(self, op: Any):
    p = op.params
    dims = p['dimension_numbers']
    self.batch, self.feature, *self.space = dims.lhs_spec
    self.out_kernel, self.in_kernel, *self.taps = dims.rhs_spec
    self.out_batch, self.out_feature, *self.out_space = dims.out_spec
    self.strides = p['window_strides']
    self.low = [lo for lo, _ in p['padding']]
    self.spread = p['lhs_dilation']
    self.dilation = p['rhs_dilation']
    self.group = p['feature_group_count']
    self.x, self.kernel = (v.shape for v in op.inputs)
    self.out = op.outputs[0].shape
    if p['batch_group_count'] != 1:
      raise NoRule

  def places(self, axis: int, tap: int, table: np.ndarray) -> np.ndarray:
    """Where a tap reads for outputs at `table`; -1 where it reads a zero."""
    at = table * self.strides[axis] - self.low[axis]
    at = at + tap * self.dilation[axis]
    n, spread = self.x[self.space[axis]], self.spread[axis]
    hit = (at >= 0) & (at % spread == 0) & (at // spread < n)
    return np.where(hit, at // spread, -1)

  def each_tap(self) -> Any:
    """All combinations of taps."""
    return np.ndindex(*(self.kernel[n] for n in self.taps))

  def zero_tap(self, zero: Any, taps: tuple[int, ...]) -> Any:
    """bool[inputs, outputs] of a tap, or None: where the kernel is zero."""
    if zero is None:
      return None
    order = (*self.taps, self.in_kernel, self.out_kernel)
    a = zero.transpose(order)
    return a[
      tuple(t if n > 1 else 0 for t, n in zip(taps, a.shape, strict=False))
    ]


def _window(c: _Conv, a: np.ndarray, taps: Any, blank: int) -> np.ndarray:
  """[batch, *out space, feature]: what each output sees at a tap."""
  a = a.transpose([c.batch, *c.space, c.feature])
  for axis, tap in enumerate(taps):
    n = a.shape[axis + 1]
    at = c.places(axis, tap, np.arange(c.out[c.out_space[axis]]))
    if n == 1 and (at >= 0).all():
      continue
    shape = [1] * a.ndim
    shape[axis + 1] = -1
    a = a.take(np.maximum(at, 0) if n > 1 else at * 0, axis + 1)
    a = np.where((at >= 0).reshape(shape), a, np.int32(blank))
  return a


def _mixed(c: _Conv, a: np.ndarray, zero: Any, join: Any, blank: int) -> Any:
  """The features of an output from those it sees, by group."""
  outs = c.out[c.out_feature]
  if c.group > 1:
    if a.shape[-1] == 1:
      return a
    per = c.x[c.feature] // c.group
    a = join.reduce(a.reshape(*a.shape[:-1], c.group, per), -1)
    return np.repeat(a, outs // c.group, -1)
  if zero is None:
    return join.reduce(a, -1, keepdims=True)
  return join.reduce(np.where(zero, np.int32(blank), a[..., None]), -2)


def _conv_ready(op: Any, ins: list[Facts]) -> list[Facts]:
  c = _Conv(op)
  x, kernel = ins
  if kernel.ready is not None:
    raise NoRule
  if x.ready is None:
    return [Facts()]
  found = None
  for taps in c.each_tap():
    zero = c.zero_tap(kernel.zero, taps)
    if zero is not None and zero.all():
      continue
    part = _mixed(c, _window(c, x.ready, taps, 0), zero, np.maximum, 0)
    found = part if found is None else np.maximum(found, part)
  if found is None:
    shape = [1] * len(c.out)
    return [Facts(np.zeros(shape, np.int32), np.ones(shape, bool))]
  order = np.argsort([c.out_batch, *c.out_space, c.out_feature])
  return [Facts(known.thin(found.transpose(order)))]


def _conv_due(
  op: Any, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  c = _Conv(op)
  if ins[0].ready is None:
    return [None, None]
  due = dues[0].transpose([c.out_batch, *c.out_space, c.out_feature])
  shape = [1, *(c.x[n] for n in c.space), 1]
  found = np.full(shape, NEVER, np.int32)
  for taps in c.each_tap():
    zero = c.zero_tap(ins[1].zero, taps)
    if zero is not None and zero.all():
      continue
    part = _unmixed(c, due, zero)
    for axis, tap in enumerate(taps):
      at = c.places(axis, tap, np.arange(c.out[c.out_space[axis]]))
      size = list(part.shape)
      size[axis + 1] = c.x[c.space[axis]]
      wide = np.full(size, NEVER, np.int32)
      hit = at >= 0
      where: list[Any] = [slice(None)] * part.ndim
      where[axis + 1] = at[hit]
      own = part if part.shape[axis + 1] == 1 else part.compress(hit, axis + 1)
      if len(set(at[hit])) == hit.sum():
        wide[tuple(where)] = own
      else:
        np.minimum.at(wide, tuple(where), own)
      part = wide
    found = np.minimum(found, part)
  order = np.argsort([c.batch, *c.space, c.feature])
  return [known.thin(found.transpose(order)), None]


def _unmixed(c: _Conv, due: np.ndarray, zero: Any) -> np.ndarray:
  """When the features that a tap reads are due."""
  if c.group > 1:
    if due.shape[-1] == 1:
      return due
    per = c.out[c.out_feature] // c.group
    due = due.reshape(*due.shape[:-1], c.group, per).min(-1)
    return np.repeat(due, c.x[c.feature] // c.group, -1)
  if zero is None:
    return due.min(-1, keepdims=True)
  return np.where(zero, NEVER, due[..., None, :]).min(-1)


def _crop(c: _Conv, zero: Any) -> list[tuple[int, int]]:
  """The taps of each axis that are not zero: first, and count."""
  found = []
  for _axis, n in enumerate(c.taps):
    count = c.kernel[n]
    if zero is None or zero.shape[n] == 1:
      found.append((0, count))
      continue
    others = tuple(a for a in range(zero.ndim) if a != n)
    at = np.flatnonzero(~zero.all(others))
    found.append((int(at[0]), int(at[-1] - at[0]) + 1))
  return found


def _conv_step(op: Any, cuts: list[Any], at: Any) -> Step:
  c, (cut,) = _Conv(op), cuts
  kernel = at.facts(op.inputs[1])
  need: list[Any] = [None] * len(c.x)
  need[c.batch] = cut[c.out_batch]
  strides, padding = list(c.strides), list(op.params['padding'])
  spread, dilation = list(c.spread), list(c.dilation)
  crop = _crop(c, kernel.zero)
  single = c.group == 1
  for axis, a in enumerate(c.space):
    index, (first, taps) = cut[c.out_space[axis]], crop[axis]
    if index is None:
      crop[axis] = 0, c.kernel[c.taps[axis]]
      single = (
        single
        and c.kernel[c.taps[axis]] == 1
        and (
          padding[axis] == (0, 0) and strides[axis] == 1 and spread[axis] == 1
        )
      )
      continue
    # Outputs in a run share a window; else each has one of its own.
    if index.run and c.spread[axis] == 1:
      span = (index.size - 1) * c.strides[axis]
      span += (taps - 1) * c.dilation[axis] + 1
      start = index.table[:, :1] * c.strides[axis] - c.low[axis]
      start = start + first * c.dilation[axis]
      places = start + np.arange(span)
      if index.size == 1:  # only what the taps see
        places, dilation[axis] = places[:, :: c.dilation[axis]], 1
      single = single and index.size == 1
    else:
      places = np.concatenate(
        [
          c.places(axis, first + t, index.table)[:, :, None]
          for t in range(taps)
        ],
        2,
      ).reshape(at.steps, -1)
      strides[axis], dilation[axis] = taps, 1
      single = False
    padding[axis], spread[axis] = (0, 0), 1
    need[a] = at.of(places, c.x[a])
  weights: list[Any] = [None] * len(c.kernel)
  for n, (first, taps) in zip(c.taps, crop, strict=True):
    weights[n] = at.of(first + np.arange(taps)[None], c.kernel[n])
  feature = cut[c.out_feature]
  if feature is not None and c.group == 1:
    weights[c.out_kernel] = feature
  needs = [(op.inputs[0], tuple(need)), (op.inputs[1], tuple(weights))]

  def run(values: list[Any], k: Any) -> list[Any]:
    x, w = values
    if single:
      out = _at_one_place(op, c, cut, x, w)
    else:
      (out,) = op.bind(
        x,
        w,
        window_strides=tuple(strides),
        padding=tuple(padding),
        lhs_dilation=tuple(spread),
        rhs_dilation=tuple(dilation),
      )
    if feature is not None and c.group > 1:
      out = jnp.take(out, feature.at(k), c.out_feature)
    return [out]

  return needs, run


def _at_one_place(op: Any, c: _Conv, cut: Any, x: Any, w: Any) -> Any:
  """A convolution of which one place is wanted is a matrix product."""
  taps = [n for n, a in enumerate(c.space) if cut[c.out_space[n]] is not None]
  rest = [n for n in range(len(c.space)) if n not in taps]
  inner = [c.space[n] for n in taps] + [c.feature]
  over = [c.taps[n] for n in taps] + [c.in_kernel]
  w = w.squeeze([c.taps[n] for n in rest]) if rest else w
  kept = [n for n in range(len(c.kernel)) if n not in [c.taps[m] for m in rest]]
  over = [kept.index(n) for n in over]
  out = jax.lax.dot_general(
    x,
    w,
    ((inner, over), ((), ())),
    precision=op.params['precision'],
    preferred_element_type=op.params['preferred_element_type'],
  )
  # [batch and whole axes in their order, outputs]
  order = [n for n in range(x.ndim) if n not in inner]
  place = {a: n for n, a in enumerate(order)}
  axes: list[Any] = [None] * x.ndim
  axes[c.out_feature] = len(order)
  axes[c.out_batch] = place[c.batch]
  missing = []
  for n, a in enumerate(c.space):
    if n in taps:
      missing.append(c.out_space[n])
    else:
      axes[c.out_space[n]] = place[a]
  out = out.transpose([a for a in axes if a is not None])
  return jnp.expand_dims(out, missing)


CONV = Rule(_conv_ready, _conv_due, _conv_step)

RULES = {'dot_general': DOT, 'conv_general_dilated': CONV}
