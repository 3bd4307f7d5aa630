"""Bits from files: the fixed binarization of MNIST.

Not to be confused with `mnist_static` and `mnist_dynamic` (images.py): each of
the three has its own table of published numbers.
"""

import hashlib

import numpy as np

from parallel_ar.data import dataset, files
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.files import PathLike

# sha256 of the bits, uint8[N, 784] row by row: the same for both forms of file.
_SHA256 = {
  'train': '43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a',
  'valid': '069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e',
  'test': 'ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86',
}


def bmnist_fixed(
  split: str, data_dir: PathLike | None = None, *, verify: bool = True
) -> Dataset:
  """The binarized MNIST of Larochelle and Murray: 50,000 / 10,000 / 10,000.

  One draw of Bernoulli(grey / 255), made once by the authors and used by every
  paper since. It has no labels.

  Args:
    split: 'train', 'valid', 'test', or 'train+valid' (both files).
    data_dir: directory with binarized_mnist_{train,valid,test}.amat or
      bmnist_{train,valid,test}.amat, in bmnist_fixed/ or directly. The text
      form and the MATLAB form are told apart by their first bytes.
    verify: whether to compare the bits with the sha256 of the true ones.

  Returns:
    A Dataset with event (28, 28, 1) and 2 values.

  Raises:
    MissingFileError, WrongFileError: see `files`.
    ValueError: no such split.

  References:
    Larochelle and Murray, The neural autoregressive distribution estimator,
    AISTATS 2011.
    Salakhutdinov and Murray, On the quantitative analysis of deep belief
    networks, ICML 2008.
  """
  dataset.check_split('bmnist_fixed', split)
  parts = [_read(part, data_dir, verify) for part in split.split('+')]
  x = np.concatenate(parts).reshape(-1, 28, 28, 1)
  return Dataset('bmnist_fixed', split, x, 2)


def _read(split: str, data_dir: PathLike | None, verify: bool) -> np.ndarray:
  names = (f'binarized_mnist_{split}.amat', f'bmnist_{split}.amat')
  path = files.find('bmnist_fixed', names, data_dir)
  x = files.parse_amat(path, files.read(path), 784)
  found = hashlib.sha256(x.tobytes()).hexdigest()
  if verify and found != _SHA256[split]:
    owner = next((s for s, digest in _SHA256.items() if digest == found), None)
    raise files.WrongFileError(
      f'{path} does not hold the {split} images of bmnist_fixed: expected bits '
      f'with sha256 {_SHA256[split]}, found {len(x)} examples with {found}'
      f'{f", the {owner} images" if owner else ""}. '
      f'{files.advice("bmnist_fixed", data_dir)} verify=False reads other bits '
      'of the same format.'
    )
  return x
