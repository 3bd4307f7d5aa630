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
    lambda op, ins: [moved(ins[:1], lambda a: forward(op, _axes(op, a)))],
    lambda op, ins, outs, dues: [
      backward(op, dues[0]),
      *[None] * (len(op.inputs) - 1),
    ],
    step,
  )


def _axes(op: Any, a: Any) -> Any:
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
  move = lambda a: known.reshaped(_axes(op, a), before, after)
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
    flat = np.zeros((at.steps, 1), np.int64)
    for n in right:
      table = at.places(cuts[0][n], after[n])
      flat = (flat[:, :, None] * after[n] + table[:, None]).reshape(
        at.steps, -1
      )
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
        v = jnp.take(v, jnp.asarray(where)[k], axis, mode='clip')
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
  a = _axes(op, a)
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
      here = jnp.asarray(hit)[k].reshape(
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
      here = jnp.asarray(hit)[k].reshape(
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
      a = _axes(op, a)
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


# ---------------------------------------------- any other known rearrangement


def _source(op: Any) -> tuple[list[np.ndarray], list[Any]]:
  """Where each entry of the result comes from, from 1 on, and of what.

  Operands are laid out in one row; 0 is an entry of none of them.
  """
  data = [0]
  if op.name == 'dynamic_update_slice':
    data = [0, 1]
  elif op.name == 'scatter':
    data = [0, 2]
  elif op.name in ('stack', 'tile', 'unstack'):
    data = list(range(len(op.inputs)))
  rest = [v for n, v in enumerate(op.inputs) if n not in data]
  if any(v.value is None for v in rest):
    raise NoRule
  values, start = [], 1
  for n, v in enumerate(op.inputs):
    if n in data:
      size = int(np.prod(v.shape))
      ids = np.arange(start, start + size, dtype=np.int32)
      values.append(ids.reshape(v.shape))
      start += size
    else:
      values.append(v.value)
  changed = {'fill_value': 0} if op.name == 'gather' else {}
  with jax.ensure_compile_time_eval():
    found = op.bind(*values, **changed)
  return [np.maximum(np.asarray(f), 0) for f in found], [
    op.inputs[n] for n in data
  ]


def _any_ready(op: Any, ins: list[Facts]) -> list[Facts]:
  found, data = _source(op)
  own = [f for f, v in zip(ins, op.inputs, strict=True) if v in data]
  outs = []
  for where in found:

    def move(*arrays: np.ndarray, where: np.ndarray = where) -> np.ndarray:
      row = [np.zeros(1, arrays[0].dtype)]
      for a, v in zip(arrays, data, strict=True):
        row.append(np.broadcast_to(a, v.shape).reshape(-1))
      return known.thin(np.concatenate(row)[where])

    outs.append(moved(own, move))
  return outs


def _any_due(
  op: Any, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  found, data = _source(op)
  total = 1 + sum(int(np.prod(v.shape)) for v in data)
  row = np.full(total, NEVER, np.int32)
  for where, due in zip(found, dues, strict=True):
    if due is not None:
      wide = np.broadcast_to(due, where.shape)
      np.minimum.at(row, where.reshape(-1), wide.reshape(-1))
  result: list[Any] = []
  start = 1
  for v in op.inputs:
    if v not in data:
      result.append(None)
      continue
    size = int(np.prod(v.shape))
    result.append(known.thin(row[start : start + size].reshape(v.shape)))
    start += size
  return result


def _any_step(op: Any, cuts: list[Any], at: Any) -> Step:
  found, data = _source(op)
  needs: list[Any] = []
  plans: list[Any] = []
  for where, v, cut in zip(found, op.outputs, cuts, strict=True):
    if cut is None:
      plans.append(None)
      continue
    box = where
    tables = [at.places(i, n) for i, n in zip(cut, v.shape, strict=True)]
    flat = np.zeros((at.steps, 1), np.int64)
    for table, n in zip(tables, v.shape, strict=True):
      flat = (flat[:, :, None] * n + table[:, None]).reshape(at.steps, -1)
    ids, start, parts = box.reshape(-1)[flat], 1, []
    for source in data:
      size = int(np.prod(source.shape))
      hit = (ids >= start) & (ids < start + size)
      if hit.any():
        own = np.where(hit, ids - start, (ids - start)[hit][0])
        axes, at_box = at.project(own, source.shape)
        needs.append((source, tuple(axes)))
        parts.append((len(needs) - 1, hit, at_box))
      start += size
    plans.append((cutting.sizes(cut, v.shape), parts))

  def run(values: list[Any], k: Any) -> list[Any]:
    outs: list[Any] = []
    for v, plan in zip(op.outputs, plans, strict=True):
      if plan is None:
        outs.append(None)
        continue
      shape, parts = plan
      out = jnp.zeros(int(np.prod(shape)), v.dtype)
      for n, hit, at_box in parts:
        part = values[n].reshape(-1)
        if at_box is not None:
          part = jnp.take(part, jnp.asarray(at_box)[k], mode='clip')
        out = part if hit.all() else jnp.where(jnp.asarray(hit)[k], part, out)
      outs.append(out.reshape(shape))
    return outs

  return needs, run


ANY = Rule(_any_ready, _any_due, _any_step)


# ------------------------------------------------------- sums at known places


def _landed(op: Any) -> np.ndarray:
  """Which entry of the update each entry of the result adds: 1.., 0 none."""
  target, index, update = op.inputs
  if index.value is None:
    raise NoRule
  dims, mode = op.params['dimension_numbers'], op.params['mode']
  ids = np.arange(1, 1 + int(np.prod(update.shape)), dtype=np.int32)
  zeros = np.zeros(target.shape, np.int32)
  put = lambda scatter, u: np.asarray(
    scatter(zeros, index.value, u.reshape(update.shape), dims, mode=mode)
  )
  with jax.ensure_compile_time_eval():
    if (put(jax.lax.scatter_add, np.ones_like(ids)) > 1).any():
      raise NoRule  # two terms meet
    return put(jax.lax.scatter_add, ids)


def _added_ready(op: Any, ins: list[Facts]) -> list[Facts]:
  where, (target, _, update) = _landed(op), ins

  def move(a: np.ndarray) -> np.ndarray:
    row = np.broadcast_to(a, op.inputs[2].shape).reshape(-1)
    return known.thin(np.append(np.zeros(1, a.dtype), row)[where])

  landed = moved([update], move)
  return [Facts(known.most([target.ready, landed.ready]))]


def _added_due(
  op: Any, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  where, (due,), update = _landed(op), dues, op.inputs[2]
  row = np.full(1 + int(np.prod(update.shape)), NEVER, np.int32)
  wide = np.broadcast_to(due, where.shape)
  np.minimum.at(row, where.reshape(-1), wide.reshape(-1))
  return [due, None, known.thin(row[1:].reshape(update.shape))]


def _added_step(op: Any, cuts: list[Any], at: Any) -> Step:
  (cut,), (target, _, update) = cuts, op.inputs
  flat = np.zeros((at.steps, 1), np.int64)
  for index, n in zip(cut, target.shape, strict=True):
    table = at.places(index, n)
    flat = (flat[:, :, None] * n + table[:, None]).reshape(at.steps, -1)
  ids = _landed(op).reshape(-1)[flat]
  hit = ids > 0
  if not hit.any():
    return [(target, cut)], lambda v, k: v
  axes, where = at.project(
    np.where(hit, ids - 1, ids[hit][0] - 1), update.shape
  )

  def run(values: list[Any], k: Any) -> list[Any]:
    part = values[1].reshape(-1)
    if where is not None:
      part = jnp.take(part, jnp.asarray(where)[k], mode='clip')
    part = jnp.where(jnp.asarray(hit)[k], part, 0)
    return [values[0] + part.reshape(values[0].shape)]

  return [(target, cut), (update, tuple(axes))], run


ADDED = Rule(_added_ready, _added_due, _added_step)

RULES = {
  'broadcast_in_dim': BROADCAST,
  'concatenate': CONCATENATE,
  'expand_dims': RESHAPE,
  'pad': PAD,
  'reshape': RESHAPE,
  'scatter-add': ADDED,
  'rev': SLICE,
  'slice': SLICE,
  'split': SPLIT,
  'squeeze': RESHAPE,
  'transpose': TRANSPOSE,
  **dict.fromkeys(
    ('dynamic_update_slice', 'scatter', 'stack', 'tile', 'unstack'), ANY
  ),
}
