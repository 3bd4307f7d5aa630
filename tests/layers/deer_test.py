"""Newton's method over time, against the loop that it replaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar.layers import deer
from parallel_ar.layers.recurrence import gru_diagonal, gru_step


def problem(length, size=5, gain=1.0, seed=0):
  rng = np.random.default_rng(seed)
  kernel = gain * rng.normal(size=(3, size, size)) / size**0.5
  u = rng.normal(size=(length, 3 * size))
  return jnp.asarray(kernel, jnp.float32), jnp.asarray(u, jnp.float32)


def loop(kernel, u):
  def step(h, u):
    h = gru_step(kernel, h, u)
    return h, h

  return jax.lax.scan(step, jnp.zeros(kernel.shape[-1]), u)[1]


def solve(kernel, u, **options):
  return deer.solve(gru_step, kernel, u, kernel.shape[-1], **options)


METHODS = {
  'newton': {},
  'quasi': {'diagonal': gru_diagonal},
  'damped': {'damping': 0.3},
  'fixed point': {'damping': 1.0},
}


@pytest.mark.parametrize('name', METHODS)
def test_a_gru_of_a_thousand_steps(name):
  kernel, u = problem(1000)
  got = solve(kernel, u, bound=1.0, **METHODS[name])
  np.testing.assert_allclose(got.states, loop(kernel, u), rtol=0, atol=1e-5)
  assert 1 < got.iterations < 100
  print(f'{name}: {got.iterations} iterations')


def test_newton_takes_fewer_steps():
  kernel, u = problem(300)
  counts = [int(solve(kernel, u, **METHODS[n]).iterations) for n in METHODS]
  assert counts[0] < counts[1] < counts[3]


@pytest.mark.parametrize('name', ['newton', 'quasi', 'fixed point'])
def test_k_steps_make_k_states_exact(name):
  """Even where the recurrence is chaotic and Newton's method wanders."""
  kernel, u = problem(12, gain=12.0, seed=3)
  want = loop(kernel, u)
  for k in (1, 4, 12):
    options = METHODS[name] | {'max_iterations': k, 'bound': 1.0}
    got = solve(kernel, u, tolerance=0.0, **options)
    assert got.iterations <= k
    np.testing.assert_allclose(got.states[:k], want[:k], rtol=0, atol=3e-5)


def test_the_diagonal_is_that_of_the_jacobian():
  kernel, u = problem(1)
  h = jnp.linspace(-0.9, 0.9, 5)
  want = jnp.diagonal(jax.jacfwd(gru_step, 1)(kernel, h, u[0]))
  np.testing.assert_allclose(
    gru_diagonal(kernel, h, u[0]), want, rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize('name', ['newton', 'quasi'])
def test_gradients_are_those_of_the_loop(name):
  kernel, u = problem(50)
  weight = jnp.asarray(np.random.default_rng(1).normal(size=(50, 5)))

  def loss(states):
    return (weight * states**2).sum()

  got = jax.grad(
    lambda args: loss(solve(*args, **METHODS[name]).states), has_aux=False
  )((kernel, u))
  want = jax.grad(lambda args: loss(loop(*args)))((kernel, u))
  for g, w in zip(got, want, strict=True):
    np.testing.assert_allclose(g, w, rtol=2e-3, atol=2e-4)


def test_bad_arguments():
  kernel, u = problem(3)
  with pytest.raises(ValueError, match=r'damping must be in \[0, 1\]; got 2'):
    solve(kernel, u, damping=2)
  with pytest.raises(ValueError, match='at least 1; got 0'):
    solve(kernel, u, max_iterations=0)
