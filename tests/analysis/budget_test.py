"""The dynamic program against brute force, and against measured bits."""

import itertools

import jax
import numpy as np
import pytest

from parallel_ar import likelihood, models, order
from parallel_ar.analysis import budget
from parallel_ar.testing import case as cases
from parallel_ar.testing import oracles


@pytest.mark.parametrize('size', [1, 2, 5, 7])
@pytest.mark.parametrize('falling', [True, False])
def test_equals_brute_force(size, falling):
  losses = np.random.default_rng(size).exponential(size=size)
  losses = np.sort(losses)[::-1] if falling else losses
  found = budget.schedules(losses)
  for steps in range(1, size + 1):
    every = [
      sizes for sizes in oracles.compositions(size) if len(sizes) == steps
    ]
    costs = [budget.expected_nats(losses, sizes) for sizes in every]
    np.testing.assert_allclose(found.nats[steps - 1], min(costs), rtol=1e-12)
    best = found.sizes(steps)
    assert tuple(best) in [tuple(sizes) for sizes in every]
    np.testing.assert_allclose(
      budget.expected_nats(losses, best), min(costs), rtol=1e-12
    )


def test_more_steps_never_cost_more_and_the_ends_are_known():
  losses = np.exp(-np.linspace(0, 3, 40))
  found = budget.schedules(losses)
  assert (np.diff(found.nats) <= 1e-12).all()
  np.testing.assert_allclose(found.nats[0], 40 * losses[0])
  np.testing.assert_allclose(found.nats[-1], losses.sum())
  np.testing.assert_array_equal(found.sizes(1), [40])
  np.testing.assert_array_equal(found.sizes(40), np.ones(40))
  even = budget.even_sizes(40, 7)
  assert even.sum() == 40 and even.max() - even.min() <= 1
  assert found.nats[6] < budget.expected_nats(losses, even)
  # The first slots are the dearest, so that they get the small groups.
  assert found.sizes(7)[0] < found.sizes(7)[-1]


def test_the_curve_that_never_rises():
  np.testing.assert_allclose(budget.monotone([3, 1, 2, 0]), [3, 1.5, 1.5, 0])
  np.testing.assert_allclose(budget.monotone([1, 2, 3]), [2, 2, 2])
  np.testing.assert_array_equal(budget.monotone([3, 2, 1]), [3, 2, 1])


@pytest.mark.parametrize(
  ('family', 'sizes'), [('ardm', [2, 1]), ('two_stream', [1, 1, 1])]
)
def test_expected_nats_are_the_measured_ones_over_all_orders(family, sizes):
  """Exactly, for a random network: all 3! orders; and estimated from draws.

  Two-stream conditionals depend on the order of what is known, which a group
  takes in row-major order: its policies are near, and exact without groups.
  """
  config = {'name': family, 'event': (3,), 'num_values': 3, 'features': 8}
  config |= {'heads': 2, 'layers': 1}
  ranks = [np.array(r) for r in itertools.permutations(range(3))]
  tied = [models.build(config, order.tie(rank, sizes))[0] for rank in ranks]
  net = tied[0]
  params = cases.random_params(net)
  x = np.random.default_rng(0).integers(3, size=(3, 3))
  every = np.stack([order.slots(rank) for rank in ranks])

  @jax.jit
  def measure(params):
    nats = [-likelihood.log_prob(one, params, x).mean() for one in tied]

    def loss(x, slots, count):
      terms = net.given(params, x, None, slots, count)[slots]
      later = np.arange(3) >= count
      return -(terms * later).sum() / (3 - count)

    over = jax.vmap(jax.vmap(loss, (None, 0, None)), (0, None, None))
    losses = [over(x, every, count).mean() for count in range(3)]
    many = np.repeat(x, 700, 0)
    drawn = budget.known_losses(net, params, many, None, jax.random.key(0))
    return losses, sum(nats) / len(nats), drawn

  losses, measured, drawn = measure(params)
  expected = budget.expected_nats(losses, sizes)
  np.testing.assert_allclose(measured, expected, rtol=1e-5)
  np.testing.assert_allclose(drawn, losses, rtol=0.1)


def test_refusals():
  with pytest.raises(ValueError, match=r'1\.\.3; got 4'):
    budget.schedules([3, 2, 1]).sizes(4)
  with pytest.raises(ValueError, match='one finite number'):
    budget.schedules([1, np.nan])
  with pytest.raises(ValueError, match='sum to the 3 positions'):
    budget.expected_nats([3, 2, 1], [2, 2])
  nade = models.nade(event=(4,), hidden=3)
  with pytest.raises(ValueError, match='nade has one order'):
    budget.known_losses(nade, {}, np.zeros((1, 4), int), None, None)
