"""What public functions take, and what they refuse."""

import numpy as np
import pytest

from parallel_ar import doors
from tests import toys


class TestCheckEvents:
  net = toys.sigmoid_net((2, 2), num_values=3)

  def test_good_events_pass(self):
    doors.check_events(self.net, np.zeros((5, 2, 2), np.uint8))

  def test_a_missing_batch_axis(self):
    with pytest.raises(ValueError, match=r'\(2, 2\); expected \[B, 2, 2\]'):
      doors.check_events(self.net, np.zeros((2, 2), int))

  def test_floats(self):
    with pytest.raises(ValueError, match=r'integers 0\.\.2; got dtype float32'):
      doors.check_events(self.net, np.zeros((1, 2, 2), np.float32))

  @pytest.mark.parametrize('value', [-1, 3])
  def test_the_first_bad_value_is_named(self, value):
    x = np.zeros((3, 2, 2), int)
    x[1, 0, 1] = x[2, 1, 1] = value
    with pytest.raises(
      ValueError,
      match=rf'example 1, position \(0, 1\) holds {value}.*0\.\.2 .*2 values',
    ):
      doors.check_events(self.net, x)

  def test_continuous_values_have_no_range(self):
    doors.check_events(toys.autoregression(), np.full((1, 5), 1e9))
