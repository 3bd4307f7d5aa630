"""Tests of the fixed binarized MNIST, on small files of both forms."""

import numpy as np
import pytest

from parallel_ar.data import binary, files
from tests.data import tiny_files


@pytest.mark.parametrize('form', ['amat_text', 'amat_matlab'])
@pytest.mark.parametrize('stem', ['bmnist', 'bmnist_fixed/binarized_mnist'])
def test_both_forms_and_names(tmp_path, form, stem):
  (tmp_path / 'bmnist_fixed').mkdir()
  for split, rows in (('train', slice(0, 3)), ('valid', slice(3, 5))):
    content = getattr(tiny_files, form)(tiny_files.BITS[rows])
    (tmp_path / f'{stem}_{split}.amat').write_bytes(content)
  data = binary.bmnist_fixed('train', tmp_path, verify=False)
  assert data.event == (28, 28, 1)
  assert (data.name, data.num_values) == ('bmnist_fixed', 2)
  np.testing.assert_array_equal(data.x.reshape(3, 784), tiny_files.BITS[:3])
  both = binary.bmnist_fixed('train+valid', tmp_path, verify=False)
  np.testing.assert_array_equal(both.x.reshape(5, 784), tiny_files.BITS)


def test_other_bits_are_refused(tmp_path):
  path = tmp_path / 'bmnist_test.amat'
  path.write_bytes(tiny_files.amat_text(tiny_files.BITS))
  with pytest.raises(files.WrongFileError, match=r'test images.*found 5 exam'):
    binary.bmnist_fixed('test', tmp_path)


def test_missing_and_unknown(tmp_path):
  with pytest.raises(files.MissingFileError, match='--dataset=bmnist_fixed'):
    binary.bmnist_fixed('train', tmp_path)
  with pytest.raises(ValueError, match="Did you mean 'test'"):
    binary.bmnist_fixed('tests', tmp_path)
