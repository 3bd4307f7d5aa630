"""Bits from files: the fixed binarization of MNIST, the UCI sets of MADE.

`bmnist_fixed` is not to be confused with `mnist_static` and `mnist_dynamic`
(images.py): each of the three has its own table of published numbers.
"""

import hashlib

import numpy as np

from parallel_ar.data import archives, catalogue, dataset, files
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


def uci(
  name: str,
  split: str,
  data_dir: PathLike | None = None,
  *,
  verify: bool = True,
) -> Dataset:
  """One of the eight UCI sets of binary vectors, in the splits of MADE.

  Published numbers are nats a vector on these very splits. Another collection
  of the same sets splits some of them otherwise (DNA into 1,600 / 400 /
  1,186), and its numbers cannot be compared.

  Args:
    name: 'uci_adult', 'uci_connect4', 'uci_dna', 'uci_mushrooms', 'uci_nips'
      (NIPS-0-12), 'uci_ocr_letters', 'uci_rcv1' or 'uci_web'.
    split: 'train', 'valid', 'test' or 'train+valid'.
    data_dir: directory with the set's .npz, such as uci_dna/dna.npz, dna.npz
      or uci_dna.npz: arrays train_data, valid_data and test_data of 0 and 1.
    verify: whether to compare the file with the true one: its digest where one
      is known, and the numbers of examples.

  Returns:
    A Dataset with event (D,) and 2 values.

  Raises:
    MissingFileError, WrongFileError: see `files`.
    ValueError: no such split.

  References:
    Germain, Gregor, Murray and Larochelle, MADE, ICML 2015, Table 4.
    Larochelle and Murray, The neural autoregressive distribution estimator,
    AISTATS 2011.
  """
  dataset.check_split(name, split)
  stem = name.removeprefix('uci_')
  path = files.find(name, (f'{stem}.npz', f'{name}.npz'), data_dir)
  content = files.read(path)
  keys = [f'{part}_data' for part in split.split('+')]
  parts = archives.parse_npz(path, content, keys)
  columns, counts = catalogue.UCI_SHAPES[stem]
  for key, x in parts.items():
    if x.ndim != 2 or x.shape[1] != columns or not files.are_bits(x):
      raise files.WrongFileError(
        f'{path} has {key} of shape {list(x.shape)}; expected [N, {columns}] '
        f'made of 0 and 1. {files.advice(name, data_dir)}'
      )
    count = counts[('train_data', 'valid_data', 'test_data').index(key)]
    if verify and len(x) != count:
      raise files.WrongFileError(
        f'{path} has {len(x)} examples in {key}; the published split has '
        f'{count}. {files.advice(name, data_dir)} verify=False reads other '
        'vectors of the same format.'
      )
  expected = catalogue.digests(name, f'{stem}.npz')
  if verify and expected:
    files.verify(path, content, expected, name)
  return Dataset(
    name, split, np.concatenate(list(parts.values())).astype(np.uint8), 2
  )


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
