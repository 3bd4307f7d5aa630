"""Sample grids."""

import numpy as np
import pytest
from PIL import Image

from parallel_ar.training import pictures


def test_values_and_places(tmp_path):
  x = np.zeros((3, 2, 2, 1), np.int32)
  x[1], x[2, 0, 1] = 16, 8
  pictures.save_grid(x, tmp_path / 'sub' / 'x.png', num_values=17)
  image = np.asarray(Image.open(tmp_path / 'sub' / 'x.png'))
  side = 2 * 28  # pixels are enlarged
  assert image.shape == (2 * side + 6, 2 * side + 6, 3)
  assert (image[2 : 2 + side, 2 : 2 + side] == 0).all()
  assert (image[2 : 2 + side, 4 + side : 4 + 2 * side] == 255).all()
  assert (image[4 + side : 4 + side + 28, 2 + 28 : 2 + side] == 128).all()


def test_colours_survive():
  x = np.zeros((1, 60, 60, 3), np.int32)
  x[..., 0] = 255
  assert (pictures.grid(x, 256)[2:-2, 2:-2] == [255, 0, 0]).all()


def test_two_axes_and_columns():
  assert pictures.grid(np.zeros((4, 60, 60), int), 2, columns=4).shape == (
    64,
    4 * 62 + 2,
    3,
  )


@pytest.mark.parametrize(
  ('shape', 'drawn'),
  [
    ((8, 8), True),
    ((8, 8, 1), True),
    ((8, 8, 3), True),
    ((8, 8, 2), False),
    ((16,), False),
    ((16, 1), False),
    ((2, 2, 2, 2), False),
  ],
)
def test_what_is_an_image(shape, drawn):
  assert pictures.is_image(shape) == drawn
  if not drawn:
    with pytest.raises(ValueError, match='got shape'):
      pictures.grid(np.zeros((1, *shape), int), 2)
