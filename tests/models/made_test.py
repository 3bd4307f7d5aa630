"""MADE: degrees, masks, ensembles, precision."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import likelihood, models, order
from parallel_ar.analysis import causality
from parallel_ar.models.made import hidden_degrees
from parallel_ar.samplers.ancestral import ancestral
from parallel_ar.samplers.cached import cached
from parallel_ar.testing import case as cases
from parallel_ar.testing import likelihood_laws


def connected(rank, hidden, direct):
  """Paths from input j to output i through the masks: bool[D, D]."""
  reach, below = np.eye(rank.size, dtype=bool), rank
  for layer in hidden:
    mask = below[:, None] <= layer[None, :]
    reach, below = reach @ mask, layer
  reach = reach @ (below[:, None] < rank[None, :])
  if direct:
    reach = reach | (rank[:, None] < rank[None, :])
  return reach.T


@pytest.mark.parametrize('direct', [False, True])
@pytest.mark.parametrize('degrees', ['even', 'random'])
@pytest.mark.parametrize(
  'rank', [order.random(9, 2), order.blocks(9, 2)], ids=['random', 'blocks']
)
def test_paths_are_predecessors(rank, degrees, direct):
  """The mask algebra of the paper, for any order, ties and all."""
  hidden = hidden_degrees(rank, (40, 40), degrees, 0)
  paths = connected(rank, hidden, direct)
  allowed = causality.predecessors(rank)
  assert not (paths & ~allowed).any()
  if direct or degrees == 'even':
    np.testing.assert_array_equal(paths, allowed)


class TestDegrees:
  rank = order.raster(20)

  def test_even_degrees_leave_no_rank_out(self):
    (layer,) = hidden_degrees(self.rank, (57,), 'even', 0)
    assert layer.min() == 0 and layer.max() == 18
    counts = np.bincount(layer)
    assert counts.min() >= 57 // 19 and counts.max() <= 57 // 19 + 1

  def test_random_degrees_start_at_the_smallest_below(self):
    layers = hidden_degrees(self.rank, (3, 500, 500), 'random', 1)
    for below, layer in zip(layers, layers[1:], strict=False):
      assert layer.min() >= below.min()
      assert layer.max() <= 18
    again = hidden_degrees(self.rank, (3, 500, 500), 'random', 1)
    jax.tree.map(np.testing.assert_array_equal, layers, again)

  def test_one_rank_reads_nothing(self):
    rank = np.zeros(5, np.int32)
    for degrees in ('even', 'random'):
      hidden = hidden_degrees(rank, (4,), degrees, 0)
      assert not connected(rank, hidden, True).any()


def test_without_hidden_layers_it_is_a_logistic_regression():
  model = models.made(event=(4,), hidden=())
  case = cases.make_case(model)
  kernel = np.triu(case.params['out']['kernel'], 1)
  want = case.x @ kernel + np.asarray(case.params['out']['bias'])
  got = jax.jit(jax.vmap(lambda x: model.conditionals(case.params, x, None)))(
    case.x
  )
  np.testing.assert_allclose(got, want, rtol=1e-5)


class TestEnsemble:
  fields = {'event': (3, 3), 'hidden': (20,), 'num_masks': 3}

  def test_members_share_parameters_and_differ_in_masks(self):
    members = models.ensemble(**self.fields)
    specs = [jax.eval_shape(m.init, jax.random.key(0)) for m in members]
    assert specs[0] == specs[1] == specs[2]
    x = cases.make_case(members[0], batch=4).x
    params = cases.random_params(members[0])
    nats = [likelihood_laws.log_prob(m, params, x) for m in members]
    assert (nats[0] != nats[1]).all() and (nats[1] != nats[2]).all()

  def test_random_orders_are_those_of_the_seeds(self):
    members = models.ensemble(**self.fields, random_orders=True, mask_seed=5)
    for k, member in enumerate(members):
      np.testing.assert_array_equal(member.rank, order.random((3, 3), 5 + k))

  @pytest.mark.parametrize('random_orders', [False, True])
  def test_drawn_masks_give_a_distribution(self, random_orders):
    options = {'event': (7,), 'hidden': (9, 6), 'direct': True}
    options |= {'random_orders': random_orders, 'mask_sampling': True}
    one, other = models.ensemble(**options, num_masks=2)
    assert one.objective is other.objective
    params = cases.random_params(one)
    every = np.array(list(itertools.product([0, 1], repeat=7)))
    each = jax.vmap(one.objective, (None, 0, None, None))
    each = jax.jit(jax.vmap(each, (None, None, None, 0)))
    nats = each(params, every, None, jax.random.split(jax.random.key(3), 4))
    np.testing.assert_allclose(np.exp(-nats).sum(1), 1, rtol=1e-5)
    assert np.abs(nats[0] - nats[1]).max() > 0.01

  def test_a_drawn_order_is_that_of_a_model(self):
    options = {'event': (7,), 'hidden': (9,), 'degrees': 'even'}
    drawn = {'random_orders': True, 'mask_sampling': True}
    (member,) = models.ensemble(**options, **drawn)
    params, key = cases.random_params(member), jax.random.key(1)
    to_order, _ = jax.random.split(key)
    rank = np.asarray(jax.random.permutation(to_order, member.rank))
    x = cases.make_case(member, batch=3).x
    keys = jnp.stack([key] * 3)
    got = jax.vmap(member.objective, (None, 0, None, 0))(params, x, None, keys)
    model = models.made(**options, rank=rank)
    want = -likelihood_laws.log_prob(model, params, x)
    np.testing.assert_allclose(got, want, rtol=1e-5)

  def test_errors(self):
    with pytest.raises(ValueError, match='needs random_orders=True'):
      models.ensemble(event=(4,), degrees='even', mask_sampling=True)
    with pytest.raises(ValueError, match='num_masks must be at least 1; got 0'):
      models.ensemble(event=(4,), num_masks=0)
    with pytest.raises(ValueError, match='a rank or random_orders=True, not b'):
      models.ensemble(
        event=(4,), num_masks=2, random_orders=True, rank=order.raster(4)
      )


def test_softplus():
  model = models.made(event=(4,), hidden=(8,), activation='softplus')
  plain = models.made(event=(4,), hidden=(8,))
  params = cases.random_params(model)
  x = np.ones((1, 4), np.int32)
  nats = [likelihood_laws.log_prob(m, params, x) for m in (model, plain)]
  assert nats[0] != nats[1]
  with pytest.raises(ValueError, match="'relu' or 'softplus'; got 'tanh'"):
    models.made(event=(4,), activation='tanh')


def test_cropped_kernels_have_the_variance_of_the_longer_side():
  model = models.made(event=(20,), hidden=(900,), kernel_init='cropped')
  params = jax.jit(model.init)(jax.random.key(0))
  for layer in ('hidden_0', 'out'):
    assert 0.9 < params[layer]['kernel'].std() * 900**0.5 < 1.1
  with pytest.raises(ValueError, match="'lecun' or 'cropped'; got 'small'"):
    models.made(event=(4,), kernel_init='small')


def test_the_context_changes_the_distribution():
  model = models.made(event=(4,), hidden=(8,), num_classes=3)
  params = cases.random_params(model)
  x = np.zeros((2, 4), np.int32)
  nats = likelihood_laws.log_prob(model, params, x, jnp.array([0, 2]))
  assert nats[0] != nats[1]


def test_bfloat16_keeps_float32_parameters_and_logits():
  model = models.made(event=(4,), hidden=(8,), dtype=jnp.bfloat16)
  params = jax.eval_shape(model.init, jax.random.key(0))
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  x = jax.ShapeDtypeStruct((4,), jnp.int32)
  dist = jax.eval_shape(model.conditionals, params, x, None)
  assert dist.dtype == jnp.float32
  fn = lambda params, x: model.conditionals(params, x, None)
  program = str(jax.make_jaxpr(fn)(params, x))
  products = [line for line in program.splitlines() if 'dot_general' in line]
  assert products and all('bf16' in line for line in products)


def test_init_gives_finite_parameters_of_the_declared_shapes():
  model = models.made(event=(4,), hidden=(8,), direct=True)
  params = jax.jit(model.init)(jax.random.key(0))
  specs = jax.eval_shape(model.init, jax.random.key(0))
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, specs)
  assert all(np.isfinite(p).all() for p in jax.tree.leaves(params))
  assert np.std(params['out']['kernel']) > 0


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'hidden': (8, 0)}, r'at least one unit; got \(8, 0\)'),
    ({'degrees': 'uniform'}, "'even' or 'random'; got 'uniform'"),
    ({'rank': order.raster(5)}, r'shape \(5,\), but the event has shape \(4,'),
    ({'num_values': 1}, 'at least 2 values'),
    ({'num_classes': 2, 'context_size': 2}, 'not on both'),
  ],
)
def test_errors(fields, message):
  with pytest.raises(ValueError, match=message):
    models.made(**{'event': (4,), 'hidden': (8,), **fields})


def test_one_rank_of_many_values_is_independent_and_finite():
  """A product with an all-masked matrix once gave NaN at batch 64."""
  net = models.made(
    event=(8, 8, 1),
    num_values=17,
    rank=np.zeros((8, 8, 1), np.int32),
    hidden=(500,),
    direct=True,
    degrees='even',
  )
  params = net.init(jax.random.key(0))
  x = np.random.default_rng(0).integers(17, size=(64, 8, 8, 1))
  nats = likelihood.log_prob(net, params, x.astype(np.int32))
  np.testing.assert_allclose(nats, -64 * np.log(17), rtol=1e-5)


@pytest.mark.parametrize('degrees', ['even', 'random'])
def test_of_one_rank_the_hidden_units_read_the_context(degrees):
  rank = order.blocks(4, 4)
  model = models.made(
    event=(4,), rank=rank, hidden=(7, 5), degrees=degrees, context_size=3
  )
  key = jax.random.key(0)
  params = model.init(key)
  # Every kernel bears on the likelihood, but for those that read what is drawn.
  x, context = jnp.array([[1, 0, 1, 1]]), jnp.array([[0.5, -2.0, 1.5]])
  grads = jax.grad(lambda p: likelihood.log_prob(model, p, x, context).sum())(
    params
  )
  moved = jax.tree.map(lambda g: bool(jnp.any(g)), grads)
  assert moved['hidden_1']['kernel'] and moved['out']['kernel']
  assert all(moved[f'AddContext_{n}']['Dense_0']['kernel'] for n in range(3))
  assert not moved['hidden_0']['kernel']
  causality.audit(model, params, key, context[0]).raise_if_leaks()
  keys = jax.random.split(key, 3)
  contexts = jnp.tile(context, (3, 1))
  slow = ancestral(model)(params, keys, contexts)
  quick = cached(model)(params, keys, contexts)
  np.testing.assert_array_equal(slow.x, quick.x)
  assert not np.asarray(quick.info.repaired).any()
