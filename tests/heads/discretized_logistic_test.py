"""The mixture of discretized logistics, against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from parallel_ar import heads
from parallel_ar.heads.discretized_logistic import (
  Logistics,
  channel_log_probs,
)


def random_dist(positions, channels, mixtures, seed=0, spread=1.0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return Logistics(
    draw(positions, mixtures),
    0.7 * draw(positions, channels, mixtures),
    spread * draw(positions, channels, mixtures) - 2,
    draw(positions, channels * (channels - 1) // 2, mixtures)
    if channels > 1
    else None,
  )


@pytest.mark.parametrize('shift', [-6.0, -2.0, 0.0, 3.0])
def test_256_values_sum_to_one(shift):
  """Sharp and wide, centred and far outside of the range."""
  head = heads.discretized_logistic(256)
  dist = random_dist(50, 1, 5, spread=2.0)
  dist = dist._replace(log_scales=dist.log_scales + shift, means=dist.means * 2)
  total = np.asarray(head.pmf(dist), np.float64).sum(-1)
  np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)


def test_a_pixel_of_three_channels_sums_to_one():
  head = heads.discretized_logistic(9, 3, 4)
  dist = random_dist(2, 3, 4)
  every = np.stack(np.unravel_index(np.arange(9**3), (9, 9, 9)), -1)
  at = lambda x: head.log_prob(dist, jnp.broadcast_to(x, (2, 3)))
  p = np.exp(np.asarray(jax.vmap(at)(jnp.asarray(every)), np.float64))
  np.testing.assert_allclose(p.sum(0), 1, rtol=0, atol=1e-5)


def test_the_definition_in_float64():
  dist = random_dist(30, 1, 3)
  num = 256
  w = special.softmax(np.float64(dist.logits), -1)
  for value in (0, 1, 100, 254, 255):
    v = 2 * value / (num - 1) - 1
    half = 1 / (num - 1)
    scale = np.exp(np.float64(dist.log_scales[:, 0]))
    mean = np.float64(dist.means[:, 0])
    upper = special.expit((v + half - mean) / scale) if value < num - 1 else 1.0
    lower = special.expit((v - half - mean) / scale) if value > 0 else 0.0
    want = np.log((w * (upper - lower)).sum(-1))
    x = jnp.full((30, 1), value)
    got = heads.discretized_logistic(num, 1, 3).log_prob(dist, x)
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


def test_channels_form_a_chain():
  """The term of channel c reads channels <= c, and all of them: exactly."""
  dist = random_dist(1, 3, 4, seed=1)
  base = jnp.array([[90, 120, 200]])
  term = lambda x: channel_log_probs(dist, x, 256)
  reads = np.zeros((3, 3), bool)
  for b in range(3):
    changed = term(base.at[0, b].add(-60))
    reads[:, b] = (changed != term(base)).any((0, 2))
  np.testing.assert_array_equal(reads, np.tril(np.ones((3, 3), bool)))


def test_picks_follow_it():
  head = heads.discretized_logistic(5, 2, 3)
  dist = random_dist(1, 2, 3, seed=2, spread=0.3)
  one = jax.tree.map(lambda d: d[0], dist)
  keys = jax.random.split(jax.random.key(0), 40_000)
  noise = jax.vmap(head.noise, (0, None))(keys, 3)
  x = np.asarray(jax.vmap(lambda n: head.pick(one, n))(noise))
  counts = np.bincount(5 * x[:, 0] + x[:, 1], minlength=25) / len(x)
  every = np.stack(np.divmod(np.arange(25), 5), -1)
  p = np.exp([head.log_prob(dist, jnp.asarray(e)[None])[0] for e in every])
  np.testing.assert_allclose(counts, p, atol=4 * np.sqrt(0.25 / len(x)))


def test_gradients_are_finite_far_out():
  head = heads.discretized_logistic(256)
  dist = random_dist(4, 1, 2)
  dist = dist._replace(log_scales=dist.log_scales - 40, means=dist.means + 30)

  def loss(dist):
    return head.log_prob(dist, jnp.array([[0], [7], [128], [255]])).sum()

  grads = jax.grad(loss)(dist)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_bad_sizes():
  with pytest.raises(ValueError, match='got 1, 1 and 10'):
    heads.discretized_logistic(1)
