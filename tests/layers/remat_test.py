"""Rematerialisation changes memory, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from parallel_ar import likelihood, models
from parallel_ar.layers import remat
from parallel_ar.testing import case as cases


class Block(nn.Module):
  @nn.compact
  def __call__(self, x):
    return x + jnp.tanh(nn.Dense(4)(jnp.tanh(nn.Dense(6)(x))))


@pytest.mark.parametrize('policy', remat.POLICIES)
def test_every_policy_gives_the_same_loss_and_gradient(policy):
  x = jnp.arange(4.0)
  params = Block().init(jax.random.key(0), x)

  def loss(block, params):
    return (block().apply(params, x) ** 2).sum()

  wrapped = remat.remat(Block, policy)
  plain, slopes = jax.value_and_grad(loss, 1)(Block, params)
  other, others = jax.value_and_grad(loss, 1)(wrapped, params)
  np.testing.assert_allclose(plain, other, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    slopes,
    others,
  )


def test_none_wraps_nothing():
  assert remat.remat(Block, 'none') is Block


def test_unknown_policy():
  with pytest.raises(ValueError, match="'all'; choose one of none, full, dots"):
    remat.remat(Block, 'all')


FAMILIES = {
  'pixelcnn': lambda **f: models.pixelcnn(
    event=(2, 2, 1), features=4, layers=2, head_features=4, first_size=3, **f
  ),
  'gated_pixelcnn': lambda **f: models.gated_pixelcnn(
    event=(2, 2, 1), features=4, layers=2, head_features=4, first_size=3, **f
  ),
  'transformer': lambda **f: models.transformer(
    event=(4,), num_values=2, features=4, layers=2, heads=1, **f
  ),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_a_family_has_the_same_parameters_loss_and_gradient(family):
  plain, wrapped = (FAMILIES[family](remat=r) for r in ('none', 'full'))
  case = cases.make_case(plain)

  def slope(model):
    loss = lambda params: -likelihood.log_prob(model, params, case.x).sum()
    return jax.jit(jax.value_and_grad(loss))

  specs = jax.eval_shape(wrapped.init, jax.random.key(0))
  assert jax.tree.structure(specs) == jax.tree.structure(case.params)
  program = str(jax.make_jaxpr(slope(wrapped))(case.params))
  assert 'checkpoint' in program or 'remat' in program
  a, b = slope(plain)(case.params), slope(wrapped)(case.params)
  jax.tree.map(
    lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-3, atol=1e-5), a, b
  )
