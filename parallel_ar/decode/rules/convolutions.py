"""The rule of convolutions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.decode import facts as known
from parallel_ar.decode.facts import NEVER, Facts
from parallel_ar.decode.rules.rule import NoRule, Rule, Step


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


def _window_of(
  c: _Conv, axis: int, index: Any, first: int, taps: int
) -> tuple[np.ndarray, int, int, bool]:
  """What outputs at places of an axis read of it.

  Outputs in a run share a window; else each has one of its own.

  Returns:
    Places int[K, m], the stride and the dilation over them, and whether it is
    one output, whose taps they are.
  """
  stride, dilation = c.strides[axis], c.dilation[axis]
  if not index.run or c.spread[axis] != 1:
    each = [c.places(axis, first + t, index.table) for t in range(taps)]
    places = np.stack(each, 2).reshape(len(index.table), -1)
    return places, taps, 1, False
  span = (index.size - 1) * stride + (taps - 1) * dilation + 1
  start = index.table[:, :1] * stride - c.low[axis] + first * dilation
  places = start + np.arange(span)
  if index.size > 1:
    return places, stride, dilation, False
  return places[:, ::dilation], stride, 1, True


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
      plain = padding[axis], strides[axis], spread[axis], crop[axis][1]
      single = single and plain == ((0, 0), 1, 1, 1)
      continue
    places, strides[axis], dilation[axis], one = _window_of(
      c, axis, index, first, taps
    )
    single = single and one
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

RULES = {'conv_general_dilated': CONV}
