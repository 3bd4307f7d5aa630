"""Optimizers against their published rules, schedules against formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from parallel_ar.training import configuration, optimizer, rules


def _config(**fields):
  config = configuration.default_config().optimizer
  config.update(fields)
  return config


def _walk(config, grads, params, steps=100):
  """Parameters after each of the given gradients."""
  transform = optimizer.make(config, steps=steps)
  opt_state = transform.init(params)
  for g in grads:
    updates, opt_state = transform.update(g, opt_state, params)
    params = optax.apply_updates(params, updates)
  return params


class TestRules:
  def test_adagrad_is_the_rule_of_made(self):
    grads = np.random.RandomState(0).randn(5, 3).astype(np.float32)
    p = np.array([1.0, -2.0, 0.5])
    total = np.zeros(3)
    for g in grads:
      total += g.astype(np.float64) ** 2
      p = p - 0.01 * g / np.sqrt(total + 1e-6)
    config = _config(name='adagrad', learning_rate=0.01)
    ours = _walk(config, jnp.asarray(grads), jnp.array([1.0, -2.0, 0.5]))
    np.testing.assert_allclose(ours, p, rtol=1e-6)

  def test_sgd_with_momentum(self):
    config = _config(name='sgd', learning_rate=0.1, momentum=0.5)
    ours = _walk(config, jnp.array([[1.0], [1.0]]), jnp.array([0.0]))
    np.testing.assert_allclose(ours, [-0.1 - 0.15], rtol=1e-6)

  def test_clip_by_global_norm(self):
    config = _config(name='sgd', learning_rate=1.0, clip_norm=1.0)
    grads = [{'a': jnp.array([3.0]), 'b': jnp.array([4.0])}]
    params = {'a': jnp.zeros(1), 'b': jnp.zeros(1)}
    ours = _walk(config, grads, params)
    np.testing.assert_allclose(ours['a'], [-0.6], rtol=1e-6)
    np.testing.assert_allclose(ours['b'], [-0.8], rtol=1e-6)

  @pytest.mark.parametrize('name', ['sgd', 'adamw'])
  def test_weight_decay_spares_biases(self, name):
    config = _config(name=name, learning_rate=0.1, weight_decay=0.5)
    params = {'w': jnp.ones((2, 2)), 'b': jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    ours = _walk(config, [zeros], params)
    np.testing.assert_allclose(ours['w'], np.full((2, 2), 0.95), rtol=1e-6)
    np.testing.assert_array_equal(ours['b'], np.ones(2))

  @pytest.mark.parametrize('name', rules.HOUSE)
  def test_every_rule_descends_and_stays_float32(self, name):
    config = _config(name=name, learning_rate=0.05)
    transform = optimizer.make(config, steps=20)
    params = jnp.array([1.0, -1.0])
    opt_state = transform.init(params)
    for leaf in jax.tree.leaves(opt_state):
      assert leaf.dtype in (jnp.float32, jnp.int32)
    ours = _walk(config, [params] * 10, params)
    assert float(jnp.sum(ours**2)) < 2.0
    assert ours.dtype == jnp.float32

  def test_unknown_names_are_errors(self):
    with pytest.raises(ValueError, match='adagrad'):
      optimizer.make(_config(name='adm'), steps=10)
    with pytest.raises(ValueError, match='cosine'):
      optimizer.make(_config(schedule='step'), steps=10)


class TestSchedules:
  def _rates(self, steps, **fields):
    rate = optimizer.schedule(_config(learning_rate=2.0, **fields), steps=steps)
    return np.array([float(rate(jnp.int32(t))) for t in range(steps + 1)])

  def test_constant_with_warm_up(self):
    rates = self._rates(6, warmup_steps=4)
    np.testing.assert_allclose(rates, [0.5, 1, 1.5, 2, 2, 2, 2])

  def test_warm_up_of_one_step(self):
    np.testing.assert_allclose(self._rates(2, warmup_steps=1), [2, 2, 2])

  @pytest.mark.parametrize('warmup', [0, 3])
  def test_cosine_ends_at_its_end(self, warmup):
    rates = self._rates(
      13, schedule='cosine', warmup_steps=warmup, end_factor=0.1
    )
    u = np.arange(14 - warmup) / (13 - warmup)
    expected = 2 * (0.1 + 0.9 * (1 + np.cos(np.pi * u)) / 2)
    np.testing.assert_allclose(rates[warmup:], expected, rtol=1e-5)

  def test_linear_over_its_own_length(self):
    rates = self._rates(8, schedule='linear', decay_steps=4, end_factor=0.5)
    np.testing.assert_allclose(rates[:6], [2, 1.75, 1.5, 1.25, 1, 1], rtol=1e-6)

  def test_exponential_per_step(self):
    rates = self._rates(
      5, schedule='exponential', decay_steps=1, decay_rate=0.5
    )
    np.testing.assert_allclose(rates, 2.0 * 0.5 ** np.arange(6), rtol=1e-6)


class TestGroups:
  PARAMS = {
    'embed': {'embedding': jnp.ones((3, 2))},
    'out': {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)},
  }

  def test_each_has_its_own_fields(self):
    """Against the rules one by one, with one norm over all."""
    config = _config(
      name='sgd',
      learning_rate=0.5,
      clip_norm=1.0,
      groups=('embed: learning_rate=0', 'bias$: name=adam, learning_rate=0.1'),
    )
    ones = jax.tree.map(jnp.ones_like, self.PARAMS)
    ours = _walk(config, [ones], self.PARAMS)
    np.testing.assert_array_equal(ours['embed']['embedding'], np.ones((3, 2)))
    norm = np.sqrt(15)
    np.testing.assert_allclose(ours['out']['kernel'], 1 - 0.5 / norm, rtol=1e-6)
    np.testing.assert_allclose(ours['out']['bias'], 0.9, rtol=1e-6)

  def test_the_first_that_matches_counts(self):
    found = optimizer.labels(self.PARAMS, ['out/b', 'out'])
    assert found['out'] == {'kernel': 'out', 'bias': 'out/b'}
    assert found['embed'] == {'embedding': ''}

  @pytest.mark.parametrize(
    ('group', 'lesson'),
    [
      ('embed', 'expected a regular expression and fields'),
      ('(: learning_rate=1', 'expected a regular expression'),
      ('embed: lerning_rate=1', "no field 'lerning_rate'.*learning_rate"),
      ('embed: learning_rate=fast', 'learning_rate=fast; expected float'),
      ('embed: name=adm', "groups, 'embed: name=adm'"),
      ('norm: learning_rate=1', "'norm' is the group of no parameter.*embed/e"),
    ],
  )
  def test_what_is_wrong_is_named(self, group, lesson):
    with pytest.raises(ValueError, match=lesson):
      optimizer.make(_config(groups=(group,)), steps=3).init(self.PARAMS)
