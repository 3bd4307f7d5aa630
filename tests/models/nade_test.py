"""NADE, and why EoNADE averages probabilities."""

import jax
import numpy as np
import pytest
from scipy import special

from parallel_ar import likelihood, models, order
from parallel_ar.testing import case as cases
from parallel_ar.testing import oracles


def test_the_equation():
  """Larochelle and Murray 2011, by hand, in a random order."""
  rank = order.random((5,), 1)
  net = models.nade(event=(5,), rank=rank, hidden=4)
  case = cases.make_case(net)
  p = jax.tree.map(np.asarray, case.params)
  x, slots = case.x[0], order.slots(rank)
  nats, total = 0.0, p['first'].astype(np.float64)
  for i in slots:
    logit = p['write'][i, 0] @ special.expit(total) + p['bias'][i, 0]
    nats += -np.logaddexp(0, -logit if x[i] else logit)
    total = total + p['read'][i, 0] * x[i]
  got = likelihood.log_prob(net, case.params, case.x)[0]
  np.testing.assert_allclose(got, nats, rtol=1e-5)


def test_a_mean_of_logits_is_no_distribution():
  members = models.eonade(event=(6,), num_orders=4, hidden=5)
  params = cases.random_params(members[0], gain=20.0)
  events = oracles.all_events(members[0])
  law = jax.jit(lambda p, x: likelihood.mixture_log_prob(members, p, x))
  mixed = law(params, events)
  np.testing.assert_allclose(np.exp(np.float64(mixed)).sum(), 1, rtol=1e-5)
  # karpathy/pytorch-made averages the logits of different orders.
  logits = np.mean(
    [
      jax.jit(jax.vmap(lambda x, m=m: m.conditionals(params, x, None)))(events)
      for m in members
    ],
    0,
  )
  wrong = members[0].head.log_prob(logits, events).sum(-1)
  assert abs(np.exp(np.float64(wrong)).sum() - 1) > 0.05


def test_fields():
  members = models.build({'name': 'nade', 'event': (9,), 'num_orders': 3})
  assert len(members) == 3
  assert len({m.rank.tobytes() for m in members}) == 3
  (one,) = models.build({'name': 'nade', 'event': (5,), 'order': 'reverse'})
  np.testing.assert_array_equal(one.rank, [4, 3, 2, 1, 0])
  with pytest.raises(ValueError, match='rank has ties'):
    models.nade(event=(4,), rank=order.blocks(4, 2))
  with pytest.raises(ValueError, match='one hidden unit; got 0'):
    models.nade(event=(4,), hidden=0)
  with pytest.raises(ValueError, match='at least 1; got 0'):
    models.eonade(event=(4,), num_orders=0)
  with pytest.raises(ValueError, match='give no rank'):
    models.eonade(event=(4,), num_orders=2, rank=order.raster(4))
