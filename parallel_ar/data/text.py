"""Text as bytes: any file, cut into examples of one length.

The file is split where it stands: the first 90 % of its bytes are 'train', the
next 5 % 'valid', the last 5 % 'test' ('shakespeare' has a split of its own).
Each part is cut from its start into examples of `length` bytes; fewer than
`length` bytes at its end make no example.

The first symbol of an example is predicted from nothing, where a language
model that reads x[i : i + L] and predicts x[i + 1 : i + L + 1] has at least one
symbol for each prediction. `previous=True` is that: the context of an example
is the symbol before it, so the L predictions read 1, ..., L symbols, and every
symbol of a split but its first counts once.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from parallel_ar.data import archives, catalogue, dataset, files
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.files import PathLike

_BLOCK = 1 << 20
VOCABULARIES = ('bytes', 'training', 'file')


class Cut(NamedTuple):
  """How a split becomes examples; see the arguments of `text`."""

  length: int
  vocabulary: str
  previous: bool
  hop: int


def text(
  split: str,
  data_dir: PathLike | None = None,
  *,
  file: str = '',
  path: PathLike = '',
  length: int = 256,
  vocabulary: str = 'bytes',
  previous: bool = False,
  hop: int = 0,
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
    previous: whether `context` is the symbol before each example, int32[N] in
      0..V-1, for a model of num_classes = V. The split's first byte is then
      only a context.
    hop: bytes between the starts of two training examples; 0 is L, and 1 has
      every window, which costs no memory. Other splits never overlap, so that
      each symbol counts once.

  Returns:
    A Dataset with event (L,), and `symbols` to turn values back into bytes.

  Raises:
    MissingFileError: no such file.
    ValueError: no such split or vocabulary, a negative hop, a file too short
      for the length, a byte that training has not.
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
      'nothing there. Check data.path (--config.data.path), or give the name '
      'of a file in --data_dir as data.file.'
    )
  content = np.frombuffer(files.read(path), np.uint8)
  cut = Cut(length, vocabulary, previous, hop)
  return _examples('text', split, path, content, cut, _tenths(content))


def kjv(
  split: str,
  data_dir: PathLike | None = None,
  *,
  length: int = 256,
  vocabulary: str = 'bytes',
  previous: bool = False,
  hop: int = 0,
  verify: bool = True,
) -> Dataset:
  """The King James Bible, 4,404,475 bytes, a verse a line; see `text`.

  Args:
    split: as in `text`.
    data_dir: directory with kjv.txt, in kjv/ or directly.
    length: L, bytes of an example.
    vocabulary: as in `text`.
    previous: as in `text`.
    hop: as in `text`.
    verify: whether to compare the file's sha256 with the one `fetch` makes.

  Returns:
    A Dataset with event (L,).
  """
  dataset.check_split('kjv', split)
  path, content = _known('kjv', ('kjv.txt',), data_dir, verify)
  cut = Cut(length, vocabulary, previous, hop)
  return _examples('kjv', split, path, content, cut, _tenths(content))


def shakespeare(
  split: str,
  data_dir: PathLike | None = None,
  *,
  length: int = 256,
  vocabulary: str = 'file',
  previous: bool = False,
  hop: int = 0,
  verify: bool = True,
) -> Dataset:
  """Tiny Shakespeare, 1,115,394 characters of 65 kinds; see `text`.

  The split is the one that published numbers have: the first 90 % for
  training, the last 10 %, 111,540 characters, for everything else. 'valid' and
  'test' are both those: a model chosen on 'valid' was chosen on 'test'.

  Args:
    split: 'train', 'valid' or 'test'.
    data_dir: directory with input.txt (or tinyshakespeare.txt), in shakespeare/
      or directly.
    length: L, characters of an example.
    vocabulary: as in `text`; published numbers are for 'file'.
    previous: as in `text`; published numbers are for True.
    hop: as in `text`; 1 has all the windows that random offsets can draw.
    verify: whether to compare the file's sha256 with the true one.

  Returns:
    A Dataset with event (L,).

  References:
    Karpathy, The unreasonable effectiveness of recurrent neural networks, 2015.
  """
  dataset.check_split('shakespeare', split, ('train', 'valid', 'test'))
  names = ('input.txt', 'tinyshakespeare.txt')
  path, content = _known('shakespeare', names, data_dir, verify)
  total = len(content)
  train = total * 90 // 100
  parts = {'train': (0, train), 'valid': (train, total), 'test': (train, total)}
  cut = Cut(length, vocabulary, previous, hop)
  return _examples('shakespeare', split, path, content, cut, parts)


def wikipedia(
  name: str,
  split: str,
  data_dir: PathLike | None = None,
  *,
  length: int = 256,
  vocabulary: str = 'file',
  previous: bool = False,
  hop: int = 0,
  verify: bool = True,
) -> Dataset:
  """text8 or enwik8: 90,000,000 / 5,000,000 / 5,000,000 bytes; see `text`.

  Published numbers are bits a character (nats / ln 2) of the last 5,000,000.
  They depend on what is given: 'previous' reads up to L symbols, while the best
  rows evaluate with a context of thousands.

  Args:
    name: 'text8' (27 symbols) or 'enwik8' (bytes of Wikipedia's XML).
    split: as in `text`.
    data_dir: directory with text8.zip or text8, enwik8.zip or enwik8, in a
      folder of that name or directly.
    length: L, bytes of an example.
    vocabulary: as in `text`.
    previous: as in `text`.
    hop: as in `text`.
    verify: whether to compare the file's sha256 with the true ones.

  Returns:
    A Dataset with event (L,).

  References:
    Mahoney, Large text compression benchmark, 2011.
  """
  dataset.check_split(name, split)
  path, content = _known(name, (f'{name}.zip', name), data_dir, verify)
  cut = Cut(length, vocabulary, previous, hop)
  return _examples(name, split, path, content, cut, _tenths(content))


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
      'a dataset of a text source.'
    )
  return np.frombuffer(source.symbols, np.uint8)[np.asarray(x)].tobytes()


def _known(
  name: str, names: tuple[str, ...], data_dir: PathLike | None, verify: bool
) -> tuple[pathlib.Path, np.ndarray]:
  """(path, bytes) of a set's one file, which the catalogue calls names[0]."""
  path = files.find(name, names, data_dir)
  content = files.read(path)
  if verify:
    files.verify(path, content, catalogue.digests(name, names[0]), name)
  content = archives.unzipped(path, content, name)
  return path, np.frombuffer(content, np.uint8)


def _tenths(content: np.ndarray) -> dict[str, tuple[int, int]]:
  """(start, stop) of the splits 90 : 5 : 5."""
  total = len(content)
  train, valid = total * 90 // 100, total * 95 // 100
  return {
    'train': (0, train),
    'valid': (train, valid),
    'test': (valid, total),
    'train+valid': (0, valid),
  }


def _examples(
  name: str,
  split: str,
  path: PathLike,
  content: np.ndarray,
  cut: Cut,
  parts: dict[str, tuple[int, int]],
) -> Dataset:
  """The split of a whole file, as examples of one length."""
  start, stop = parts[split]
  first = start + cut.previous
  if cut.hop < 0:
    raise ValueError(f'hop is a number of bytes of at least 0; got {cut.hop}.')
  if stop <= first:
    raise ValueError(
      f'{path} has {len(content)} bytes, of which the {split!r} split has '
      f'{max(stop - start, 0)}: no example of any length. Choose a longer file.'
    )
  if not 1 <= cut.length <= stop - first:
    raise ValueError(
      f'{path} has {len(content)} bytes, of which the {split!r} split has '
      f'{stop - first}: not one example of length {cut.length}. Choose a '
      f'length from 1 to {stop - first}, or a longer file.'
    )
  symbols = _symbols(path, content, parts['train'][1], cut.vocabulary)
  table = np.zeros(256, np.uint8)
  table[symbols] = np.arange(len(symbols))
  values = table[content[start:stop]]
  # Only a training split may count a symbol twice.
  hop = (cut.hop if split.startswith('train') else 0) or cut.length
  windows = np.lib.stride_tricks.sliding_window_view(
    values[cut.previous :], cut.length
  )
  x, context = windows[::hop], None
  if cut.previous:
    context = values[: len(values) - cut.length : hop].astype(np.int32)
  return Dataset(
    name, split, x, len(symbols), context, symbols=symbols.tobytes()
  )


def _symbols(
  path: PathLike, content: np.ndarray, train_end: int, vocabulary: str
) -> np.ndarray:
  """uint8[V], the byte of each value, in increasing order."""
  if vocabulary == 'bytes':
    return np.arange(256, dtype=np.uint8)
  if vocabulary == 'file':
    return _occurring(content)
  if vocabulary != 'training':
    raise ValueError(
      f'No vocabulary {vocabulary!r}; expected one of '
      f'{", ".join(map(repr, VOCABULARIES))}.'
      f'{dataset.suggest(vocabulary, VOCABULARIES)}'
    )
  symbols = _occurring(content[:train_end])
  unseen = np.setdiff1d(_occurring(content[train_end:]), symbols)
  if unseen.size:
    raise ValueError(
      f'{path} has bytes after its training split that do not occur in it: '
      f'{unseen.tobytes()!r}. A model of the training bytes gives them '
      "probability zero. Use vocabulary='bytes', or 'file'."
    )
  return symbols


def _occurring(content: np.ndarray) -> np.ndarray:
  """uint8[V], the bytes that occur; counting is faster than sorting."""
  counts = np.zeros(256, np.int64)
  for start in range(
    0, len(content), _BLOCK
  ):  # bincount widens each to 8 bytes
    counts += np.bincount(content[start : start + _BLOCK], minlength=256)
  return np.flatnonzero(counts).astype(np.uint8)
