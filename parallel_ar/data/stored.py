"""Sources over files on disk, read by the batch.

  arrays        .npy and .npz, mapped
  array_record  ArrayRecord, a record the bytes of one example

None lies whole in memory: see `records`. `config.train.data_workers` reads
batches ahead in so many processes of grain. Data that other libraries keep are
in `libraries`.
"""

import dataclasses
import glob
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parallel_ar import npz
from parallel_ar.data import dataset, files, records
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.files import PathLike

Read = Callable[[np.ndarray], np.ndarray]
_SPLIT = '{split}'


@dataclasses.dataclass(frozen=True)
class _File(records.MappedFile):
  """As `MappedFile`; values of any whole numbers."""

  def array(self) -> np.ndarray:
    try:
      return super().array()
    except ValueError as error:
      raise files.WrongFileError(f'{self.path}: {error}.') from error

  def __call__(self) -> Read:
    read = super().__call__()
    return lambda rows: whole_numbers(read(rows), self.path)


@dataclasses.dataclass(frozen=True)
class _ArrayRecord:
  paths: tuple[str, ...]
  event: tuple[int, ...]
  dtype: str

  def source(self) -> Any:
    import grain

    try:
      return grain.sources.ArrayRecordDataSource(list(self.paths))
    except Exception as error:  # of Riegeli, which names no file
      raise files.WrongFileError(
        f'{self.where} cannot be read as ArrayRecord: {npz.told(error)}. Write '
        'it again: a writer that was not closed leaves such a file.'
      ) from error

  @property
  def where(self) -> str:
    more = len(self.paths) - 1
    return f'{self.paths[0]}{f" and {more} more" if more else ""}'

  def __call__(self) -> Read:
    source = self.source()
    dtype = np.dtype(self.dtype)
    size = math.prod(self.event) * dtype.itemsize

    def read(rows: np.ndarray) -> np.ndarray:
      found = source.__getitems__(rows.tolist())
      for row, one in zip(rows, found, strict=True):
        if len(one) != size:
          raise files.WrongFileError(
            f'Record {row} of {self.where} has {len(one)} bytes; '
            f'{dtype.name}{list(self.event)} has {size}. Set config.data.event '
            'and config.data.dtype to what the records hold.'
          )
      x = np.frombuffer(b''.join(found), dtype)
      return whole_numbers(x.reshape(len(rows), *self.event), self.where)

    return read


def arrays(
  split: str,
  data_dir: PathLike | None = None,
  *,
  path: str = '',
  num_values: int = 256,
  key: str = 'x',
  labels: str | None = None,
) -> Dataset:
  """Examples in .npy or .npz files, mapped from disk.

  Args:
    split: what stands for {split} in `path`.
    data_dir: where `path` begins, if it is relative.
    path: such as 'mine/{split}.npy', of whole numbers [N, *E]; a .npz must not
      be compressed (`np.savez`).
    num_values: V; all values are in 0..V-1.
    key: name of the array in a .npz.
    labels: in a .npz the name of an array [N] that becomes the context; beside
      a .npy a path as `path`.

  Returns:
    A Dataset that reads its examples by the batch.

  Raises:
    MissingFileError, WrongFileError: see `files`.
    ValueError: another value.
  """
  (where,) = _paths('arrays', path, split, data_dir, several=False)
  zipped = where.endswith('.npz')
  opened = _File(where, key if zipped else None)
  array = opened.array()
  if array.ndim < 2:
    raise files.WrongFileError(
      f'{where} has shape {list(array.shape)}; expected [N, *event].'
    )
  context = None
  if labels:
    other = _File(where, labels)
    if not zipped:
      (beside,) = _paths('arrays', labels, split, data_dir, several=False)
      other = _File(beside)
    context = labels_of(np.array(other.array()), other.path)
  x = rows_of(opened, len(array), where)
  return Dataset('arrays', split, x, num_values, context)


def array_record(
  split: str,
  data_dir: PathLike | None = None,
  *,
  path: str = '',
  event: Sequence[int] = (),
  dtype: str = 'uint8',
  num_values: int = 256,
) -> Dataset:
  """Examples in ArrayRecord files; a record is the bytes of one, in C order.

  Args:
    split: what stands for {split} in `path`.
    data_dir: where `path` begins, if it is relative.
    path: such as 'mine/{split}*.array_record'; shards in the order of names.
    event: E.
    dtype: of the values in a record: little-endian whole numbers.
    num_values: V; all values are in 0..V-1.

  Returns:
    A Dataset that reads its examples by the batch.

  Raises:
    MissingFileError, WrongFileError: see `files`.
    ValueError: another value.
  """
  check('array_record', split, path)
  shape = tuple(int(n) for n in event)
  if min(shape, default=0) < 1:
    raise ValueError(
      f'config.data.event={shape}: expected the shape of an example, as (28, '
      '28, 1).'
    )
  try:
    stored = np.dtype(dtype).newbyteorder('<')
  except TypeError:
    stored = np.dtype(object)
  if stored.kind not in 'iub':
    raise ValueError(
      f'config.data.dtype={dtype}: expected whole numbers, as uint8 or int32.'
    )
  paths = _paths('array_record', path, split, data_dir, several=True)
  opened = _ArrayRecord(paths, shape, stored.str)
  x = rows_of(opened, len(opened.source()), opened.where)
  return Dataset('array_record', split, x, num_values)


def check(name: str, split: str, path: str) -> None:
  """Checks what all sources over files ask for.

  Raises:
    ValueError: an unknown split, or no `path`.
  """
  dataset.check_split(name, split, ('train', 'valid', 'test'))
  if not path:
    raise ValueError(
      f'The source {name!r} needs config.data.path, which says what to read '
      '(docs/data.md).'
    )


def _paths(
  name: str,
  path: str,
  split: str,
  data_dir: PathLike | None,
  *,
  several: bool,
) -> tuple[str, ...]:
  """The files of a split."""
  check(name, split, path)
  if _SPLIT not in path:
    raise ValueError(
      f'config.data.path={path} names one file for all splits. Write {_SPLIT} '
      f"where 'train', 'valid' or 'test' stands, as in 'mine-{_SPLIT}.npy'."
    )
  pattern = str(files.directory(data_dir) / path.replace(_SPLIT, split))
  found = sorted(glob.glob(pattern)) if several else [pattern]
  if not found or not all(map(os.path.isfile, found)):
    raise files.MissingFileError(
      f'{pattern}: there is no such file. Put it there, or pass another '
      'data_dir or config.data.path.'
    )
  return tuple(found)


def rows_of(opened: Callable[[], Read], count: int, where: str) -> np.ndarray:
  """All examples: array[count, *event].

  Raises:
    WrongFileError: there are none.
  """
  if not count:
    raise files.WrongFileError(f'{where} holds no examples in this split.')
  return records.of(opened, range(count))


def whole_numbers(x: np.ndarray, where: str) -> np.ndarray:
  """As uint8 or int32, with the same values.

  Args:
    x: array[N, *event].
    where: what a refusal names.

  Returns:
    array[N, *event].

  Raises:
    WrongFileError: they are no whole numbers of 32 bits.
  """
  if x.dtype in (np.uint8, np.int32):
    return x
  if x.dtype.kind not in 'iub':
    remedy = 'Quantize them once, and store uint8.'
    if x.dtype.kind in 'SUO':
      remedy = (
        'Store text as the numbers of its symbols, in pieces of one length.'
      )
    raise files.WrongFileError(
      f'{where} holds {x.dtype}; expected whole numbers, 0..V-1. {remedy}'
    )
  if x.size and not -(2**31) <= int(x.min()) <= int(x.max()) < 2**31:
    raise files.WrongFileError(f'{where} holds numbers beyond 32 bits.')
  return x.astype(np.uint8 if x.dtype.kind == 'b' else np.int32)


def labels_of(found: np.ndarray, where: str) -> np.ndarray:
  """As int32.

  Args:
    found: array[N], labels.
    where: what a refusal names.

  Returns:
    int32[N].

  Raises:
    WrongFileError: they are no whole numbers.
  """
  if found.dtype.kind not in 'iu':
    raise files.WrongFileError(
      f'{where}: its labels are {found.dtype}; expected whole numbers.'
    )
  return found.astype(np.int32)
