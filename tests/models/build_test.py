"""The model section of a config, and its typos."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from parallel_ar import likelihood, models, order

MADE = {'name': 'made', 'event': (4,), 'hidden': (8,)}


def test_a_config_dict_becomes_one_model():
  (model,) = models.build(ConfigDict(MADE))
  assert model.name == 'made' and model.depth == 4


def test_masks_become_an_ensemble():
  members = models.build({**MADE, 'num_masks': 3, 'random_orders': True})
  assert len(members) == 3
  np.testing.assert_array_equal(members[2].rank, order.random(4, 2))


@pytest.mark.parametrize('more', [{}, {'num_masks': 2}, {'order': 'random'}])
def test_a_field_that_is_missing_is_named(more):
  with pytest.raises(ValueError, match=r'config\.model\.event is missing'):
    models.build({'name': 'made', 'hidden': (8,), **more})


@pytest.mark.parametrize('name', sorted(models.FAMILIES))
def test_every_family_says_what_it_needs(name):
  with pytest.raises(ValueError, match=rf'is missing, which {name} needs'):
    models.build({'name': name})


@pytest.mark.parametrize('dtype', ['bf16', 'int8', 'float8_e4m3fn', 'float64'])
def test_a_dtype_that_is_not_computed_in_is_refused(dtype):
  with pytest.raises(ValueError, match='expected bfloat16, float16 or float32'):
    models.build({**MADE, 'dtype': dtype})


@pytest.mark.parametrize(
  ('fields', 'rank'),
  [
    ({}, [0, 1, 2, 3]),
    ({'order': 'raster'}, [0, 1, 2, 3]),
    ({'order': 'reverse'}, [3, 2, 1, 0]),
    ({'order': 'random', 'order_seed': 5}, order.random(4, 5)),
    ({'order': 'blocks', 'order_block': 2}, [0, 0, 1, 1]),
  ],
)
def test_orders_have_names(fields, rank):
  (model,) = models.build({**MADE, **fields})
  np.testing.assert_array_equal(model.rank, rank)


@pytest.mark.parametrize(
  'name',
  [
    name if name == 'wavenet' else pytest.param(name, marks=pytest.mark.slow)
    for name in sorted(models.FAMILIES)
    if 'dtype' in models.fields(name)
  ],
)
def test_a_batch_in_bfloat16_is_near_float32(name):
  """Wide enough for XLA's fused kernels, which gave NaN in WaveNet."""
  known = models.fields(name)
  image = name != 'gaussian_made'
  sizes = {
    'num_values': 17,
    'hidden': (64, 64),
    'layers': 2,
    'features': 32,
    'heads': 2,
    'skip_features': 64,
    'head_features': 64,
  }
  section = {'name': name, 'event': (8, 8, 1) if image else (64,)}
  section |= {field: sizes[field] for field in sizes.keys() & known.keys()}
  wide, narrow = (
    models.build(section | {'dtype': dtype})[0]
    for dtype in ('float32', 'bfloat16')
  )
  params = wide.init(jax.random.key(0))
  shape = 16, *wide.event.shape
  x = jax.random.randint(jax.random.key(1), shape, 0, 17 if image else 3)
  log_prob = jax.jit(likelihood.log_prob, static_argnums=0)
  x = x.astype(wide.event.dtype)
  near, far = log_prob(wide, params, x), log_prob(narrow, params, x)
  np.testing.assert_allclose(far, near, rtol=1e-2)


def test_precision_has_a_name():
  (model,) = models.build({**MADE, 'dtype': 'bfloat16'})
  assert jnp.bfloat16 == jnp.dtype('bfloat16')
  assert model.depth == 4


def test_a_coupling_of_the_head():
  fields = {'num_values': 3, 'coupling': 'inverse_cdf'}
  (model,) = models.build({**MADE, **fields})
  assert model.head.name == 'categorical(3, inverse_cdf)'
  with pytest.raises(ValueError, match='is bernoulli: only categorical'):
    models.build({**MADE, 'coupling': 'inverse_cdf'})


@pytest.mark.parametrize('name', models.FAMILIES)
def test_every_family_builds(name):
  fields = {'event': (3, 3, 1), 'num_values': 3, 'layers': 1, 'features': 8}
  fields |= {'heads': 2, 'hidden': (9,), 'skip_features': 4}
  if name == 'nade':
    fields['hidden'] = 9
  taken = inspect.signature(models.FAMILIES[name]).parameters
  fields = {k: v for k, v in fields.items() if k in taken}
  (model,) = models.build({'name': name, **fields})
  assert model.name == name


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'name': 'pixelcn'},
      "model 'pixelcn'. Did you mean 'pixelcnn'.*made, multiscale, nade, n",
    ),
    ({'name': None}, 'Unknown model None. Choose from'),
    ({'hiden': 3}, "made has no field 'hiden'. Did you mean 'hidden'"),
    ({'rank': [0]}, "no field 'rank'"),
    ({'order': 'rastr'}, "Unknown order 'rastr'. Did you mean 'raster'"),
  ],
)
def test_typos_get_a_hint(fields, message):
  with pytest.raises(ValueError, match=message):
    models.build({**MADE, **fields})


def test_a_field_of_another_family_is_refused():
  with pytest.raises(ValueError, match="gated_pixelcnn has no field 'order'"):
    models.build(
      {'name': 'gated_pixelcnn', 'event': (3, 3, 1), 'order': 'reverse'}
    )
