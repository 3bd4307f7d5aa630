"""Files inside files: .npz arrays, and the members of .zip and .tar archives.

Nothing is unpickled, and nothing is unpacked to disk.
"""

import io
import pathlib
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from parallel_ar.data import files
from parallel_ar.data.files import PathLike

_ZIP = b'PK'
# What the standard readers raise on damaged files.
_DAMAGED = (
  EOFError,
  OSError,
  ValueError,
  KeyError,
  AttributeError,
  RuntimeError,  # an encrypted member
  zipfile.BadZipFile,
  tarfile.TarError,
  zlib.error,
)


def parse_npz(
  path: PathLike, content: bytes, names: Sequence[str]
) -> dict[str, np.ndarray]:
  """Named arrays of an .npz file; nothing in it is unpickled.

  Args:
    path: where the content came from, for messages.
    content: the whole file.
    names: of the arrays wanted.

  Returns:
    name -> array.

  Raises:
    WrongFileError: another format, a damaged file, or no such array.
  """
  try:
    with warnings.catch_warnings():
      # Files written by Python 2 say so each time they are read.
      warnings.filterwarnings('ignore', '.*created on Python 2', UserWarning)
      with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        held = list(archive.files)
        found = {name: archive[name] for name in names if name in held}
  except _DAMAGED as error:
    raise files.WrongFileError(
      f'{path} is no .npz file that can be read: {len(content)} bytes, '
      f'{type(error).__name__}: {error}. It is damaged or something else: '
      'delete it and get it again.'
    ) from error
  missing = [n for n in names if not isinstance(found.get(n), np.ndarray)]
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
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
      return archive.read(name)
  except _DAMAGED as error:
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
  zipped = zipfile.is_zipfile(path)
  name = names[0]
  try:
    with zipfile.ZipFile(path) if zipped else tarfile.open(path) as archive:
      read: Callable[[str], bytes]
      if isinstance(archive, zipfile.ZipFile):
        inside, read = archive.namelist(), archive.read
      else:
        inside, read = archive.getnames(), _tar_reader(archive)
      places = {place.rsplit('/', 1)[-1]: place for place in inside}
      for name in names:
        if name not in places:
          raise KeyError(f'its members are {sorted(places)[:12]}')
        yield f'{path}:{places[name]}', read(places[name])
  except _DAMAGED as error:
    raise _wrong(path, name, error) from error


def _tar_reader(archive: tarfile.TarFile) -> Callable[[str], bytes]:
  def read(place: str) -> bytes:
    file = archive.extractfile(place)
    if file is None:
      raise KeyError(f'{place} is no file')
    return file.read()

  return read


def _wrong(path: PathLike, name: str, error: Exception) -> files.WrongFileError:
  return files.WrongFileError(
    f'{path} is no archive from which {name} can be read: '
    f'{type(error).__name__}: {error}. It is truncated, damaged or something '
    'else: delete it and get it again.'
  )
