"""What the arrays of a pass are on examples: the ranges of the grids."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.decode.facts import HUGE
from parallel_ar.exact import definitions
from parallel_ar.exact.builder import NotWhole, Span
from parallel_ar.program import trace
from parallel_ar.program.trace import Array, Op, Program

_LAID_OUT = 1 << 15  # operations of the longest loop
_CHUNK = 32  # examples at a time
_COMPILED = 1 << 24  # entries of the constants of a compiled evaluation


def laid_out(program: Program) -> Program:
  """The program without loops and branches, of operations that have a rule.

  Raises:
    NotWhole: a loop that is too long, or that ends when a value says so.
  """
  same: dict[Array, Array] = {}
  ops = tuple(_flat(program.ops, same))
  outputs = tuple(same.get(v, v) for v in program.outputs)
  return Program(program.inputs, ops, outputs)


def _flat(ops: Sequence[Op], same: dict[Array, Array]) -> Iterator[Op]:
  for op in ops:
    inputs = tuple(same.get(v, v) for v in op.inputs)
    op = Op(op.eqn, inputs, op.outputs, op.outer)
    if op.name == 'cond':
      parts: Any = trace.branched(op)
    elif op.name in ('scan', 'while'):
      parts = trace.unrolled(op, _LAID_OUT)
      if parts is None:
        raise refusal(op, 'its number of turns is not known, or too large')
    else:
      parts = _defined(op)
    if parts is None:
      yield op
      continue
    inner, results = parts
    within = op.outer or op.eqn  # the line to name, where ours made `inner`
    inner = [Op(i.eqn, i.inputs, i.outputs, i.outer or within) for i in inner]
    yield from _flat(inner, same)
    found = (same.get(v, v) for v in results)
    same.update(zip(op.outputs, found, strict=True))


def _defined(op: Op) -> tuple[list[Op], list[Array]] | None:
  """Its definition by other operations; None where it stands for itself."""
  try:
    function = definitions.of(op)
    return None if function is None else trace.inlined(function, op.inputs)
  except NotWhole as error:
    raise refusal(op, error) from error


def refusal(op: Op, why: Any) -> NotWhole:
  """The error that names an operation, and the line that made it."""
  return NotWhole(
    f'{op.name} ({_place(op)}) cannot be made of whole numbers: {why}. '
    'par.exact does not fall back to float: write this line '
    'otherwise, or keep the model in float.'
  )


def _place(op: Op) -> str:
  """The innermost line that is not JAX's, of the equation or its caller.

  What an interpreter here made has its caller's.
  """
  for eqn in (op.eqn, op.outer):
    told = getattr(getattr(eqn, 'source_info', None), 'traceback', None)
    for frame in () if told is None else told.frames:
      file = frame.file_name.replace('\\', '/')
      if _OURS.search(file):
        break
      if not _OTHERS.search(file):
        return f'{"/".join(file.split("/")[-2:])}:{frame.line_num}'
  return 'a line that JAX does not tell'


_OTHERS = re.compile(r'site-packages|^<')
_OURS = re.compile(r'parallel_ar/(exact|program)/')


def ranges(program: Program, x: Any, context: Any) -> dict[Array, Span]:
  """The least and the largest entry of every array, masked scores left out.

  Args:
    program: a pass without loops, whose parameters are constants.
    x: array[N, *event], examples.
    context: leaves of the context, leading axis N.

  Returns:
    Of every array of real numbers that some operation makes.
  """
  inputs = [np.asarray(a) for a in (x, *context)]
  ends: dict[Array, Any] = {}

  def evaluated(*part: Any) -> list[Any]:
    ends.update(_evaluated(program, part))
    return list(ends.values())

  weights = {id(v.value): v for op in program.ops for v in op.inputs}
  size = sum(
    math.prod(v.shape) for v in weights.values() if v.value is not None
  )
  if size < _COMPILED:  # else one program would hold a copy of all weights
    evaluated = jax.jit(evaluated)
  found: dict[Array, Span] = {}
  for start in range(0, len(inputs[0]), _CHUNK):
    out = evaluated(*(a[start : start + _CHUNK] for a in inputs))
    for v, (low, high) in zip(ends, out, strict=True):
      if low <= high:
        before = found.get(v, (low, high))
        found[v] = float(min(before[0], low)), float(max(before[1], high))
  return found


def _evaluated(
  program: Program, inputs: Sequence[Any]
) -> Iterator[tuple[Array, tuple[Any, Any]]]:
  """The least and the largest of each array, operation after operation."""
  known: dict[Array, Any] = {
    v: jnp.asarray(a) for v, a in zip(program.inputs, inputs, strict=True)
  }
  last = {v: n for n, op in enumerate(program.ops) for v in op.inputs}
  for v in program.inputs:
    yield from _range(v, known[v])
  for n, op in enumerate(program.ops):
    values = [known.get(v, v.value) for v in op.inputs]
    over = [0 if v in known else None for v in op.inputs]
    if not any(o == 0 for o in over):
      raise refusal(op, 'an array made of parameters alone is too large')
    out = jax.vmap(op.bind, over)(*values)
    known.update(zip(op.outputs, out, strict=True))
    for v in op.outputs:
      yield from _range(v, known[v])
    for v in op.inputs:
      if last[v] == n and v not in program.outputs:
        known.pop(v, None)


def _range(v: Array, a: Any) -> Iterator[tuple[Array, tuple[Any, Any]]]:
  if jnp.issubdtype(a.dtype, jnp.floating) and a.size:
    there = jnp.abs(a) < HUGE
    low = jnp.where(there, a, jnp.inf).min()
    yield v, (low, jnp.where(there, a, -jnp.inf).max())
