"""Colour images: CIFAR-10 and ImageNet at 32x32 and 64x64, event (H, W, 3).

None has a validation split of its own, so the last training images are one:
'train+valid' is all of them, which published models are trained on, and 'test'
is the images that published numbers are of.

  cifar10         50,000 (the last 5,000 for validation) and 10,000 of 32x32
  imagenet32      1,281,167 (the last 10,000) and 50,000: the .npz files that
  imagenet64      image-net.org has now
  imagenet32_old  1,281,149 (the last 10,000) and 49,999: the files of PixelRNN,
  imagenet64_old  which nearly every published number is of, withdrawn in 2021

The old and the present ImageNet were made smaller by different filters; bits
per dimension on one cannot be compared with those on the other.

References:
  Krizhevsky, Learning multiple layers of features from tiny images, 2009.
  van den Oord, Kalchbrenner and Kavukcuoglu, Pixel recurrent neural networks,
  ICML 2016 (the old files).
  Chrabaszcz, Loshchilov and Hutter, A downsampled variant of ImageNet as an
  alternative to the CIFAR datasets, 2017 (the present ones).
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from parallel_ar import npz
from parallel_ar.data import archives, catalogue, dataset, files, records
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.files import PathLike

HELD_OUT = {'cifar10': 5_000, 'imagenet': 10_000}

# sha256 of the files inside the archive.
_CIFAR10 = {
  'data_batch_1.bin': (
    'cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5'
  ),
  'data_batch_2.bin': (
    'a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed'
  ),
  'data_batch_3.bin': (
    'bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67'
  ),
  'data_batch_4.bin': (
    '014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48'
  ),
  'data_batch_5.bin': (
    '755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add'
  ),
  'test_batch.bin': (
    '8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b'
  ),
}
_IMAGENET_COUNTS = {'train': 1_281_167, 'test': 50_000}
_OLD_COUNTS = {'train': 1_281_149, 'test': 49_999}


class _Archive(NamedTuple):
  """An archive, the folder that it unpacks to, and the members wanted."""

  name: str
  folder: str
  members: Sequence[str]


def cifar10(
  split: str,
  data_dir: PathLike | None = None,
  *,
  labels: bool = False,
  verify: bool = True,
) -> Dataset:
  """CIFAR-10: 45,000 / 5,000 / 10,000 images of 32x32, values 0..255.

  Args:
    split: 'train', 'valid' (the last 5,000 training images), 'test' or
      'train+valid'.
    data_dir: directory with cifar-10-binary.tar.gz (the version "for C
      programs", in which nothing is pickled), or with its .bin files, in
      cifar10/ or directly.
    labels: whether `context` holds the class, int32[N] in 0..9.
    verify: whether to compare the sha256 of each .bin file with the true one.

  Returns:
    A Dataset with event (32, 32, 3).

  Raises:
    MissingFileError, WrongFileError: see `files`.
    ValueError: no such split.
  """
  dataset.check_split('cifar10', split)
  wanted = ['test_batch.bin'] if split == 'test' else list(_CIFAR10)[:5]
  archive = _Archive('cifar-10-binary.tar', 'cifar-10-batches-bin', wanted)
  images, classes = [], []
  for where, content in _contents('cifar10', [archive], data_dir):
    if not content or len(content) % 3073:
      raise files.WrongFileError(
        f'{where} is truncated or no binary CIFAR-10 file: expected records of '
        f'3,073 bytes (a class and 32x32x3 values), found {len(content)} '
        f'bytes. {files.advice("cifar10", data_dir)}'
      )
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    if records[:, 0].max() > 9:
      raise files.WrongFileError(
        f'{where} is no binary CIFAR-10 file: it has the class '
        f'{records[:, 0].max()}, expected 0..9. CIFAR-100 has other records.'
      )
    if verify:
      name = where.replace(':', '/').rsplit('/', 1)[-1]
      files.verify(where, content, [_CIFAR10[name]], 'cifar10')
    images.append(_last_axis(records[:, 1:], 32))
    classes.append(records[:, 0])
  return _split(
    'cifar10',
    split,
    np.concatenate(images),
    np.concatenate(classes) if labels else None,
    HELD_OUT['cifar10'],
  )


def imagenet(
  name: str,
  split: str,
  data_dir: PathLike | None = None,
  *,
  labels: bool = False,
  verify: bool = True,
) -> Dataset:
  """ImageNet made smaller, from the .npz files that image-net.org has now.

  The first use unpacks them, a file at a time, into one .npy beside them, 3.9
  GB at 32x32 and 15.7 GB at 64x64, which is mapped: no process holds it.

  Args:
    name: 'imagenet32' or 'imagenet64'.
    split: 'train', 'valid' (the last 10,000 training images), 'test' (the
      50,000 validation images) or 'train+valid'.
    data_dir: directory with Imagenet32_train_npz.zip, Imagenet32_val_npz.zip
      (64: Imagenet64_train_part1_npz.zip, ..._part2_npz.zip, ...), or with what
      they unpack to, in imagenet32/ or directly.
    labels: whether `context` holds the class, int32[N] in 0..999.
    verify: whether to compare the archives' sha256 and the numbers of images
      with the true ones; of unpacked files the numbers only.

  Returns:
    A Dataset with event (H, W, 3).

  Raises:
    MissingFileError, WrongFileError: see `files`.
    ValueError: no such split.
  """
  dataset.check_split(name, split)
  wanted = _imagenet_archives(int(name.removeprefix('imagenet')), split)
  sources = [p for a in wanted for p in _places(name, a, data_dir)]
  part = 'test' if split == 'test' else 'train'
  kept = records.Kept(
    sources[0].parent / f'{name}-{part}{"" if verify else "-unverified"}',
    sources,
  )
  x, classes = kept.arrays(
    lambda: _imagenet_batches(name, wanted, data_dir, verify)
  )
  if verify:
    _check_count(name, split, len(x), _IMAGENET_COUNTS, data_dir)
  held_out = HELD_OUT['imagenet']
  return _split(name, split, x, classes if labels else None, held_out)


def _imagenet_batches(
  name: str,
  wanted: Sequence[_Archive],
  data_dir: PathLike | None,
  verify: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(images [N, H, W, 3], classes int32[N]) of each file in turn, checked."""
  size = int(name.removeprefix('imagenet'))
  for where, content in _contents(name, wanted, data_dir, verify):
    parts = archives.parse_npz(where, content, ['data', 'labels'])
    data, label = parts['data'], parts['labels'].reshape(-1)
    wide = data.ndim == 2 and data.shape[1] == 3 * size**2
    if not wide or data.dtype != np.uint8 or len(label) != len(data):
      raise files.WrongFileError(
        f'{where} has data {data.dtype}{list(data.shape)} and {len(label)} '
        f'labels; expected uint8[N, {3 * size**2}] and N labels. '
        f'{files.advice(name, data_dir)}'
      )
    if not ((1 <= label) & (label <= 1000)).all():
      raise files.WrongFileError(
        f'{where} has labels in {label.min()}..{label.max()}; expected 1..1000.'
        f' {files.advice(name, data_dir)}'
      )
    yield _last_axis(data, size), (label - 1).astype(np.int32)


def imagenet_old(
  name: str,
  split: str,
  data_dir: PathLike | None = None,
  *,
  verify: bool = True,
) -> Dataset:
  """ImageNet made smaller, the files that PixelRNN and its followers used.

  The arrays are mapped from disk, so they need no memory.

  Args:
    name: 'imagenet32_old' or 'imagenet64_old'.
    split: 'train', 'valid' (the last 10,000 training images), 'test' (the
      49,999 validation images) or 'train+valid'.
    data_dir: directory with train_32x32.npy and valid_32x32.npy (or
      imagenet32-train.npy and imagenet32-valid.npy), uint8[N, 32, 32, 3] or
      uint8[N, 3, 32, 32], in imagenet32_old/ or directly.
    verify: whether to compare the numbers of images with the true ones, which
      tells these sets from the present ones.

  Returns:
    A Dataset with event (H, W, 3).

  Raises:
    MissingFileError, WrongFileError: see `files`.
    ValueError: no such split.
  """
  dataset.check_split(name, split)
  size = int(name.removeprefix('imagenet').removesuffix('_old'))
  part = 'valid' if split == 'test' else 'train'
  names = (f'{part}_{size}x{size}.npy', f'imagenet{size}-{part}.npy')
  path = files.find(name, names, data_dir)
  try:
    x = npz.map_file(path)
  except (ValueError, OSError) as error:
    raise files.WrongFileError(
      f'{path} is no .npy file that can be mapped: {error}. '
      f'{files.advice(name, data_dir)}'
    ) from error
  first = x.shape[1:] == (3, size, size)
  if first:
    x = x.transpose(0, 2, 3, 1)
  if x.shape[1:] != (size, size, 3) or x.dtype != np.uint8:
    raise files.WrongFileError(
      f'{path} is {x.dtype}{list(x.shape)}; expected uint8[N, {size}, {size}, '
      f'3]. {files.advice(name, data_dir)}'
    )
  if verify:
    _check_count(name, split, len(x), _OLD_COUNTS, data_dir)
  rows = records.of(_OldFile(str(path), first), range(len(x)))
  return _split(name, split, rows, None, HELD_OUT['imagenet'])


@dataclasses.dataclass(frozen=True)
class _OldFile:
  """Opens a file whose channels may come first."""

  path: str
  channels_first: bool

  def __call__(self) -> Callable[[np.ndarray], np.ndarray]:
    x, axes = npz.map_file(self.path), (0, 1, 2, 3)
    if self.channels_first:
      axes = (0, 2, 3, 1)
    return lambda rows: x[rows].transpose(axes)


def _imagenet_archives(size: int, split: str) -> list[_Archive]:
  if split == 'test':
    name = f'Imagenet{size}_val_npz'
    return [_Archive(f'{name}.zip', name, ['val_data.npz'])]
  batches = [f'train_data_batch_{n}.npz' for n in range(1, 11)]
  parts = {f'Imagenet{size}_train_npz': batches}
  if size == 64:
    parts = {
      'Imagenet64_train_part1_npz': batches[:5],
      'Imagenet64_train_part2_npz': batches[5:],
    }
  return [_Archive(f'{n}.zip', n, batch) for n, batch in parts.items()]


def _places(
  name: str, archive: _Archive, data_dir: PathLike | None
) -> list[pathlib.Path]:
  """The archive, or else the files that it unpacks to."""
  first, *more = (
    (f'{archive.folder}/{member}', member) for member in archive.members
  )
  path = files.find(name, (archive.name, *first), data_dir)
  if path.name in (archive.name, f'{archive.name}.gz'):
    return [path]
  return [path, *(files.find(name, names, data_dir) for names in more)]


def _contents(
  name: str,
  wanted: Sequence[_Archive],
  data_dir: PathLike | None,
  verify: bool = False,
) -> Iterator[tuple[str, bytes]]:
  """(where, content) of all members, from archives or what they unpack to."""
  for archive in wanted:
    path, *more = _places(name, archive, data_dir)
    if path.name not in (archive.name, f'{archive.name}.gz'):
      yield from ((str(one), files.read(one)) for one in (path, *more))
      continue
    digests = catalogue.digests(name, archive.name)
    if verify and not files.matches(path, digests):
      raise files.WrongFileError(
        f'{path} is not the file of {name}: expected {" or ".join(digests)}. '
        f'{files.advice(name, data_dir)} verify=False reads other images of '
        'the same format.'
      )
    yield from archives.members(pathlib.Path(path), archive.members)


def _last_axis(flat: np.ndarray, size: int) -> np.ndarray:
  """[N, 3 S S], channel by channel, as a view [N, S, S, 3]."""
  return flat.reshape(-1, 3, size, size).transpose(0, 2, 3, 1)


def _check_count(
  name: str,
  split: str,
  found: int,
  counts: dict[str, int],
  data_dir: PathLike | None,
) -> None:
  expected = counts['test' if split == 'test' else 'train']
  if found != expected:
    raise files.WrongFileError(
      f'{name} has {found} images for {split!r}, counted before any are held '
      f'out; expected {expected}. {files.advice(name, data_dir)} verify=False '
      'reads other images of the same format.'
    )


def _split(
  name: str,
  split: str,
  x: np.ndarray,
  classes: np.ndarray | None,
  held_out: int,
) -> Dataset:
  """The part of the training images, or all of the test images."""
  rows = slice(None)
  if split in ('train', 'valid'):
    if len(x) <= held_out:
      raise files.WrongFileError(
        f'{name} has {len(x)} training images, of which the last {held_out} '
        f"are for validation: none are left. Use 'train+valid'."
      )
    first = len(x) - held_out
    rows = slice(0, first) if split == 'train' else slice(first, None)
  context = None if classes is None else classes[rows].astype(np.int32)
  return Dataset(name, split, x[rows], 256, context)
