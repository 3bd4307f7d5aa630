"""The gradient of a loss with barriers, against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import target
from parallel_ar.training import gradient


def _loss(params, x, step):
  """Of a dense layer over slots, a loop, a branch and a key."""
  y = x @ params['slots'] + params['bias']
  noise = jax.random.normal(jax.random.key(1), y.shape)
  y = jax.lax.cond(step > 3, jnp.tanh, lambda v: v * 2, y + 0.1 * noise)
  last, _ = jax.lax.scan(
    lambda h, v: (h + v @ params['loop'], None), y, y[None]
  )
  return (jnp.max(last, -1) ** 2).mean() + (x[:, 0] @ params['rows']).sum()


@pytest.fixture(scope='module')
def given():
  keys = iter(jax.random.split(jax.random.key(0), 5))
  shapes = {'slots': (3, 5), 'bias': (1, 1, 5), 'loop': (5, 5), 'rows': (3, 2)}
  params = {n: jax.random.normal(next(keys), s) for n, s in shapes.items()}
  return params, jax.random.normal(next(keys), (2, 7, 3)), jnp.int32(4)


def _barriers(given):
  text = str(jax.make_jaxpr(gradient.value_and_grad(_loss))(*given))
  return text.count('optimization_barrier')


def test_it_is_the_gradient(given):
  found = jax.jit(gradient.value_and_grad(_loss))(*given)
  expected = jax.jit(jax.value_and_grad(_loss))(*given)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
    found,
    expected,
  )


def test_only_what_is_summed_over_slots_gets_a_barrier_and_only_on_a_cpu(given):
  with target.on('cpu'):
    assert _barriers(given) == 1
  with target.on('tpu'):
    assert _barriers(given) == 0


def test_operations_keep_their_names(given):
  def named(params, x, step):
    with jax.named_scope('here'):
      return _loss(params, x, step)

  with target.on('cpu'):
    lowered = jax.jit(gradient.value_and_grad(named)).lower(*given)
  assert 'jvp(here)' in lowered.as_text(debug_info=True)
