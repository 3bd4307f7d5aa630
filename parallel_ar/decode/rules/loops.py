"""The rule of a recurrence: a scan over what becomes known step by step.

One iteration may read its own item and the state before it, as a whole. The
states before every iteration are kept, so that any of them can be run again.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from parallel_ar.decode import facts as known
from parallel_ar.decode.facts import NEVER, Facts
from parallel_ar.decode.rules.rule import Rule, Step
from parallel_ar.program import equations, trace
from parallel_ar.program.trace import Array, Op


def is_recurrence(op: Op, ins: list[Facts]) -> bool:
  """Whether a scan goes over items that become known one after another."""
  loop = equations.scan(op.eqn)
  begin = loop.fixed + loop.carried
  if loop.reverse or any(f.ready is not None for f in ins[:begin]):
    return False
  items = [_of_items(f.ready) for f in ins[begin:] if f.ready is not None]
  return bool(items) and any(len(set(a)) > 1 for a in items)


def _of_items(ready: np.ndarray) -> np.ndarray:
  return ready.max(tuple(range(1, ready.ndim)), initial=0)


def _ready(op: Op, ins: list[Facts]) -> list[Facts]:
  loop = equations.scan(op.eqn)
  begin = loop.fixed + loop.carried
  items = known.most(
    _of_items(f.ready) for f in ins[begin:] if f.ready is not None
  )
  items = np.maximum.accumulate(np.broadcast_to(items, (loop.length,)))
  outs = []
  for n, v in enumerate(op.outputs):
    rank = [1] * len(v.shape)
    if n < loop.carried:
      outs.append(Facts(items[-1].reshape(rank)))
      continue
    a = items if n < len(op.eqn.outvars) else np.append(np.int32(0), items)
    outs.append(Facts(a.reshape([-1, *rank[1:]]).astype(np.int32)))
  return outs


def with_states(op: Op) -> Op:
  """The scan, with the states before every iteration as further outputs."""
  loop = equations.scan(op.eqn)
  carry = op.inputs[loop.fixed : loop.fixed + loop.carried]
  states = tuple(Array((loop.length + 1, *v.shape), v.dtype) for v in carry)
  return dataclasses.replace(op, outputs=(*op.outputs, *states))


def first_states(op: Op) -> list[tuple[Array, Array]]:
  """The states of a recurrence, and what they are before the first turn."""
  loop = equations.scan(op.eqn)
  carry = op.inputs[loop.fixed : loop.fixed + loop.carried]
  return list(zip(op.outputs[len(op.eqn.outvars) :], carry, strict=True))


def of_states(op: Op) -> tuple[list[Op], dict[Array, Array]]:
  """Results of a turn that read the state before it, but not the item.

  They are known one step earlier than the turn can be taken, so they are made
  of the states, all at once.

  Args:
    op: of `with_states`.

  Returns:
    Operations, and which of their results each result of the scan is.
  """
  loop = equations.scan(op.eqn)
  first, carried = loop.fixed, loop.carried
  body = equations.opened(loop.body)
  reached = set(body.invars[first + carried :])
  for eqn in body.eqns:
    if any(isinstance(v, core.Var) and v in reached for v in eqn.invars):
      reached.update(eqn.outvars)
  early = [
    n
    for n, v in enumerate(body.outvars)
    if n >= carried and isinstance(v, core.Var) and v not in reached
  ]
  if not early:
    return [], {}
  run = core.jaxpr_as_fun(loop.body)
  items = [
    jnp.zeros(v.aval.shape, v.aval.dtype)
    for v in body.invars[first + carried :]
  ]

  def of(*operands: Any) -> Any:
    fixed, states = operands[:first], operands[first:]
    turn = lambda *carry: [run(*fixed, *carry, *items)[n] for n in early]
    return jax.vmap(turn)(*(s[:-1] for s in states))

  states = op.outputs[len(op.eqn.outvars) :]
  program, outputs = trace.inlined(of, (*op.inputs[:first], *states))
  return program, {
    op.outputs[n]: v for n, v in zip(early, outputs, strict=True)
  }


def items_due(op: Op, dues: list[Any]) -> np.ndarray:
  """When each iteration is due, int32[length]."""
  loop = equations.scan(op.eqn)
  items = np.full(loop.length, NEVER, np.int32)
  for n, due in enumerate(dues):
    if due is None:
      continue
    if n < loop.carried:
      items[-1] = min(items[-1], int(due.min()))
      continue
    row = due.min(tuple(range(1, due.ndim)))
    if (
      n >= len(op.eqn.outvars) and row.size > 1
    ):  # a state is of the turn before
      row = row[1:]
    items = np.minimum(items, row)
  return np.minimum.accumulate(items[::-1])[::-1]


def state_due(op: Op, items: np.ndarray) -> list[tuple[Array, np.ndarray]]:
  """When the states are due, given when the iterations are."""
  row = np.append(np.int32(NEVER), items)
  return [
    (v, row.reshape([-1, *[1] * (len(v.shape) - 1)]))
    for v, _ in first_states(op)
  ]


def _due(
  op: Op, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  loop, items = equations.scan(op.eqn), items_due(op, dues)
  begin = loop.fixed + loop.carried
  shaped = lambda v: items.reshape([-1, *[1] * (len(v.shape) - 1)])
  return [None] * begin + [shaped(v) for v in op.inputs[begin:]]


def _step(op: Op, cuts: list[Any], at: Any) -> Step:
  loop = equations.scan(op.eqn)
  first, carried = loop.fixed, loop.carried
  begin, count = first + carried, len(op.eqn.outvars)
  index = at.iterations(op)
  table = at.places(index, loop.length)
  size = table.shape[1]
  body = core.jaxpr_as_fun(loop.body)
  rest = lambda v: (None,) * (len(v.shape) - 1)
  states = op.outputs[count:]
  start, after = at.of(table[:, :1], None), at.of(table + 1, None)
  needs = [(v, (None, *rest(v)) if v.shape else ()) for v in op.inputs[:first]]
  needs += [(v, (start, *rest(v))) for v in states]
  needs += [(v, (index, *rest(v))) for v in op.inputs[begin:]]
  made: list[Any] = [(None,) * len(v.shape) for v in op.outputs[:carried]]
  made += [(index, *rest(v)) for v in op.outputs[carried:count]]
  made += [(after, *rest(v)) for v in states]

  def run(values: list[Any], k: Any) -> list[Any]:
    fixed, carry = values[:first], [v[0] for v in values[first:begin]]

    def turn(carry: Any, items: Any) -> Any:
      out = body(*fixed, *carry, *items)
      return out[:carried], (out[:carried], out[carried:])

    if size == 1:
      items = [v[0] for v in values[begin:]]
      last, (next_, rows) = turn(carry, items)
      next_, rows = ([v[None] for v in a] for a in (next_, rows))
    else:
      last, (next_, rows) = jax.lax.scan(
        turn, carry, values[begin:], length=size
      )
    return [*last, *rows, *next_]

  return needs, run, made


RULE = Rule(_ready, _due, _step)
