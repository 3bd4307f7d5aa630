"""Working directories in a bucket: gs://bucket/runs/made.

A bucket has whole objects: no rename, no append, no directories, and nothing
that a power cut leaves half. So

  files         are written whole, in one request (`write`)
  one writer    by an object that is made only where there is none (`create`)
  what grows    lies in a folder of this machine, and is sent whole (`Spool`)
  a checkpoint  is there once its marker is, see `checkpoint_bucket`

`etils.epath` gives the paths, fsspec and gcsfs (the extra `gcs`) the requests,
TensorStore's own driver the arrays. Credentials are Google's defaults.
"""

import contextlib
import errno
import functools
import importlib.util
import io
import logging
import os
import pathlib
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from etils import epath

PathLike = str | os.PathLike[str]

SEND_SECONDS = 30.0  # between two times that what grows is sent
# Whose errors are of the network or of rights, and not of what is stored.
_CLIENTS = ('gcsfs', 'aiohttp', 'google', 'requests', 'urllib3')
_LOGIN = (
  ' (gcloud auth application-default login, or a service account in '
  'GOOGLE_APPLICATION_CREDENTIALS, gives credentials; they need a clock that '
  'is right)'
)
_DENIED = 'Forbidden|Unauthorized|[Aa]nonymous|credentials|invalid_grant'
_LATER = ' (the bucket does not answer as it should: try it again later)'


def is_address(path: PathLike) -> bool:
  """Whether a path is of a bucket."""
  return os.fspath(path).startswith('gs://')


def place(path: PathLike) -> pathlib.Path:
  """A path of this machine or of a bucket, with the methods that both have.

  Raises:
    ValueError: an address that cannot be used; see `address`.
  """
  return address(path) if is_address(path) else pathlib.Path(path)


def address(path: PathLike) -> pathlib.Path:
  """The path of an address; nothing is asked of the bucket yet.

  Returns:
    An `epath.Path`, which has what `pathlib.Path` has but for `open` by
    Python's own function.

  Raises:
    ValueError: it names no bucket, has signs that listings take for patterns,
      or the extra is not installed.
  """
  text = os.fspath(path).rstrip('/')
  if not re.fullmatch(r'gs://[^/]+(/[^/]+)*', text):
    raise ValueError(f'{text}: expected gs://BUCKET/DIRECTORY.')
  if bad := sorted(set(re.findall(r'[][*?#\s]', text))):
    raise ValueError(
      f'{text}: {" ".join(map(repr, bad))} would be a pattern or a blank in '
      'the name of an object. Name another place in the bucket.'
    )
  if {'.', '..'} & set(text.split('/')):
    raise ValueError(
      f"{text}: a bucket has no '.' and '..': give the place its whole name."
    )
  if importlib.util.find_spec('gcsfs') is None:
    raise ValueError(
      f'{text}: buckets need gcsfs. Install parallel_ar[gcs] (run.sh has '
      'it), or name a directory of this machine.'
    )
  _configure()
  return cast(pathlib.Path, epath.Path(text))


def absolute(path: PathLike) -> pathlib.Path:
  """As `place`; a path of this machine gets its beginning."""
  found = place(path)
  return found if is_address(path) else found.absolute()


def of_client(error: BaseException | None) -> bool:
  """Whether an error came from the network, or from missing rights."""
  return type(error).__module__.partition('.')[0] in _CLIENTS


def told(error: Exception, path: PathLike = 'gs://') -> OSError:
  """What a client raised, as an OSError that says what to do.

  Args:
    error: of a client.
    path: the object that was asked for.
  """
  words = ' '.join(str(error).split()) or type(error).__name__
  denied = _code(error) in ('401', '403') or re.search(_DENIED, words)
  return OSError(
    errno.EACCES if denied else errno.EIO,
    f'{words[:300]}{_LOGIN if denied else _LATER}',
    str(path),
  )


def _code(error: Exception) -> str:
  """The code of an answer; a `status` has, beside it, a `code` that warns."""
  status = getattr(error, 'status', None)
  return str(getattr(error, 'code', '') if status is None else status)


def write(path: pathlib.Path, content: bytes) -> None:
  """Writes a whole object; readers see the old one or the new one.

  Raises:
    OSError: names the object.
  """
  with _asking(path, new=True):
    _files().pipe_file(str(path), content)


def create(path: pathlib.Path, content: bytes) -> bool:
  """Makes an object, of all who try at once for one alone.

  Returns:
    Whether this call made it; False where there is one.

  Raises:
    OSError: names the object.
  """
  with _asking(path, new=True):
    try:
      _files().pipe_file(str(path), content, mode='create')
    except FileExistsError:
      return False
    except Exception as error:
      if _code(error) == '412':  # precondition failed
        return False
      raise
  return True


def read(path: pathlib.Path) -> bytes:
  """A whole object.

  Raises:
    FileNotFoundError: there is none.
    OSError: names the object.
  """
  with _asking(path):
    return cast(bytes, _files().cat_file(str(path)))


def content(path: PathLike, most: int | None = None) -> bytes:
  """All of a file of this machine, or of an object.

  Args:
    path: of it.
    most: no more bytes than these; None for all.

  Raises:
    OSError: as `read`.
  """
  there = place(path)
  if is_address(there):
    return read(there)[:most]
  with there.open('rb') as file:
    return file.read(-1 if most is None else most)


def readable(path: PathLike) -> PathLike | BinaryIO:
  """What zipfile and the like can read: the path, or an object's bytes."""
  return io.BytesIO(content(path)) if is_address(path) else path


def is_file(path: pathlib.Path) -> bool:
  """Whether a file or an object is there.

  Raises:
    OSError: the disk or the bucket does not say.
  """
  if not is_address(path):
    return path.is_file()
  with _asking(path):
    try:  # fsspec's own `isfile` says no to whatever error there is
      return bool(_files().info(str(path))['type'] == 'file')
    except FileNotFoundError:
      return False


def size(path: pathlib.Path) -> int:
  """Bytes of a file or of an object.

  Raises:
    OSError: there is none.
  """
  if not is_address(path):
    return path.stat().st_size
  with _asking(path):
    return int(_files().size(str(path)))


def changed(path: pathlib.Path) -> float:
  """When a file or an object was written, in seconds since 1970.

  Raises:
    OSError: there is none.
  """
  if not is_address(path):
    return path.stat().st_mtime
  with _asking(path):
    return cast(float, _files().modified(str(path)).timestamp())


def remove(path: pathlib.Path) -> None:
  """Removes an object, or all below an address; nothing where there is none."""
  with _asking(path), contextlib.suppress(FileNotFoundError):
    _files().rm(str(path), recursive=True)


def copy(path: pathlib.Path, to: pathlib.Path) -> None:
  """Copies all objects below an address, inside the bucket."""
  with _asking(path):
    files, root = _files(), str(path).removeprefix('gs://')
    for one in files.find(root):
      files.cp_file(one, f'{to}{one.removeprefix(root)}')


def names(path: pathlib.Path) -> list[str]:
  """What lies right below an address, in order; nothing where it is not."""
  with _asking(path):
    try:
      found = _files().ls(str(path), detail=False, refresh=True)
    except FileNotFoundError:
      return []
  return sorted({one.rstrip('/').rpartition('/')[2] for one in found})


def read_all(path: pathlib.Path) -> None:
  """Reads every object below an address.

  Raises:
    OSError: the bucket does not give them all.
  """
  with _asking(path):
    for one in _files().find(str(path)):
      _files().cat_file(one)


class Spool:
  """A folder of this machine whose files go to a bucket, whole.

  A kill loses what was not sent; `send` comes before each checkpoint, so the
  records up to it are always there.

  Attributes:
    folder: where to write.
  """

  def __init__(self, to: pathlib.Path):
    """Makes the folder.

    Args:
      to: address below which its files will lie.
    """
    self._to = to
    self._temporary = tempfile.TemporaryDirectory(prefix='parallel_ar-')
    self.folder = pathlib.Path(self._temporary.name)
    self._sent: dict[pathlib.Path, tuple[int, int]] = {}
    self._at, self._lock = time.monotonic(), threading.Lock()
    self._thread: threading.Thread | None = None

  def fetch(self, name: str) -> None:
    """Brings an object here, where there is one."""
    with contextlib.suppress(FileNotFoundError):
      (self.folder / name).write_bytes(read(self._to / name))

  def send(self) -> None:
    """Sends each file that has changed.

    Raises:
      OSError: names the object that could not be written.
    """
    with self._lock:
      self._at = time.monotonic()
      for path in sorted(self.folder.rglob('*')):
        if not path.is_file():
          continue
        state = path.stat()
        now = state.st_size, state.st_mtime_ns
        if self._sent.get(path) != now:
          name = path.relative_to(self.folder).as_posix()
          write(self._to / name, path.read_bytes())
          self._sent[path] = now

  def send_soon(self) -> None:
    """Sends in the background, now and then; what fails is sent later."""
    busy = self._thread is not None and self._thread.is_alive()
    if busy or time.monotonic() - self._at < SEND_SECONDS:
      return

    def quietly():
      with contextlib.suppress(OSError):
        self.send()

    self._thread = threading.Thread(target=quietly, daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Sends, and removes the folder; safe to call twice."""
    if not self.folder.exists():
      return
    try:
      self.send()
    finally:
      self._temporary.cleanup()


@functools.cache
def _configure() -> None:
  """Listings are asked for, since other processes write as well."""
  import fsspec

  # It prints the trace of each error that is raised, and told, as well.
  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)
  for name in ('gcs', 'gs'):
    fsspec.config.conf.setdefault(name, {}).setdefault(
      'use_listings_cache', False
    )


def _files() -> Any:
  """The file system, which `epath` uses too."""
  import fsspec

  return fsspec.filesystem('gcs', finalize_on_close=True)


@contextlib.contextmanager
def _asking(path: pathlib.Path, new: bool = False) -> Iterator[None]:
  """Makes what a client raises an OSError that names the object.

  Args:
    path: the object.
    new: it is written, so that what is not there is the bucket.
  """
  try:
    yield
  except FileNotFoundError as error:
    if not new:
      raise
    raise FileNotFoundError(
      errno.ENOENT,
      'there is no such bucket, or these credentials may not see it: look at '
      'its name, or make it',
      re.match('gs://[^/]+', str(path))[0],  # type: ignore[index]
    ) from error
  except Exception as error:
    if not of_client(error) and not isinstance(error, OSError):
      raise
    raise told(error, path) from error
