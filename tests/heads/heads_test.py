"""Heads against scipy, each other, and the frequencies of their picks."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from parallel_ar import heads

LOGITS = np.array([[0.5, -1.0, 2.0], [3.0, 3.0, -40.0]], np.float32)


@functools.cache
def noise_of(head, count=20_000):
  """Noise of position 2 under many keys."""
  keys = jax.random.split(jax.random.key(0), count)
  return jax.jit(jax.vmap(lambda key: head.noise(key, 2)))(keys)


def draws(head, dist):
  """Picks of one position under many keys."""
  noise = noise_of(head)
  many = jnp.broadcast_to(dist, (len(noise), *jnp.shape(dist)))
  return np.asarray(head.pick(many, noise))


class TestCategorical:
  head = heads.categorical(3)

  def test_log_prob_is_log_softmax(self):
    x = jnp.array([2, 0])
    want = special.log_softmax(LOGITS.astype(np.float64), -1)
    np.testing.assert_allclose(
      self.head.log_prob(LOGITS, x), want[[0, 1], x], rtol=1e-6
    )

  def test_pmf_agrees_with_log_prob(self):
    pmf = np.asarray(self.head.pmf(LOGITS))
    np.testing.assert_allclose(pmf.sum(-1), 1, rtol=1e-6)
    for v in range(3):
      x = jnp.full(2, v)
      got = np.exp(self.head.log_prob(LOGITS, x))
      np.testing.assert_allclose(got, pmf[:, v], rtol=1e-5, atol=1e-30)

  def test_picks_have_the_frequencies_of_the_pmf(self):
    x = draws(self.head, jnp.asarray(LOGITS[0]))
    counts = np.bincount(x, minlength=3)
    expected = special.softmax(LOGITS[0].astype(np.float64)) * x.size
    assert stats.chisquare(counts, expected).pvalue > 1e-3

  def test_a_shift_of_the_logits_changes_nothing(self):
    x = jnp.array([1, 1])
    np.testing.assert_allclose(
      self.head.log_prob(LOGITS + 7.0, x),
      self.head.log_prob(LOGITS, x),
      rtol=1e-5,
    )

  def test_temper_divides(self):
    below = LOGITS - LOGITS.max(-1, keepdims=True)
    np.testing.assert_allclose(self.head.temper(LOGITS, 0.5), 2 * below)

  def test_shared_noise_couples(self):
    """Two dists agree with probability at least (1 - TV) / (1 + TV)."""
    other = jnp.array([0.3, -0.2, 1.0])
    p, q = special.softmax(LOGITS[0]), special.softmax(other)
    tv = 0.5 * np.abs(p - q).sum()
    agree = draws(self.head, LOGITS[0]) == draws(self.head, other)
    assert agree.mean() > (1 - tv) / (1 + tv) - 0.01

  def test_one_value_is_refused(self):
    with pytest.raises(ValueError, match='at least 2 values; got 1'):
      heads.categorical(1)


class TestBernoulli:
  head = heads.bernoulli()
  logits = np.array([-100.0, -2.0, 0.0, 0.7, 100.0], np.float32)

  def test_log_prob_against_scipy(self):
    want = np.array(
      [
        special.log_expit(-self.logits.astype(np.float64)),
        special.log_expit(self.logits.astype(np.float64)),
      ]
    )
    for v in range(2):
      x = jnp.full(5, v)
      np.testing.assert_allclose(
        self.head.log_prob(self.logits, x), want[v], rtol=1e-6, atol=1e-30
      )

  def test_pmf_agrees_with_log_prob(self):
    pmf = np.asarray(self.head.pmf(self.logits))
    for v in range(2):
      got = np.exp(self.head.log_prob(self.logits, jnp.full(5, v)))
      np.testing.assert_allclose(pmf[:, v], got, rtol=1e-5, atol=1e-30)

  def test_picks_have_the_frequencies_of_the_pmf(self):
    x = draws(self.head, jnp.float32(0.7))
    ones = int(x.sum())
    expected = special.expit(0.7)
    assert stats.binomtest(ones, x.size, expected).pvalue > 1e-3

  def test_it_is_a_categorical_head_of_two_logits(self):
    """Same probabilities, and the law of its noise is Logistic(0, 1)."""
    two = heads.categorical(2)
    stacked = jnp.stack([jnp.zeros(5), jnp.asarray(self.logits)], -1)
    for v in range(2):
      x = jnp.full(5, v)
      np.testing.assert_allclose(
        self.head.log_prob(self.logits, x),
        two.log_prob(stacked, x),
        rtol=1e-6,
        atol=1e-30,
      )
    noise = two.noise(jax.random.key(1), jnp.asarray(3))
    one = self.head.noise(jax.random.key(1), jnp.asarray(3))
    np.testing.assert_array_equal(one, noise[1] - noise[0])
    near = jnp.linspace(-3.0, 3.0, 50)
    pairs = jnp.stack([jnp.zeros(50), near], -1)
    np.testing.assert_array_equal(
      self.head.pick(near, jnp.full(50, one)),
      two.pick(pairs, jnp.broadcast_to(noise, (50, 2))),
    )

  def test_noise_is_logistic(self):
    noise = np.asarray(noise_of(self.head))
    assert stats.kstest(noise, 'logistic').pvalue > 1e-3

  def test_shared_noise_is_a_maximal_coupling(self):
    """P(different) is |p - q|; no coupling can do better."""
    a, b = (draws(self.head, jnp.float32(l)) for l in (0.2, 1.0))
    distance = special.expit(1.0) - special.expit(0.2)
    assert abs((a != b).mean() - distance) < 0.01


@pytest.mark.parametrize('head', [heads.bernoulli(), heads.categorical(3)])
def test_noise_differs_between_positions_and_keys(head):
  noise = jax.jit(lambda seed, i: head.noise(jax.random.key(seed), i))
  first = np.asarray(noise(0, 0))
  assert (first != np.asarray(noise(0, 1))).all()
  assert (first != np.asarray(noise(1, 0))).all()
  np.testing.assert_array_equal(first, noise(0, 0))


def test_gradients_are_finite_where_probabilities_vanish():
  head = heads.bernoulli()
  slope = jax.grad(lambda l: head.log_prob(l, jnp.array([1])).sum())
  assert np.isfinite(slope(jnp.array([-200.0]))).all()
  three = heads.categorical(3)
  slope = jax.grad(lambda l: three.log_prob(l, jnp.array([2])).sum())
  assert np.isfinite(slope(jnp.array([[300.0, 0.0, -300.0]]))).all()


class TestGaussianMixture:
  head = heads.gaussian_mixture(3)
  dist = tuple(
    jnp.asarray(a, jnp.float32)[None]
    for a in ([0.0, 1.0, -1.0], [-3.0, 0.5, 2.0], [0.3, -1.0, 0.0])
  )

  def test_density_is_that_of_the_mixture(self):
    x = np.linspace(-12, 12, 20_001)
    many = jax.tree.map(lambda d: jnp.repeat(d, x.size, 0), self.dist)
    density = np.exp(np.float64(self.head.log_prob(many, jnp.asarray(x))))
    weights = special.softmax(self.dist[0][0])
    want = sum(
      w * stats.norm.pdf(x, m, np.exp(s))
      for w, m, s in zip(weights, self.dist[1][0], self.dist[2][0], strict=True)
    )
    np.testing.assert_allclose(density, want, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(np.trapezoid(density, x), 1, rtol=1e-4)

  def test_picks_follow_it(self):
    keys = jax.random.split(jax.random.key(0), 20_000)
    noise = jax.vmap(self.head.noise, (0, None))(keys, 0)
    one = jax.tree.map(lambda d: d[0], self.dist)
    pick = functools.partial(self.head.pick, one)
    x = np.asarray(jax.vmap(pick)(noise))
    weights = special.softmax(self.dist[0][0])

    def cdf(x):
      return sum(
        w * stats.norm.cdf(x, m, np.exp(s))
        for w, m, s in zip(
          weights, self.dist[1][0], self.dist[2][0], strict=True
        )
      )

    assert stats.kstest(x, cdf).pvalue > 1e-3

  def test_no_components(self):
    with pytest.raises(ValueError, match='at least 1 component; got 0'):
      heads.gaussian_mixture(0)


class Other(NamedTuple):
  """A named tuple of someone else, in another order."""

  means: jax.Array
  log_scales: jax.Array
  logits: jax.Array


class TestDistsByName:
  """A dist is what its names say, in whatever they come."""

  def test_a_mixture(self):
    head, keys = (
      heads.gaussian_mixture(2),
      jax.random.split(jax.random.key(0), 3),
    )
    logits, means, scales = (jax.random.normal(k, (3, 2)) for k in keys)
    x = jnp.array([0.1, -1.0, 2.0])
    want = head.log_prob((logits, means, scales), x)
    for dist in (
      heads.Mixture(logits, means, scales),
      Other(means, scales, logits),
      {'means': means, 'log_scales': scales, 'logits': logits},
    ):
      np.testing.assert_array_equal(head.log_prob(dist, x), want)
      np.testing.assert_array_equal(
        head.pick(dist, (jnp.zeros((3, 2)), jnp.zeros(3))),
        head.pick((logits, means, scales), (jnp.zeros((3, 2)), jnp.zeros(3))),
      )

  @pytest.mark.parametrize(
    'head', [heads.categorical(2), heads.bernoulli()], ids=lambda h: h.name
  )
  def test_logits(self, head):
    logits = jnp.arange(6.0).reshape(3, 2)
    logits = logits if 'categorical' in head.name else logits[:, 0]
    x = jnp.array([0, 1, 1])
    for dist in ({'logits': logits}, heads.Logits(logits)):
      np.testing.assert_array_equal(
        head.log_prob(dist, x), head.log_prob(logits, x)
      )
      np.testing.assert_array_equal(head.pmf(dist), head.pmf(logits))
      cooled = head.temper(dist, 0.5)
      np.testing.assert_array_equal(cooled, head.temper(logits, 0.5))

  def test_logistics(self):
    head = heads.discretized_logistic(4, 1, 2)
    parts = {
      'logits': jnp.zeros((3, 2)),
      'means': jnp.zeros((3, 1, 2)),
      'log_scales': jnp.zeros((3, 1, 2)),
    }
    x = jnp.zeros((3, 1), jnp.int32)
    np.testing.assert_array_equal(
      head.log_prob(parts, x), head.log_prob(heads.Logistics(**parts), x)
    )

  @pytest.mark.parametrize(
    ('dist', 'message'),
    [
      ({'logits': jnp.zeros((3, 2)), 'mean': 0}, 'dict without means, log_sc'),
      ((jnp.zeros((3, 2)), jnp.zeros((3, 2))), 'by name in a Mixture or a di'),
      ([jnp.zeros((3, 1))] * 3, r'K = 2 components.*logits \(3, 1\)'),
      (jnp.zeros((3, 2)), 'Mixture or a dict; got'),
    ],
  )
  def test_what_is_missing(self, dist, message):
    with pytest.raises(ValueError, match=message):
      heads.gaussian_mixture(2).log_prob(dist, jnp.zeros(3))
