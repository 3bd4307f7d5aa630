"""Sources over data that other libraries keep, read by the batch.

  hugging_face  a dataset of `datasets`, by its name or its directory
  tfds          a dataset of TensorFlow Datasets, prepared as ArrayRecord

Neither library is imported before it is asked for.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from parallel_ar import npz
from parallel_ar.data import dataset, files, stored
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.files import PathLike
from parallel_ar.data.stored import Read


@dataclasses.dataclass(frozen=True)
class _HuggingFace:
  path: str
  subset: str | None
  split: str
  field: str

  def table(self) -> Any:
    datasets = _needed('datasets', 'datasets', self.path)
    try:
      saved = ('dataset_dict.json', 'state.json')
      if any(os.path.isfile(os.path.join(self.path, n)) for n in saved):
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
        f'{npz.told(error).rstrip(".")}.'
      ) from error
    return found[_named(self.split, found, self.path)]

  def __call__(self) -> Read:
    table = self.table().select_columns([self.field])

    def read(rows: np.ndarray) -> np.ndarray:
      column = table[rows.tolist()][self.field]
      return _together(column, rows, self.path)

    return read


@dataclasses.dataclass(frozen=True)
class _Tfds:
  path: str
  split: str
  directory: str | None
  field: str

  def source(self) -> Any:
    tfds = _needed('tensorflow_datasets', 'tfds', self.path)
    try:
      builder = tfds.builder(self.path, data_dir=self.directory)
      if not builder.info.splits:
        raise ValueError(f'nothing is prepared in {builder.data_dir}')
      split = _named(self.split, builder.info.splits, self.path)
      return builder.as_data_source(split=split)
    except files.WrongFileError:
      raise
    except Exception as error:  # of the registry, the network or the files
      why = npz.told(error).partition('. Available')[0].rstrip('.')
      raise files.WrongFileError(
        f'{self.path} cannot be read by TensorFlow Datasets as ArrayRecord: '
        f'{why}. Prepare it '
        "with file_format='array_record', where --data_dir looks."
      ) from error

  def __call__(self) -> Read:
    source = self.source()

    def read(rows: np.ndarray) -> np.ndarray:
      found = source.__getitems__(rows.tolist())
      return _together([one[self.field] for one in found], rows, self.path)

    return read


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
    data_dir: where `path` begins, if it is a relative directory.
    path: a directory of `save_to_disk`, or of files whose names tell their
      split (Parquet, CSV, JSON, pictures); else a name on their hub.
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
  stored.check('hugging_face', split, path)
  there = files.directory(data_dir) / os.path.expanduser(path)
  path = str(there) if there.is_dir() else path
  opened = _HuggingFace(path, subset, split, field)
  table = opened.table()
  _check_fields(path, table.column_names, field, label)
  context = stored.labels_of(np.asarray(table[label]), path) if label else None
  x = stored.rows_of(opened, len(table), path)
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
  stored.check('tfds', split, path)
  where = None if data_dir is None else str(files.directory(data_dir))
  opened = _Tfds(path, split, where, field)
  source = opened.source()
  _check_fields(path, list(source[0]) if len(source) else [], field, label)
  context = None
  if label:
    found = (one[label] for one in source)
    context = stored.labels_of(np.fromiter(found, np.int64, len(source)), path)
  x = stored.rows_of(opened, len(source), path)
  return Dataset('tfds', split, x, num_values, context)


def _together(
  examples: Sequence[Any], rows: np.ndarray, where: str
) -> np.ndarray:
  """Examples as one array [n, *E] of whole numbers.

  Args:
    examples: arrays, nested lists or pictures.
    rows: int64[n], their numbers, for the message.
    where: what is read.

  Raises:
    WrongFileError: they have several shapes, or are no whole numbers.
  """
  found: list[np.ndarray] = []
  for row, one in zip(rows, examples, strict=True):
    what = ''
    if getattr(one, 'mode', None) == 'P':  # a picture's numbers of colours
      what = 'is a picture with a palette: convert it to L or RGB'
    try:
      found.append(np.asarray(one))
      if one is None or found[-1].shape != found[0].shape:
        what = what or (
          f'has the shape {list(found[-1].shape)}, and example {rows[0]} '
          f'{list(found[0].shape)}: cut or fill all to one shape'
        )
    except ValueError:  # of NumPy, about nested lists
      what = 'has rows of several lengths: cut or fill all to one shape'
    if what:
      what = 'is missing: leave it out' if one is None else what
      raise files.WrongFileError(f'{where}: example {row} {what}.')
  return stored.whole_numbers(np.stack(found), where)


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
