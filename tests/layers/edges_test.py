"""Layers at the edge of float32: finite where the mathematics is finite."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar.layers import gated
from parallel_ar.layers.recurrence import LINEAR, Recurrence

GATES = (-1e4, -200.0, -90.0, -47.0, 0.0, 47.0, 90.0, 1e4)
EVALUATIONS = [(cell, 'scan') for cell in LINEAR] + [
  ('min_lstm', 'associative'),
  ('rg_lru', 'associative'),
  ('gru', 'scan'),
  ('gru', 'deer'),
]


@pytest.mark.parametrize(('cell', 'evaluation'), EVALUATIONS)
def test_gates_that_are_shut_or_open(cell, evaluation):
  """States and gradients of every pair of gates, against float64."""
  pairs = np.array(list(itertools.product(GATES, repeat=2)))

  def run(dtype):
    layer = Recurrence(cell, 1, evaluation, dtype=dtype)
    x, slots = jnp.ones((3, 1), dtype), jnp.arange(3)
    params = layer.init(jax.random.key(0), x, slots)
    params = jax.tree.map(lambda a: a.astype(dtype), params)
    bias = params['params']['gates']['bias']
    count = bias.size - 1  # all but the last are gates

    def loss(params, gates):
      params['params']['gates']['bias'] = bias.at[:count].set(gates[:count])
      params['params']['gates']['kernel'] = (
        jnp.zeros((1, bias.size), dtype) + 0.3
      )
      return (
        layer.apply(params, x, slots)[0] * jnp.arange(1, 4)[:, None]
      ).sum()

    both = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1)), (None, 0)))
    return jax.device_get(both(params, jnp.asarray(pairs, dtype)))

  got = run(jnp.float32)
  with jax.enable_x64(True):
    want = run(jnp.float64)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert np.isfinite(a).all(), pairs[np.argwhere(~np.isfinite(a))[0, 0]]
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_min_lstm_divides_by_the_sum_of_its_gates():
  """By hand: both shut alike is half and half, whatever they are."""
  layer = Recurrence('min_lstm', 1)
  x, slots = jnp.zeros((1, 1)), jnp.arange(1)
  params = layer.init(jax.random.key(0), x, slots)
  for gate in (-1e4, -100.0, 0.0, 100.0):
    params['params']['gates']['bias'] = jnp.array([gate, gate, 3.0])
    state = layer.apply(params, x, slots)[0]
    np.testing.assert_allclose(state, 1.5, rtol=1e-6)


def test_weight_norm_of_a_feature_of_zeros():
  layer = gated.Shifted(2, rows=2, columns=2, left=1, weight_norm=True)
  x = jnp.ones((3, 3, 2))
  params = layer.init(jax.random.key(0), x)
  kernel = params['params']['kernel'].at[..., 1].set(0)
  params['params']['kernel'] = kernel
  loss = lambda p: (layer.apply(p, x) ** 2).sum()
  value, grad = jax.value_and_grad(loss)(params)
  for leaf in jax.tree.leaves((value, grad)):
    assert np.isfinite(leaf).all()
  np.testing.assert_array_equal(layer.apply(params, x)[..., 1], 0)
