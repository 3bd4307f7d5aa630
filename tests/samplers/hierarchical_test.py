"""A chain of models: exact likelihood, exact samples."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from parallel_ar import samplers
from parallel_ar.testing import case as cases
from tests import toys


def levels(**samplers_of):
  coarse = toys.sigmoid_net((2,), num_values=3)
  spec = jax.ShapeDtypeStruct((2,), jnp.float32)
  fine = toys.sigmoid_net((3,), context=spec)
  condition = lambda before, context: before[0].astype(jnp.float32) - 1
  return (
    samplers.Level(coarse, sampler=samplers_of.get('coarse')),
    samplers.Level(fine, condition, samplers_of.get('fine')),
  )


@pytest.fixture(scope='module')
def params():
  return tuple(cases.random_params(level.model) for level in levels())


def every_pair():
  coarse = np.array(list(itertools.product(range(3), repeat=2)))
  fine = np.array(list(itertools.product(range(2), repeat=3)))
  return np.repeat(coarse, 8, 0), np.tile(fine, (9, 1))


def test_probabilities_of_all_levels_sum_to_one(params):
  nats = samplers.hierarchical_log_prob(levels(), params, every_pair())
  np.testing.assert_allclose(np.exp(nats).sum(), 1, rtol=1e-5)


def test_samples_follow_the_chain(params):
  keys = jax.random.split(jax.random.key(1), 4000)
  got = samplers.hierarchical(levels())(params, keys)
  coarse, fine = every_pair()
  nats = samplers.hierarchical_log_prob(levels(), params, (coarse, fine))
  table = np.exp(np.asarray(nats, np.float64))
  code = lambda a, b: (a @ [3, 1]) * 8 + b @ [4, 2, 1]
  order = code(coarse, fine)
  counts = np.bincount(code(np.asarray(got.x[0]), np.asarray(got.x[1])))
  counts = np.pad(counts, (0, 72 - counts.size))[order]
  often = table * 4000 >= 5
  seen = np.append(counts[often], counts[~often].sum())
  expected = np.append(table[often], table[~often].sum())
  expected *= 4000 / expected.sum()
  assert stats.chisquare(seen, expected).pvalue > 1e-3
  nats = samplers.hierarchical_log_prob(levels(), params, got.x)
  np.testing.assert_allclose(got.log_prob, nats, rtol=1e-4, atol=1e-4)


def test_the_samplers_of_the_levels_do_not_matter(params):
  keys = jax.random.split(jax.random.key(2), 5)
  slow = levels(
    coarse=samplers.ancestral(levels()[0].model),
  )
  models = [level.model for level in slow]
  slow = (
    slow[0],
    slow[1]._replace(sampler=samplers.ancestral(models[1])),
  )
  quick = (
    slow[0]._replace(sampler=samplers.window(models[0], sizes=(2,))),
    slow[1]._replace(sampler=None),
  )
  one, two = (samplers.hierarchical(c)(params, keys) for c in (slow, quick))
  for a, b in zip(one.x, two.x, strict=True):
    np.testing.assert_array_equal(a, b)


def test_levels_have_noise_of_their_own():
  """Two levels of one model and one params are not the same sample."""
  net = toys.sigmoid_net((6,), num_values=3)
  own = cases.random_params(net)
  keys = jax.random.split(jax.random.key(3), 8)
  got = samplers.hierarchical([samplers.Level(net)] * 2)((own, own), keys)
  assert (np.asarray(got.x[0]) != np.asarray(got.x[1])).any()


def test_errors(params):
  with pytest.raises(ValueError, match='at least one level'):
    samplers.hierarchical([])
  coarse, fine = levels()
  wrong = fine._replace(condition=lambda before, context: before[0])
  with pytest.raises(ValueError, match='its condition gives'):
    samplers.hierarchical([coarse, wrong])
  broken = fine._replace(condition=lambda before, context: before[5])
  with pytest.raises(ValueError, match='could not be traced'):
    samplers.hierarchical([coarse, broken])
  keys = jax.random.split(jax.random.key(0), 2)
  with pytest.raises(ValueError, match='takes a sequence of as many params'):
    samplers.hierarchical([coarse, fine])(params[0], keys)
