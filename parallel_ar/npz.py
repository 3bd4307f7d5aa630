"""Arrays in .npy and .npz files of anyone: read as data, and within bounds.

What a header promises is compared with the size of what follows it before a
byte is allocated, so that 100 bytes cannot ask for a petabyte; a member that
unpacks to more than its reader expects is refused before it is unpacked; and
nothing is unpickled: arrays of objects are no numbers.
"""

import io
import math
import os
import warnings
import zipfile
from typing import IO, Any, NamedTuple

import numpy as np

_HEADER = 1 << 16  # bytes of a header at most
_KINDS = 'biufc'  # numbers; V, S, U, O, M and m are other things

PathLike = str | os.PathLike[str]


class Header(NamedTuple):
  """What a .npy file says of its array, and where the numbers begin."""

  shape: tuple[int, ...]
  dtype: np.dtype
  fortran: bool
  offset: int

  @property
  def num_bytes(self) -> int:
    """Of the whole file."""
    return self.offset + math.prod(self.shape) * self.dtype.itemsize

  def __str__(self) -> str:
    return f'{self.dtype.name}{list(self.shape)}'


class Archive:
  """A .npz file that is open for reading; close it, or use it in a `with`."""

  def __init__(self, file: PathLike | IO[bytes]):
    """Opens it.

    Args:
      file: its path, or a stream of its bytes.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is no zip archive.
    """
    self._zip = open_zip(file)
    self.names = [n.removesuffix('.npy') for n in self._zip.namelist()]

  def __enter__(self) -> 'Archive':
    return self

  def __exit__(self, *_) -> None:
    self._zip.close()

  def header(self, name: str) -> Header:
    """The header of an array, which agrees with the size of its member.

    Raises:
      ValueError: no such array, no numbers, or another size than it says.
    """
    try:
      info = self._zip.getinfo(f'{name}.npy')
      with self._zip.open(info) as stream:
        start = stream.read(_HEADER)
    except Exception as error:  # a damaged archive fails in many ways
      raise ValueError(
        f'its array {name!r} cannot be read: {told(error)}'
      ) from error
    return _header(start, info.file_size, f'its array {name!r}')

  def offset(self, name: str, stream: IO[bytes]) -> int:
    """Where the .npy file of an array begins in the archive's file.

    Args:
      name: of the array.
      stream: the file of the archive.

    Raises:
      ValueError: it is compressed, or damaged.
    """
    info = self._zip.getinfo(f'{name}.npy')
    if info.compress_type != zipfile.ZIP_STORED:
      raise ValueError(
        f'its array {name!r} is compressed and cannot be mapped: write it with '
        'np.savez, or as .npy'
      )
    stream.seek(info.header_offset)
    local = stream.read(30)
    if local[:4] != b'PK\3\4':
      raise ValueError(f'its array {name!r} is not where the archive says')
    lengths = np.frombuffer(local[26:30], '<u2')
    return info.header_offset + 30 + int(lengths.sum())

  def read(
    self,
    name: str,
    *,
    like: tuple[tuple[int, ...], Any] | None = None,
    most: int = 0,
  ) -> np.ndarray:
    """One array.

    Args:
      name: of the array.
      like: the shape and dtype that it must have.
      most: bytes that it may take, where `like` does not say.

    Raises:
      ValueError: no such array, another shape or dtype, larger, or damaged.
    """
    header = self.header(name)
    if like is not None:
      if (header.shape, header.dtype) != (tuple(like[0]), np.dtype(like[1])):
        raise ValueError(
          f'its array {name!r} is {header}, expected '
          f'{np.dtype(like[1]).name}{list(like[0])}'
        )
      most = header.num_bytes
    return _array(member(self._zip, f'{name}.npy', most), header)


def open_zip(file: PathLike | IO[bytes]) -> zipfile.ZipFile:
  """A zip archive for reading.

  Raises:
    FileNotFoundError: no such file.
    ValueError: it is no zip archive.
  """
  try:
    return zipfile.ZipFile(file)
  except FileNotFoundError:
    raise
  except Exception as error:
    raise ValueError(f'it is no whole zip archive: {told(error)}') from error


def member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
  """The content of a member of a zip archive.

  Args:
    archive: open for reading.
    name: of the member.
    most: bytes that it may unpack to; zipfile reads no more than it declares.

  Raises:
    ValueError: no such member, larger, encrypted or damaged.
  """
  try:
    info = archive.getinfo(name)
  except KeyError as error:
    raise ValueError(f'it has no member {name!r}') from error
  if info.file_size > most:
    raise ValueError(
      f'its member {name!r} unpacks to {info.file_size} bytes, expected at '
      f'most {most}'
    )
  try:
    return archive.read(info)
  except Exception as error:
    raise ValueError(
      f'its member {name!r} cannot be read: {told(error)}'
    ) from error


def parse(content: bytes) -> np.ndarray:
  """The array of a .npy file, whole in memory.

  Raises:
    ValueError: no such file, no numbers, or another size than it says.
  """
  return _array(content, _header(content[:_HEADER], len(content), 'it'))


def map_file(path: PathLike) -> np.ndarray:
  """The array of a .npy file, mapped from disk and not writable.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no such file, no numbers, or another size than it says.
  """
  with open(path, 'rb') as stream:
    header = _header(stream.read(_HEADER), os.fstat(stream.fileno()).st_size)
  if not math.prod(header.shape):
    raise ValueError(f'it is {header}, which is empty')
  return np.memmap(
    path,
    header.dtype,
    'r',
    header.offset,
    header.shape,
    'F' if header.fortran else 'C',
  )


def map_member(path: PathLike, name: str) -> np.ndarray:
  """One array of a .npz file, mapped from disk and not writable.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no such array, one that is compressed or empty, or damaged.
  """
  with Archive(path) as archive, open(path, 'rb') as stream:
    header = archive.header(name)
    if not math.prod(header.shape):
      raise ValueError(f'its array {name!r} is {header}, which is empty')
    begin = archive.offset(name, stream)
  order: Any = 'F' if header.fortran else 'C'
  place = begin + header.offset
  return np.memmap(path, header.dtype, 'r', place, header.shape, order)


def stored_dtype(dtype: Any) -> np.dtype:
  """What a leaf is written as: float32 for bfloat16, which NumPy lacks."""
  dtype = np.dtype(dtype)
  return dtype if dtype.isbuiltin == 1 else np.dtype(np.float32)


def told(error: Exception) -> str:
  """A stranger's exception in one line: its kind and its first words.

  NumPy's advice to allow pickles is never passed on.
  """
  words = ' '.join(str(error).split())
  if 'pickle' in words:
    words = ''
  return f'{type(error).__name__}{": " if words else ""}{words[:200]}'


def _header(start: bytes, num_bytes: int, what: str = 'it') -> Header:
  """Parses the first bytes of a .npy file of `num_bytes` bytes."""
  stream = io.BytesIO(start)
  try:
    version = np.lib.format.read_magic(stream)
    read = {
      (1, 0): np.lib.format.read_array_header_1_0,
      (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    with warnings.catch_warnings():
      # Files written by Python 2 say so each time they are read.
      warnings.filterwarnings('ignore', '.*created on Python 2', UserWarning)
      shape, fortran, dtype = read(stream)
  except Exception as error:
    raise ValueError(
      f'{what} has no header of a .npy file: {told(error)}'
    ) from error
  header = Header(tuple(shape), dtype, fortran, stream.tell())
  if dtype.kind not in _KINDS or dtype.shape:
    raise ValueError(f'{what} holds {dtype}, expected numbers')
  if min(shape, default=0) < 0 or len(shape) > 32:
    raise ValueError(f'{what} has the shape {list(shape)[:32]}')
  if header.num_bytes != num_bytes:
    raise ValueError(
      f'{what} has {num_bytes} bytes, but its header says {header}, which is '
      f'{header.num_bytes}'
    )
  return header


def _array(content: bytes, header: Header) -> np.ndarray:
  flat = np.frombuffer(content, header.dtype, offset=header.offset)
  return flat.reshape(header.shape, order='F' if header.fortran else 'C')
