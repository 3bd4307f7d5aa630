"""The training step: its loss, its averages, its accumulation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from parallel_ar import heads, likelihood, model, order, transform
from parallel_ar.training import evaluate, state, step
from tests.training import tiny

EVENT = (4, 3)


def _net(**fields):
  return tiny.fvsbn(EVENT, init_scale=0.3, **fields)


def _batch(count=8, seed=0):
  x = np.random.RandomState(seed).randint(0, 2, (count, *EVENT))
  return {'x': jnp.asarray(x, jnp.int32), 'context': None}


def _start(models_, optimizer, ema=False, seed=0):
  create = jax.jit(
    lambda key: state.create(models_[0], optimizer, key, ema=ema)
  )
  return create(jax.random.key(seed))


def _flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


class TestLoss:
  def test_is_the_mean_of_the_one_pass(self):
    net = _net()
    params, batch = net.init(jax.random.key(1)), _batch()
    loss = step.make_loss([net])(params, batch, 0)
    expected = -likelihood.log_prob(net, params, batch['x']).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)

  def test_step_t_trains_model_t_mod_k(self):
    members = [_net(rank=order.random(EVENT, seed)) for seed in range(3)]
    params, batch = members[0].init(jax.random.key(1)), _batch()
    loss = jax.jit(step.make_loss(members))
    for t in range(5):
      alone = step.make_loss([members[t % 3]])(params, batch, 0)
      np.testing.assert_allclose(loss(params, batch, t), alone, rtol=1e-6)

  def test_context_reaches_a_conditional_model(self):
    net = _net(num_classes=3)
    params = net.init(jax.random.key(1))
    batch = _batch() | {'context': jnp.arange(8, dtype=jnp.int32) % 3}
    loss = step.make_loss([net])(params, batch, 0)
    expected = -likelihood.log_prob(
      net, params, batch['x'], batch['context']
    ).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)

  def test_unconditional_model_ignores_labels(self):
    net = _net()
    params = net.init(jax.random.key(1))
    labels = {'context': jnp.zeros(8, jnp.int32)}
    loss = step.make_loss([net])
    assert loss(params, _batch() | labels, 0) == loss(params, _batch(), 0)

  def test_no_models_is_an_error(self):
    with pytest.raises(ValueError, match='at least one model'):
      step.make_loss([])


class TestObjective:
  """The draws of an example: seed, update and index in the whole batch."""

  def _loss(self, net, seed=0):
    return jax.jit(step.make_loss([net], seed))

  def test_the_mean_over_draws_is_the_likelihood(self):
    net = tiny.drawn(EVENT, init_scale=0.3)
    params, batch = net.init(jax.random.key(1)), _batch()
    loss = self._loss(net)
    drawn = [loss(params, batch, t) for t in range(400)]
    nats = -likelihood.log_prob(net, params, batch['x']).mean()
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert np.std(drawn) > 0.1
    assert abs(np.mean(drawn) - nats) < 4 * error

  def test_seed_and_update_say_what_is_drawn(self):
    net = tiny.drawn(EVENT, init_scale=0.3)
    params, batch = net.init(jax.random.key(1)), _batch()
    loss = self._loss(net)
    assert loss(params, batch, 3) == loss(params, batch, 3)
    assert loss(params, batch, 3) != loss(params, batch, 4)
    assert loss(params, batch, 3) != self._loss(net, 1)(params, batch, 3)
    twice = {'x': jnp.repeat(batch['x'][:1], 2, 0)}
    one, other = (
      loss(params, {'x': twice['x'][:1]}, 3, first) for first in (0, 1)
    )
    assert one != other
    np.testing.assert_allclose(
      loss(params, twice, 3), (one + other) / 2, rtol=1e-6
    )

  def test_the_keys_of_a_part_are_those_of_the_whole(self):
    whole = step.example_keys(5, 7, 0, 12)
    parts = [step.example_keys(5, 7, first, 4) for first in (0, 4, 8)]
    np.testing.assert_array_equal(
      jax.random.key_data(whole),
      np.concatenate([jax.random.key_data(part) for part in parts]),
    )
    assert len({tuple(k) for k in np.asarray(jax.random.key_data(whole))}) == 12

  def test_accumulation_draws_the_same(self):
    net = tiny.drawn(EVENT, init_scale=0.3)
    options = {'schedule': optax.constant_schedule(0.1), 'seed': 3}
    whole = step.make_train_step([net], optax.sgd(0.1), **options)
    parts = step.make_accumulated_step(
      [net], optax.sgd(0.1), **options, accumulate=4
    )
    one, metrics = jax.jit(whole)(_start([net], optax.sgd(0.1)), _batch())
    other, same = parts(_start([net], optax.sgd(0.1)), _batch())
    np.testing.assert_allclose(
      metrics['loss_nats'], same['loss_nats'], rtol=1e-6
    )
    np.testing.assert_allclose(
      _flat(one.params), _flat(other.params), atol=1e-6
    )

  def test_members_may_differ_in_it(self):
    plain = _net()
    members = [plain, tiny.drawn(EVENT, init_scale=0.3)]
    params, batch = plain.init(jax.random.key(1)), _batch()
    loss = jax.jit(step.make_loss(members))
    for t in range(4):
      alone = step.make_loss([members[t % 2]])(params, batch, t)
      np.testing.assert_allclose(loss(params, batch, t), alone, rtol=1e-6)

  def test_context_reaches_it(self):
    net = tiny.drawn(EVENT, init_scale=0.3, num_classes=3)
    params = net.init(jax.random.key(1))
    params['label'] = jnp.outer(jnp.arange(3.0), jnp.ones(12))
    loss = self._loss(net)
    labels = [jnp.full(8, n, jnp.int32) for n in (0, 2)]
    zero, two = (loss(params, _batch() | {'context': c}, 0) for c in labels)
    assert zero != two

  def test_evaluation_never_reads_it(self):
    net = _net()
    broken = dataclasses.replace(
      net, objective=lambda params, x, context, key: jnp.nan * params['b'][0]
    )
    params, batch = net.init(jax.random.key(1)), _batch()
    np.testing.assert_array_equal(
      evaluate.make_log_prob([broken])(params, batch['x'], None),
      evaluate.make_log_prob([net])(params, batch['x'], None),
    )
    assert np.isnan(step.make_loss([broken])(params, batch, 0))

  def test_models_of_models_keep_or_drop_it(self):
    net = tiny.drawn(EVENT, init_scale=0.3)
    params, batch = net.init(jax.random.key(1)), _batch()
    moved = transform.permute(net, np.arange(12)[::-1])
    mirrored = {'x': batch['x'][:, ::-1, ::-1]}
    np.testing.assert_allclose(
      self._loss(moved)(params, mirrored, 2),
      self._loss(net)(params, batch, 2),
      rtol=1e-6,
    )
    cold = transform.with_temperature(net, 0.5)
    assert cold.objective is None
    assert transform.permute(_net(), np.arange(12)).objective is None


class TestTrainStep:
  def test_metrics_have_their_units(self):
    net, optimizer = _net(), optax.sgd(0.1)
    train_step = step.make_train_step(
      [net], optimizer, schedule=optax.constant_schedule(0.1)
    )
    before = _start([net], optimizer)
    after, metrics = jax.jit(train_step)(before, _batch())
    grads = jax.grad(step.make_loss([net]))(before.params, _batch(), 0)
    assert int(after.step) == 1
    np.testing.assert_allclose(
      metrics['grad_norm'], np.linalg.norm(_flat(grads)), rtol=1e-5
    )
    np.testing.assert_allclose(
      metrics['bits_per_dim'],
      metrics['loss_nats'] / (12 * np.log(2)),
      rtol=1e-6,
    )
    np.testing.assert_allclose(metrics['learning_rate'], 0.1, rtol=1e-6)

  def test_average_follows_its_formula(self):
    net, optimizer = _net(), optax.sgd(0.5)
    train_step = jax.jit(
      step.make_train_step(
        [net],
        optimizer,
        schedule=optax.constant_schedule(0.5),
        ema_decay=0.25,
      )
    )
    carried = _start([net], optimizer, ema=True)
    expected = _flat(carried.ema)
    for t in range(6):
      carried, _ = train_step(carried, _batch(seed=t))
      decay = min(0.25, (1 + t) / (10 + t))
      expected = decay * expected + (1 - decay) * _flat(carried.params)
    np.testing.assert_allclose(_flat(carried.ema), expected, rtol=1e-5)

  def test_without_decay_there_is_no_average(self):
    net, optimizer = _net(), optax.sgd(0.5)
    train_step = step.make_train_step(
      [net], optimizer, schedule=optax.constant_schedule(0.5)
    )
    after, _ = train_step(_start([net], optimizer), _batch())
    assert after.ema is None

  def test_bfloat16_compute_keeps_everything_else_float32(self):
    net, optimizer = _net(dtype=jnp.bfloat16), optax.adam(1e-3)
    train_step = step.make_train_step(
      [net],
      optimizer,
      schedule=optax.constant_schedule(1e-3),
      ema_decay=0.9,
    )
    before = _start([net], optimizer, ema=True)
    after, metrics = jax.jit(train_step)(before, _batch())
    for leaf in jax.tree.leaves((after, metrics)):
      assert leaf.dtype in (jnp.float32, jnp.int32)

  def test_low_precision_terms_are_averaged_in_float32(self):
    bernoulli = heads.bernoulli()
    coarse = bernoulli._replace(
      log_prob=lambda dist, x: bernoulli.log_prob(dist, x).astype(jnp.bfloat16)
    )
    coin = model.from_function(
      lambda params, x, context: jnp.broadcast_to(params['logit'], x.shape),
      event=(3,),
      rank=order.raster((3,)),
      head=coarse,
      init=lambda key: {'logit': jnp.zeros(())},
    )
    x = {'x': jnp.zeros((2, 3), jnp.int32)}
    loss = step.make_loss([coin])(coin.init(jax.random.key(0)), x, 0)
    assert loss.dtype == jnp.float32

  def test_second_call_does_not_compile(self):
    net, optimizer = _net(), optax.adam(1e-3)
    train_step = jax.jit(
      step.make_train_step(
        [net], optimizer, schedule=optax.constant_schedule(1e-3)
      ),
      donate_argnums=0,
    )
    carried = _start([net], optimizer)
    for t in range(3):
      carried, _ = train_step(carried, _batch(seed=t))
    assert train_step._cache_size() == 1


class TestAccumulation:
  @pytest.mark.parametrize('count', [2, 8])
  def test_equals_one_big_batch(self, count):
    net = _net()
    batch = _batch()
    optimizer = optax.adagrad(0.01, initial_accumulator_value=0.0, eps=1e-6)
    options = {'schedule': optax.constant_schedule(0.01), 'ema_decay': 0.5}
    results = []
    for train_step in (
      jax.jit(step.make_train_step([net], optimizer, **options)),
      step.make_accumulated_step([net], optimizer, **options, accumulate=count),
    ):
      carried = _start([net], optimizer, ema=True)
      for _ in range(2):
        carried, metrics = train_step(carried, batch)
      results.append((carried, metrics))
    (whole, whole_metrics), (parts, parts_metrics) = results
    np.testing.assert_allclose(
      _flat(whole.params), _flat(parts.params), atol=1e-5
    )
    np.testing.assert_allclose(_flat(whole.ema), _flat(parts.ema), atol=1e-5)
    for name in whole_metrics:
      np.testing.assert_allclose(
        whole_metrics[name], parts_metrics[name], rtol=1e-5
      )

  def test_labels_are_cut_with_their_examples(self):
    net, optimizer = _net(num_classes=4), optax.sgd(0.1)
    batch = _batch() | {'context': jnp.arange(8, dtype=jnp.int32) % 4}
    options = {'schedule': optax.constant_schedule(0.1)}
    whole = step.make_train_step([net], optimizer, **options)
    parts = step.make_accumulated_step(
      [net], optimizer, **options, accumulate=4
    )
    one, _ = whole(_start([net], optimizer), batch)
    other, _ = parts(_start([net], optimizer), batch)
    np.testing.assert_allclose(
      one.params['label'], other.params['label'], atol=1e-6
    )

  def test_indivisible_batch_is_an_error(self):
    net, optimizer = _net(), optax.sgd(0.1)
    train_step = step.make_accumulated_step(
      [net],
      optimizer,
      schedule=optax.constant_schedule(0.1),
      accumulate=3,
    )
    with pytest.raises(ValueError, match=r'train\.accumulate'):
      train_step(_start([net], optimizer), _batch())


def test_a_model_of_no_parameters_is_noticed():
  """What a function captures is no parameter, and would train without one."""
  weights = jnp.ones((3, 2))
  net = model.from_function(
    lambda params, x, context: jnp.cumsum(weights[x], 0) - weights[x],
    event=(4,),
    rank=order.raster(4),
    head=heads.categorical(2),
    name='captured',
  )
  assert model.describe(net).endswith('0 parameters, nothing to train')
  with pytest.raises(ValueError, match='captured has 0 parameters.*from_nnx'):
    _start([net], optax.sgd(0.1))
