"""Rules of rearrangements whose places are all known beforehand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.decode import cuts as cutting
from parallel_ar.decode import facts as known
from parallel_ar.decode.facts import NEVER, Facts
from parallel_ar.decode.rules.moves import moved
from parallel_ar.decode.rules.rule import NoRule, Rule, Step

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
    ids, start, parts = where.reshape(-1)[at.numbers(cut, v.shape)], 1, []
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
          part = jnp.take(part, cutting.entry(at_box, k), mode='clip')
        out = part if hit.all() else jnp.where(cutting.entry(hit, k), part, out)
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
  ids = _landed(op).reshape(-1)[at.numbers(cut, target.shape)]
  hit = ids > 0
  if not hit.any():
    return [(target, cut)], lambda v, k: v
  axes, where = at.project(
    np.where(hit, ids - 1, ids[hit][0] - 1), update.shape
  )

  def run(values: list[Any], k: Any) -> list[Any]:
    part = values[1].reshape(-1)
    if where is not None:
      part = jnp.take(part, cutting.entry(where, k), mode='clip')
    part = jnp.where(cutting.entry(hit, k), part, 0)
    return [values[0] + part.reshape(values[0].shape)]

  return [(target, cut), (update, tuple(axes))], run


ADDED = Rule(_added_ready, _added_due, _added_step)

RULES = {
  'scatter-add': ADDED,
  **dict.fromkeys(
    ('dynamic_update_slice', 'scatter', 'stack', 'tile', 'unstack'), ANY
  ),
}
