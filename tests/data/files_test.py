"""Tests of finding, checking and parsing data files."""

import gzip
import re

import numpy as np
import pytest

from parallel_ar.data import files
from tests.data import tiny_files


def test_find_prefers_the_folder_and_takes_gz(tmp_path):
  (tmp_path / 'b.gz').write_bytes(b'')
  assert files.find('mnist', ('a', 'b'), tmp_path) == tmp_path / 'b.gz'
  (tmp_path / 'mnist').mkdir()
  (tmp_path / 'mnist' / 'b').write_bytes(b'')
  assert files.find('mnist', ('a', 'b'), tmp_path).parent.name == 'mnist'


def test_a_missing_file_says_where_and_what_to_do(tmp_path):
  with pytest.raises(FileNotFoundError) as caught:
    files.find('mnist', ('train-images-idx3-ubyte',), tmp_path)
  for part in (
    'train-images-idx3-ubyte',
    str(tmp_path / 'mnist'),
    f'./run.sh fetch --dataset=mnist --data_dir={tmp_path}',
  ):
    assert part in str(caught.value)
  with pytest.raises(files.MissingFileError, match='no directory'):
    files.find('mnist', ('a',), tmp_path / 'absent')


@pytest.mark.parametrize('keep', [3, 40, -1])
def test_a_truncated_gzip_is_wrong(tmp_path, keep):
  path = tmp_path / 'a.gz'
  path.write_bytes(gzip.compress(bytes(range(200)))[:keep])
  with pytest.raises(files.WrongFileError, match='truncated or damaged'):
    files.read(path)
  with pytest.raises(files.WrongFileError, match='truncated or damaged'):
    files.sha256(path)


def test_a_digest_is_of_the_unzipped_content(tmp_path):
  plain, zipped = tmp_path / 'a', tmp_path / 'a.gz'
  plain.write_bytes(b'abc' * 1000)
  zipped.write_bytes(gzip.compress(b'abc' * 1000))
  assert files.sha256(plain) == files.sha256(zipped)
  assert files.read(plain) == files.read(zipped)


def test_verify_names_the_file_it_found():
  with pytest.raises(
    files.WrongFileError, match=r'expected sha256 1234.*found'
  ):
    files.verify('a', b'', ['1234'], 'mnist')


@pytest.mark.parametrize('array', [tiny_files.IMAGES, tiny_files.LABELS])
def test_idx(array):
  parsed = files.parse_idx('a', tiny_files.idx(array), array.ndim)
  np.testing.assert_array_equal(parsed, array)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'magic number 0x00000803 .*found 0x and 0 bytes'),
    (b'<html>', 'found 0x3c68746d'),
    (tiny_files.idx(tiny_files.LABELS), 'found 0x00000801'),
    (tiny_files.idx(tiny_files.IMAGES)[:10], '10 bytes'),
    (tiny_files.idx(tiny_files.IMAGES)[:-1], r'truncated.*9424.*found 9423'),
    (tiny_files.idx(tiny_files.IMAGES) + b'x', r'too long.*9424.*found 9425'),
  ],
)
def test_wrong_idx_files(content, message):
  with pytest.raises(files.WrongFileError, match=message):
    files.parse_idx('some/path', content, 3)


@pytest.mark.parametrize(
  'content',
  [
    tiny_files.amat_text(tiny_files.BITS),
    tiny_files.amat_text(tiny_files.BITS).rstrip(),
    tiny_files.amat_text(tiny_files.BITS).replace(b'\n', b' \r\n'),
    tiny_files.amat_matlab(tiny_files.BITS),
    tiny_files.amat_matlab(tiny_files.BITS.astype(float)),
  ],
  ids=['text', 'no_newline', 'windows', 'matlab', 'matlab_double'],
)
def test_amat_in_both_forms(content):
  bits = files.parse_amat('a', content, 784)
  assert bits.dtype == np.uint8
  np.testing.assert_array_equal(bits, tiny_files.BITS)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', r'shape \[0, 784\]'),
    (b'<html></html>', r"found b'<html></html>' in line 1 of 13 bytes"),
    (tiny_files.amat_text(tiny_files.BITS)[:-7], 'line 5 has 781 bits'),
    (tiny_files.amat_text(tiny_files.BITS + 1), 'characters 0 and 1'),
    (tiny_files.amat_text(tiny_files.BITS[:, :50]), 'has 50 bits'),
    (tiny_files.amat_matlab(tiny_files.BITS)[:-40], 'MATLAB .* cannot be read'),
    (tiny_files.amat_matlab(tiny_files.BITS, 'Y'), r"variables \['Y'\]"),
    (tiny_files.amat_matlab(tiny_files.BITS + 1), r'X in 1\.\.2'),
    (tiny_files.amat_matlab(tiny_files.BITS[:, 1:]), r'shape \[5, 783\]'),
  ],
)
def test_wrong_amat_files(content, message):
  with pytest.raises(files.WrongFileError, match=message) as caught:
    files.parse_amat('some/path', content, 784)
  assert re.match('some/path', str(caught.value))
