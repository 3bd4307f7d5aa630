"""The pass in floats that sees the grids of its products: what is trained.

  a -> clip(round(a / s), -m, m) s,   m = 2^(bits-1) - 1,   s a power of two

for both sides of every product; the gradient goes straight through the rounding
(Bengio, Leonard, Courville 2013), and stops where an entry was clipped. Weights
take s from their own largest entry at every step, other arrays from examples,
as `exact` does. Grids of other arrays are fine, and are left out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import transform
from parallel_ar.exact import calibrate
from parallel_ar.exact.builder import MARGIN
from parallel_ar.exact.record import checked
from parallel_ar.model import AutoregressiveModel
from parallel_ar.program import trace
from parallel_ar.program.trace import Array, Op, Program
from parallel_ar.types import ArrayLike, Context, Params

_PRODUCTS = 'dot_general', 'conv_general_dilated'
Seen = Callable[[Op, list[Any]], list[Any]]


def straight_through(
  model: AutoregressiveModel,
  params: Params,
  examples: ArrayLike,
  context: Context = None,
  *,
  weight_bits: int = 8,
  activation_bits: int = 10,
) -> AutoregressiveModel:
  """The model whose products are on the grids that `exact` would take.

  Train its parameters some steps, from those that are given, and give them to
  `exact` with the model itself.

  Args:
    model: a model of symbols.
    params: from which training goes on; ranges are taken under them.
    examples: integers[N, *event], as for `exact`.
    context: of the examples, leading axis N.
    weight_bits: as for `exact`.
    activation_bits: as there.

  Returns:
    A record with the same parameters, event, head and context.

  Raises:
    NotWhole: a loop whose number of turns depends on a value, or a head
      without frequencies.
    ValueError: arguments that do not fit.
  """
  x, context = checked(model, examples, context, weight_bits, activation_bits)
  program, shape = _traced(model, params)
  count = len(jax.tree.leaves(params))
  moving = _moving(program, program.inputs[count:])
  most = _ranges(program, moving, params, x, context)

  def seen(op: Op, values: list[Any]) -> list[Any]:
    steps = (most.get(v) for v in op.inputs)
    return [
      _on_grid(a, weight_bits, jnp.abs(a).max())
      if reach is None
      else _on_grid(a, activation_bits, MARGIN * reach)
      for a, reach in zip(values, steps, strict=True)
    ]

  def conditionals(params: Params, x: Any, context: Context) -> Any:
    leaves = jax.tree.leaves((params, x, context))
    return jax.tree.unflatten(shape, _run(program, leaves, seen))

  return transform.wrap(
    model,
    conditionals=conditionals,
    decode=None,
    features=None,
    objective=None,  # it bounds the likelihood of the pass without grids
    conditionals_given=None,
    name=f'{model.name} on grids of {weight_bits} and {activation_bits} bits',
  )


def _traced(model: AutoregressiveModel, params: Params) -> tuple[Program, Any]:
  """The pass without loops, parameters first, and the structure of a dist."""
  of = lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a))
  specs = jax.tree.map(of, params), model.event, model.context
  program = calibrate.laid_out(trace.trace(model.conditionals, *specs))
  dist = jax.eval_shape(model.conditionals, *specs)
  return program, jax.tree.structure(dist)


def _on_grid(a: Any, bits: int, reach: Any) -> Any:
  """The nearest number of the grid; the gradient is 1 but where it clips."""
  most = 2 ** (bits - 1) - 1
  reach = jax.lax.stop_gradient(jnp.maximum(reach, 1e-30))
  step = jnp.exp2(jnp.ceil(jnp.log2(reach / most))).astype(jnp.float32)
  wide = jnp.clip(a.astype(jnp.float32), -most * step, most * step)
  snapped = jnp.round(wide / step) * step
  return (wide + jax.lax.stop_gradient(snapped - wide)).astype(a.dtype)


def _moving(program: Program, inputs: Sequence[Array]) -> set[Array]:
  """The arrays that depend on these inputs: all others are weights."""
  found = set(inputs)
  for op in program.ops:
    if not found.isdisjoint(op.inputs):
      found.update(op.outputs)
  return found


def _run(program: Program, leaves: Sequence[Any], seen: Seen) -> list[Any]:
  """The program, where `seen` says what products take."""
  known = dict(zip(program.inputs, leaves, strict=True))
  for op in program.ops:
    values = [known.get(v, v.value) for v in op.inputs]
    if op.name in _PRODUCTS:
      values = seen(op, [jnp.asarray(a) for a in values])
    known.update(zip(op.outputs, op.bind(*values), strict=True))
  return [known.get(v, v.value) for v in program.outputs]


def _ranges(
  program: Program, moving: set[Array], params: Params, x: Any, context: Context
) -> dict[Array, float]:
  """The largest entry of what weights meet, on examples."""

  def of(x: Any, context: Context) -> list[Any]:
    largest.clear()
    _run(program, jax.tree.leaves((params, x, context)), look)
    return list(largest.values())

  def look(op: Op, values: list[Any]) -> list[Any]:
    for v, a in zip(op.inputs, values, strict=True):
      if v in moving:
        largest[v] = jnp.abs(a).max().astype(jnp.float32)
    return values

  largest: dict[Array, Any] = {}
  found = jax.jit(jax.vmap(of))(x, context)
  return {v: float(np.max(a)) for v, a in zip(largest, found, strict=True)}
