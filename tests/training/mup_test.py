"""mu-P: scales and rates by shapes, and coordinates that stay flat."""

import jax
import numpy as np
import optax
import pytest

from parallel_ar import models
from parallel_ar.analysis import coordinates
from parallel_ar.training import configuration, mup, optimizer, state


def _config(base, rate=0.02, name='transformer', **fields):
  config = configuration.default_config()
  small = {'event': (6,), 'num_values': 5} | fields
  config.model.update({'name': name} | small)
  config.optimizer.learning_rate = rate
  with config.unlocked():
    config.optimizer.mup_base = base
  return config


NET = {'layers': 1, 'positions': 'learned'}
WIDE = {'features': 32, 'heads': 4} | NET
BASE = {'features': 8, 'heads': 1}
FAMILIES = {
  'made': ({'hidden': (9, 9)}, {'num_values': 3, 'event': (5,)}),
  'recurrent': ({'features': 8}, {'layers': 1}),
  'gated_pixelcnn': ({'features': 8}, {'layers': 2, 'event': (3, 4, 1)}),
  'transformer': (BASE, NET),
}


def _batches(config):
  rng = np.random.default_rng(0)
  model = config.model
  shape = (16, *model.event)
  one = lambda: {'x': rng.integers(0, model.num_values, shape, np.int32)}
  return [one() for _ in range(5)]


@pytest.mark.parametrize(
  'name',
  [
    pytest.param('made', marks=pytest.mark.slow),
    'transformer',
    pytest.param('recurrent', marks=pytest.mark.slow),
    pytest.param('gated_pixelcnn', marks=pytest.mark.slow),
  ],
)
def test_coordinates_stay_flat_where_standard_ones_grow(name):
  """Exponents of the width after 4 updates, up to 16 times the base."""
  base, fields = FAMILIES[name]
  config = _config(base, name=name, **fields)
  config = coordinates.widened(config, 1)
  rows = coordinates.check(config, (1, 16), (4,), _batches(config))
  flat = coordinates.exponents(rows, True, 4)
  grown = coordinates.exponents(rows, False, 4)
  assert len(flat) > 3 and 'dist' in flat
  assert max(flat.values()) < 0.3, flat
  assert max(grown.values()) > max(flat.values()) + 0.25, grown
  assert flat['dist'] < 0.2 < grown['dist']
  # The base itself is trained as it always was.
  ours, theirs = ([r for r in rows if r[:2] == (w, 1)] for w in (True, False))
  assert [r.sizes for r in ours] == [r.sizes for r in theirs]


def test_scales_and_rates_are_those_of_table_8():
  """Embedding, hidden and output of a Transformer 4 times as wide."""
  config = _config(BASE, **WIDE)
  rates = mup.rates(config)
  assert rates['embed/embedding'] == rates['block_0/up/bias'] == 1
  assert rates['block_0/att/qkv/kernel'] == rates['logits/kernel'] == 1 / 4
  model = models.build(config.model)[0]
  key = jax.random.key(0)
  plain, ours = model.init(key), mup.initialised(model, config).init(key)
  narrow = models.build(config.model.to_dict() | BASE)[0].init(key)
  rms = lambda a: np.sqrt(np.mean(np.square(a)))
  for name, factor in ((('embed', 'embedding'), 1), (('logits', 'kernel'), 4)):
    of = lambda tree, name=name: tree[name[0]][name[1]]
    wanted = rms(of(narrow)) / factor
    np.testing.assert_allclose(rms(of(ours)), wanted, rtol=1e-5)
  hidden = lambda tree: (tree['block_0'], tree['norm'])
  jax.tree.map(np.testing.assert_array_equal, hidden(ours), hidden(plain))
  assert mup.initialised(model, _config({}, **WIDE)) is model
  assert mup.rates(_config({}, **WIDE)) is None


@pytest.mark.parametrize('rule', ['adam', 'adamw'])
def test_the_rate_of_a_parameter_is_its_own_and_decay_is_not(rule):
  """In a group of its own, too; a rate of 0 freezes by any rule."""
  config = _config(BASE, **WIDE)
  decay = 0.1 * (rule == 'adamw')
  config.optimizer.update(name=rule, weight_decay=decay, b1=0.0, b2=0.0)
  config.optimizer.groups = ('up: learning_rate=0.5', 'start: learning_rate=0')
  transform, create = state.of_config(config, models.build(config.model)[0])
  first = create(jax.random.key(0))
  ones = jax.tree.map(np.ones_like, first.params)
  added, _ = transform.update(ones, first.opt_state, first.params)
  for path, rate in (('up', 0.5 / 4), ('down', 0.02 / 4)):
    kernel = first.params['block_0'][path]['kernel']
    wanted = -rate - rate * 4 * decay * kernel
    found = added['block_0'][path]['kernel']
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
  assert not np.any(added['start'])


@pytest.mark.parametrize(
  ('base', 'fields', 'says'),
  [
    (
      {'features': 8},
      {},
      r'heads of size 2, and .* of 8.*attention_scale = 0.5',
    ),
    (BASE | {'layers': 2}, {}, 'must differ in widths only: block_1/'),
    ({'feature': 8}, {}, "Did you mean 'features'"),
    (BASE, {'tied': True}, 'nothing is an output layer'),
  ],
)
def test_a_base_that_is_none(base, fields, says):
  with pytest.raises(ValueError, match=says):
    mup.rates(_config(base, **WIDE | fields))


def test_heads_that_grow_have_their_scale():
  config = _config({'features': 8}, **WIDE, attention_scale=0.5)
  assert mup.rates(config)['logits/kernel'] == 1 / 4
  with pytest.raises(ValueError, match='no width'):
    coordinates.widened(_config({'tied': True}, **WIDE), 2)
  with pytest.raises(ValueError, match='mup_base is empty'):
    coordinates.widened(_config({}, **WIDE), 2)


def test_other_rules_and_other_scripts_refuse():
  config = _config(BASE, **WIDE)
  with pytest.raises(ValueError, match='knows no widths'):
    optimizer.make(config.optimizer, steps=3)
  config.optimizer.name = 'lion'
  model = models.build(config.model)[0]
  with pytest.raises(ValueError, match="rules for adam and adamw.*'lion'"):
    state.of_config(config, model)
  scaled = _config(BASE, **WIDE, attention_scale=0.5)
  halved = models.build(scaled.model)[0]
  params = model.init(jax.random.key(0))
  x = np.arange(6, dtype=np.int32) % 5
  double = jax.tree.map(lambda leaf: leaf, params)
  kernel = double['block_0']['att']['qkv']['kernel']
  double['block_0']['att']['qkv']['kernel'] = kernel.at[:, :32].multiply(0.5)
  np.testing.assert_allclose(
    halved.conditionals(params, x, None),
    model.conditionals(double, x, None),
    rtol=1e-5,
  )
  assert isinstance(
    optimizer.make(scaled.optimizer, steps=3, by_width=mup.rates(scaled)),
    optax.GradientTransformation,
  )
