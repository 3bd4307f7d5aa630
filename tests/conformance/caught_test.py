"""What is wrong on purpose is caught, and named rightly."""

import ast
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import heads, order, samplers
from parallel_ar.analysis import causality
from parallel_ar.model import from_function
from parallel_ar.testing import case as cases
from parallel_ar.testing import (
  conformance,
  leaks,
  oracles,
  sampling_laws,
  wrong_samplers,
)
from tests import toys


class TestLeaks:
  """Models that are wrong on purpose are caught, and named rightly."""

  @pytest.mark.parametrize('leak', leaks.GALLERY, ids=lambda leak: leak.name)
  def test_caught(self, leak):
    case = conformance.make_case(leak.build())
    assert case.name == leak.name
    with pytest.raises(conformance.LawBroken, match='NOT CAUSAL') as caught:
      conformance.LAWS['causality'](case)
    rank = case.model.rank.reshape(-1)
    audit = causality.audit(case.model, case.params, case.keys[0])
    assert leak.pair in audit.leaks
    named = _pairs_in(str(caught.value), case.model.rank.shape)
    assert named and set(named) <= set(audit.leaks)
    assert all(rank[j] >= rank[i] for i, j in named)
    assert leak.mistake
    for law in leak.laws:
      with pytest.raises(conformance.LawBroken, match=leak.name):
        conformance.LAWS[law](case)

  def test_an_unnormalised_head_is_rejected(self):
    case = conformance.make_case(leaks.unnormalised())
    conformance.LAWS['causality'](case)
    with pytest.raises(conformance.LawBroken, match='Law 2, normalisation'):
      conformance.LAWS['normalisation'](case)


def _pairs_in(message, shape):
  """The (output, input) positions that a message names."""
  place = r'position (\(.*?\)|\d+) \(rank \d+\)'
  found = re.findall(f'{place} reads {place}', message)
  flat = lambda at: int(np.ravel_multi_index(ast.literal_eval(at), shape))
  if len(shape) == 1:
    flat = int
  return [(flat(i), flat(j)) for i, j in found]


@pytest.fixture(scope='module')
def hard_case():
  """Strongly coupled, so that guesses are wrong for several passes."""
  model = toys.sigmoid_net((6,), num_values=3)
  params = cases.random_params(model, seed=1, gain=30.0)
  return conformance.make_case(model, params=params)


class TestSamplers:
  """Law 5 rejects wrong samplers, and none that is right."""

  def test_forecasts_matter(self, hard_case):
    """The case is hard enough for a mistake to show."""
    line = sampling_laws.same_integers(hard_case)
    passes = [int(n) for n in re.findall(r': (\d+)', line)]
    assert max(passes) > 3

  def test_the_right_loop_is_accepted(self, hard_case):
    sampling_laws.same_integers(hard_case, wrong_samplers.right)
    sampling_laws.alone(hard_case, wrong_samplers.right)

  @pytest.mark.parametrize(
    'sampler', wrong_samplers.WRONG, ids=lambda s: s.__name__
  )
  def test_a_wrong_loop_is_rejected(self, hard_case, sampler):
    with pytest.raises(conformance.LawBroken, match='Law 5'):
      sampling_laws.same_integers(hard_case, sampler)
      sampling_laws.alone(hard_case, sampler)


class TestNearTies:
  """Floating point is blamed only where it has decided."""

  def disagree(self, margin):
    """Whether 0 and 1 at one position are a near tie, `margin` from even."""
    head = heads.bernoulli()
    key = jax.random.key(4)
    even = -head.noise(key, jnp.asarray(1))
    net = from_function(
      lambda params, x, context: jnp.array([9.0, even + margin, 9.0]),
      event=(3,),
      rank=order.raster(3),
      head=head,
    )
    x, y = jnp.array([1, 0, 1]), jnp.array([1, 1, 0])
    return oracles.near_tie(net, {}, key, None, x, y)

  def test_a_tie_within_rounding_is_one(self):
    assert self.disagree(1e-6)

  def test_a_clear_pick_is_none(self):
    assert not self.disagree(1e-2)

  def test_a_law_counts_the_one_and_raises_at_the_other(self):
    case = conformance.make_case(toys.sigmoid_net((4,)))
    x = samplers.ancestral(case.model)(case.params, case.keys).x
    wrong = np.array(x)
    wrong[1, 2] = 1 - wrong[1, 2]
    with pytest.raises(conformance.LawBroken, match=r'index \(2,\).*No near'):
      cases.agree(case, 'Law 5', 'a guess', x, wrong)
    assert cases.agree(case, 'Law 5', 'itself', x, x) == 0
    assert cases.count(0) == '' and '2 near ties' in cases.count(2)
