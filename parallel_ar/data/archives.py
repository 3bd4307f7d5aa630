"""Files inside files: .npz arrays, and the members of .zip and .tar archives.

Nothing is unpickled, nothing is unpacked to disk, and what would unpack to more
than data do is refused before it is unpacked.
"""

import io
import os
import pathlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from parallel_ar import npz
from parallel_ar.data import files
from parallel_ar.data.files import PathLike

_ZIP = b'PK'


def parse_npz(
  path: PathLike, content: bytes, names: Sequence[str]
) -> dict[str, np.ndarray]:
  """Named arrays of an .npz file; nothing in it is unpickled.

  Args:
    path: where the content came from, for messages.
    content: the whole file.
    names: of the arrays wanted.

  Returns:
    name -> array, of whatever shape and dtype the file has.

  Raises:
    WrongFileError: another format, a damaged file, or no such array.
  """
  try:
    with npz.Archive(io.BytesIO(content)) as archive:
      held = archive.names
      most = files.most_unpacked(len(content))
      found = {n: archive.read(n, most=most) for n in names if n in held}
  except ValueError as error:
    raise files.WrongFileError(
      f'{path} is no .npz file that can be read: {len(content)} bytes, {error}.'
      ' It is damaged or something else: delete it and get it again.'
    ) from error
  missing = [n for n in names if n not in found]
  if missing:
    raise files.WrongFileError(
      f'{path} is an .npz file of another kind: expected the arrays '
      f'{", ".join(names)}, found {", ".join(held) or "none"}. Check that it '
      'is the right file.'
    )
  return found


def unzipped(path: PathLike, content: bytes, name: str) -> bytes:
  """The member `name` of a zip file; a content that is no zip is returned.

  Raises:
    WrongFileError: a damaged zip file, or one without that member.
  """
  if not content.startswith(_ZIP):
    return content
  try:
    with npz.open_zip(io.BytesIO(content)) as archive:
      return npz.member(archive, name, files.most_unpacked(len(content)))
  except ValueError as error:
    raise _wrong(path, name, error) from error


def members(
  path: pathlib.Path, names: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
  """Members of a .zip, .tar or .tar.gz, whatever folder they are in.

  Args:
    path: of the archive.
    names: of the members, without folder, in the order wanted.

  Yields:
    (where it is, for messages; content), one member at a time.

  Raises:
    WrongFileError: another format, a damaged archive, or no such member.
  """
  most = files.most_unpacked(os.path.getsize(path))
  base = lambda place: place.rsplit('/', 1)[-1]
  if not zipfile.is_zipfile(path):
    found = tar_members(path, names, base)
    yield from ((f'{path}:{place}', found[place]) for place in found)
    return
  name = names[0]
  try:
    with npz.open_zip(path) as archive:
      places = {base(place): place for place in archive.namelist()}
      for name in names:
        content = npz.member(archive, _held(places, name), most)
        yield f'{path}:{places[name]}', content
  except ValueError as error:
    raise _wrong(path, name, error) from error


def tar_members(
  path: pathlib.Path,
  names: Sequence[str],
  called: Callable[[str], str] = lambda place: place,
) -> dict[str, bytes]:
  """Plain files in a .tar or .tar.gz; links and sparse files are none.

  The archive is read once, from its beginning to its end, and no more of it
  than `files.most_unpacked`.

  Args:
    path: of the archive.
    names: of the members, in the order wanted.
    called: the name of a member by its place in the archive, for instance
      without its folder.

  Returns:
    Place -> content, in the order of the names.

  Raises:
    WrongFileError: another format, a damaged archive, or no such member.
  """
  places: dict[str, str] = {}
  found: dict[str, bytes] = {}
  try:
    with open(path, 'rb') as raw:
      zipped = raw.read(2) == b'\x1f\x8b'
      raw.seek(0)
      stream = io.BufferedReader(_Blocks(files.unzip(raw))) if zipped else raw
      with tarfile.open(fileobj=stream, mode='r|') as archive:
        for member in archive:
          place = member.name.removeprefix('./')
          places[called(place)] = place
          if called(place) in names and member.isreg() and not member.sparse:
            content = archive.extractfile(member)
            assert content is not None
            found[place] = content.read()
    return {p: found[p] for p in (_held(places, name) for name in names)}
  except (tarfile.TarError, zlib.error, OSError, EOFError, ValueError) as error:
    raise _wrong(path, ', '.join(names), error) from error
  except KeyError as error:
    raise _wrong(path, str(error), ValueError('it is no plain file')) from error


class _Blocks(io.RawIOBase):
  """Blocks of bytes as a stream."""

  def __init__(self, blocks: Iterator[bytes]):
    self._blocks, self._rest = blocks, b''

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    while not self._rest:
      block = next(self._blocks, None)
      if block is None:
        return 0
      self._rest = block
    size = min(len(buffer), len(self._rest))
    buffer[:size], self._rest = self._rest[:size], self._rest[size:]
    return size


def _held(places: dict[str, str], name: str) -> str:
  if name not in places:
    raise ValueError(f'its members are {sorted(places)[:12]}')
  return places[name]


def _wrong(path: PathLike, name: str, error: Exception) -> files.WrongFileError:
  return files.WrongFileError(
    f'{path} is no archive from which {name} can be read: '
    f'{npz.told(error)}. It is truncated, damaged or something else: delete it '
    'and get it again.'
  )
