"""The choice of kernels, from what was measured."""

import pytest

from experiments import cpu_libraries, kernels
from parallel_ar.analysis import timing


@pytest.mark.parametrize(
  ('low', 'median', 'high', 'default', 'older', 'want'),
  [
    (0.8, 0.9, 1.0, True, True, 'default'),
    (1.0, 1.1, 1.2, True, True, 'older'),
    (1.0, 1.1, 1.2, True, False, 'default'),  # not in three rounds of four
    (1.1, 1.2, 1.3, True, False, 'older'),
    (0.7, 0.9, 1.0, False, True, 'older'),
    (0.7, 0.8, 0.9, False, True, 'default'),
    (1.0, 1.1, 1.2, False, False, 'older'),
  ],
)
def test_bits_of_one_core_are_worth_five_percent(
  low, median, high, default, older, want
):
  ratio = timing.Summary(median, low, high, 9)
  assert kernels.choose(ratio, default, older) == want


def test_the_flag_leaves_out_what_is_older():
  choice = {'products': 'default', 'convolutions': 'older'}
  assert kernels.flag(choice).endswith('=-individual_convolution')
  assert kernels.flag(dict.fromkeys(choice, 'default')) == ''


def test_measures_both_kinds():
  """For real, in one round: a choice, and bits that repeat."""
  found = cpu_libraries.measure(rounds=1)
  for kind in kernels.OLDER:
    low, high = found[kind]['default_to_older'][1:]
    assert 0 < low <= high
    assert found[kind]['choice'] in ('default', 'older')
