"""MAF: change of variables, and an inverse that is a fixed point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import likelihood, models
from parallel_ar.testing import case as cases


@pytest.fixture(scope='module')
def flow():
  layers = models.maf(event=(3, 4), layers=3, hidden=(24, 24))
  params = tuple(
    cases.random_params(layer, seed, gain=1.0)
    for seed, layer in enumerate(layers)
  )
  return layers, params


def test_layers_take_turns(flow):
  layers, _ = flow
  first, second, third = (layer.rank.reshape(-1) for layer in layers)
  np.testing.assert_array_equal(second, first[::-1])
  np.testing.assert_array_equal(first, third)


def test_inverse_and_its_passes(flow):
  layers, params = flow
  u = jax.random.normal(jax.random.key(0), (4, 3, 4))
  x, passes = models.flow_inverse(layers, params, u)
  slow, most = models.flow_inverse(layers, params, u, None, True)
  np.testing.assert_array_equal(x, slow)
  assert (most == 12).all() and (passes < 12).any() and passes.shape == (3, 4)
  _, back = models.flow_log_prob(layers, params, x)
  np.testing.assert_allclose(back, u, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('size', [0.0, 1e-30, 1e3, 1e8])
def test_inverse_of_extreme_noise(flow, size):
  """x = m(x) + exp(s(x)) u in float64, by rounding of float32 only."""
  (layer, *_), (params, *_) = flow
  u = size * jax.random.normal(jax.random.key(0), (2, 3, 4))
  x, _ = models.flow_inverse((layer,), (params,), u)
  slow, _ = models.flow_inverse((layer,), (params,), u, None, True)
  np.testing.assert_array_equal(x, slow)
  dist = jax.jit(jax.vmap(layer.conditionals, (None, 0, None)))(params, x, None)
  _, mean, scale = (np.float64(d[..., 0]) for d in dist)
  want = mean + np.exp(scale) * np.float64(u)
  most = abs(mean) + abs(want)
  assert np.isfinite(x).all() and (abs(x - want) <= 1e-4 * most + 1e-6).all()


def test_density_is_the_change_of_variables(flow):
  layers, params = flow
  x = jax.random.normal(jax.random.key(1), (2, 3, 4))
  got, u = models.flow_log_prob(layers, params, x)

  def to_base(x):
    _, u = models.flow_log_prob(layers, params, x.reshape(1, 3, 4))
    return u.reshape(-1)

  for n in range(2):
    jacobian = jax.jacfwd(to_base)(x[n].reshape(-1))
    want = jax.scipy.stats.norm.logpdf(u[n]).sum()
    want += jnp.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(got[n], want, rtol=1e-4)


def test_one_layer_is_an_autoregressive_model():
  (layer,) = models.maf(event=(5,), layers=1, hidden=(9,))
  case = cases.make_case(layer)
  got, _ = models.flow_log_prob((layer,), (case.params,), case.x)
  want = likelihood.log_prob(layer, case.params, case.x)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_fields():
  with pytest.raises(ValueError, match='one layer; got 0'):
    models.maf(event=(4,), layers=0)
  with pytest.raises(ValueError, match='one Gaussian'):
    models.maf(event=(4,), num_components=2)
  with pytest.raises(ValueError, match='at least one unit'):
    models.gaussian_made(event=(4,), hidden=(0,))
