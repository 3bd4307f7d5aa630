"""Any order and any known sites from one params tree."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from parallel_ar import likelihood, models, order
from parallel_ar.testing import case as cases
from parallel_ar.testing import oracles
from parallel_ar.training import state, step

SIZES = {'num_values': 3, 'features': 8, 'heads': 2, 'layers': 1}
FAMILIES = ('ardm', 'two_stream')


def build(name, rank=None, **options):
  config = {'name': name, 'event': (4,)} | SIZES | options
  return models.build(config, rank=rank)


@pytest.mark.parametrize('name', FAMILIES)
class TestAnyOrder:
  def test_the_params_do_not_depend_on_the_order(self, name):
    one, other = (build(name, order.random(4, s))[0] for s in (0, 1))
    specs = [jax.eval_shape(n.init, jax.random.key(0)) for n in (one, other)]
    assert specs[0] == specs[1]
    case = cases.make_case(one)
    nats = [likelihood.log_prob(n, case.params, case.x) for n in (one, other)]
    assert np.abs(nats[0] - nats[1]).max() > 1e-2

  def test_the_objective_is_the_mean_over_orders(self, name):
    """That over all 3! orders, within the error of many draws."""
    (net,) = build(name, event=(3,))
    case = cases.make_case(net)
    x = jnp.asarray(case.x[:1])
    ranks = [np.array(r) for r in itertools.permutations(range(3))]
    every = [build(name, rank, event=(3,))[0] for rank in ranks]

    @jax.jit
    def exact(params):
      return -sum(likelihood.log_prob(n, params, x)[0] for n in every) / 6

    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.jit(jax.vmap(net.objective, (None, None, None, 0)))
    values = np.asarray(drawn(case.params, x[0], None, keys), np.float64)
    error = values.std() / np.sqrt(len(values))
    assert error < 0.2
    assert abs(values.mean() - exact(case.params)) < 4 * error

  def test_probabilities_are_averaged_and_not_logits(self, name):
    members = build(name, num_orders=4, layers=2)
    assert len({m.rank.tobytes() for m in members}) == 4
    params = cases.random_params(members[0], gain=12.0)
    events = oracles.all_events(members[0])
    mixed = likelihood.mixture_log_prob(members, params, events)
    np.testing.assert_allclose(np.exp(np.float64(mixed)).sum(), 1, rtol=1e-5)
    logits = np.mean(
      [
        jax.jit(jax.vmap(lambda x, m=m: m.conditionals(params, x, None)))(
          events
        )
        for m in members
      ],
      0,
    )
    wrong = members[0].head.log_prob(logits, events).sum(-1)
    assert abs(np.exp(np.float64(wrong)).sum() - 1) > 0.01

  def test_members_share_one_objective(self, name):
    members = build(name, num_orders=3, orders_seed=5)
    case = cases.make_case(members[0])
    batch = {'x': jnp.asarray(case.x), 'context': None}
    alone = step.make_loss(members[:1])
    loss = step.make_loss(members)
    for t in range(3):
      assert loss(case.params, batch, t) == alone(case.params, batch, t)

  def test_known_sites_first(self, name):
    """Terms of the others are p(rest | known), from one pass."""
    known = np.array([False, True, False, True])
    (net,) = build(name, order.known_first(order.raster(4), known))
    params = cases.random_params(net)
    events = oracles.all_events(net)
    terms = likelihood.log_prob_terms(net, params, events)
    rest = np.float64(terms)[:, ~known].sum(1)
    seen = np.asarray(events)[:, known] @ [1, 3]
    for pair in range(9):
      np.testing.assert_allclose(np.exp(rest[seen == pair]).sum(), 1, rtol=1e-5)

  def test_refusals(self, name):
    with pytest.raises(ValueError, match='num_orders.*at least 1'):
      build(name, num_orders=0)
    with pytest.raises(ValueError, match='at least 1'):
      build(name, layers=0)
    with pytest.raises(ValueError, match='multiple of twice the heads'):
      build(name, heads=3)


def test_only_families_of_any_order_take_a_rank():
  config = {'name': 'pixelcnn', 'event': (2, 2, 1)}
  with pytest.raises(ValueError, match='has one order'):
    models.build(config, rank=order.raster((2, 2, 1)))
  with pytest.raises(ValueError, match="'mlp' or 'attention'"):
    models.ardm(event=(4,), network='cnn')


def test_the_future_helps_infilling():
  """A chain of known entropy: known sites behind are used, to the optimum.

  Of 8 symbols every other one is known. The exact entropy of the rest given
  them, H(rest | known), lies far below what a causal model can reach, the sum
  of H(x_i | x_<i) over the rest.
  """
  length, stay = 8, 0.85
  transition = np.full((3, 3), (1 - stay) / 2) + np.eye(3) * (
    stay - (1 - stay) / 2
  )
  rng = np.random.default_rng(0)
  x = np.empty((4096, length), np.int32)
  x[:, 0] = rng.integers(3, size=len(x))
  for i in range(1, length):
    jump = rng.integers(1, 3, size=len(x))
    moves = rng.random(len(x)) > stay
    x[:, i] = (x[:, i - 1] + np.where(moves, jump, 0)) % 3
  known = np.arange(length) % 2 == 0
  # Middle sites see both neighbours, the last one only the one before it.
  joint = transition[:, :, None] * transition[None] / 3
  both = -(joint * np.log(joint / joint.sum(1, keepdims=True))).sum()
  past = -(transition * np.log(transition)).sum() / 3
  best, causal = 3 * both + past, 4 * past
  options = {'event': (length,), 'features': 32, 'layers': 1}
  (net,) = build('two_stream', **options)
  optimizer = optax.adam(5e-3)
  schedule = optax.constant_schedule(5e-3)
  train = jax.jit(step.make_train_step([net], optimizer, schedule=schedule))
  carried = state.create(net, optimizer, jax.random.key(0), ema=False)
  for t in range(400):
    batch = x[(t * 128) % 3072 :][:128]
    carried, _ = train(carried, {'x': batch, 'context': None})
  rank = order.known_first(order.raster(length), known)
  (filling,) = build('two_stream', rank, **options)
  terms = jax.jit(
    lambda p, x: likelihood.log_prob_terms(filling, p, x)[:, ~known]
  )(carried.params, x[3072:])
  nats = -np.asarray(terms).sum(1)
  error = nats.std() / np.sqrt(len(nats))
  print(f'{nats.mean():.3f} +- {error:.3f}, best {best:.3f}, past {causal:.3f}')
  assert best - 4 * error < nats.mean() < best + 4 * error + 0.1
  assert nats.mean() < causal - 0.3
