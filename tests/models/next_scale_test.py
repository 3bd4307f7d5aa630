"""Next-scale prediction: what a token is shown, and errors."""

import numpy as np
import pytest

from parallel_ar import models, order
from parallel_ar.models.next_scale import corners


@pytest.mark.parametrize(
  ('shape', 'strides'),
  [((3, 3), (4, 2, 1)), ((5, 7), (4, 1)), ((8, 8), (8, 4, 2, 1))],
)
def test_tokens_are_shown_all_pixels_of_the_level_before(shape, strides):
  near = corners(shape, strides)
  rank = order.scales(shape, strides).reshape(-1)
  for level in range(1, len(strides)):
    shown = near[rank == level]
    assert (rank[shown] < level).all()
    assert set(shown.ravel()) == set(np.flatnonzero(rank < level))


def test_the_corners_of_a_cell():
  near = corners((5, 5), (4, 2, 1)).reshape(5, 5, 4)
  assert near[1, 1].tolist() == [0, 2, 10, 12]
  assert near[0, 1].tolist() == [0, 2, 0, 2]
  assert near[0, 0].tolist() == [0, 0, 0, 0]


def test_depth_is_the_number_of_levels():
  assert models.next_scale(event=(28, 28, 1)).depth == 6
  assert models.next_scale(event=(8, 8, 1), strides=(8, 2, 1)).depth == 3


def test_errors():
  with pytest.raises(ValueError, match='An image event is'):
    models.next_scale(event=(6,))
  with pytest.raises(ValueError, match='each a divisor of the one before'):
    models.next_scale(event=(4, 4, 1), strides=(4, 3, 1))
