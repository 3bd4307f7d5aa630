"""Dense layers whose connections follow degrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar.layers import dense


def apply(layer, x):
  specs = jax.eval_shape(layer.init, jax.random.key(0), x)['params']
  rng = np.random.default_rng(0)
  draw = lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype)
  params = jax.tree.map(draw, specs)
  return params, np.asarray(layer.apply({'params': params}, x))


def test_mask_is_in_degree_at_most_out_degree():
  x = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
  lower, upper = np.array([0, 1, 2, 2]), np.array([2, 0, 1])
  params, y = apply(dense.MaskedDense(lower, upper), x)
  mask = np.array([[1, 1, 1], [1, 0, 1], [1, 0, 0], [1, 0, 0]])
  params = jax.tree.map(np.asarray, params)
  want = x @ (params['kernel'] * mask) + params['bias']
  np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)


def test_where_nothing_is_read_only_the_bias_is_left():
  x = np.full((2,), 1e30, np.float32)
  layer = dense.MaskedDense(np.array([1, 2]), np.array([0, 0, 0]))
  params, y = apply(layer, x)
  np.testing.assert_array_equal(y, params['bias'])


def test_no_mask_is_applied_where_all_is_live():
  """The compiled pass holds no comparison and no select."""
  x = np.ones(2, np.float32)
  layer = dense.MaskedDense(np.array([0, 1]), np.array([1, 1]))
  params, _ = apply(layer, x)
  program = str(jax.make_jaxpr(layer.apply)({'params': params}, x))
  assert 'select' not in program and 'le ' not in program


def test_without_bias():
  layer = dense.MaskedDense(np.arange(2), np.arange(2), use_bias=False)
  params, _ = apply(layer, np.ones(2, np.float32))
  assert set(params) == {'kernel'}


def test_bfloat16_products_of_float32_parameters():
  layer = dense.MaskedDense(np.arange(3), np.arange(3), jnp.bfloat16)
  params, y = apply(layer, np.ones(3, np.float32))
  assert y.dtype == jnp.bfloat16
  assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(params))


def test_input_of_another_width_is_refused():
  with pytest.raises(ValueError, match='3 input degrees.*has 4 features'):
    apply(dense.MaskedDense(np.arange(3), np.arange(3)), np.ones(4))


def test_channel_degrees():
  np.testing.assert_array_equal(dense.channel_degrees(6, 3), [0, 0, 1, 1, 2, 2])
  with pytest.raises(ValueError, match='multiple of 3'):
    dense.channel_degrees(7, 3)
