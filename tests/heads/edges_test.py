"""Heads at the edge of float32, against float64 and by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import from_function, heads, log_prob_terms, with_temperature
from parallel_ar.heads.discretized_logistic import Logistics

FAR = (0.0, 1.5, -20.0, 90.0, -400.0, 3e4, -1e12)
SCALES = (-7.0, -2.0, 0.0, 30.0, 80.0, 100.0, 300.0)


def bernoulli(logit, x):
  return -np.logaddexp(0, -logit if x else logit)


def categorical(logits, x):
  return logits[x] - np.logaddexp.reduce(logits)


def gaussians(logits, means, log_scales, x):
  log_w = logits - np.logaddexp.reduce(logits)
  z = (x - means) * np.exp(-log_scales)
  log_n = -0.5 * (z**2 + np.log(2 * np.pi)) - log_scales
  return np.logaddexp.reduce(log_w + log_n)


def logistic(mean, log_scale, x, num_values):
  """log of F(a) - F(b), F(b) = 0 at the first value, F(a) = 1 at the last."""
  edge = lambda n: (
    ((2 * n + 1) / (num_values - 1) - 1 - mean) / np.exp(log_scale)
  )
  a, b = edge(x), edge(x - 1)
  below, above = -np.logaddexp(0, -a), -np.logaddexp(0, b)
  if x == 0:
    return below
  if x == num_values - 1:
    return above
  return (
    below + above + np.log(-np.expm1(-2 / (num_values - 1) / np.exp(log_scale)))
  )


def slope(function, args, step=1e-6):
  """Central differences in float64, relative to the size of the argument."""
  args = np.asarray(args, np.float64)
  found = np.zeros_like(args)
  for at in np.ndindex(args.shape):
    h = step * max(1.0, abs(args[at]))
    up, down = args.copy(), args.copy()
    up[at] += h
    down[at] -= h
    found[at] = (function(up) - function(down)) / (2 * h)
  return found


def compare(function, truth, rows):
  """Value and gradient of all rows against float64 where a float32 holds it."""
  args = jnp.asarray(np.array([r[0] for r in rows]), jnp.float32)
  x = jnp.asarray(np.array([r[1] for r in rows]))
  grad = jax.jit(jax.vmap(jax.value_and_grad(function)))
  values, slopes = (np.asarray(a, np.float64) for a in grad(args, x))
  wide = np.asarray(args, np.float64)
  for row, value, got in zip(
    zip(wide, x, strict=True), values, slopes, strict=True
  ):
    want = truth(row[0], row[1].item())
    if abs(want) < 1e37:
      np.testing.assert_allclose(value, want, 1e-5, 1e-5, err_msg=str(row))
      assert np.isfinite(got).all(), (row, got)
      want = slope(lambda a, r=row: truth(a, r[1].item()), row[0])
      # Differences of values that absorb the step say nothing.
      near = (abs(want) < 1e6) & (abs(row[0]) < 1e6).all()
      np.testing.assert_allclose(
        got[near], want[near], 1e-3, 1e-3, err_msg=str(row)
      )
    else:
      assert not np.isnan(value), row


def test_bernoulli():
  head = heads.bernoulli()
  rows = [(a, x) for a in (*FAR, -3e38, 3e38) for x in (0, 1)]
  compare(lambda a, x: head.log_prob(a, x), bernoulli, rows)


def test_categorical():
  head = heads.categorical(3)
  rows = [(a, x) for a in itertools.product(FAR, repeat=3) for x in range(3)]
  compare(lambda a, x: head.log_prob(a, x), categorical, rows)


def test_gaussian_mixture():
  head = heads.gaussian_mixture(2)
  scales = (-100.0, -80.0, -8.0, 0.0, 80.0, 300.0)
  rows = [
    ([[a, 0], [m, 0.5], [s, 0.5]], x)
    for a, m, s, x in itertools.product(
      (0.0, 60.0, -60.0), (1.0, 0.0), scales, (0.0, 1.0)
    )
  ]
  compare(
    lambda a, x: head.log_prob(tuple(a), x),
    lambda a, x: gaussians(*a, x),
    rows,
  )


@pytest.mark.parametrize('num_values', [2, 5, 256])
def test_discretized_logistic(num_values):
  head = heads.discretized_logistic(num_values, num_mixtures=1)

  def function(a, x):
    mean, log_scale = a[0][None, None], a[1][None, None]
    dist = Logistics(jnp.zeros((1,)), mean, log_scale, None)
    return head.log_prob(dist, x[None])

  values = sorted({0, 1, num_values // 2, num_values - 1})
  rows = [
    ([m, s], x)
    for m, s, x in itertools.product((0.0, 0.9, -30.0, 1e4), SCALES[1:], values)
  ]
  compare(function, lambda a, x: logistic(*a, x, num_values), rows)


class TestTemperature:
  logits = jax.random.normal(jax.random.key(3), (64, 5)) * 5

  @pytest.mark.parametrize('coupling', ['gumbel', 'inverse_cdf'])
  def test_the_greedy_limit_of_a_categorical(self, coupling):
    model = from_function(
      lambda p, x, c: p,
      event=64,
      rank=np.arange(64),
      head=heads.categorical(5, coupling),
      init=lambda key: self.logits,
    )
    best = jnp.argmax(self.logits, -1)
    for temperature in (1e-4, 1e-10, 1e-20, 2e-38):
      cold = with_temperature(model, temperature)
      terms = jax.jit(lambda p, x, m=cold: log_prob_terms(m, p, x))
      np.testing.assert_allclose(
        terms(self.logits, best[None].astype(jnp.int32)), 0, atol=1e-3
      )
      noise = jax.vmap(cold.head.noise, (None, 0))(
        jax.random.key(0), jnp.arange(64)
      )
      dist = jax.jit(cold.conditionals)(self.logits, None, None)
      np.testing.assert_array_equal(cold.head.pick(dist, noise), best)

  def test_the_greedy_limit_of_a_bernoulli(self):
    head, logits = heads.bernoulli(), self.logits[:, 0]
    for temperature in (1e-10, 1e-30, 2e-38):
      dist = jax.jit(lambda a, t=temperature: head.temper(a, t))(logits)
      best = (logits > 0).astype(jnp.int32)
      np.testing.assert_allclose(head.log_prob(dist, best), 0, atol=1e-6)
      np.testing.assert_array_equal(head.pick(dist, jnp.ones(64)), best)

  @pytest.mark.parametrize('temperature', [0, -1, 1e-39, 1e39, np.nan, np.inf])
  def test_no_temperature_that_a_float32_cannot_hold(self, temperature):
    model = from_function(
      lambda p, x, c: jnp.zeros(2),
      event=2,
      rank=np.arange(2),
      head=heads.bernoulli(),
    )
    with pytest.raises(ValueError, match='positive and finite'):
      with_temperature(model, temperature)


class TestHardZeros:
  def test_a_symbol_that_is_forbidden(self):
    head = heads.categorical(3)
    logits = jnp.array([0.5, -jnp.inf, 1.0])
    both = jax.value_and_grad(head.log_prob)
    value, grad = both(logits, jnp.int32(2))
    np.testing.assert_allclose(
      value, categorical(np.array([0.5, -1e9, 1.0]), 2)
    )
    assert jnp.isfinite(grad).all()
    assert head.log_prob(logits, jnp.int32(1)) == -jnp.inf

  def test_all_are_forbidden(self):
    head = heads.categorical(3)
    nats = head.log_prob(jnp.full(3, -jnp.inf), jnp.int32(0))
    assert jnp.isnan(nats)


HEADS = {
  'bernoulli': (heads.bernoulli(), jnp.ones(2)),
  'categorical': (heads.categorical(3), jnp.ones((2, 3))),
  'inverse_cdf': (heads.categorical(3, 'inverse_cdf'), jnp.ones((2, 3))),
  'discretized_logistic': (
    heads.discretized_logistic(3, 1, 2),
    Logistics(
      jnp.ones((2, 2)), jnp.ones((2, 1, 2)), jnp.zeros((2, 1, 2)), None
    ),
  ),
}


@pytest.mark.parametrize('name', HEADS)
class TestSymbols:
  def x(self, name, *values, dtype=jnp.int32):
    x = jnp.asarray(values, dtype)
    return x[:, None] if name == 'discretized_logistic' else x

  @pytest.mark.parametrize('value', [-1, -5, 3, 255, 2**31 - 1])
  def test_what_is_none_is_nan(self, name, value):
    head, dist = HEADS[name]
    terms = jax.jit(head.log_prob)(dist, self.x(name, value, 1))
    np.testing.assert_array_equal(np.isnan(terms), [True, False])

  def test_narrow_integers_are_the_same_numbers(self, name):
    head, dist = HEADS[name]
    want = head.log_prob(dist, self.x(name, 0, 1))
    for dtype in (jnp.uint8, jnp.int8, jnp.uint32):
      got = head.log_prob(dist, self.x(name, 0, 1, dtype=dtype))
      np.testing.assert_array_equal(got, want)

  def test_floats_are_refused(self, name):
    head, dist = HEADS[name]
    with pytest.raises(ValueError, match='takes integers'):
      head.log_prob(dist, self.x(name, 0.4, 1.0, dtype=jnp.float32))

  def test_bfloat16_dists_give_float32_nats(self, name):
    head, dist = HEADS[name]
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), dist)
    x = self.x(name, 0, 1)
    got = head.log_prob(low, x)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, head.log_prob(dist, x))


def test_a_changed_head_guards_itself_too():
  head = heads.bernoulli()._replace(num_values=3, pick=lambda dist, noise: dist)
  low = jnp.ones(2, jnp.bfloat16)
  assert head.pick(low, None).dtype == jnp.float32
  terms = head.log_prob(jnp.ones(2), jnp.array([2, 3]))
  np.testing.assert_array_equal(np.isnan(terms), [False, True])


@pytest.mark.parametrize('shape', [(3, 6), (3,)])
def test_logits_of_another_number_of_values(shape):
  with pytest.raises(ValueError, match=r'V = 5 values.*last axis is 5'):
    from_function(
      lambda p, x, c: jnp.zeros(shape),
      event=3,
      rank=np.arange(3),
      head=heads.categorical(5),
    )


class TestProbabilities:
  """pmf, chain and tempered conditionals are what the likelihood says."""

  def of_all(self, head, dist, num_values):
    every = jnp.arange(num_values)
    at = lambda v: head.log_prob(dist, jnp.full(len(dist), v))
    return np.exp(np.asarray(jax.vmap(at)(every), np.float64)).T

  @pytest.mark.parametrize('temperature', [1e-20, 0.5, 1.0, 1e4])
  def test_symbols_at_a_temperature(self, temperature):
    rows = np.array(list(itertools.product((*FAR, 1e6), repeat=3)), np.float32)
    wide = rows.astype(np.float64)
    scores = (wide - wide.max(-1, keepdims=True)) / temperature
    want = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    for coupling in 'gumbel', 'inverse_cdf':
      head = heads.categorical(3, coupling)
      dist = head.temper(jnp.asarray(rows), temperature)
      np.testing.assert_allclose(head.pmf(dist), want, 1e-4, 1e-6)
      np.testing.assert_allclose(self.of_all(head, dist, 3), want, 1e-4, 1e-6)
    logits = np.array([*FAR, 1e6, -3e38, 3e38], np.float32)
    head = heads.bernoulli()
    dist = head.temper(jnp.asarray(logits), temperature)
    one = np.exp(-np.logaddexp(0, -logits.astype(np.float64) / temperature))
    want = np.stack([1 - one, one], -1)
    np.testing.assert_allclose(head.pmf(dist), want, 1e-4, 1e-6)
    np.testing.assert_allclose(self.of_all(head, dist, 2), want, 1e-4, 1e-6)

  def test_logistics(self):
    """Of one channel, and of the chain of two."""
    grid = itertools.product((0.0, 0.9, -30.0, 1e6), SCALES)
    means, scales = np.array(list(grid), np.float32).T[..., None, None]
    logits = jnp.zeros((len(means), 1))
    one = heads.discretized_logistic(5, 1, 1)
    pmf = one.pmf(Logistics(logits, means, scales, None))
    wide = np.float64(means)[:, 0, 0], np.float64(scales)[:, 0, 0]
    want = [
      [np.exp(logistic(m, max(s, -7), x, 5)) for x in range(5)]
      for m, s in zip(*wide, strict=True)
    ]
    np.testing.assert_allclose(pmf, want, 1e-4, 1e-6)
    two = heads.discretized_logistic(5, 2, 1)
    both = (jnp.repeat(a, 2, 1) for a in (means, scales))
    dist = Logistics(logits, *both, jnp.zeros((len(means), 1, 1)))
    chain = two.chain(dist, jnp.full((len(means), 2), 3))
    for channel in range(2):
      # A value that is impossible leaves the next one to the only component.
      np.testing.assert_allclose(chain[:, channel], want, 1e-4, 1e-6)
