"""Sources over what lies on disk in the ecosystem's own forms.

  files         .npy and .npz, mapped
  array_record  ArrayRecord, a record the bytes of one example
  hugging_face  a dataset of `datasets`, by its name or its directory
  tfds          a dataset of TensorFlow Datasets, prepared as ArrayRecord

None lies whole in memory: see `records`. `config.train.data_workers` reads
batches ahead in so many processes of grain.
"""

import dataclasses
import glob
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
    return lambda rows: _whole_numbers(read(rows), self.path)


@dataclasses.dataclass(frozen=True)
class _ArrayRecord:
  paths: tuple[str, ...]
  event: tuple[int, ...]
  dtype: str

  def source(self) -> Any:
    import grain

    return grain.sources.ArrayRecordDataSource(list(self.paths))

  def __call__(self) -> Read:
    source = self.source()

    def read(rows: np.ndarray) -> np.ndarray:
      found = [
        np.frombuffer(one, self.dtype)
        for one in source.__getitems__(rows.tolist())
      ]
      size = int(np.prod(self.event))
      for row, one in zip(rows, found, strict=True):
        if one.size != size:
          raise files.WrongFileError(
            f'Record {row} of {self.paths[0]} has {one.nbytes} bytes; '
            f'{self.dtype}{list(self.event)} has '
            f'{size * np.dtype(self.dtype).itemsize}. Set config.data.event '
            'and config.data.dtype to what the records hold.'
          )
      x = np.stack(found).reshape(len(rows), *self.event)
      return _whole_numbers(x, self.paths[0])

    return read


@dataclasses.dataclass(frozen=True)
class _HuggingFace:
  path: str
  subset: str | None
  split: str
  field: str

  def table(self) -> Any:
    datasets = _needed('datasets', 'datasets', self.path)
    try:
      if os.path.isdir(self.path):
        found = datasets.load_from_disk(self.path)
        if not isinstance(found, datasets.DatasetDict):
          raise ValueError(
            'it has no splits: save a DatasetDict with train, validation, test'
          )
      else:
        found = datasets.load_dataset(self.path, self.subset)
    except Exception as error:  # of the hub, the network or the files
      raise files.WrongFileError(
        f'{self.path} cannot be read as a dataset of Hugging Face: '
        f'{npz.told(error)}.'
      ) from error
    return found[_named(self.split, found, self.path)]

  def __call__(self) -> Read:
    table = self.table().select_columns([self.field])

    def read(rows: np.ndarray) -> np.ndarray:
      column = table[rows.tolist()][self.field]
      x = np.stack([np.asarray(one) for one in column])
      return _whole_numbers(x, self.path)

    return read


@dataclasses.dataclass(frozen=True)
class _Tfds:
  path: str
  split: str
  directory: str | None
  field: str

  def source(self, **options: Any) -> Any:
    tfds = _needed('tensorflow_datasets', 'tfds', self.path)
    try:
      builder = tfds.builder(self.path, data_dir=self.directory)
      split = _named(self.split, builder.info.splits, self.path)
      return builder.as_data_source(split=split, **options)
    except files.WrongFileError:
      raise
    except Exception as error:  # of the registry, the network or the files
      raise files.WrongFileError(
        f'{self.path} cannot be read by TensorFlow Datasets as ArrayRecord: '
        f"{npz.told(error)}. Prepare it with file_format='array_record'."
      ) from error

  def __call__(self) -> Read:
    source = self.source()

    def read(rows: np.ndarray) -> np.ndarray:
      found = source.__getitems__(rows.tolist())
      x = np.stack([np.asarray(one[self.field]) for one in found])
      return _whole_numbers(x, self.path)

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
    context = _labels(np.array(other.array()), other.path)
  x = records.of(opened, range(len(array)))
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
  _check('array_record', split, path)
  if not event:
    raise ValueError('config.data.event is needed: the shape of an example.')
  if np.dtype(dtype).kind not in 'iub':
    raise ValueError(f'config.data.dtype={dtype}: expected whole numbers.')
  paths = _paths('array_record', path, split, data_dir, several=True)
  shape = tuple(int(n) for n in event)
  opened = _ArrayRecord(paths, shape, np.dtype(dtype).newbyteorder('<').str)
  x = records.of(opened, range(len(opened.source())))
  return Dataset('array_record', split, x, num_values)


def hugging_face(
  split: str,
  data_dir: PathLike | None = None,
  *,
  path: str = '',
  field: str = 'image',
  label: str | None = None,
  subset: str | None = None,
  num_values: int = 256,
) -> Dataset:
  """A dataset of the library `datasets`, as Arrow on disk.

  Args:
    split: 'train', 'valid' (their 'validation'), 'test'.
    data_dir: not looked at; the library has a cache of its own.
    path: a directory of `save_to_disk`, or a name on their hub.
    field: column with the examples: pictures or arrays of whole numbers.
    label: column with whole numbers that become the context.
    subset: name of a configuration of the dataset.
    num_values: V; all values are in 0..V-1.

  Returns:
    A Dataset that reads its examples by the batch.

  Raises:
    ModuleNotFoundError: without the extra 'datasets'.
    WrongFileError: it cannot be read, or has no such column or split.
  """
  del data_dir
  _check('hugging_face', split, path)
  opened = _HuggingFace(path, subset, split, field)
  table = opened.table()
  _check_fields(path, table.column_names, field, label)
  context = _labels(np.asarray(table[label]), path) if label else None
  x = records.of(opened, range(len(table)))
  return Dataset('hugging_face', split, x, num_values, context)


def tfds(
  split: str,
  data_dir: PathLike | None = None,
  *,
  path: str = '',
  field: str = 'image',
  label: str | None = None,
  num_values: int = 256,
) -> Dataset:
  """A dataset of TensorFlow Datasets that was prepared as ArrayRecord.

  Args:
    split: 'train', 'valid' (their 'validation'), 'test'.
    data_dir: theirs, with the prepared files; None for their default.
    path: the name of the dataset, such as 'mnist:3.0.1'.
    field: feature with the examples.
    label: feature with whole numbers that become the context.
    num_values: V; all values are in 0..V-1.

  Returns:
    A Dataset that reads its examples by the batch.

  Raises:
    ModuleNotFoundError: without the extra 'tfds'.
    WrongFileError: it cannot be read, or has no such feature or split.
  """
  _check('tfds', split, path)
  where = None if data_dir is None else str(files.directory(data_dir))
  opened = _Tfds(path, split, where, field)
  source = opened.source()
  _check_fields(path, list(source[0]), field, label)
  context = None
  if label:
    found = (one[label] for one in source)
    context = _labels(np.fromiter(found, np.int64, len(source)), path)
  return Dataset(
    'tfds', split, records.of(opened, range(len(source))), num_values, context
  )


def _check(name: str, split: str, path: str) -> None:
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
  _check(name, split, path)
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


def _whole_numbers(x: np.ndarray, where: str) -> np.ndarray:
  """As uint8 or int32, with the same values."""
  if x.dtype in (np.uint8, np.int32):
    return x
  if x.dtype.kind not in 'iub':
    raise files.WrongFileError(
      f'{where} holds {x.dtype}; expected whole numbers, 0..V-1. Quantize them '
      'once, and store uint8.'
    )
  if x.size and not -(2**31) <= int(x.min()) <= int(x.max()) < 2**31:
    raise files.WrongFileError(f'{where} holds numbers beyond 32 bits.')
  return x.astype(np.uint8 if x.dtype.kind == 'b' else np.int32)


def _labels(found: np.ndarray, where: str) -> np.ndarray:
  if found.dtype.kind not in 'iu':
    raise files.WrongFileError(
      f'{where}: its labels are {found.dtype}; expected whole numbers.'
    )
  return found.astype(np.int32)


def _named(split: str, known: Any, where: str) -> str:
  """What others call a split: 'valid' is 'validation' to most."""
  names = {'valid': ('valid', 'validation')}.get(split, (split,))
  for name in names:
    if name in known:
      return name
  raise files.WrongFileError(
    f'{where} has no split {split!r}; it has {", ".join(map(str, known))}.'
  )


def _check_fields(
  where: str, known: Sequence[str], field: str, label: str | None
) -> None:
  for name in filter(None, (field, label)):
    if name not in known:
      raise files.WrongFileError(
        f'{where} has no field {name!r}; it has {", ".join(known)}.'
        f'{dataset.suggest(name, known)}'
      )


def _needed(module: str, extra: str, what: str) -> Any:
  """A package that only some need.

  Raises:
    ModuleNotFoundError: says how it is installed.
  """
  try:
    return __import__(module)
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f'{what} is read by {module}, which is not installed: install '
      f'parallel_ar[{extra}] (PARALLEL_AR_EXTRAS={extra} for run.sh).'
    ) from error
