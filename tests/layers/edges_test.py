"""Layers at the edge of float32: finite where the mathematics is finite."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from parallel_ar.layers import attention, flash, gated
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
    x = jnp.ones((3, 1), dtype)
    params = layer.init(jax.random.key(0), x)
    params = jax.tree.map(lambda a: a.astype(dtype), params)
    bias = params['params']['gates']['bias']
    count = bias.size - 1  # all but the last are gates

    def loss(params, gates):
      params['params']['gates']['bias'] = bias.at[:count].set(gates[:count])
      params['params']['gates']['kernel'] = (
        jnp.zeros((1, bias.size), dtype) + 0.3
      )
      return (layer.apply(params, x) * jnp.arange(1, 4)[:, None]).sum()

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
  x = jnp.zeros((1, 1))
  params = layer.init(jax.random.key(0), x)
  for gate in (-1e4, -100.0, 0.0, 100.0):
    params['params']['gates']['bias'] = jnp.array([gate, gate, 3.0])
    state = layer.apply(params, x)
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


@pytest.mark.parametrize('scale', [1.0, 1e3, 1e8])
def test_attention_of_huge_scores(scale):
  """The first slot reads itself alone; scores reach 1e16."""
  rng = np.random.default_rng(0)
  q, k, v = (rng.normal(size=(5, 2, 3)).astype(np.float32) for _ in range(3))
  q, k = q * np.float32(scale), k * np.float32(scale)
  args = [np.moveaxis(np.float64(a), 1, 0) for a in (q, k, v)]
  scores = args[0] @ args[1].swapaxes(-1, -2) / np.sqrt(3)
  scores = np.where(np.tri(5, dtype=bool), scores, -np.inf)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  want = np.moveaxis(weights @ args[2], 0, 1)
  ways = (
    attention.block_causal_attention,
    lambda *a: attention.local_attention(*a, window=5),
    lambda *a: attention.strided_attention(*a, stride=1),
    lambda *a: flash.flash_attention(*a, chunk=2),
  )
  for way in ways:
    np.testing.assert_allclose(jax.jit(way)(q, k, v), want, 1e-3, 1e-3)
    grads = jax.jit(jax.grad(lambda *a, f=way: f(*a).sum(), (0, 1, 2)))(q, k, v)
    assert all(np.isfinite(g).all() for g in grads)
    np.testing.assert_array_equal(way(q, k, v)[0], v[0])


@pytest.mark.parametrize('value', [0.0, 1.0, -3e4, 1e6])
def test_layer_norm_of_constants(value):
  norm, x = nn.LayerNorm(), jnp.full((2, 5), value)
  params = norm.init(jax.random.key(0), x)
  apply = jax.jit(lambda x: norm.apply(params, x))
  np.testing.assert_allclose(apply(x), 0, atol=1e-3)
  grads = jax.jit(jax.grad(lambda x: (apply(x) ** 2).sum()))(x)
  assert np.isfinite(grads).all()
