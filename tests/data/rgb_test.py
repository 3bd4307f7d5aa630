"""Tests of CIFAR-10 and ImageNet, on small files of the true formats."""

import io
import zipfile

import numpy as np
import pytest

from parallel_ar import data as data_lib
from parallel_ar.data import catalogue, files, records, rgb
from tests.data import tiny_files


@pytest.fixture(autouse=True)
def hold_out_few(monkeypatch):
  monkeypatch.setattr(rgb, 'HELD_OUT', {'cifar10': 4, 'imagenet': 5})


def _unpack(folder, archive, to):
  """Unpacks a zip file of the test by hand, and removes it."""
  with zipfile.ZipFile(folder / archive) as content:
    content.extractall(folder / to)
  (folder / archive).unlink()


@pytest.mark.parametrize('folder', ['', 'cifar10'])
def test_cifar10_splits(tmp_path, folder):
  (tmp_path / folder).mkdir(exist_ok=True)
  images = tiny_files.write_cifar10(tmp_path / folder)
  parts = {
    'train': slice(0, 11),
    'valid': slice(11, 15),
    'train+valid': slice(0, 15),
    'test': slice(15, 18),
  }
  classes = np.tile(np.arange(3), 6)
  for split, rows in parts.items():
    data = data_lib.load('cifar10', split, tmp_path, labels=True, verify=False)
    assert (data.name, data.event, data.num_values) == (
      'cifar10',
      (32, 32, 3),
      256,
    )
    np.testing.assert_array_equal(data.x, images[rows])
    np.testing.assert_array_equal(data.context, classes[rows])
    assert data.context.dtype == np.int32
  assert rgb.cifar10('test', tmp_path, verify=False).context is None


@pytest.mark.parametrize('folder', ['cifar-10-batches-bin', 'cifar10', ''])
def test_cifar10_unpacked(tmp_path, folder):
  (tmp_path / folder).mkdir(exist_ok=True)
  images = tiny_files.colours(10)
  for n, part in enumerate(np.split(images, 5), 1):
    path = tmp_path / folder / f'data_batch_{n}.bin'
    path.write_bytes(tiny_files.cifar(part))
  data = rgb.cifar10('train+valid', tmp_path, verify=False)
  np.testing.assert_array_equal(data.x, images)
  with pytest.raises(files.MissingFileError, match=r'--dataset=cifar10'):
    rgb.cifar10('test', tmp_path)


def test_other_cifar10_files_are_refused(tmp_path):
  tiny_files.write_cifar10(tmp_path)
  with pytest.raises(
    files.WrongFileError, match=r'test_batch\.bin is not the file of cifar10'
  ):
    rgb.cifar10('test', tmp_path)
  with pytest.raises(files.WrongFileError, match='15 training images'):
    rgb.HELD_OUT['cifar10'] = 15
    rgb.cifar10('train', tmp_path, verify=False)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'no archive from which test_batch.bin can be read'),
    (b'<html></html>', 'no archive'),
    (tiny_files.tar_gz(x=b'1'), r"members are .*'x'"),
    (tiny_files.tar_gz(**{'test_batch.bin': bytes(3000)}), 'found 3000 bytes'),
    (tiny_files.tar_gz(**{'test_batch.bin': b''}), 'found 0 bytes'),
    (tiny_files.tar_gz(**{'test_batch.bin': b'\x0a' * 3073}), 'the class 10'),
    (
      tiny_files.tar_gz(
        **{'test_batch.bin': tiny_files.cifar(tiny_files.colours(9))}
      )[:20000],
      'truncated',
    ),
  ],
)
def test_wrong_cifar10_archives(tmp_path, content, message):
  (tmp_path / 'cifar-10-binary.tar').write_bytes(content)
  with pytest.raises(files.WrongFileError, match=message):
    rgb.cifar10('test', tmp_path, verify=False)


@pytest.mark.parametrize('size', [32, 64])
@pytest.mark.parametrize('unpacked', [False, True])
def test_imagenet_splits(tmp_path, size, unpacked, monkeypatch):
  images = tiny_files.write_imagenet(tmp_path, size)
  if unpacked and size == 64:
    for part in ('part1', 'part2'):
      name = f'Imagenet64_train_{part}_npz'
      _unpack(tmp_path, f'{name}.zip', name)
  elif unpacked:
    _unpack(tmp_path, 'Imagenet32_train_npz.zip', '.')
  parts = {
    'train': slice(0, 15),
    'valid': slice(15, 20),
    'train+valid': slice(0, 20),
    'test': slice(20, 22),
  }
  for split, rows in parts.items():
    data = data_lib.load(
      f'imagenet{size}', split, tmp_path, labels=True, verify=False
    )
    assert (data.event, data.num_values) == ((size, size, 3), 256)
    np.testing.assert_array_equal(data.x, images[rows])
    np.testing.assert_array_equal(data.context, np.tile([0, 1], 11)[rows])
    assert isinstance(data.x, records.Records)  # nothing lies in memory
  # Unpacked once, 'train' and 'test', with labels; and no draft or lock stays.
  made = list(tmp_path.rglob(f'imagenet{size}-*'))
  assert len(made) == 4 and all(path.suffix == '.npy' for path in made)
  monkeypatch.setattr(rgb, '_contents', None)
  data = data_lib.load(f'imagenet{size}', 'test', tmp_path, verify=False)
  np.testing.assert_array_equal(data.x, images[20:22])


def test_other_imagenet_files_are_refused(tmp_path, monkeypatch):
  tiny_files.write_imagenet(tmp_path)
  with pytest.raises(files.WrongFileError, match=r'not the file .*01399'):
    rgb.imagenet('imagenet32', 'test', tmp_path)
  digest = files.sha256(tmp_path / 'Imagenet32_val_npz.zip')
  monkeypatch.setattr(catalogue, 'digests', lambda *_: [digest])
  with pytest.raises(files.WrongFileError, match=r'2 images.*expected 50000'):
    rgb.imagenet('imagenet32', 'test', tmp_path)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'PK', 'no archive'),
    (tiny_files.zipped(x=b''), r"members are \['x'\]"),
    (tiny_files.zipped(**{'val_data.npz': b'x'}), r'val_data.npz is no \.npz'),
    (
      tiny_files.zipped(**{'val_data.npz': tiny_files.npz(data=np.eye(2))}),
      'expected the arrays data, labels, found data',
    ),
    (
      tiny_files.zipped(
        **{'val_data.npz': tiny_files.imagenet(tiny_files.colours(2, 16))}
      ),
      r'uint8\[2, 768\].*expected uint8\[N, 3072\]',
    ),
  ],
)
def test_wrong_imagenet_archives(tmp_path, content, message):
  (tmp_path / 'Imagenet32_val_npz.zip').write_bytes(content)
  with pytest.raises(files.WrongFileError, match=message):
    rgb.imagenet('imagenet32', 'test', tmp_path, verify=False)


@pytest.mark.parametrize('channels_first', [False, True])
@pytest.mark.parametrize('name', ['{1}_{0}x{0}.npy', 'imagenet{0}-{1}.npy'])
def test_the_old_imagenet(tmp_path, channels_first, name):
  images = tiny_files.colours(9, 64)
  stored = images.transpose(0, 3, 1, 2) if channels_first else images
  np.save(tmp_path / name.format(64, 'train'), stored[:7])
  np.save(tmp_path / name.format(64, 'valid'), stored[7:])
  parts = {'train': slice(2), 'valid': slice(2, 7), 'test': slice(7, 9)}
  for split, rows in parts.items():
    data = data_lib.load('imagenet64_old', split, tmp_path, verify=False)
    np.testing.assert_array_equal(data.x, images[rows])
    assert data.event == (64, 64, 3)
  with pytest.raises(files.WrongFileError, match=r'2 images.*expected 49999'):
    rgb.imagenet_old('imagenet64_old', 'test', tmp_path)


def test_wrong_old_imagenet_files(tmp_path):
  name = 'imagenet32_old'
  with pytest.raises(files.MissingFileError, match=r'withdrawn.*train_32x32'):
    rgb.imagenet_old(name, 'test', tmp_path)
  path = tmp_path / 'valid_32x32.npy'
  path.write_bytes(b'x')
  with pytest.raises(files.WrongFileError, match=r'no \.npy file'):
    rgb.imagenet_old(name, 'test', tmp_path)
  file = io.BytesIO()
  np.save(file, np.zeros((2, 3072), np.uint8))
  path.write_bytes(file.getvalue())
  with pytest.raises(files.WrongFileError, match=r'uint8\[2, 3072\]; expected'):
    rgb.imagenet_old(name, 'test', tmp_path)
