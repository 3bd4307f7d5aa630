"""Tests of what a dataset promises, and of binarization."""

import numpy as np
import pytest

from parallel_ar.data import dataset
from parallel_ar.data.dataset import Dataset

X = np.zeros((3, 2, 2, 1), np.uint8)


def test_event_and_length():
  data = Dataset('a', 'train', X, 2)
  assert data.event == (2, 2, 1)
  assert len(data) == 3


@pytest.mark.parametrize(
  ('x', 'options', 'message'),
  [
    (X[:0], {}, r"'train' split of 'a' is empty"),
    (X.astype(float), {}, r'float64\[3, 2, 2, 1\]'),
    (np.zeros(3, np.uint8), {}, 'single numbers'),
    (X + np.uint8(2), {}, r'value 2 in example 0 at position \(0, 0, 0\)'),
    (X.astype(np.int32) - 1, {}, r'value -1 .*0\.\.1'),
    (X, {'context': np.zeros(2)}, '3 examples, but 2 rows'),
    (X, {'binarize': 'static'}, "binarize='static'"),
  ],
)
def test_bad_data_is_refused(x, options, message):
  with pytest.raises(ValueError, match=message):
    Dataset('a', 'train', x, 2, **options)


def test_grey_levels_are_values_of_a_dataset_to_be_binarized():
  data = Dataset('a', 'train', X + np.uint8(255), 2, binarize='dynamic')
  assert data.num_values == 2
  with pytest.raises(ValueError, match='num_values must be 2'):
    Dataset('a', 'train', X, 256, binarize='dynamic')


def test_threshold_is_one_above_a_half():
  np.testing.assert_array_equal(
    dataset.threshold(np.array([0, 127, 128, 255], np.uint8)), [0, 0, 1, 1]
  )


def test_bernoulli_has_mean_grey_over_255():
  grey = np.repeat(np.array([0, 1, 51, 128, 254, 255], np.uint8), 100_000)
  bits = dataset.bernoulli(grey, dataset.random_state('test', 0))
  mean = bits.reshape(6, -1).mean(1)
  expected = np.array([0, 1, 51, 128, 254, 255]) / 255
  np.testing.assert_allclose(mean, expected, atol=0.006)
  assert mean[0] == 0
  assert mean[-1] == 1


def test_binarize_once_is_a_function_of_its_seed():
  grey = np.full((10_000, 3), 100, np.uint8)
  data = Dataset('a', 'test', grey, 2, binarize='dynamic')
  once = dataset.binarize_once(data)
  assert once.binarize is None
  np.testing.assert_array_equal(once.x, dataset.binarize_once(data).x)
  assert (once.x != dataset.binarize_once(data, seed=1).x).any()
  assert dataset.binarize_once(once) is once


def test_random_numbers_are_the_same_for_ever():
  # A change here changes every published order and every test set.
  drawn = dataset.random_state('order', 0, 1).randint(0, 1000, 4)
  np.testing.assert_array_equal(drawn, [770, 757, 278, 513])
  assert (dataset.random_state('bits', 0, 1).randint(0, 1000, 4) != drawn).any()


def test_negative_seeds_are_refused():
  with pytest.raises(ValueError, match='>= 0'):
    dataset.random_state('order', -1)


def test_unknown_splits_are_refused_with_a_hint():
  with pytest.raises(ValueError, match=r"no split 'val'.*'valid'"):
    dataset.check_split('a', 'val')
