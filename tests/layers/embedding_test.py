"""Symbols and contexts as vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar.layers import embedding


def test_scaled_maps_the_alphabet_to_minus_one_to_one():
  x = jnp.array([[0, 4], [2, 1]])
  np.testing.assert_allclose(
    embedding.encode(x, 5, 'scaled'), [[-1, 1], [0, -0.5]]
  )


def test_one_hot_goes_channel_by_channel():
  x = jnp.array([[0, 2]])
  np.testing.assert_array_equal(
    embedding.encode(x, 3, 'one_hot'), [[1, 0, 0, 0, 0, 1]]
  )


def test_other_encodings_are_refused():
  with pytest.raises(ValueError, match="'scaled' or 'one_hot'; got 'onehot'"):
    embedding.encode(jnp.zeros((1, 1), jnp.int32), 2, 'onehot')


class TestContextSpec:
  def test_label_vector_or_nothing(self):
    label = embedding.context_spec(10, 0)
    assert label.shape == () and label.dtype == jnp.int32
    vector = embedding.context_spec(0, 3)
    assert vector.shape == (3,) and vector.dtype == jnp.float32
    assert embedding.context_spec(0, 0) is None

  def test_not_both(self):
    with pytest.raises(ValueError, match=r'num_classes=2.*context_size=3'):
      embedding.context_spec(2, 3)


class TestAddContext:
  layer = embedding.AddContext(num_classes=3)

  def test_no_context_adds_nothing_and_owns_nothing(self):
    y = jnp.ones((2, 4))
    assert self.layer.init(jax.random.key(0), y, None) == {}
    assert self.layer.apply({}, y, None) is y

  def test_a_label_is_its_one_hot_vector(self):
    y = jnp.zeros((2, 4))
    params = self.layer.init(jax.random.key(0), y, jnp.array(1))
    got = self.layer.apply(params, y, jnp.array(1))
    want = self.layer.apply(params, y, jnp.array([0.0, 1.0, 0.0]))
    np.testing.assert_array_equal(got, want)
    row = params['params']['Dense_0']['kernel'][1]
    np.testing.assert_allclose(got[0], row, rtol=1e-6)
    np.testing.assert_array_equal(got[0], got[1])

  def test_the_precision_of_y_is_kept(self):
    layer = embedding.AddContext(3, jnp.bfloat16)
    y = jnp.zeros((4,), jnp.bfloat16)
    params = layer.init(jax.random.key(0), y, jnp.array(0))
    assert layer.apply(params, y, jnp.array(0)).dtype == jnp.bfloat16
