"""Quantized weights: the same laws, near probabilities, fewer bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import models, quantize
from parallel_ar.testing import case as cases
from parallel_ar.testing import conformance, likelihood_laws
from tests.training import tiny

FAMILIES = {
  'made': lambda: models.made(event=(6,), num_values=3, hidden=(16,)),
  'gated_pixelcnn': lambda: models.gated_pixelcnn(
    event=(3, 3, 1), features=8, layers=2, head_features=8, first_size=3
  ),
  'transformer': lambda: models.transformer(
    event=(6,), num_values=3, features=8, heads=2, layers=1
  ),
  'recurrent': lambda: models.recurrent(event=(6,), num_values=3, features=8),
}


@pytest.mark.parametrize(
  ('name', 'kind'),
  [
    ('made', 'int8'),
    ('transformer', 'int8'),
    ('transformer', 'int4'),
    # Weights are restored before a family reads them: these show it again.
    pytest.param('gated_pixelcnn', 'int8', marks=pytest.mark.slow),
    pytest.param('recurrent', 'int8', marks=pytest.mark.slow),
  ],
)
def test_a_quantized_model_keeps_the_laws(name, kind):
  whole = cases.make_case(FAMILIES[name]())
  model, params = quantize.weights(whole.model, whole.params, kind)
  case = cases.make_case(model, params=params)
  for law in ('causality', 'same_integers', 'cached'):
    print(conformance.LAWS[law](case))
  want = np.asarray(likelihood_laws.log_prob(whole.model, whole.params, case.x))
  got = np.asarray(likelihood_laws.log_prob(model, params, case.x))
  error = np.abs(got - want).max()
  assert 0 < error < (0.5 if kind == 'int8' else 10)


def test_weights_are_the_nearest_of_the_grid():
  rng = np.random.default_rng(0)
  w = rng.normal(size=(6, 4)).astype(np.float32)
  model = models.made(event=(3,), hidden=(2,))
  _, got = quantize.weights(model, {'w': w, 'b': w[0]}, 'int8')
  scale = np.abs(w).max(0) / 127
  restored = quantize.restore(got)
  assert np.abs(np.asarray(restored['w']) - w).max() <= scale.max() / 2 * 1.01
  np.testing.assert_array_equal(restored['b'], w[0])  # vectors stay


def test_the_objective_reads_quantized_weights_too():
  net = tiny.drawn((4,), init_scale=1.0)
  params = net.init(jax.random.key(0))
  model, quantized = quantize.weights(net, params)
  args = jnp.array([1, 0, 1, 1]), None, jax.random.key(1)
  got = model.objective(quantized, *args)
  want = net.objective(quantize.restore(quantized), *args)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert quantize.weights(tiny.fvsbn((4,)), params)[0].objective is None


def test_bytes():
  model = models.made(event=(3,), hidden=(2,))
  params = {'w': jnp.ones((64, 32)), 'b': jnp.ones(32)}

  def size(*args):
    return quantize.num_bytes(quantize.weights(model, params, *args)[1])

  assert quantize.num_bytes(params) == 4 * (64 * 32 + 32)
  assert size('int8') == 64 * 32 + 4 * (32 + 32)
  assert size('int4') == 64 * 32 / 2 + 4 * (32 + 32)
  assert size('int4', 16) == 64 * 32 / 2 + 4 * (4 * 32 + 32)


def test_the_model_that_init_gives_is_quantized():
  net = FAMILIES['made']()
  model, _ = quantize.weights(net, net.init(jax.random.key(0)))
  leaves = jax.tree.leaves(model.init(jax.random.key(1)))
  assert any(leaf.dtype == jnp.int8 for leaf in leaves)


def test_bad_arguments():
  net = FAMILIES['made']()
  for kind, tile in (('int2', 0), ('int8', -1)):
    with pytest.raises(ValueError, match="kind must be 'int8' or 'int4'"):
      quantize.weights(net, {}, kind, tile)
