"""An image is its coarse one and what is new, in NumPy and in JAX."""

import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar.data import pyramid
from parallel_ar.training import configuration, datasets


@pytest.mark.parametrize('array', [np.asarray, jnp.asarray])
def test_joining_undoes_splitting(array):
  x = array(np.random.default_rng(0).integers(0, 9, (2, 4, 6, 2)))
  coarse, new = pyramid.split(x)
  np.testing.assert_array_equal(coarse, x[:, ::2, ::2])
  assert new.shape == (2, 2, 3, 6)
  np.testing.assert_array_equal(new[..., :2], x[:, ::2, 1::2])
  np.testing.assert_array_equal(new[..., 2:4], x[:, 1::2, ::2])
  np.testing.assert_array_equal(new[..., 4:], x[:, 1::2, 1::2])
  np.testing.assert_array_equal(pyramid.join(coarse, new), x)
  assert isinstance(pyramid.join(coarse, new), type(x))


def test_odd_sides_have_no_cells():
  with pytest.raises(ValueError, match='3 x 4 pixels have no cells'):
    pyramid.split(np.zeros((1, 3, 4, 1)))


def test_a_config_takes_what_a_grid_adds():
  config = configuration.default_config()
  config.data.stride, config.data.refine = 2, True
  whole = datasets.load_split(configuration.default_config(), 'test')
  data = datasets.load_split(config, 'test')
  assert data.event == (2, 2, 3) and data.name == 'digits, stride 2 given 4'
  assert data.context.dtype == np.float32 and abs(data.context).max() <= 1
  coarse = np.round((data.context + 1) * 8).astype(np.uint8)
  np.testing.assert_array_equal(
    pyramid.join(coarse, data.x), whole.x[:, ::2, ::2]
  )
  config.data.labels = True
  with pytest.raises(ValueError, match='without labels'):
    datasets.load_split(config, 'test')
