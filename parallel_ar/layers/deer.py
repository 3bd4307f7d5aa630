"""Nonlinear recurrences in parallel over time, by Newton's method.

  h_t = f(h_{t-1}, u_t),   t = 1..L

is one equation in all states. Its Newton step at a guess h,

  h'_t = J_t h'_{t-1} + (f(h_{t-1}, u_t) - J_t h_{t-1}),   J_t = df/dh (h_{t-1})

is a linear recurrence, which a tree solves at depth O(log L). The equation is
triangular: after k steps the first k states are exact whatever J is, so L steps
always suffice, and another J changes the number of steps and not the solution.

  DEER        the full Jacobian: fewest steps, O(L N^3) work each
  quasi-DEER  its diagonal: O(L N) work, more steps
  damping d   (1 - d) J, between Newton (0) and fixed-point steps (1): for
              recurrences whose long products of J overflow

References:
  Lim, Zhu, Selfridge, Kasim: Parallelizing non-linear sequential models over
  the sequence length. ICLR 2024 (DEER).
  Gonzalez, Warrington, Smith, Linderman: Towards scalable and stable
  parallelization of nonlinear RNNs. NeurIPS 2024 (quasi-DEER, ELK).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar import partition
from parallel_ar.layers import sharded
from parallel_ar.types import Array, Params

# (params, h[N], u) -> h[N]
Step = Callable[[Params, Array, Any], Array]


class Solution(NamedTuple):
  """States of a recurrence.

  Attributes:
    states: float[L, N].
    iterations: int32[], Newton steps taken.
  """

  states: Array
  iterations: Array


def solve(
  step: Step,
  params: Params,
  inputs: Any,
  size: int,
  *,
  diagonal: Step | None = None,
  damping: float = 0.0,
  tolerance: float = 1e-6,
  max_iterations: int | None = None,
  bound: float | None = None,
) -> Solution:
  """Solves for all states from h_0 = 0, with exact gradients.

  The gradient is that of the recurrence at its solution: one more Newton step,
  with the full Jacobian, is differentiated, and none of those before.

  Args:
    step: f, the recurrence; it reads nothing but its arguments.
    params: of f; gradients flow to them and to the inputs.
    inputs: u, pytree of arrays that lead with L.
    size: N.
    diagonal: (params, h, u) -> the diagonal of J, float[N], for quasi-DEER;
      by default the full Jacobian is used.
    damping: d in [0, 1].
    tolerance: stop when no state moved by more.
    max_iterations: bound on the steps; L by default, which always suffices.
    bound: states are clipped to [-bound, bound] on the way, where they are
      known to lie there; keeps a bad step from overflowing.

  Returns:
    The states, and the Newton steps it took to find them.

  Raises:
    ValueError: damping outside [0, 1], or max_iterations < 1.
  """
  if not 0 <= damping <= 1:
    raise ValueError(f'damping must be in [0, 1]; got {damping}.')
  length = jax.tree.leaves(inputs)[0].shape[0]
  most = length if max_iterations is None else max_iterations
  if most < 1:
    raise ValueError(f'max_iterations must be at least 1; got {most}.')
  over_time = lambda f: jax.vmap(f, (None, 0, 0))
  fixed, given = jax.lax.stop_gradient((params, inputs))
  scale = 1.0 - damping

  def newton(h: Array) -> Array:
    before = _shift(h)
    f = over_time(step)(fixed, before, given)
    if diagonal is None:
      jacobian = scale * over_time(jax.jacfwd(step, 1))(fixed, before, given)
      at = (jacobian @ before[..., None])[..., 0]
      h = sharded.matrix_recurrence(jacobian, f - at)
    else:
      jacobian = scale * over_time(diagonal)(fixed, before, given)
      h = sharded.linear_recurrence(
        jacobian, f - jacobian * before, jnp.zeros_like(h[0]), 'associative'
      )
    if bound is not None:
      h = jnp.clip(jnp.nan_to_num(h, nan=0.0), -bound, bound)
    return h

  def go_on(carry: tuple) -> Array:
    _, moved, n = carry
    return (n < most) & ~(moved <= tolerance)

  def body(carry: tuple) -> tuple:
    h, _, n = carry
    new = newton(h)
    return new, jnp.abs(new - h).max(), n + 1

  like = jax.eval_shape(step, params, *_first(inputs, size))
  zeros = partition.over_slots(jnp.zeros((length, size), like.dtype), None)
  infinite = jnp.asarray(jnp.inf, like.dtype)
  h, _, n = jax.lax.while_loop(go_on, body, (zeros, infinite, jnp.int32(0)))
  return Solution(_with_gradient(step, params, inputs, h), n)


def _with_gradient(step: Step, params: Params, inputs: Any, h: Array) -> Array:
  """h itself, with the gradient of the recurrence at h."""
  h = jax.lax.stop_gradient(h)
  before = _shift(h)
  over_time = lambda f: jax.vmap(f, (None, 0, 0))

  @jax.custom_vjp
  def attach(terms: Array, params: Params, inputs: Any) -> Array:
    del terms, params, inputs
    return h

  def forward(terms: Array, params: Params, inputs: Any) -> tuple:
    jacobian = over_time(jax.jacfwd(step, 1))(params, before, inputs)
    return h, (jacobian, params, inputs)

  def backward(kept: tuple, grad: Array) -> tuple:
    jacobian, params, inputs = kept
    # l_t = grad_t + J_{t+1}^T l_{t+1}: the same recurrence, run backwards.
    last = jnp.zeros_like(jacobian[:1])
    factors = jnp.concatenate([jacobian[1:].mT, last])
    total = sharded.matrix_recurrence(factors[::-1], grad[::-1])[::-1]
    return total, *jax.tree.map(jnp.zeros_like, (params, inputs))

  attach.defvjp(forward, backward)
  terms = over_time(step)(params, before, inputs)
  return attach(terms, *jax.lax.stop_gradient((params, inputs)))


def _shift(h_LN: Array) -> Array:
  return jnp.concatenate([jnp.zeros_like(h_LN[:1]), h_LN[:-1]])


def _first(inputs: Any, size: int) -> tuple[jax.ShapeDtypeStruct, Any]:
  u = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), inputs)
  return jax.ShapeDtypeStruct((size,), jax.tree.leaves(u)[0].dtype), u
