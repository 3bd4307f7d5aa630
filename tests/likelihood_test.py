"""Likelihoods against enumeration and against hand-made sums."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import heads, likelihood, model, models, order
from parallel_ar.testing import case as cases
from parallel_ar.testing import oracles
from tests import toys

log_prob = jax.jit(likelihood.log_prob, static_argnums=0)
log_prob_terms = jax.jit(likelihood.log_prob_terms, static_argnums=0)
sequential = jax.jit(likelihood.sequential_log_prob, static_argnums=0)


@pytest.fixture(scope='module')
def case():
  return cases.make_case(toys.sigmoid_net((4,), num_values=3))


def test_terms_sum_to_the_whole(case):
  terms = log_prob_terms(case.model, case.params, case.x)
  assert terms.shape == case.x.shape
  np.testing.assert_allclose(
    terms.sum(1), log_prob(case.model, case.params, case.x), rtol=1e-6
  )


def test_each_term_is_the_conditional_of_the_joint_table(case):
  """log p(x_i | x_<i) from sums over the table of all 81 events."""
  events = oracles.all_events(case.model)
  table = np.exp(
    np.asarray(log_prob(case.model, case.params, events), np.float64)
  )
  x = np.asarray(case.x[0])
  terms = log_prob_terms(case.model, case.params, case.x)[0]
  for i in range(4):
    fits = lambda n: table[(events[:, :n] == x[:n]).all(1)].sum()
    want = np.log(fits(i + 1) / fits(i))
    np.testing.assert_allclose(terms[i], want, rtol=1e-4)


def test_context_has_a_leading_batch_axis():
  spec = jax.ShapeDtypeStruct((2,), jnp.float32)
  case = cases.make_case(toys.sigmoid_net((4,), context=spec))
  batch = log_prob(case.model, case.params, case.x, case.context)
  for b in range(3):
    one = slice(b, b + 1)
    alone = log_prob(case.model, case.params, case.x[one], case.context[one])
    np.testing.assert_allclose(batch[b], alone[0], rtol=1e-6)


def test_the_oracle_does_not_see_the_future():
  """A model that copies its own input is certain in one pass only."""
  copy = model.from_function(
    lambda params, x, context: 20.0 * (2.0 * x - 1.0),
    event=(4,),
    rank=order.raster(4),
    head=heads.bernoulli(),
  )
  x = jnp.ones((1, 4), jnp.int32)
  assert log_prob(copy, {}, x)[0] > -1e-3
  assert sequential(copy, {}, x)[0] < -79


class TestMixture:
  def models(self):
    ranks = order.raster(4), order.random(4, 0), order.reverse(order.raster(4))
    return [toys.sigmoid_net((4,), rank=r, num_values=3) for r in ranks]

  def test_it_averages_probabilities_of_whole_events(self, case):
    models = self.models()
    events = oracles.all_events(case.model)
    mixture = jax.jit(
      lambda params, x: likelihood.mixture_log_prob(models, params, x)
    )(case.params, events)
    each = [log_prob(m, case.params, events) for m in models]
    want = np.log(np.mean(np.exp(np.asarray(each, np.float64)), 0))
    np.testing.assert_allclose(mixture, want, rtol=2e-5, atol=1e-5)
    total = np.exp(np.asarray(mixture, np.float64)).sum()
    np.testing.assert_allclose(total, 1, atol=1e-5)

  def test_one_member_is_itself(self, case):
    mixture = likelihood.mixture_log_prob([case.model], case.params, case.x)
    want = log_prob(case.model, case.params, case.x)
    np.testing.assert_allclose(mixture, want, rtol=1e-6)

  def test_no_members(self, case):
    with pytest.raises(ValueError, match='at least one model; got none'):
      likelihood.mixture_log_prob([], case.params, case.x)


def test_row_by_row_is_the_one_pass():
  net = models.gated_pixelcnn(
    event=(4, 3, 1), features=8, layers=2, head_features=8, num_classes=2
  )
  image = cases.make_case(net)
  args = image.params, image.x, image.context
  rows = jax.jit(functools.partial(likelihood.blockwise_log_prob, net))
  want = jax.jit(functools.partial(likelihood.log_prob, net))(*args)
  np.testing.assert_allclose(rows(*args), want, rtol=2e-6)


def test_the_gradient_row_by_row_is_that_of_the_pass_in_less_memory():
  net = models.gated_pixelcnn(event=(24, 6, 1), features=8, layers=2)
  image = cases.make_case(net)
  kinds = likelihood.blockwise_log_prob, likelihood.log_prob
  programs = [
    jax.jit(jax.grad(lambda p, x, f=f: f(net, p, x).sum()))
    .lower(image.params, image.x)
    .compile()
    for f in kinds
  ]
  got, want = (program(image.params, image.x) for program in programs)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4),
    got,
    want,
  )
  few, many = (p.memory_analysis().temp_size_in_bytes for p in programs)
  assert few < many / 2


def test_bits_per_dim():
  assert likelihood.bits_per_dim(10 * np.log(2), 5) == pytest.approx(2.0)
  uniform = likelihood.bits_per_dim(784 * np.log(256), 784)
  assert uniform == pytest.approx(8.0)
