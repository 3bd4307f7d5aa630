"""Arrays of strangers: refused before anything is unpacked or allocated."""

import io
import resource
import struct
import zipfile

import numpy as np
import pytest

from parallel_ar import npz


def npy(shape, dtype='<f4', content=b'', descr=None) -> bytes:
  """A .npy file whose header says what it likes."""
  descr = repr(dtype) if descr is None else descr
  text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"
  header = text.encode() + b'\n'
  return (
    b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header + content
  )


def archive(**members: bytes) -> npz.Archive:
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as made:
    for name, content in members.items():
      made.writestr(f'{name}.npy', content)
  return npz.Archive(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize('order', 'CF')
@pytest.mark.parametrize('shape', [(), (0,), (3,), (2, 3)])
def test_reads_what_numpy_writes(tmp_path, shape, order):
  want = np.asarray(
    np.arange(np.prod(shape, dtype=int)).reshape(shape), '>i2', order=order
  )
  np.savez_compressed(tmp_path / 'a.npz', a=want, b=np.ones(2, bool))
  with npz.Archive(tmp_path / 'a.npz') as file:
    assert file.names == ['a', 'b']
    np.testing.assert_array_equal(file.read('a', like=(shape, '>i2')), want)
    np.testing.assert_array_equal(file.read('a', most=1 << 10), want)
  np.save(tmp_path / 'a.npy', want)
  content = (tmp_path / 'a.npy').read_bytes()
  np.testing.assert_array_equal(npz.parse(content), want)
  if want.size:
    np.testing.assert_array_equal(npz.map_file(tmp_path / 'a.npy'), want)


HOSTILE = {
  'more rows than bytes': (npy((2**50,)), 'its header says'),
  'a product that wraps': (npy((2**32, 2**32)), 'its header says'),
  'a negative length': (npy((-1,)), 'shape'),
  'truncated': (npy((3,), content=b'12345678'), 'its header says'),
  'too long': (npy((1,), content=b'12345678'), 'its header says'),
  'objects': (npy((1,), '|O', b'12345678'), 'expected numbers'),
  'records': (npy((1,), descr="[('a', '<f4')]", content=b'1234'), 'numbers'),
  'no numbers': (npy((1,), '|V4', b'1234'), 'expected numbers'),
  'no header': (npy("(1, '"), 'no header'),
  'an unfinished header': (npy('((('), 'no header'),
  'another version': (b'\x93NUMPY\x09\x00' + bytes(99), 'no header'),
  'nothing': (b'', 'no header'),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_a_header_that_lies(tmp_path, name):
  content, match = HOSTILE[name]
  (tmp_path / 'a.npy').write_bytes(content)
  readers = (
    lambda: npz.parse(content),
    lambda: npz.map_file(tmp_path / 'a.npy'),
    lambda: archive(a=content).read('a', most=1 << 60),
  )
  for read in readers:
    with pytest.raises(ValueError, match=match) as caught:
      read()
    assert 'pickle' not in str(caught.value)


def test_a_bomb_is_not_unpacked():
  rows = 1 << 28
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as made:
    with made.open('a.npy', 'w', force_zip64=True) as member:
      member.write(npy((rows,), '|u1'))
      for _ in range(rows >> 20):
        member.write(bytes(1 << 20))
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with npz.Archive(io.BytesIO(file.getvalue())) as bomb:
    with pytest.raises(ValueError, match='unpacks to .* at most 1000'):
      bomb.read('a', most=1000)
    with pytest.raises(ValueError, match=r'uint8\[268435456\], expected uint8'):
      bomb.read('a', like=((4,), np.uint8))
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert after - before < 50_000  # kB


def test_damage_is_seen(tmp_path):
  np.savez(tmp_path / 'a.npz', a=np.arange(1000))
  content = bytearray((tmp_path / 'a.npz').read_bytes())
  content[500] ^= 1
  with npz.Archive(io.BytesIO(content)) as file:
    with pytest.raises(ValueError, match='CRC'):
      file.read('a', most=1 << 20)
    with pytest.raises(ValueError, match="'b' cannot be read"):
      file.read('b', most=1 << 20)
  with pytest.raises(ValueError, match='no whole zip archive'):
    npz.Archive(io.BytesIO(content[:-30]))
  with pytest.raises(FileNotFoundError):
    npz.Archive(tmp_path / 'absent.npz')
