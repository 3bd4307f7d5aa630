"""Models made from models: temperature and permutation."""

import jax
import numpy as np
import pytest

from parallel_ar import likelihood, order, samplers, transform
from parallel_ar.testing import case as cases
from parallel_ar.testing import likelihood_laws, oracles
from tests import toys

log_prob = jax.jit(likelihood.log_prob, static_argnums=0)


@pytest.fixture(scope='module')
def case():
  return cases.make_case(toys.sigmoid_net((4,), num_values=3))


class TestTemperature:
  def test_it_is_another_model_and_normalised(self, case):
    model = transform.with_temperature(case.model, 0.4)
    assert model.name == 'sigmoid_net at temperature 0.4'
    likelihood_laws.normalisation(cases.make_case(model, params=case.params))

  def test_one_changes_nothing(self, case):
    model = transform.with_temperature(case.model, 1.0)
    np.testing.assert_array_equal(
      log_prob(model, case.params, case.x),
      log_prob(case.model, case.params, case.x),
    )

  def test_each_conditional_is_the_power_renormalised(self, case):
    model = transform.with_temperature(case.model, 2.0)
    logits = oracles.conditionals(case.model, case.params, case.x[0], None)
    tempered = oracles.conditionals(model, case.params, case.x[0], None)
    power = model.head.pmf(logits) ** 0.5
    np.testing.assert_allclose(
      model.head.pmf(tempered),
      power / power.sum(-1, keepdims=True),
      rtol=1e-5,
    )

  def test_towards_zero_it_takes_the_most_likely_symbol(self, case):
    model = transform.with_temperature(case.model, 1e-4)
    x = np.asarray(samplers.ancestral(model)(case.params, case.keys).x)
    greedy = np.zeros(4, np.int32)
    for i in range(4):
      dist = oracles.conditionals(case.model, case.params, greedy, None)
      greedy[i] = int(dist[i].argmax())
    np.testing.assert_array_equal(x, np.broadcast_to(greedy, x.shape))

  @pytest.mark.parametrize('temperature', [0, -1.0, float('inf'), float('nan')])
  def test_it_must_be_positive_and_finite(self, case, temperature):
    with pytest.raises(ValueError, match='positive and finite.*greedy limit'):
      transform.with_temperature(case.model, temperature)

  def test_a_head_without_tempering_is_named(self):
    with pytest.raises(ValueError, match='normal of autoregression.*no `te'):
      transform.with_temperature(toys.autoregression(), 0.5)


class TestPermute:
  positions = np.array([2, 0, 3, 1])

  def test_probabilities_go_with_the_positions(self, case):
    model = transform.permute(case.model, self.positions)
    np.testing.assert_array_equal(model.rank, self.positions)
    np.testing.assert_allclose(
      log_prob(model, case.params, case.x[:, self.positions]),
      log_prob(case.model, case.params, case.x),
      rtol=1e-5,
    )

  def test_depth_and_ties_are_kept(self):
    tied = toys.sigmoid_net((2, 2), rank=order.blocks((2, 2), 2))
    model = transform.permute(tied, self.positions)
    np.testing.assert_array_equal(model.rank, [[1, 0], [1, 0]])
    assert model.depth == tied.depth

  def test_positions_that_carry_a_vector(self):
    pairs = cases.make_case(toys.pairs())
    model = transform.permute(pairs.model, self.positions)
    np.testing.assert_allclose(
      log_prob(model, pairs.params, pairs.x[:, self.positions]),
      log_prob(pairs.model, pairs.params, pairs.x),
      rtol=1e-5,
    )

  def test_it_must_be_a_permutation(self, case):
    with pytest.raises(ValueError, match=r'each of 0\.\.3 once'):
      transform.permute(case.model, [0, 1, 2, 2])
