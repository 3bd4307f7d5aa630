"""The gradient of a loss, as the compiler of a CPU runs it well.

The gradient of W in y = x W, over B examples of L slots, is

  (sum over b, l of g[b, l] x[b, l]^T)^T

which JAX writes as a product and a transpose. XLA moves the transpose into the
product, whose factors it has laid out by then: one is read across, by a kernel
that takes up to eight times as long on a CPU. A barrier between the two keeps
the product as it was. Nothing else changes, and on other platforms nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from parallel_ar import target


def value_and_grad(loss: Callable[..., Any]) -> Callable[..., Any]:
  """`jax.value_and_grad` of the first argument, for a step that is compiled.

  Args:
    loss: (params, ...) -> float[].

  Returns:
    (params, ...) -> (loss, gradient).
  """
  gradient = jax.value_and_grad(loss)

  def run(*args: Any) -> Any:
    if target.platform() != 'cpu':
      return gradient(*args)
    closed, shapes = jax.make_jaxpr(gradient, return_shape=True)(*args)
    leaves = _run(closed, jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

  return run


def _run(closed: Any, arguments: list[Any]) -> list[Any]:
  """The results of a program, with the barriers."""
  program = closed.jaxpr
  known = dict(zip(program.constvars, closed.consts, strict=True))
  known.update(zip(program.invars, arguments, strict=True))

  def read(var: Any) -> Any:
    return var.val if isinstance(var, core.Literal) else known[var]

  products = set()
  for eqn in program.eqns:
    operands = [read(var) for var in eqn.invars]
    kind, params = eqn.primitive, eqn.params
    if kind.name == 'dot_general' and _sums_over_slots(params):
      products.add(eqn.outvars[0])
    elif kind.name == 'transpose' and eqn.invars[0] in products:
      operands = list(jax.lax.optimization_barrier(operands))
    with jax.named_scope(str(eqn.source_info.name_stack)), eqn.ctx.manager:
      results = kind.bind(*operands, **kind.get_bind_params(params))
    results = results if kind.multiple_results else [results]
    known.update(zip(eqn.outvars, results, strict=True))
  return [read(var) for var in program.outvars]


def _sums_over_slots(params: dict[str, Any]) -> bool:
  """Whether a product sums over examples and slots: XLA lays those out."""
  (axes, _), _ = params['dimension_numbers']
  return len(axes) > 1
