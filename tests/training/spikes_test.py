"""Spikes: found against the window, left out whole, counted."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from parallel_ar.training import spikes, state, step
from tests.training import tiny

WINDOW = 8


def _oracle(history, value, sigmas):
  """The docstring of the module, on lists."""
  last = np.asarray(history[-WINDOW:], np.float64).reshape(-1, 2)
  if len(last) < WINDOW // 2:
    return False
  std = np.maximum(last.std(0, ddof=1), 1e-6 * np.abs(last.mean(0)))
  return bool((np.asarray(value) > last.mean(0) + sigmas * std).any())


def test_the_rule_is_that_of_the_docstring():
  random = np.random.RandomState(0)
  values = random.randn(60, 2).astype(np.float32) + [9, 3]
  values[[2, 20, 21, 40, 41, 42, 43, 44, 45], 0] += 30
  values[30, 1] += 30
  found, expected = [], []
  check = jax.jit(lambda s, v: spikes.is_spike(s, v, 4.0))
  join = jax.jit(spikes.update)
  current = spikes.create(WINDOW)
  for i, value in enumerate(values.astype(np.float32)):
    skip = check(current, value)
    found.append(bool(skip))
    expected.append(_oracle(list(values[:i]), value, 4.0))
    current = join(current, value, skip)
  assert found == expected
  where = np.flatnonzero(found).tolist()
  assert 2 not in where  # too early
  assert {20, 30, 40} <= set(where)
  assert 45 not in where  # a lasting change is the new normal
  assert int(current.skipped) == len(where)
  assert int(current.seen) == 60


def test_constant_values_are_no_spikes():
  current = spikes.create(4)
  value = jnp.array([0.1, 0.7], jnp.float32)
  for _ in range(9):
    assert not spikes.is_spike(current, value, 3.0)
    current = spikes.update(current, value, jnp.array(False))


@pytest.mark.parametrize('accumulate', [1, 2])
def test_a_spike_leaves_everything_but_the_batch_as_it_was(accumulate):
  model = tiny.fvsbn()
  rule = optax.chain(
    optax.scale_by_adam(), optax.scale_by_schedule(lambda t: -0.1 / (1 + t))
  )
  options = {
    'schedule': lambda t: 0.1 / (1 + t),
    'ema_decay': 0.9,
    'skip_sigmas': 5.0,
  }
  if accumulate > 1:
    advance = step.make_accumulated_step(
      [model], rule, accumulate=accumulate, **options
    )
  else:
    advance = jax.jit(step.make_train_step([model], rule, **options))
  create = lambda key: state.create(
    model, rule, key, ema=True, spike_window=WINDOW
  )
  current = jax.jit(create)(jax.random.key(0))
  # Bits that are nearly always 0, and once always 1.
  random = np.random.RandomState(1)
  losses, rates = [], []
  for at in range(14):
    x = (random.rand(6, 4, 3) < 0.1).astype(np.int32)
    if at == 11:
      x = np.ones_like(x)
    before = jax.tree.map(np.array, current)
    current, metrics = advance(current, {'x': jnp.asarray(x), 'context': None})
    losses.append(float(metrics['loss_nats']))
    rates.append(float(metrics['learning_rate']))
    same = all(
      np.array_equal(one, other)
      for one, other in zip(
        jax.tree.leaves(before.params),
        jax.tree.leaves(current.params),
        strict=True,
      )
    )
    assert same == (at == 11)
    if at == 11:
      chex.assert_trees_all_equal(before.opt_state, current.opt_state)
      chex.assert_trees_all_equal(before.ema, current.ema)
    assert int(current.step) == at + 1
    assert int(metrics['skipped_steps']) == (at >= 11)
  assert losses[11] > max(losses[:11] + losses[12:])
  assert int(current.opt_state[1].count) == 13
  # The schedule waits with the optimizer.
  expected = [0.1 / (1 + t) for t in [*range(12), 11, 12]]
  expected[12:] = [0.1 / 12, 0.1 / 13]
  np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_without_it_there_is_nothing_to_carry():
  model, rule = tiny.fvsbn(), optax.sgd(0.1)
  current = state.create(model, rule, jax.random.key(0))
  assert current.spikes is None
  advance = step.make_train_step([model], rule, schedule=lambda t: 0.1)
  x = jnp.zeros((2, 4, 3), jnp.int32)
  _, metrics = advance(current, {'x': x, 'context': None})
  assert 'skipped_steps' not in metrics
