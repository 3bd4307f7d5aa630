"""Tests of the sources of bits, on small files of the true formats."""

import hashlib
import io
import zipfile

import numpy as np
import pytest

from parallel_ar import data as data_lib
from parallel_ar.data import binary, catalogue, files
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


@pytest.mark.parametrize('name', catalogue.UCI_SHAPES)
@pytest.mark.parametrize('path', ['{}.npz', 'uci_{}.npz', 'uci_{0}/{0}.npz'])
def test_uci_sets_have_the_published_width(tmp_path, name, path):
  columns, _ = catalogue.UCI_SHAPES[name]
  file = tmp_path / path.format(name)
  file.parent.mkdir(exist_ok=True)
  file.write_bytes(tiny_files.uci(columns, 5, 3, 2))
  sizes = {'train': 5, 'valid': 3, 'test': 2, 'train+valid': 8}
  splits = {
    split: data_lib.load(f'uci_{name}', split, tmp_path, verify=False)
    for split in sizes
  }
  assert {s: len(d) for s, d in splits.items()} == sizes
  test = splits['test']
  assert (test.name, test.event, test.num_values) == (
    f'uci_{name}',
    (columns,),
    2,
  )
  with np.load(file) as raw:
    np.testing.assert_array_equal(test.x, raw['test_data'])
  assert test.x.dtype == np.uint8
  np.testing.assert_array_equal(
    splits['train+valid'].x,
    np.concatenate([splits['train'].x, splits['valid'].x]),
  )


def test_a_uci_set_without_a_digest_is_known_by_its_sizes(tmp_path):
  columns, counts = catalogue.UCI_SHAPES['rcv1']
  names = ('train_data', 'valid_data', 'test_data')
  whole = {
    key: np.zeros((count, columns), np.uint8)
    for key, count in zip(names, counts, strict=True)
  }
  path = tmp_path / 'rcv1.npz'
  path.write_bytes(tiny_files.npz(**whole))
  assert len(binary.uci('uci_rcv1', 'train+valid', tmp_path)) == 50_000
  path.write_bytes(tiny_files.npz(**whole | {'valid_data': np.eye(150)}))
  assert len(binary.uci('uci_rcv1', 'test', tmp_path)) == 150_000
  with pytest.raises(files.WrongFileError, match=r'150 .*published.*10000'):
    binary.uci('uci_rcv1', 'valid', tmp_path)
  path.unlink()
  with pytest.raises(
    files.MissingFileError, match=r'by hand: https.*rcv1\.npz'
  ):
    binary.uci('uci_rcv1', 'valid', tmp_path)


def test_another_uci_file_is_refused(tmp_path, monkeypatch):
  columns, counts = catalogue.UCI_SHAPES['dna']
  path = tmp_path / 'dna.npz'
  content = tiny_files.uci(columns, *counts)
  path.write_bytes(content)
  with pytest.raises(files.WrongFileError, match='not the file of uci_dna'):
    binary.uci('uci_dna', 'test', tmp_path)
  header = f'blob {len(content)}\0'.encode()
  blob = f'git:{hashlib.sha1(header + content).hexdigest()}'
  monkeypatch.setattr(catalogue, 'digests', lambda *_: [blob])
  assert len(binary.uci('uci_dna', 'test', tmp_path)) == 1186
  # The split of another collection.
  path.write_bytes(tiny_files.uci(columns, 1600, 400, 1186))
  with pytest.raises(files.WrongFileError, match=r'1600 examples.*has 1400'):
    binary.uci('uci_dna', 'train', tmp_path)


def _not_an_array() -> bytes:
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('train_data.npy', b'text')
  return file.getvalue()


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'no .npz file that can be read: 0 bytes'),
    (b'<html></html>', 'no .npz file that can be read: 13 bytes'),
    (tiny_files.uci(112, 2, 2, 2)[:-30], 'damaged'),
    (_not_an_array(), 'no header of a .npy file'),
    (tiny_files.npz(train_data=np.array([{}])), 'no .npz file'),
    (tiny_files.npz(x=np.eye(2)), r'expected the arrays train_data, found x'),
    (tiny_files.uci(111, 2, 2, 2), r'\[2, 111\]; expected \[N, 112\]'),
    (tiny_files.npz(train_data=np.full((1, 112), 2)), 'made of 0 and 1'),
  ],
)
def test_wrong_uci_files(tmp_path, content, message):
  (tmp_path / 'mushrooms.npz').write_bytes(content)
  with pytest.raises(files.WrongFileError, match=message):
    binary.uci('uci_mushrooms', 'train', tmp_path, verify=False)
