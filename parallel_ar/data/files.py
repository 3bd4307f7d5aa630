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

import hashlib
import io
import math
import os
import pathlib
import re
import warnings
import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any, TypeGuard

import numpy as np
import scipy.io

from parallel_ar import npz
from parallel_ar.data import catalogue

DEFAULT_DIRECTORY = 'data'

PathLike = str | os.PathLike[str]

_GZIP = b'\x1f\x8b'
_MATLAB = b'MATLAB 5.0 MAT-file'
_HDF5 = b'\x89HDF\r\n\x1a\n'
_MATLAB_COMPRESSED = 15  # miCOMPRESSED
_FLOAT_BIT = re.compile(rb'\b([01])\.0*(?:e[+-]00)?(?![0-9.e])')
_BLOCK = 1 << 20


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


def most_unpacked(packed: int) -> int:
  """Bytes that a file of `packed` bytes may unpack to, whatever it is.

  The data sets here shrink by less than 32; a megabyte of zeros unpacks to a
  thousand, and a few of them to more than the memory.
  """
  return (1 << 28) + 32 * packed


def unzip(raw: IO[bytes]) -> Iterator[bytes]:
  """The blocks of a gzip stream, of one member or several.

  Args:
    raw: a file, at its beginning.

  Raises:
    EOFError: the stream is truncated.
    zlib.error: it is damaged, or longer than `most_unpacked`.
  """
  most = most_unpacked(os.fstat(raw.fileno()).st_size)
  member, rest, out = zlib.decompressobj(31), b'', b''
  while (block := rest or raw.read(_BLOCK)) or out:
    if member.eof:
      block, rest, out = block.lstrip(b'\0'), b'', b''  # zeros may pad it
      if not block:
        continue
      member = zlib.decompressobj(31)
    out = member.decompress(block, _BLOCK)
    rest = member.unconsumed_tail or member.unused_data
    most -= len(out)
    if most < 0:
      raise zlib.error('it unpacks to more than any data of its size does')
    yield out
  if not member.eof:
    raise EOFError('it ends before the stream does')


def read(path: PathLike) -> bytes:
  """The whole content of a file, unzipped where it is gzipped.

  Raises:
    WrongFileError: the gzip stream is truncated or damaged, or unpacks to more
      than any data set does.
  """
  content = io.BytesIO()
  for block in _blocks(path):
    content.write(block)
  return content.getvalue()


def sha256(path: PathLike) -> str:
  """sha256 of a file's content, unzipped where it is gzipped, in hex.

  Raises:
    WrongFileError: as `read`.
  """
  digest = hashlib.sha256()
  for block in _blocks(path):
    digest.update(block)
  return digest.hexdigest()


def _blocks(path: PathLike) -> Iterator[bytes]:
  with open(path, 'rb') as raw:
    zipped = raw.read(2) == _GZIP
    raw.seek(0)
    try:
      yield from unzip(raw) if zipped else iter(lambda: raw.read(_BLOCK), b'')
    except (EOFError, zlib.error) as error:
      raise WrongFileError(
        f'{path} is a truncated or damaged gzip file: expected a whole gzip '
        f'stream, found {os.path.getsize(path)} bytes that end in an error '
        f'({error}). Delete it and get it again (./run.sh fetch --help).'
      ) from error


def matches(path: PathLike, digests: Collection[str]) -> bool:
  """Whether a file's content, unzipped, has one of some digests.

  Args:
    path: of the file.
    digests: as in `catalogue.Form`.

  Raises:
    WrongFileError: as `read`.
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
    uint8 array of `ndim` axes, in the shape that the header says, not writable.

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
  expected = header + math.prod(shape)  # of Python's integers: none wraps
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
  if content.startswith(_MATLAB) or _is_hdf5(content):
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
    name -> array, in the shape of the file; cells are arrays of objects.

  Raises:
    WrongFileError: another format, or a truncated file.
  """
  if _is_hdf5(content):
    raise WrongFileError(
      f'{path} is HDF5, as MATLAB files of version 7.3 are; expected '
      "version 5. In MATLAB, save it with save(..., '-v7')."
    )
  try:
    _check_matlab(content)
    with warnings.catch_warnings(action='ignore'):  # of scipy's later defaults
      variables = scipy.io.loadmat(io.BytesIO(content))
  except Exception as error:  # scipy raises a dozen kinds on damaged files
    raise WrongFileError(
      f'{path} is a MATLAB file that cannot be read: {len(content)} bytes, '
      f'{npz.told(error)}. It is probably truncated: delete it and fetch it '
      'again.'
    ) from error
  return {k: v for k, v in variables.items() if not k.startswith('__')}


def _is_hdf5(content: bytes) -> bool:
  """Whether it is HDF5; MATLAB puts a text of 512 bytes before it."""
  return content.startswith(_HDF5) or content[512:520] == _HDF5


def _check_matlab(content: bytes) -> None:
  """Refuses compressed variables that unpack to more than data do."""
  most, at = most_unpacked(len(content)), 128
  word = np.dtype('<u4' if content[126:128] == b'IM' else '>u4')
  while at + 8 <= len(content):
    kind, size = (int(n) for n in np.frombuffer(content, word, 2, at))
    if kind == _MATLAB_COMPRESSED:
      variable, rest = zlib.decompressobj(), content[at + 8 : at + 8 + size]
      while rest and not variable.eof:
        most -= len(variable.decompress(rest, _BLOCK))
        rest = variable.unconsumed_tail
        if most < 0:
          raise ValueError('it unpacks to more than any data of its size does')
    at += 8 + size


def are_bits(x: Any) -> TypeGuard[np.ndarray]:
  """Whether an array of any shape holds 0 and 1 only; not texts, nor cells."""
  if not isinstance(x, np.ndarray) or x.dtype.kind not in 'biuf':
    return False
  return bool(((x == 0) | (x == 1)).all())


def told(x: Any) -> str:
  """What was found where numbers were expected, for a message."""
  if not isinstance(x, np.ndarray):
    return f'a {type(x).__name__}'
  numbers = x.dtype.kind in 'biuf' and x.size
  values = f'in {x.min()}..{x.max()}, ' if numbers else ''
  return f'{values}of shape {list(x.shape)} and dtype {x.dtype.name}'


def _parse_matlab_bits(path: PathLike, content: bytes) -> np.ndarray:
  variables = parse_matlab(path, content)
  x = variables.get('X')
  if not are_bits(x):
    raise WrongFileError(
      f'{path} is a MATLAB file of another kind: expected a variable X made '
      'of the values 0 and 1, not sparse, found the variables '
      f'{sorted(variables)}{"" if x is None else f" with X {told(x)}"}. Check '
      'that it is the right file, or fetch it again.'
    )
  return x


def _parse_bits(path: PathLike, content: bytes, columns: int) -> np.ndarray:
  rows = []
  # What np.savetxt writes: 0.000000000000000000e+00.
  content = _FLOAT_BIT.sub(rb'\1', content.removeprefix(b'\xef\xbb\xbf'))
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
