"""Text as bytes: any file, cut into examples of one length.

The file is split where it stands: the first 90 % of its bytes are 'train', the
next 5 % 'valid', the last 5 % 'test'. Each part is cut from its start into
examples of `length` bytes; fewer than `length` bytes at its end make no
example.
"""

import pathlib

import numpy as np

from parallel_ar.data import catalogue, dataset, files
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.files import PathLike

VOCABULARIES = ('bytes', 'training', 'file')


def text(
  split: str,
  data_dir: PathLike | None = None,
  *,
  file: str = '',
  path: PathLike = '',
  length: int = 256,
  vocabulary: str = 'bytes',
) -> Dataset:
  """Bytes of a text file.

  Args:
    split: 'train', 'valid', 'test' or 'train+valid'.
    data_dir: directory of `file`, in text/ or directly.
    file: name of the file in data_dir.
    path: instead of `file`, the path of the file.
    length: L, bytes of an example.
    vocabulary: what the values stand for. 'bytes': all 256. 'training': the
      bytes that occur in the training split, in increasing order, so that V is
      small; a byte elsewhere that training never showed has probability zero
      under any such model, and is refused. 'file': the bytes that occur in
      the whole file, as is usual for small character models (it tells the
      model which bytes the test split has).

  Returns:
    A Dataset with event (L,), and `symbols` to turn values back into bytes.

  Raises:
    MissingFileError: no such file.
    ValueError: no such split or vocabulary, a file too short for the length, a
      byte that training has not.
  """
  dataset.check_split('text', split)
  if bool(file) == bool(path):
    raise ValueError(
      "The 'text' source needs exactly one of file= (a name in data_dir) and "
      f'path=; got file={file!r}, path={path!r}. For example file=kjv.txt '
      'after ./run.sh fetch --dataset=kjv.'
    )
  if file:
    path = files.find('text', (file,), data_dir)
  elif not pathlib.Path(path).is_file():
    raise files.MissingFileError(
      f'The text file {path} is missing: expected a file of text, found '
      'nothing there. Check the path, or pass file= and data_dir.'
    )
  content = np.frombuffer(files.read(path), np.uint8)
  return _cut('text', split, path, content, length, vocabulary)


def kjv(
  split: str,
  data_dir: PathLike | None = None,
  *,
  length: int = 256,
  vocabulary: str = 'bytes',
  verify: bool = True,
) -> Dataset:
  """The King James Bible, 4,404,475 bytes, a verse a line; see `text`.

  Args:
    split: as in `text`.
    data_dir: directory with kjv.txt, in kjv/ or directly.
    length: L, bytes of an example.
    vocabulary: as in `text`.
    verify: whether to compare the file's sha256 with the one `fetch` makes.

  Returns:
    A Dataset with event (L,).
  """
  dataset.check_split('kjv', split)
  path = files.find('kjv', ('kjv.txt',), data_dir)
  content = files.read(path)
  if verify:
    files.verify(path, content, catalogue.digests('kjv', 'kjv.txt'), 'kjv')
  content_array = np.frombuffer(content, np.uint8)
  return _cut('kjv', split, path, content_array, length, vocabulary)


def decode(source: Dataset, x: np.ndarray) -> bytes:
  """The bytes that values of a text source stand for.

  Args:
    source: a Dataset of this module.
    x: integers of any shape, in 0..V-1.

  Returns:
    The bytes, in C order.

  Raises:
    ValueError: the dataset is no text.
  """
  if source.symbols is None:
    raise ValueError(
      f'{source.name!r} is no text, so its values stand for no bytes; expected '
      "a dataset of the 'text' or 'kjv' source."
    )
  return np.frombuffer(source.symbols, np.uint8)[np.asarray(x)].tobytes()


def _cut(
  name: str,
  split: str,
  path: PathLike,
  content: np.ndarray,
  length: int,
  vocabulary: str,
) -> Dataset:
  """The split of a whole file, as examples of one length."""
  total = len(content)
  ends = (total * 90 // 100, total * 95 // 100)
  start, stop = {
    'train': (0, ends[0]),
    'valid': ends,
    'test': (ends[1], total),
    'train+valid': (0, ends[1]),
  }[split]
  count = (stop - start) // length if length > 0 else 0
  if not count:
    raise ValueError(
      f'{path} has {total} bytes, of which the {split!r} split has '
      f'{stop - start}: not one example of length {length}. Choose a length '
      f'from 1 to {stop - start}, or a longer file.'
    )
  symbols = _symbols(path, content, ends[0], vocabulary)
  part = content[start : start + count * length]
  table = np.zeros(256, np.uint8)
  table[symbols] = np.arange(len(symbols))
  x = table[part].reshape(count, length)
  return Dataset(name, split, x, len(symbols), symbols=symbols.tobytes())


def _symbols(
  path: PathLike, content: np.ndarray, train_end: int, vocabulary: str
) -> np.ndarray:
  """uint8[V], the byte of each value, in increasing order."""
  if vocabulary == 'bytes':
    return np.arange(256, dtype=np.uint8)
  if vocabulary == 'file':
    return np.unique(content)
  if vocabulary != 'training':
    raise ValueError(
      f'No vocabulary {vocabulary!r}; expected one of '
      f'{", ".join(map(repr, VOCABULARIES))}.'
      f'{dataset.suggest(vocabulary, VOCABULARIES)}'
    )
  symbols = np.unique(content[:train_end])
  unseen = np.setdiff1d(content[train_end:], symbols)
  if unseen.size:
    raise ValueError(
      f'{path} has bytes after its training split that do not occur in it: '
      f'{unseen.tobytes()!r}. A model of the training bytes gives them '
      "probability zero. Use vocabulary='bytes', or 'file'."
    )
  return symbols
