"""A function of JAX as a flat program: the pass as a value.

Calls (jit, remat, custom derivatives) are inlined, operations on constants are
computed, and every operation keeps its equation, with the line it came from.
Loops stay one operation each; `unrolled` lays one out.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from parallel_ar import target
from parallel_ar.program import equations, walk

_FOLDED = 1 << 24  # entries of the largest array that is computed ahead


@dataclasses.dataclass(frozen=True, eq=False)
class Array:
  """An array of a program.

  Attributes:
    shape: of the array.
    dtype: of the array.
    value: the array itself where it is a constant.
  """

  shape: tuple[int, ...]
  dtype: Any
  value: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
  """An operation: outputs = primitive(inputs).

  Attributes:
    eqn: the equation of JAX, for its parameters and its source lines.
    inputs: what it reads.
    outputs: what it makes.
    outer: the outermost call of JAX's own that the equation was inlined from.
  """

  eqn: Any
  inputs: tuple[Array, ...]
  outputs: tuple[Array, ...]
  outer: Any = None

  @property
  def name(self) -> str:
    """Of the primitive."""
    return str(self.eqn.primitive.name)

  @property
  def params(self) -> dict[str, Any]:
    """Of the primitive."""
    return dict(self.eqn.params)

  def bind(self, *values: Any, **changed: Any) -> list[Any]:
    """The operation on these values, with parameters changed."""
    how = self.eqn.primitive.get_bind_params(self.eqn.params) | changed
    if 'precision' in how and how['precision'] is None:
      how['precision'] = _precision()
    out = self.eqn.primitive.bind(*values, **how)
    return list(out) if self.eqn.primitive.multiple_results else [out]


def _precision() -> Any:
  """What is in force for products where they run, as JAX's own functions take.

  A pass may be traced before `precision.scope`, and its operations run inside.
  """
  level = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
  try:
    return level and (jax.lax.Precision(level),) * 2
  except (
    ValueError
  ):  # the name of an algorithm, which only some operations take
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """A flat program.

  Attributes:
    inputs: one array for each leaf of the arguments.
    ops: in an order in which they can be run.
    outputs: one array for each leaf of the result.
  """

  inputs: tuple[Array, ...]
  ops: tuple[Op, ...]
  outputs: tuple[Array, ...]


def trace(function: Callable, *specs: Any) -> Program:
  """Traces a function.

  Args:
    function: what JAX can trace, a pytree in and a pytree out.
    *specs: shapes and dtypes of its arguments, pytrees.

  Returns:
    The program; inputs and outputs are the leaves in order.
  """
  with target.on('cpu'):  # no kernel that only its compiler understands
    closed = jax.make_jaxpr(lambda *a: jax.tree.leaves(function(*a)))(*specs)
  inputs = tuple(_array(v.aval) for v in closed.jaxpr.invars)
  tape = _Tape()
  outputs = walk.run(closed, tape, inputs)
  return Program(inputs, tuple(tape.ops), tuple(outputs))


def inlined(
  function: Callable, arguments: tuple[Array, ...]
) -> tuple[list[Op], list[Array]]:
  """A function of arrays of a program: its operations, and its results."""
  specs = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in arguments]
  tape = _Tape()
  results = walk.run(jax.make_jaxpr(function)(*specs), tape, arguments)
  return tape.ops, results


def branched(op: Op) -> tuple[list[Op], list[Array]]:
  """A `cond` as its branches, all of them, and a choice of each result."""
  branches = [core.jaxpr_as_fun(b) for b in equations.branches(op.eqn)]

  def choose(which: Any, *operands: Any) -> Any:
    which = jax.numpy.clip(which, 0, len(branches) - 1)
    each = zip(*(b(*operands) for b in branches), strict=True)
    if len(branches) == 2:
      which = which.astype(bool)
    return [jax.lax.select_n(which, *options) for options in each]

  return inlined(choose, op.inputs)


def unrolled(op: Op, most: int) -> tuple[list[Op], list[Array]] | None:
  """A loop laid out step by step: its operations, and its results.

  Args:
    op: a scan, or a while whose test is known beforehand at every turn.
    most: operations that it may have.

  Returns:
    None where it would be more, or where a test depends on the inputs.
  """
  tape = _Tape(op.outer)
  if op.name == 'scan':
    loop = equations.scan(op.eqn)
    if loop.length * len(equations.opened(loop.body).eqns) > most:
      return None
    closed = jax.make_jaxpr(_turns(loop))(*(v.aval for v in op.eqn.invars))
    return tape.ops, walk.run(closed, tape, op.inputs)
  again = equations.loop(op.eqn)
  of_test, rest = op.inputs[: again.of_test], op.inputs[again.of_test :]
  of_body, carry = rest[: again.of_body], list(rest[again.of_body :])
  while len(tape.ops) <= most:
    (go_on,) = walk.run(again.test, _Tape(), [*of_test, *carry])
    if go_on.value is None:
      return None
    if not go_on.value:
      return tape.ops, carry
    carry = walk.run(again.body, tape, [*of_body, *carry])
  return None


def _turns(loop: equations.Scan) -> Callable:
  """The scan as a function that takes its turns one after another."""
  first, carried = loop.fixed, loop.carried
  body = core.jaxpr_as_fun(loop.body)

  def turns(*operands: Any) -> Any:
    fixed, rest = operands[:first], operands[first:]
    carry, series = rest[:carried], rest[carried:]
    rows: dict[int, Any] = {}
    for n in range(loop.length)[:: -1 if loop.reverse else 1]:
      out = body(*fixed, *carry, *(s[n] for s in series))
      carry, rows[n] = out[:carried], out[carried:]
    each = zip(*(rows[n] for n in range(loop.length)), strict=True)
    return *carry, *(jax.numpy.stack(items) for items in each)

  return turns


class _Tape(walk.Domain[Array]):
  """Writes down what was walked; a loop or an open branch is one operation."""

  def __init__(self, outer: Any = None):
    super().__init__()
    self.ops: list[Op] = []
    self._outer = outer

  def constant(self, number: Any) -> Array:
    """A constant of the program."""
    return _constant(number)

  def number(self, v: Array) -> int | None:
    """A constant chooses its branch."""
    return None if v.value is None else int(v.value)

  def operation(self, eqn: Any, operands: list[Array]) -> list[Array]:
    """The operation, unless it could be computed."""
    outer = self._outer or next(iter(self.calls), None)
    outputs = tuple(_array(v.aval) for v in eqn.outvars)
    op = Op(eqn, tuple(operands), outputs, outer)
    folded = _fold(op)
    if folded is None and not all(0 in v.shape for v in outputs):
      self.ops.append(op)
    return list(outputs) if folded is None else folded

  def join(self, eqn: Any, operands: list[Array], branches: Any) -> list[Array]:
    """One operation."""
    return self.operation(eqn, operands)

  def settle(self, loop: walk.Loop[Array]) -> list[Array]:
    """One operation."""
    return self.operation(loop.eqn, loop.operands)


def _fold(op: Op) -> list[Array] | None:
  """The results of an operation on constants."""
  if any(v.value is None for v in op.inputs):
    return None
  if sum(int(np.prod(v.shape)) for v in op.outputs) > _FOLDED:
    return None
  try:
    with jax.ensure_compile_time_eval():
      return [_constant(v) for v in op.bind(*(v.value for v in op.inputs))]
  except Exception:  # it cannot be run outside of its program: let it stand
    return None


def _array(aval: Any) -> Array:
  shape, dtype = tuple(aval.shape), getattr(aval, 'dtype', None)
  if 0 in shape and isinstance(dtype, np.dtype):
    return Array(shape, dtype, np.zeros(shape, dtype))
  return Array(shape, dtype)


def _constant(value: Any) -> Array:
  if isinstance(getattr(value, 'dtype', None), np.dtype):
    value = np.asarray(value)
  return Array(tuple(np.shape(value)), value.dtype, value)
