"""Tests of finding, checking and parsing data files."""

import gzip
import hashlib
import io
import re
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from parallel_ar.data import archives, files
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


def test_what_savetxt_and_a_bom_make_of_bits():
  want = tiny_files.BITS
  file = io.BytesIO()
  np.savetxt(file, want)
  for content in (file.getvalue(), b'\xef\xbb\xbf' + file.getvalue()):
    np.testing.assert_array_equal(files.parse_amat('x', content, 784), want)
  for other in (b'1.5 ' * 784, b'1.0e+01 ' * 784, b'0.1e+00 ' * 784):
    with pytest.raises(files.WrongFileError, match='characters 0 and 1'):
      files.parse_amat('x', other, 784)


def test_a_matlab_variable_of_another_kind():
  sparse = scipy.sparse.csc_matrix(np.eye(3))
  cells = np.array([['a'], [np.eye(2)]], object)
  for x in ('01', cells, {'a': 1.0}, sparse):
    file = io.BytesIO()
    scipy.io.savemat(file, {'X': x})
    with pytest.raises(files.WrongFileError, match='not sparse, found'):
      files.parse_amat('some/path', file.getvalue(), 3)


def test_a_matlab_file_of_version_7_3():
  """Its text says 7.0 or 7.3; what follows the text is HDF5."""
  content = b'MATLAB 7.0 MAT-file, Platform'.ljust(512) + b'\x89HDF\r\n\x1a\n'
  with pytest.raises(files.WrongFileError, match="HDF5, .*'-v7'"):
    files.parse_amat('some/path', content, 3)
  with pytest.raises(files.WrongFileError, match="HDF5, .*'-v7'"):
    files.parse_matlab('some/path', content)


def test_an_idx_header_whose_product_wraps():
  header = bytes([0, 0, 8, 3]) + struct.pack('>3I', 1 << 31, 1 << 31, 4)
  with pytest.raises(files.WrongFileError, match='is truncated'):
    files.parse_idx('some/path', header, 3)


@pytest.mark.parametrize('block', [7, 1 << 20])
def test_gzip_streams_of_any_form(tmp_path, monkeypatch, block):
  monkeypatch.setattr(files, '_BLOCK', block)
  one, two = gzip.compress(b'one' * 500), gzip.compress(bytes(3000))
  path = tmp_path / 'a.gz'
  want = b'one' * 500 + bytes(3000)
  for content in (one + two, one + two + bytes(600), one + bytes(9) + two):
    path.write_bytes(content)
    assert files.read(path) == want
    assert files.sha256(path) == hashlib.sha256(want).hexdigest()
  for content in (one + b'junk', (one + two)[:-1], one[:-9], one[:1] + b'\x8b'):
    path.write_bytes(content)
    with pytest.raises(files.WrongFileError, match='truncated or damaged gzip'):
      files.read(path)


def test_a_bomb_is_refused_within_bounds(tmp_path, monkeypatch):
  monkeypatch.setattr(files, 'most_unpacked', lambda packed: 1 << 20)
  path = tmp_path / 'a'
  path.write_bytes(gzip.compress(bytes(1 << 24)))
  for read in (files.read, files.sha256):
    with pytest.raises(files.WrongFileError, match='unpacks to more'):
      read(path)
  file = io.BytesIO()
  scipy.io.savemat(
    file, {'X': np.zeros((1 << 12, 1 << 12))}, do_compression=True
  )
  with pytest.raises(files.WrongFileError, match='unpacks to more'):
    files.parse_matlab(path, file.getvalue())
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as made:
    made.writestr('x/a.bin', bytes(1 << 24))
  with pytest.raises(files.WrongFileError, match='unpacks to 16777216 bytes'):
    list(archives.members(path, ['a.bin']))
  with pytest.raises(files.WrongFileError, match='unpacks to 16777216 bytes'):
    archives.unzipped(path, path.read_bytes(), 'x/a.bin')
  with tarfile.open(path, 'w:gz') as made:
    member = tarfile.TarInfo('x/a.bin')
    member.size = 1 << 24
    made.addfile(member, io.BytesIO(bytes(1 << 24)))
  with pytest.raises(files.WrongFileError, match='unpacks to more'):
    list(archives.members(path, ['a.bin']))


def test_a_sparse_tar_is_no_file(tmp_path):
  """1 kB that say that they are 4 GB."""
  path = tmp_path / 'a.tar'
  member = tarfile.TarInfo('a.bin')
  member.size = 0
  member.pax_headers = {
    'GNU.sparse.major': '0',
    'GNU.sparse.minor': '1',
    'GNU.sparse.map': '0,0',
    'GNU.sparse.size': str(1 << 32),
  }
  with tarfile.open(path, 'w', format=tarfile.PAX_FORMAT) as made:
    made.addfile(member)
  with pytest.raises(files.WrongFileError, match='no plain file'):
    list(archives.members(path, ['a.bin']))
