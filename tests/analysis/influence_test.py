"""The influence matrix, and what it predicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import heads, model, order
from parallel_ar.analysis import influence
from tests import toys


def chain(length=12, coupling=1.0):
  """logit_i = coupling (2 x_{i-1} - 1): only neighbours matter."""

  def fn(params, x, context):
    previous = jnp.concatenate([jnp.zeros(1), 2.0 * x[:-1] - 1])
    return coupling * previous

  return model.from_function(
    fn,
    event=(length,),
    rank=order.raster(length),
    head=heads.bernoulli(),
    name='chain',
  )


def test_a_chain_has_one_diagonal():
  net = chain(coupling=1.5)
  x = np.random.default_rng(0).integers(2, size=(3, 12))
  sigmoid = lambda z: 1 / (1 + np.exp(-z))
  want = np.diag(np.full(11, sigmoid(1.5) - sigmoid(-1.5)), -1)
  found = influence.matrix(net, {}, x, chunk=5)
  np.testing.assert_allclose(found, want, atol=1e-6)


def test_errors_fall_as_predicted_where_the_mean_is_exact():
  """On the chain C is the same for all x, so the bound holds and is tight."""
  net = chain(length=40, coupling=1.0)
  matrix = influence.matrix(net, {}, np.zeros((1, 40), np.int32))
  keys = jax.random.split(jax.random.key(1), 400)
  found = influence.decay(net, {}, keys, matrix)
  assert found.measured[-1] == 0
  error = 4 * np.sqrt(40 / 400)
  assert (found.measured <= found.predicted + error).all()
  np.testing.assert_allclose(
    found.measured[:6], found.predicted[:6], atol=error
  )


def test_what_does_not_fit():
  with pytest.raises(ValueError, match='one symbol a position'):
    net = toys.pairs()
    net = model.AutoregressiveModel(
      event=net.event,
      rank=net.rank,
      head=net.head._replace(pmf=lambda dist: dist),
      init=net.init,
      conditionals=net.conditionals,
    )
    influence.matrix(net, net.init(jax.random.key(0)), np.zeros((1, 4, 2)))
  with pytest.raises(ValueError, match='needs a head with a pmf'):
    influence.matrix(toys.autoregression(), {}, np.zeros((1, 5)))
