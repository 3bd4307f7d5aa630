"""Rules of operations that put arrays together, or take them apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.decode import cuts as cutting
from parallel_ar.decode import facts as known
from parallel_ar.decode.facts import NEVER, Facts
from parallel_ar.decode.rules.moves import axes_of, moved
from parallel_ar.decode.rules.rule import Rule, Step

# ------------------------------------------------------------------------ pad


def _landing(op: Any, axis: int) -> tuple[np.ndarray, np.ndarray]:
  """Places of the operand along an axis that land in the result, and where."""
  low, _, inner = op.params['padding_config'][axis]
  source = np.arange(op.inputs[0].shape[axis])
  target = low + source * (inner + 1)
  inside = (target >= 0) & (target < op.outputs[0].shape[axis])
  return source[inside], target[inside]


def _padded(op: Any) -> list[int]:
  config = op.params['padding_config']
  return [n for n, p in enumerate(config) if tuple(p) != (0, 0, 0)]


def _pad(op: Any, a: np.ndarray, fill: np.ndarray) -> np.ndarray:
  a = axes_of(op, a)
  for axis in _padded(op):
    source, target = _landing(op, axis)
    shape = list(a.shape)
    shape[axis] = op.outputs[0].shape[axis]
    wide = np.empty(shape, a.dtype)
    wide[...] = fill.reshape(())
    at: list[Any] = [slice(None)] * a.ndim
    at[axis] = target
    wide[tuple(at)] = a.take(source, axis) if a.shape[axis] > 1 else a
    a = wide
  return a


def _pad_due(
  op: Any, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  due = dues[0]
  rest = due.min(initial=NEVER)
  for axis in _padded(op):
    source, target = _landing(op, axis)
    n = op.inputs[0].shape[axis]
    if due.shape[axis] == 1 and len(source) == n:
      continue
    shape = list(due.shape)
    shape[axis] = n
    wide = np.full(shape, NEVER, np.int32)
    at: list[Any] = [slice(None)] * due.ndim
    at[axis] = source
    wide[tuple(at)] = due.take(target, axis) if due.shape[axis] > 1 else due
    due = wide
  return [due, np.asarray(rest)]


def _pad_step(op: Any, cuts: list[Any], at: Any) -> Step:
  config, (source, fill) = op.params['padding_config'], op.inputs
  if 0 in source.shape:
    shape = cutting.sizes(cuts[0], op.outputs[0].shape)
    return [(fill, ())], lambda v, k: [jnp.broadcast_to(v[0], shape)]
  whole = [(0, 0, 0)] * len(config)
  need: list[Any] = []
  inside = []
  for axis, (index, n, p) in enumerate(
    zip(cuts[0], source.shape, config, strict=True)
  ):
    low, _, inner = p
    if index is None:
      whole[axis] = p
      need.append(None)
      continue
    place = index.table - low
    hit = (place % (inner + 1) == 0) & (place >= 0)
    hit &= place // (inner + 1) < n
    table = np.clip(place // (inner + 1), 0, n - 1)
    need.append(at.of(table, n) if n > 1 else at.of(table * 0, n))
    if not hit.all():
      inside.append((axis, hit))

  def run(values: list[Any], k: Any) -> list[Any]:
    v = jax.lax.pad(values[0], values[1], whole)
    shape = cutting.sizes(cuts[0], op.outputs[0].shape)
    for axis, hit in inside:
      here = cutting.entry(hit, k).reshape(
        [-1 if a == axis else 1 for a in range(v.ndim)]
      )
      v = jnp.where(here, v, values[1])
    return [jnp.broadcast_to(v, shape)]

  return [(source, tuple(need)), (fill, ())], run


PAD = Rule(
  lambda op, ins: [moved(ins, lambda a, f: _pad(op, a, f))], _pad_due, _pad_step
)


# ------------------------------------------------------ concatenate and split


def _join(op: Any, *arrays: np.ndarray) -> np.ndarray:
  axis = op.params['dimension']
  rank = len(op.outputs[0].shape)
  wide = []
  for a, v in zip(arrays, op.inputs, strict=True):
    a = a if a.ndim == rank else a.reshape([1] * rank)
    shape = list(a.shape)
    shape[axis] = v.shape[axis]
    wide.append(np.broadcast_to(a, shape))
  others = [
    max(a.shape[n] for a in wide) if n != axis else 0 for n in range(rank)
  ]
  wide = [
    np.broadcast_to(a, [*others[:axis], a.shape[axis], *others[axis + 1 :]])
    for a in wide
  ]
  return np.concatenate(wide, axis)


def _offsets(op: Any, arrays: Any, axis: int) -> list[int]:
  return [0, *np.cumsum([v.shape[axis] for v in arrays])[:-1]]


def _join_due(
  op: Any, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  (due,), axis = dues, op.params['dimension']
  if due.shape[axis] == 1:
    return [due] * len(op.inputs)
  starts = _offsets(op, op.inputs, axis)
  return [
    due.take(np.arange(s, s + v.shape[axis]), axis)
    for s, v in zip(starts, op.inputs, strict=True)
  ]


def _join_step(op: Any, cuts: list[Any], at: Any) -> Step:
  axis, (cut,) = op.params['dimension'], cuts
  index = cut[axis]
  if index is None:
    return [(v, cut) for v in op.inputs], lambda v, k: op.bind(*v)
  needs, inside = [], []
  for start, v in zip(_offsets(op, op.inputs, axis), op.inputs, strict=True):
    n, place = v.shape[axis], index.table - start
    hit = (place >= 0) & (place < n)
    if hit.any():
      own = at.of(np.clip(place, 0, n - 1), n)
      needs.append((v, (*cut[:axis], own, *cut[axis + 1 :])))
      inside.append(hit)

  def run(values: list[Any], k: Any) -> list[Any]:
    shape = cutting.sizes(cut, op.outputs[0].shape)
    out = jnp.broadcast_to(values[0], shape)
    for v, hit in zip(values[1:], inside[1:], strict=True):
      here = cutting.entry(hit, k).reshape(
        [-1 if a == axis else 1 for a in range(v.ndim)]
      )
      out = jnp.where(here, v, out)
    return [out]

  return needs, run


CONCATENATE = Rule(
  lambda op, ins: [moved(ins, lambda *a: _join(op, *a))], _join_due, _join_step
)


def _split(op: Any, ins: list[Facts]) -> list[Facts]:
  axis = op.params['axis']

  def part(n: int, start: int) -> Facts:
    def move(a: np.ndarray) -> np.ndarray:
      a = axes_of(op, a)
      return a if a.shape[axis] == 1 else a.take(start + np.arange(n), axis)

    return moved(ins, move)

  starts = _offsets(op, op.outputs, axis)
  return [
    part(v.shape[axis], s) for v, s in zip(op.outputs, starts, strict=True)
  ]


def _split_due(
  op: Any, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  axis = op.params['axis']
  blank = np.full([1] * len(op.inputs[0].shape), NEVER, np.int32)
  parts = []
  shape = [1] * blank.ndim
  for due in dues:
    if due is not None:
      shape = [
        1 if a == axis else max(m, n)
        for a, (m, n) in enumerate(zip(shape, due.shape, strict=True))
      ]
  for v, due in zip(op.outputs, dues, strict=True):
    own = blank if due is None else due
    size = [*shape[:axis], v.shape[axis], *shape[axis + 1 :]]
    parts.append(np.broadcast_to(own, size))
  return [known.thin(np.concatenate(parts, axis))]


def _split_step(op: Any, cuts: list[Any], at: Any) -> Step:
  axis = op.params['axis']
  starts = _offsets(op, op.outputs, axis)
  needs, due = [], []
  for n, (v, cut, start) in enumerate(
    zip(op.outputs, cuts, starts, strict=True)
  ):
    if cut is not None:
      table = start + at.places(cut[axis], v.shape[axis])
      own = at.of(table, op.inputs[0].shape[axis])
      needs.append((op.inputs[0], (*cut[:axis], own, *cut[axis + 1 :])))
      due.append(n)

  def run(values: list[Any], k: Any) -> list[Any]:
    found = dict(zip(due, values, strict=True))
    return [found.get(n) for n in range(len(cuts))]

  return needs, run


SPLIT = Rule(_split, _split_due, _split_step)


RULES = {'concatenate': CONCATENATE, 'pad': PAD, 'split': SPLIT}
