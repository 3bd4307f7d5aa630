"""Forecasting heads: what they read, and that they change no sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import models, order, samplers
from parallel_ar.samplers import learned
from parallel_ar.testing import case as cases
from tests import toys

NETS = {
  'gated': lambda: models.gated_pixelcnn(
    event=(3, 4, 1), num_values=3, features=6, layers=2, first_size=3
  ),
  'made': lambda: models.made(
    event=(12,), rank=order.random((12,), 1), hidden=(40,), degrees='even'
  ),
}


def random_heads(net, horizon=3):
  rng = np.random.default_rng(0)
  draw = lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32)
  return jax.tree.map(draw, learned.init(net, horizon))


@pytest.fixture(scope='module', params=NETS)
def case(request):
  return cases.make_case(NETS[request.param](), batch=3)


def test_features_read_what_is_before_the_slot(case):
  net, flat = case.model, np.argsort(order.slots(case.model.rank))
  shape = net.event.shape
  for slot in (1, 5, 9):
    later = (flat >= slot).reshape(shape)
    x = case.x[0]
    other = np.where(later, (x + 1) % net.head.num_values, x)
    one, two = (
      net.features.at(net.features.apply(case.params, v, None)[1], slot)
      for v in (x, other)
    )
    np.testing.assert_array_equal(one, two)
    earlier = np.where(later, x, (x + 1) % net.head.num_values)
    three = net.features.at(
      net.features.apply(case.params, earlier, None)[1], slot
    )
    assert (np.asarray(one) != np.asarray(three)).any()


def test_features_come_with_the_conditionals(case):
  dist, _ = case.model.features.apply(case.params, case.x[0], None)
  want = case.model.conditionals(case.params, case.x[0], None)
  np.testing.assert_array_equal(dist, want)


@pytest.mark.parametrize('batch', [1, 3, 16])
def test_integers_are_those_of_ancestral(case, batch):
  told = learned.forecaster(case.model, random_heads(case.model))
  keys = jax.random.split(jax.random.key(batch), batch)
  got = samplers.fixed_point(case.model, told)(case.params, keys)
  want = samplers.ancestral(case.model)(case.params, keys)
  np.testing.assert_array_equal(got.x, want.x)
  np.testing.assert_array_equal(got.info.passes, 1)


def test_training_lowers_the_divergence(case):
  heads = learned.init(case.model, 3)
  x, key = jnp.asarray(case.x), jax.random.key(0)

  def mean(heads, key):
    keys = jax.random.split(key, len(x))
    each = lambda x, key: learned.loss(case.model, case.params, heads, x, key)
    return jax.vmap(each)(x, keys)[0].mean()

  step = jax.jit(jax.value_and_grad(mean))
  first, _ = step(heads, key)
  for n in range(60):
    _, grads = step(heads, jax.random.fold_in(key, n))
    heads = jax.tree.map(lambda h, g: h - 0.2 * g, heads, grads)
  last, _ = step(heads, key)
  assert float(last) < 0.7 * float(first)


def test_errors(case):
  with pytest.raises(ValueError, match='no features and the head'):
    learned.init(toys.sigmoid_net((4,)), 2)
  with pytest.raises(ValueError, match=r'1\.\.11; got 12'):
    learned.init(case.model, 12)
  wrong = jax.tree.map(lambda a: a[..., :0], learned.init(case.model, 2))
  with pytest.raises(ValueError, match='Train them on this run'):
    learned.forecaster(case.model, wrong)


def test_heads_in_a_file_of_anyone(tmp_path):
  net = NETS['made']()
  heads = jax.device_get(random_heads(net))
  path = tmp_path / 'heads.npz'
  np.savez(path, **heads)
  for name, value in learned.load(path, net).items():
    np.testing.assert_array_equal(value, heads[name])
  for bad, match in [
    ({'other': np.ones(3)}, "'bias' cannot be read"),
    ({'bias': np.array([{}], object)}, 'expected numbers'),
    (heads | {'weight': heads['weight'][:, :, :1]}, "'weight' is float32"),
    ({'bias': np.ones(())}, r'horizon must be in 1\.\.11'),
  ]:
    np.savez(path, **bad)
    with pytest.raises(ValueError, match=match) as caught:
      learned.load(path, net)
    assert str(path) in str(caught.value)
    assert 'pickle' not in str(caught.value)
  path.write_bytes(b'garbage')
  with pytest.raises(ValueError, match='no whole zip archive'):
    learned.load(path, net)
