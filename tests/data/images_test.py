"""Tests of the image sources, on small files of the true format."""

import sys

import numpy as np
import pytest

from parallel_ar.data import dataset, files, images
from tests.data import tiny_files

SPLITS = {'train': (0, 10), 'valid': (10, 12), 'train+valid': (0, 12)}


def test_digits_have_a_fixed_disjoint_split():
  pytest.importorskip('sklearn')
  sizes = {'train': 1297, 'valid': 200, 'test': 300, 'train+valid': 1497}
  splits = {s: images.digits(s, labels=True) for s in sizes}
  assert {s: len(d) for s, d in splits.items()} == sizes
  assert splits['train'].event == (8, 8, 1)
  assert splits['train'].num_values == 17
  assert splits['train'].x.max() == 16
  joined = [splits['train'], splits['valid']]
  np.testing.assert_array_equal(
    np.concatenate([d.x for d in joined]), splits['train+valid'].x
  )
  rows = np.concatenate([splits['train+valid'].x, splits['test'].x])
  assert len(np.unique(rows.reshape(len(rows), -1), axis=0)) == 1797
  # The split is part of every number on digits; it must never move.
  np.testing.assert_array_equal(
    splits['test'].context[:8], [7, 2, 9, 9, 4, 7, 7, 1]
  )
  assert images.digits('test').context is None


def test_digits_without_scikit_learn(monkeypatch):
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  with pytest.raises(ModuleNotFoundError, match=r'parallel_ar\[data\]'):
    images.digits('train')


@pytest.mark.parametrize('zipped', [False, True])
@pytest.mark.parametrize('folder', ['', 'mnist'])
def test_mnist_splits(tmp_path, zipped, folder):
  tiny_files.write_mnist(tmp_path / folder, zipped=zipped)
  for split, (start, stop) in SPLITS.items():
    data = images.mnist(split, tmp_path, labels=True, verify=False)
    np.testing.assert_array_equal(data.x[..., 0], tiny_files.IMAGES[start:stop])
    np.testing.assert_array_equal(data.context, tiny_files.LABELS[start:stop])
    assert data.context.dtype == np.int32
    assert data.event == (28, 28, 1)
    assert data.num_values == 256
  test = images.mnist('test', tmp_path, verify=False)
  np.testing.assert_array_equal(test.x[..., 0], tiny_files.IMAGES[:3])
  assert test.context is None


def test_fashion_has_its_own_folder(tmp_path):
  tiny_files.write_mnist(tmp_path / 'fashion_mnist', zipped=True)
  data = images.fashion_mnist('train', tmp_path, verify=False)
  assert (data.name, len(data)) == ('fashion_mnist', 10)
  with pytest.raises(files.MissingFileError):
    images.mnist('train', tmp_path, verify=False)


def test_another_set_in_the_same_files_is_refused(tmp_path):
  tiny_files.write_mnist(tmp_path)
  with pytest.raises(
    files.WrongFileError, match=r'not the file of mnist.*ba89'
  ):
    images.mnist('train', tmp_path)


def test_labels_of_another_length_are_refused(tmp_path):
  tiny_files.write_mnist(tmp_path)
  wrong = tiny_files.idx(tiny_files.LABELS[:5])
  (tmp_path / 'train-labels-idx1-ubyte').write_bytes(wrong)
  with pytest.raises(files.WrongFileError, match=r'12 images.*labels are 5'):
    images.mnist('train', tmp_path, labels=True, verify=False)
  with pytest.raises(files.WrongFileError, match=r'12 images.*labels are 5'):
    images.mnist('train', tmp_path, verify=False)
  (tmp_path / 'train-labels-idx1-ubyte').unlink()
  assert len(images.mnist('train', tmp_path, verify=False)) == 10
  with pytest.raises(files.MissingFileError):
    images.mnist('train', tmp_path, labels=True, verify=False)


def test_static_binarization(tmp_path):
  tiny_files.write_mnist(tmp_path)
  data = images.mnist_static('test', tmp_path, verify=False)
  assert (data.name, data.num_values) == ('mnist_static', 2)
  np.testing.assert_array_equal(
    data.x[..., 0], tiny_files.IMAGES[:3] / 255 > 0.5
  )


def test_dynamic_binarization(tmp_path):
  tiny_files.write_mnist(tmp_path)
  for split in ('train', 'train+valid'):
    data = images.mnist_dynamic(split, tmp_path, verify=False)
    assert (data.name, data.num_values) == ('mnist_dynamic', 2)
    assert data.binarize == 'dynamic'
    assert data.x.max() > 1
  for split in ('valid', 'test'):
    data = images.mnist_dynamic(split, tmp_path, labels=True, verify=False)
    assert data.binarize is None
    assert data.x.max() == 1
    assert len(data.context) == len(data)
  other = images.mnist_dynamic(
    'test', tmp_path, verify=False, evaluation_seed=1
  )
  assert (other.x != data.x).any()
  assert dataset.EVALUATION_SEED != 1


def test_unknown_splits_are_refused(tmp_path):
  with pytest.raises(ValueError, match="'mnist' has no split 'dev'"):
    images.mnist('dev', tmp_path)
  with pytest.raises(ValueError, match="'digits' has no split 'dev'"):
    images.digits('dev')
