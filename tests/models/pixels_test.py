"""PixelCNN++ and PixelSNAIL beyond the laws: sizes, errors, training noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import models, samplers
from parallel_ar.analysis import causality
from parallel_ar.layers import gated
from parallel_ar.models import pixels
from parallel_ar.testing import case as cases
from parallel_ar.testing import decode_laws, draft_laws, oracles

PP = {'num_mixtures': 2, 'features': 4, 'layers': 1, 'resolutions': 2}
SNAIL = {'features': 4, 'blocks': 1, 'residuals': 1, 'key_features': 2}
BUILDERS = {
  'pixelcnn_pp': functools.partial(models.pixelcnn_pp, num_values=3, **PP),
  'pixelsnail': functools.partial(models.pixelsnail, num_values=3, **SNAIL),
}


# What both do by the same code; PixelCNN++ compiles three times as long.
ONE = pytest.mark.parametrize(
  'build',
  [pytest.param('pixelcnn_pp', marks=pytest.mark.slow), 'pixelsnail'],
  indirect=True,
)


@pytest.fixture(params=BUILDERS)
def build(request):
  return BUILDERS[request.param]


@pytest.mark.slow
def test_three_resolutions_of_odd_sizes_decode_as_the_pass_does():
  """A row of the coarsest level stands for four, and the last is cut."""
  model = BUILDERS['pixelcnn_pp'](event=(5, 3, 1), resolutions=3)
  case = cases.make_case(model)
  print(decode_laws.decode_agreement(case, model.decode))
  print(draft_laws.cached(case))


@ONE
def test_gauss_seidel_draws_the_ancestral_sample(build):
  model = build(event=(4, 3, 1))
  case = cases.make_case(model)
  args = case.params, case.keys
  want = samplers.ancestral(model)(*args).x
  np.testing.assert_array_equal(samplers.gauss_seidel(model)(*args).x, want)


def test_no_blind_spot_with_one_block_of_attention():
  """Convolutions of 2 x 2 never look to the upper right; attention does."""
  model = BUILDERS['pixelsnail'](event=(4, 5, 1))
  case = cases.make_case(model)
  found = causality.audit(model, case.params, case.keys[0], num_events=5)
  np.testing.assert_array_equal(
    found.matrix, causality.predecessors(model.rank)
  )


class TestDropout:
  @ONE
  def test_objective_leaves_units_out_and_evaluation_does_not(self, build):
    model = build(event=(3, 3, 1), dropout=0.5)
    case = cases.make_case(model)
    x = jnp.asarray(case.x[0])
    nats = jax.jit(lambda key: model.objective(case.params, x, None, key))
    a, b, again = (float(nats(jax.random.key(n))) for n in (0, 1, 0))
    assert a == again and a != b
    dist = oracles.conditionals(model, case.params, x, None)
    exact = -float(model.head.log_prob(dist, x).sum())
    assert exact not in (a, b)

  def test_without_a_rate_training_minimises_the_likelihood(self, build):
    assert build(event=(3, 3, 1)).objective is None


class TestInitFromData:
  """Salimans and Kingma 2016, section 3: every layer's outputs normalized."""

  def outputs(self, model):
    """Mean and deviation of every `Shifted` layer on a batch, by name."""
    _, network = model.init_from_data.args
    shifted = lambda module, method: (
      isinstance(module, gated.Shifted) and method == '__call__'
    )

    def one(params, x):
      _, seen = network.apply(
        {'params': params}, x, None, capture_intermediates=shifted
      )
      return seen['intermediates']

    every = jax.jit(jax.vmap(one, in_axes=(None, 0)))

    def found(params, x):
      leaves = jax.tree_util.tree_leaves_with_path(every(params, x))
      return {
        jax.tree_util.keystr(path): (y.mean((0, 1, 2)), y.std((0, 1, 2)))
        for path, y in leaves
      }

    return found

  @ONE
  def test_outputs_are_normalized(self, build):
    model = build(event=(5, 4, 1), weight_norm=True, remat='full')
    x = jax.random.randint(jax.random.key(1), (16, 5, 4, 1), 0, 3)
    params = jax.jit(model.init_from_data)(jax.random.key(0), x, None)
    outputs = self.outputs(model)
    found = outputs(params, x)
    assert len(found) > 5
    for name, (mean, deviation) in found.items():
      want = 0.1 if 'second' in name else 1.0
      np.testing.assert_allclose(mean, 0, atol=1e-4, err_msg=name)
      np.testing.assert_allclose(deviation, want, rtol=1e-3, err_msg=name)
    plain = outputs(model.init(jax.random.key(0)), x)
    far = [abs(float(d.mean()) - 1) for _, d in plain.values()]
    assert max(far) > 0.1

  @ONE
  def test_weight_norm_computes_the_same_law_in_both_modes(self, build):
    model = build(event=(3, 3, 1), weight_norm=True)
    case = cases.make_case(model)
    print(decode_laws.decode_agreement(case, model.decode))

  def test_without_weight_norm_there_is_none(self, build):
    assert build(event=(3, 3, 1)).init_from_data is None


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'event': (4, 4)}, r'\(height, width, channels\); got \(4, 4\).*one chan'),
    ({'dropout': 1.0}, r'in \[0, 1\); got 1.0'),
    ({'remat': 'some'}, "Unknown remat policy 'some'"),
  ],
)
def test_errors(build, fields, message):
  with pytest.raises(ValueError, match=message):
    build(**{'event': (4, 4, 1), **fields})


def test_errors_of_one_family():
  with pytest.raises(ValueError, match='3 channels at once.*num_mixtures'):
    models.pixelsnail(event=(4, 4, 3))
  with pytest.raises(ValueError, match='at least one block.*got 0'):
    models.pixelsnail(event=(4, 4, 1), blocks=0)
  with pytest.raises(ValueError, match='at least one layer.*got 1, 0 and 10'):
    models.pixelcnn_pp(event=(4, 4, 1), layers=1, resolutions=0)


def test_the_border_is_told_from_grey():
  image = pixels.encode(jnp.ones((1, 2, 1), jnp.int32), 3)
  np.testing.assert_array_equal(image, [[[0, 1], [0, 1]]])
