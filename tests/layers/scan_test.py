"""Linear recurrences: every method computes the same states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar.layers import scan


def problem(length, size=3):
  rng = np.random.default_rng(length)
  a = rng.uniform(-1, 1, (length, size)).astype(np.float32)
  b = rng.normal(size=(length, size)).astype(np.float32)
  return jnp.asarray(a), jnp.asarray(b), jnp.asarray(b[0])


def loop(a, b, h):
  out = []
  for t in range(len(a)):
    h = np.float64(a[t]) * h + np.float64(b[t])
    out.append(h)
  return np.stack(out)


@pytest.mark.parametrize('method', ['scan', 'associative', 'chunked'])
@pytest.mark.parametrize('length', [1, 7, 1000])
def test_equals_the_loop(method, length):
  a, b, h = problem(length)
  got = scan.linear_recurrence(a, b, h, method, 5)
  np.testing.assert_allclose(got, loop(a, b, h), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize('method', ['associative', 'chunked'])
def test_gradients_equal_those_of_the_loop(method):
  args = problem(23)

  def loss(method):
    return lambda args: scan.linear_recurrence(*args, method, 4)[::3].sum()

  want, got = (jax.grad(loss(m))(args) for m in ('scan', method))
  jax.tree.map(
    lambda w, g: np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5),
    want,
    got,
  )


@pytest.mark.parametrize('method', ['scan', 'associative', 'chunked'])
def test_the_future_changes_no_bit(method):
  a, b, h = problem(37)
  run = jax.jit(lambda b: scan.linear_recurrence(a, b, h, method, 8))
  changed = run(b.at[20:].multiply(-1e6))
  np.testing.assert_array_equal(run(b)[:20], changed[:20])
  assert (run(b)[20:] != changed[20:]).any(1).all()


def test_bad_arguments():
  a, b, h = problem(4)
  with pytest.raises(ValueError, match="one of scan, assoc.*got 'tree'"):
    scan.linear_recurrence(a, b, h, 'tree')
  with pytest.raises(ValueError, match='at least one step; got 0'):
    scan.linear_recurrence(a, b, h, 'chunked', 0)
