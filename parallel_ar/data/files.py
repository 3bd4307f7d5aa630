"""Data files: finding them, proving them whole, reading idx and amat.

A file is read completely and checked before any of it is used, so nothing is
ever half-read: a missing, truncated or wrong file raises an error that names
the path, what was expected, what was found, and what to do.

Layout. A data set's files stand in `<data_dir>/<set>/`, where `fetch` puts
them, or directly in `<data_dir>/`; each may be plain or gzipped.

  data/mnist/train-images-idx3-ubyte         data/bmnist_train.amat

References:
  LeCun, The MNIST database of handwritten digits (the idx format).
"""

import gzip
import hashlib
import io
import os
import pathlib
import zlib
from collections.abc import Collection, Sequence

import numpy as np
import scipy.io

from parallel_ar.data import catalogue

DEFAULT_DIRECTORY = 'data'

PathLike = str | os.PathLike[str]

_GZIP = b'\x1f\x8b'
_MATLAB = b'MATLAB 5.0 MAT-file'


class MissingFileError(FileNotFoundError):
  """A data file that is not there."""


class WrongFileError(ValueError):
  """A data file that is truncated, or is not what it should be."""


def directory(data_dir: PathLike | None) -> pathlib.Path:
  """`data_dir`, by default ./data, with ~ expanded."""
  return pathlib.Path(data_dir or DEFAULT_DIRECTORY).expanduser()


def advice(folder: str, data_dir: PathLike | None) -> str:
  """What to do about a data set whose files are missing or wrong."""
  where = directory(data_dir)
  if folder in catalogue.BY_HAND:
    return catalogue.BY_HAND[folder].format(folder=where / folder)
  if folder not in catalogue.CATALOGUE:
    return 'Put the file there, or pass another data_dir.'
  return (
    f'Get it with ./run.sh fetch --dataset={folder} --data_dir={where}, or '
    'pass the data_dir that has it.'
  )


def find(
  folder: str, names: Sequence[str], data_dir: PathLike | None
) -> pathlib.Path:
  """The path of a file that has one of `names`, plain or gzipped.

  Args:
    folder: name of the data set, a folder inside data_dir.
    names: names of the file, in order of preference.
    data_dir: where to look: `<data_dir>/<folder>/`, then `<data_dir>/`.

  Returns:
    The first path that exists.

  Raises:
    MissingFileError: none does.
  """
  root = directory(data_dir)
  for parent in (root / folder, root):
    for name in names:
      for path in (parent / name, parent / f'{name}.gz'):
        if path.is_file():
          return path
  raise MissingFileError(
    f'The {folder} data is missing: expected {" or ".join(names)} (plain or '
    f'.gz) in {root / folder} or in {root}, found '
    f'{"neither" if root.is_dir() else f"no directory {root}"}. '
    f'{advice(folder, data_dir)}'
  )


def read(path: PathLike) -> bytes:
  """The whole content of a file, unzipped where it is gzipped.

  Raises:
    WrongFileError: the gzip stream is truncated or damaged.
  """
  content = pathlib.Path(path).read_bytes()
  if not content.startswith(_GZIP):
    return content
  try:
    return gzip.decompress(content)
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise WrongFileError(
      f'{path} is a truncated or damaged gzip file: expected a whole gzip '
      f'stream, found {len(content)} bytes that end in an error ({error}). '
      'Delete it and get it again (./run.sh fetch --help).'
    ) from error


def sha256(path: PathLike) -> str:
  """sha256 of a file's content, unzipped where it is gzipped, in hex.

  Raises:
    WrongFileError: the gzip stream is truncated or damaged.
  """
  digest = hashlib.sha256()
  with open(path, 'rb') as raw:
    zipped = raw.read(2) == _GZIP
    raw.seek(0)
    try:
      with gzip.open(raw) if zipped else raw as file:
        while block := file.read(1 << 20):
          digest.update(block)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
      raise WrongFileError(
        f'{path} is a truncated or damaged gzip file ({error}).'
      ) from error
  return digest.hexdigest()


def matches(path: PathLike, digests: Collection[str]) -> bool:
  """Whether a file's content, unzipped, has one of some digests.

  Args:
    path: of the file.
    digests: as in `catalogue.Form`.

  Raises:
    WrongFileError: the gzip stream is truncated or damaged.
  """
  if sha256(path) in digests:
    return True
  kinds = {digest.partition(':')[0] for digest in digests}
  if 'file' in kinds:
    with open(path, 'rb') as file:
      if f'file:{hashlib.file_digest(file, "sha256").hexdigest()}' in digests:
        return True
  return 'git' in kinds and _git_blob(read(path)) in digests


def _git_blob(content: bytes) -> str:
  """'git:' and the id that git gives a blob."""
  header = b'blob %d\0' % len(content)
  return f'git:{hashlib.sha1(header + content).hexdigest()}'


def verify(
  path: PathLike, content: bytes, expected: Sequence[str], folder: str
) -> None:
  """Compares the digest of a content with those of the true file.

  Args:
    path: where the content came from, for the message.
    content: what was read, unzipped.
    expected: digests as in `catalogue.Form`, any of which is right.
    folder: name of the data set.

  Raises:
    WrongFileError: none of them matches.
  """
  found = hashlib.sha256(content).hexdigest()
  if found in expected or _git_blob(content) in expected:
    return
  owner = catalogue.whose(found)
  raise WrongFileError(
    f'{path} is not the file of {folder}: expected sha256 '
    f'{" or ".join(expected)}, found {found} ({len(content)} bytes'
    f'{f", which is {owner}" if owner else ""}). Delete it and run '
    f'./run.sh fetch --dataset={folder}, or pass verify=False to read other '
    'data of the same format.'
  )


def parse_idx(path: PathLike, content: bytes, ndim: int) -> np.ndarray:
  """An idx file of unsigned bytes as an array.

  The header is big-endian: two zero bytes, the type (8: unsigned byte), the
  number of axes, then the length of each axis as 32 bits; the values follow.

  Args:
    path: where the content came from, for messages.
    content: the whole file, unzipped.
    ndim: number of axes it must have: 3 for images, 1 for labels.

  Returns:
    uint8 array, not writable.

  Raises:
    WrongFileError: another magic number, or another size than the header says.
  """
  magic, header = bytes([0, 0, 8, ndim]), 4 + 4 * ndim
  if content[:4] != magic or len(content) < header:
    raise WrongFileError(
      f'{path} is not an idx file of unsigned bytes with {ndim} axes: expected '
      f'the magic number 0x{magic.hex()} and at least {header} bytes, found '
      f'0x{content[:4].hex()} and {len(content)} bytes. Check that the file is '
      'the right one (images have 3 axes, labels 1), or fetch it again.'
    )
  shape = tuple(int(n) for n in np.frombuffer(content[4:header], '>u4'))
  expected = header + int(np.prod(shape, dtype=np.int64))
  if len(content) != expected:
    kind = 'truncated' if len(content) < expected else 'too long'
    raise WrongFileError(
      f'{path} is {kind}: its header says {list(shape)}, so {expected} bytes '
      f'were expected, found {len(content)}. Delete it and fetch it again.'
    )
  return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def parse_amat(path: PathLike, content: bytes, columns: int) -> np.ndarray:
  """An .amat file of bits as an array, whichever of its two forms it has.

  The text form has one example a line, as the characters 0 and 1 with blanks
  between them; the other is a MATLAB file (version 5) whose variable `X` has
  the examples as its rows.

  Args:
    path: where the content came from, for messages.
    content: the whole file, unzipped.
    columns: number of bits of an example.

  Returns:
    uint8[N, columns], C-contiguous.

  Raises:
    WrongFileError: neither form, truncated, or not made of bits.
  """
  if content.startswith(_MATLAB):
    x = _parse_matlab_bits(path, content)
  else:
    x = _parse_bits(path, content, columns)
  if x.ndim != 2 or x.shape[1] != columns or not len(x):
    raise WrongFileError(
      f'{path} has an array of shape {list(x.shape)}; expected [N, {columns}] '
      'with N >= 1. Check that it is the right file, or fetch it again.'
    )
  return np.ascontiguousarray(x, np.uint8)


def parse_matlab(path: PathLike, content: bytes) -> dict[str, np.ndarray]:
  """The variables of a MATLAB file (version 5) by their names.

  Args:
    path: where the content came from, for messages.
    content: the whole file.

  Returns:
    name -> array; cells are arrays of objects.

  Raises:
    WrongFileError: another format, or a truncated file.
  """
  try:
    variables = scipy.io.loadmat(io.BytesIO(content))
  except Exception as error:  # scipy raises a dozen kinds on damaged files
    raise WrongFileError(
      f'{path} is a MATLAB file that cannot be read: {len(content)} bytes, '
      f'{type(error).__name__}: {error}. It is probably truncated: delete it '
      'and fetch it again.'
    ) from error
  return {k: v for k, v in variables.items() if not k.startswith('__')}


def _parse_matlab_bits(path: PathLike, content: bytes) -> np.ndarray:
  variables = parse_matlab(path, content)
  x = variables.get('X')
  if x is None or not np.isin(x, (0, 1)).all():
    names = sorted(variables)
    raise WrongFileError(
      f'{path} is a MATLAB file of another kind: expected a variable X made '
      f'of the values 0 and 1, found the variables {names}'
      f'{"" if x is None else f" with X in {x.min()}..{x.max()}"}. Check that '
      'it is the right file, or fetch it again.'
    )
  return x


def _parse_bits(path: PathLike, content: bytes, columns: int) -> np.ndarray:
  rows = []
  for number, line in enumerate(content.split(b'\n'), 1):
    bits = line.translate(None, b' \t\r')
    if bits.strip(b'01'):
      raise WrongFileError(
        f'{path} is no .amat file of bits: expected a MATLAB 5.0 file, or text '
        'made of the characters 0 and 1 with blanks between them; found '
        f'{line[:24]!r} in line {number} of {len(content)} bytes. Delete it '
        'and fetch it again.'
      )
    if bits and len(bits) != columns:
      raise WrongFileError(
        f'{path} is truncated or has rows of another length: line {number} '
        f'has {len(bits)} bits, expected {columns}. Delete it and fetch it '
        'again.'
      )
    rows.append(bits)
  x = np.frombuffer(b''.join(rows), np.uint8) - ord('0')
  return x.reshape(-1, columns)
