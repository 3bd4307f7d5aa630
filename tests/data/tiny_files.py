"""Small data files of the true formats."""

import gzip
import io
import pathlib
import tarfile
import zipfile

import numpy as np
import scipy.io

IMAGES = np.random.RandomState(0).randint(0, 256, (12, 28, 28), np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10
BITS = np.random.RandomState(1).randint(0, 2, (5, 784)).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
  """An idx file of unsigned bytes."""
  header = bytes([0, 0, 8, array.ndim])
  return header + np.array(array.shape, '>u4').tobytes() + array.tobytes()


def amat_text(bits: np.ndarray) -> bytes:
  """The text form of the fixed binarized MNIST."""
  return b''.join(b' '.join(b'%d' % b for b in row) + b'\n' for row in bits)


def amat_matlab(bits: np.ndarray, name: str = 'X') -> bytes:
  """The MATLAB form of the fixed binarized MNIST."""
  file = io.BytesIO()
  scipy.io.savemat(file, {name: bits}, do_compression=True)
  return file.getvalue()


def write_mnist(folder: pathlib.Path, *, zipped: bool = False) -> None:
  """Four idx files: the 12 images for training, the first 3 for test."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, array in {
    'train-images-idx3-ubyte': IMAGES,
    'train-labels-idx1-ubyte': LABELS,
    't10k-images-idx3-ubyte': IMAGES[:3],
    't10k-labels-idx1-ubyte': LABELS[:3],
  }.items():
    content = idx(array)
    if zipped:
      (folder / f'{name}.gz').write_bytes(gzip.compress(content))
    else:
      (folder / name).write_bytes(content)


def npz(**arrays: np.ndarray) -> bytes:
  """An .npz file, as the UCI sets come in."""
  file = io.BytesIO()
  np.savez_compressed(file, **arrays)
  return file.getvalue()


def uci(columns: int, *counts: int, dtype: type = np.float32) -> bytes:
  """A UCI set of so many bits, with so many rows in its three splits."""
  random = np.random.RandomState(2)
  return npz(
    **{
      f'{split}_data': random.randint(0, 2, (count, columns)).astype(dtype)
      for split, count in zip(('train', 'valid', 'test'), counts, strict=True)
    }
  )


def chorales(**pieces: list[np.ndarray]) -> bytes:
  """A MATLAB file of piano rolls; traindata=[uint8[T, 88], ...], ..."""
  cells = {}
  for name, rolls in pieces.items():
    cells[name] = np.empty((1, len(rolls)), object)
    cells[name][0] = [*rolls]
  file = io.BytesIO()
  scipy.io.savemat(file, cells)
  return file.getvalue()


def tar_gz(**members: bytes) -> bytes:
  """A .tar.gz with members in one folder, and the folder itself."""
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w:gz') as archive:
    folder = tarfile.TarInfo('inside')
    folder.type = tarfile.DIRTYPE
    archive.addfile(folder)
    for name, content in members.items():
      info = tarfile.TarInfo(f'inside/{name}')
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return file.getvalue()


def zipped(folder: str = '', **members: bytes) -> bytes:
  """A .zip with members in one folder, or in none."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, content in members.items():
      archive.writestr(f'{folder}{name}', content)
  return file.getvalue()


def colours(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
  """Colour images uint8[count, size, size, 3]."""
  shape = (count, size, size, 3)
  return np.random.RandomState(seed).randint(0, 256, shape, np.uint8)


def planes(images: np.ndarray) -> np.ndarray:
  """[N, 3 S S], channel by channel, as both data sets store images."""
  return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def cifar(images: np.ndarray) -> bytes:
  """A binary CIFAR-10 file; the class of image n is n mod 10."""
  classes = np.arange(len(images), dtype=np.uint8)[:, None] % 10
  return np.concatenate([classes, planes(images)], axis=1).tobytes()


def write_cifar10(folder: pathlib.Path, per_batch: int = 3) -> np.ndarray:
  """cifar-10-binary.tar.gz with six files; returns all images, test last."""
  images = colours(6 * per_batch)
  names = [*(f'data_batch_{n}.bin' for n in range(1, 6)), 'test_batch.bin']
  parts = np.split(images, 6)
  content = tar_gz(**dict(zip(names, map(cifar, parts), strict=True)))
  (folder / 'cifar-10-binary.tar.gz').write_bytes(content)
  return images


def imagenet(images: np.ndarray) -> bytes:
  """A file of the .npz release; the label of image n is 1 + n."""
  labels = 1 + np.arange(len(images))
  return npz(data=planes(images), labels=labels, mean=np.zeros(4))


def write_imagenet(
  folder: pathlib.Path, size: int = 32, per_batch: int = 2
) -> np.ndarray:
  """All archives of a size; returns all images, validation last."""
  images = colours(11 * per_batch, size)
  parts = np.split(images, 11)
  names = [f'train_data_batch_{n}.npz' for n in range(1, 11)]
  train = dict(zip(names, map(imagenet, parts[:10]), strict=True))
  archives = {'train': names}
  if size == 64:
    archives = {'train_part1': names[:5], 'train_part2': names[5:]}
  for part, wanted in archives.items():
    content = zipped(**{name: train[name] for name in wanted})
    (folder / f'Imagenet{size}_{part}_npz.zip').write_bytes(content)
  content = zipped(
    f'Imagenet{size}_val_npz/', **{'val_data.npz': imagenet(parts[10])}
  )
  (folder / f'Imagenet{size}_val_npz.zip').write_bytes(content)
  return images


def lzw(data: bytes, clear_at: int = -1) -> bytes:
  """An LZW stream of `compress`, without the three bytes it begins with.

  Args:
    data: what to encode, at most 32 K codes of it.
    clear_at: the code after which the table is emptied, or -1.
  """
  stream, group, width = [], [], 9

  def end_group(size: int) -> None:
    value = sum(code << width * i for i, code in enumerate(group))
    stream.append(value.to_bytes(size, 'little'))
    group.clear()

  table = {bytes([value]): value for value in range(256)}
  word, count = b'', 0
  for symbol in [data[i : i + 1] for i in range(len(data) + 1)]:
    if symbol and word + symbol in table:
      word += symbol
      continue
    group.append(table[word])
    count += 1
    if len(group) == 8:
      end_group(width)
    table[word + symbol] = 1 + len(table)  # 256 is not an entry, but a command
    word = symbol
    if count == clear_at:
      group.append(256)
      end_group(width)
      table = {bytes([value]): value for value in range(256)}
      width = 9
    elif len(table) == 1 << width:
      if group:
        end_group(width)
      width += 1
  end_group(-(-width * len(group) // 8))
  return b''.join(stream)


def bible(windows: list[bytes]) -> bytes:
  """A compressed text file in the form of the bible-kjv-text package."""
  streams = [lzw(window) for window in windows]
  start = 84 + 8 + 4 * (len(windows) + 1)
  offsets = [start]
  for stream in streams:
    offsets.append(offsets[-1] + len(stream))
  table = np.array([65536, len(windows), *offsets], '>u4').tobytes()
  head = b'EC02Compressed Data File'.ljust(84, b'\0')
  return head + table + b''.join(streams)
