"""Rules and schedules of optax by their names, and what they evaluate."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from parallel_ar.training import (
  configuration,
  evaluate,
  optimizer,
  params_file,
  rules,
  trained,
)
from tests.training.loop_test import (  # noqa: F401
  _config,
  _tiny_models,
  _train,
)

WRAPPERS = ('mechanize', 'schedule_free')
NEED_MORE = ('dpsgd', 'optimistic_adam')  # each example's gradient; deprecated
PARAMS = {'w': jnp.ones((4, 3)), 'b': jnp.ones(3)}
TARGETS = {'w': jnp.arange(12.0).reshape(4, 3) / 9, 'b': jnp.zeros(3)}


def _loss(params):
  parts = jax.tree.map(lambda p, t: jnp.sum((p - t) ** 2), params, TARGETS)
  return sum(jax.tree.leaves(parts))


def _section(name, **fields):
  config = configuration.default_config()
  config.model.name = 'made'
  config.optimizer.update({'name': name, 'learning_rate': 0.03} | fields)
  configuration.validate(config)
  return config.optimizer


def _walk(section, steps):
  """(params, state) after some updates, those of one compiled function."""
  rule = optimizer.make(section, steps=steps)

  @jax.jit
  def update(params, state):
    value, grads = jax.value_and_grad(_loss)(params)
    added, state = rules.update(rule, grads, state, params, value, _loss)
    return optax.apply_updates(params, added), state

  params, state = PARAMS, rule.init(PARAMS)
  for _ in range(steps):
    params, state = update(params, state)
  return params, state


@pytest.mark.parametrize('name', sorted(set(rules.of_optax()) - {*NEED_MORE}))
def test_every_rule_of_optax_learns_by_its_name(name):
  """A rate of 1 where the rule finds its own; signs flip, so a few steps."""
  options = {'base_optimizer': 'sgd'} if name in WRAPPERS else {}
  own = ('cocob', 'dadapt_adamw', 'dog', 'dowg', 'momo', 'prodigy')
  rate = 1.0 if name in own else 0.03
  section = _section(name, learning_rate=rate, options=options)
  params, state = _walk(section, 6)
  found = rules.average(state, params) or params
  assert _loss(found) < _loss(PARAMS)
  chex.assert_trees_all_equal_shapes_and_dtypes(found, PARAMS)
  assert ('schedule_free' in name) == (rules.average(state, params) is not None)
  section.options = {'no_such': 1}
  with pytest.raises(ValueError, match=f'optax.{name} has no such argument'):
    optimizer.make(section, steps=3)


@pytest.mark.parametrize(
  ('fields', 'says'),
  [
    ({'name': 'dpsgd'}, 'needs config.optimizer.options.l2_norm_clip'),
    (
      {
        'name': 'dpsgd',
        'options': {'l2_norm_clip': 1.0, 'noise_multiplier': 1.0},
      },
      'optax.dpsgd .*options.seed|optax.dpsgd cannot be used so',
    ),
    ({'name': 'schedule_free'}, 'options.base_optimizer, which has no default'),
    (
      {'name': 'mechanize', 'options': {'base_optimizer': 'sdg'}},
      "base_optimizer 'sdg'. Did you mean 'sgd'",
    ),
    ({'name': 'sm3', 'schedule': 'cosine'}, 'takes a number for its'),
    ({'name': 'lion', 'weight_decay': 0.1}, 'set config.optimizer.options.w'),
    (
      {'groups': ('w: name=lbfgs',)},
      "'w: name=lbfgs': optax.lbfgs cannot be used so: .*value_fn",
    ),
    (
      {'schedule': 'polynomial_schedule'},
      'needs config.optimizer.schedule_options.power',
    ),
    (
      {
        'schedule': 'cosine_decay_schedule',
        'schedule_options': {'alhpa': 0.1},
      },
      "alhpa: optax.cosine_decay_schedule .*Did you mean 'alpha'",
    ),
    (
      {
        'schedule': 'piecewise_interpolate_schedule',
        'schedule_options': {'interpolate_type': 'cubic'},
      },
      'optax.piecewise_interpolate_schedule cannot be used so',
    ),
  ],
)
def test_what_cannot_be_used_is_refused(fields, says):
  with pytest.raises(ValueError, match=says):
    optimizer.make(_section(fields.pop('name', 'adam'), **fields), steps=9)


@pytest.mark.parametrize(
  ('field', 'value', 'near'),
  [
    ('name', 'schedule_fre', 'schedule_free'),
    ('name', 'adamww', 'adamw'),
    ('schedule', 'cosine_decay', 'cosine_decay_schedule'),
  ],
)
def test_a_misspelt_name_gets_the_nearest(field, value, near):
  with pytest.raises(ValueError, match=f"Did you mean '{near}'"):
    _section(**({'name': 'sgd'} | {field: value}))


# Arguments that have no default and that nothing else of a section gives.
SCHEDULES = {
  'piecewise_interpolate_schedule': {'interpolate_type': 'linear'},
  'polynomial_schedule': {'power': 2},
  'sgdr_schedule': {
    'cosine_kwargs': [
      {'peak_value': 0.5, 'init_value': 0.0, 'decay_steps': 9}
      | {'warmup_steps': 4}
    ]
  },
}


@pytest.mark.parametrize('name', optimizer.schedules_of_optax())
def test_schedules_of_optax_by_name(name):
  """The peak, the end and the warm-up are those of the section."""
  section = _section(
    'sgd',
    learning_rate=0.5,
    schedule=name,
    warmup_steps=4,
    end_factor=0.1 * ('constant' not in name and 'piecewise' not in name),
    decay_rate=0.5,
    schedule_options=SCHEDULES.get(name, {}),
  )
  rate = optimizer.schedule(section, steps=16)
  rates = np.array([rate(t) for t in range(18)])
  np.testing.assert_allclose(rates.max(), 0.5, rtol=1e-6)
  assert rates[0] < 0.13 and (rates >= 0).all()
  longer = optimizer.schedule(section, steps=25)
  same = np.array_equal(rates, [longer(t) for t in range(18)])
  assert same or optimizer.depends_on_steps(section)
  if name in ('cosine_decay_schedule', 'warmup_cosine_decay_schedule'):
    np.testing.assert_allclose(rates[16:], 0.05, rtol=1e-5)
  short = dict(section.schedule_options)
  section.schedule_options = short | {'no_such': 1}
  with pytest.raises(ValueError, match=f'optax.{name} has no such argument'):
    optimizer.schedule(section, steps=16)


def test_periods_of_sgdr_have_the_rate_of_the_section():
  periods = [{'warmup_steps': 2, 'decay_steps': 4}, {'peak_value': 0.1}]
  of = lambda rate, periods: optimizer.schedule(
    _section(
      'sgd',
      learning_rate=rate,
      schedule='sgdr_schedule',
      schedule_options={'cosine_kwargs': periods},
    ),
    steps=9,
  )
  rate = of(0.5, periods)
  np.testing.assert_allclose([rate(0), rate(2), rate(4)], [0.0, 0.5, 0.1])
  assert of(0.25, periods[:1])(2) == 0.25  # as that of a group
  with pytest.raises(ValueError, match='peak_value of 0.1, above the learning'):
    of(0.05, periods)


def test_a_piecewise_schedule_has_its_steps_as_json_has_them():
  options = {'boundaries_and_scales': {'3': 0.5}}
  name = 'piecewise_constant_schedule'
  section = _section('sgd', schedule=name, schedule_options=options)
  rate = optimizer.schedule(section, steps=9)
  np.testing.assert_allclose([rate(2), rate(3), rate(4)], [0.03, 0.015, 0.015])


def test_schedule_free_against_its_equations():
  """z <- z - r grad(y), x <- (1 - 1/t) x + z/t, y = (1 - b) z + b x."""
  section = _section('schedule_free_sgd', groups=('b: name=sgd',))
  params, state = _walk(section, 5)
  x = z = y = np.ones((4, 3))
  for t in range(1, 6):
    z = z - 0.03 * 2 * (y - np.asarray(TARGETS['w']))
    x = (1 - 1 / t) * x + z / t
    y = 0.1 * z + 0.9 * x
  found = rules.average(state, params)
  np.testing.assert_allclose(params['w'], y, rtol=1e-5)
  np.testing.assert_allclose(found['w'], x, rtol=1e-5)
  np.testing.assert_array_equal(found['b'], params['b'])


@pytest.mark.parametrize('skip_sigmas', [0.0, 50.0])
def test_readers_of_a_schedule_free_run_have_its_average(tmp_path, skip_sigmas):
  """Validation, load, resumed runs and files of parameters."""
  config = _config(
    steps=6, eval_every=3, checkpoint_every=3, skip_sigmas=skip_sigmas
  )
  config.optimizer.name = 'schedule_free_adamw'
  summary = _train(config, tmp_path / 'a')
  assert summary.params_name == 'ema of step 6'
  own = rules.average(summary.state.opt_state, summary.state.params)
  chex.assert_trees_all_close(summary.params, own, rtol=1e-6)
  run = trained.load(tmp_path / 'a')
  chex.assert_trees_all_equal(run.params, summary.params)
  raw = trained.load(tmp_path / 'a', which='raw')
  assert not np.array_equal(raw.params['w'], run.params['w'])
  data = run.load_split('valid')
  again = evaluate.evaluate(run.models, run.params, data, 100)
  assert again.nats == summary.valid_nats
  recorded = configuration.to_json(run.config)
  file = tmp_path / 'p.npz'
  params_file.save(file, run.params, recorded, step=6, which='ema')
  chex.assert_trees_all_equal(trained.load(file).params, summary.params)
  if skip_sigmas:
    return
  config.train.steps = 3
  _train(config, tmp_path / 'b')
  config.train.steps = 6
  resumed = _train(config, tmp_path / 'b')
  chex.assert_trees_all_equal(resumed.state, summary.state)
  config.train.ema_decay = 0.9
  with pytest.raises(ValueError, match='keeps an average of its own'):
    _train(config, tmp_path / 'c')


def test_an_average_must_exist_to_be_evaluated(tmp_path):
  config = _config()
  config.evaluate.params = 'ema'
  with pytest.raises(ValueError, match='ema_decay = 0 keeps no average'):
    _train(config, tmp_path)


def test_rules_that_read_the_loss_have_it(tmp_path):
  """A line search; and a batch in parts, whose loss is not there anew."""
  config = _config(steps=4, eval_every=0)
  config.optimizer.name = 'lbfgs'
  _train(config, tmp_path / 'a')
  config.train.accumulate = 2
  with pytest.raises(ValueError, match='set config.train.accumulate = 1'):
    _train(config, tmp_path / 'b')
  config.optimizer.name = 'momo_adam'
  _train(config, tmp_path / 'c')
