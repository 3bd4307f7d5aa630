"""One file over HTTP: resumed where it stopped, proved, and moved into place.

The bytes go to `<name>.part.<id>` next to the target. After an interruption
they stay as `<name>.part`, and the next attempt asks for the rest (HTTP Range).
Only a file whose content has an expected sha256 is renamed to its name, in
one step, so the name never stands for a partial file.

There is no lock. A process takes a partial file over by renaming it, which
only one can do, and leaves alone those of processes that live: here by their
pid, and on another host or in another container, whose pids mean nothing here,
by when they last wrote. When two fetch the same file, each fetches its own
copy, and the last rename wins with the same content.

A directory may be shared with others. A link that stands where a partial file
would is removed, not followed, so nothing outside is written to.
"""

import hashlib
import http.client
import os
import pathlib
import secrets
import socket
import stat
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from typing import IO

import tqdm
from absl import logging

from parallel_ar.data import files

_BLOCK = 1 << 16
_ABANDONED = 3600  # seconds without a byte after which nobody is at work
_SLACK = 1 << 20  # a gzip stream is never this much longer than its content


class TransferError(OSError):
  """A URL that gave no whole file, though another attempt might."""


class UnreachableError(TransferError):
  """A host that could not be talked to at all."""


def download(
  url: str,
  target: pathlib.Path,
  digests: Collection[str],
  num_bytes: int,
  *,
  timeout: float = 20.0,
  attempts: int = 3,
) -> None:
  """Fetches a URL to a path.

  Args:
    url: of a plain or gzipped file; it is stored as it comes.
    target: path of the finished file; its directory must exist.
    digests: that its content, unzipped, may have, as in `catalogue.Form`.
    num_bytes: of the content at most; a longer answer is refused.
    timeout: seconds without any byte after which a connection is given up.
    attempts: number of times to connect while bytes keep coming.

  Raises:
    UnreachableError: no connection.
    TransferError: a refusal (404, ...), a connection that keeps breaking, or a
      content with another sha256.
  """
  part = _claim(target)
  try:
    started_with = _size(part)
    _receive_all(url, part, num_bytes + _SLACK, timeout, attempts)
    if not _proved(part, digests) and started_with:
      logging.info('%s: the resumed file is wrong; starting again.', url)
      part.unlink()
      _receive_all(url, part, num_bytes + _SLACK, timeout, attempts)
    if not _proved(part, digests):
      size = _size(part)
      part.unlink()
      raise TransferError(
        f'{url} gave {size} bytes whose content is not the expected file '
        f'(sha256 {" or ".join(digests)}): another version, damaged, or a page '
        'in its place'
      )
    os.replace(part, target)
  finally:
    if _size(part):
      os.replace(part, _resting(target))
    else:
      part.unlink(missing_ok=True)


def _resting(target: pathlib.Path) -> pathlib.Path:
  return target.with_name(f'{target.name}.part')


def _claim(target: pathlib.Path) -> pathlib.Path:
  """A partial file of our own, with the bytes of an abandoned one if any."""
  mine = f'{_place()}.{os.getpid()}.{secrets.token_hex(4)}'
  own = target.with_name(f'{target.name}.part.{mine}')
  found = sorted(target.parent.glob(f'{target.name}.part*'), key=_size)
  for candidate in reversed(found):
    if _alive(candidate, candidate.name.removeprefix(f'{target.name}.part')):
      continue
    try:
      os.rename(candidate, own)
    except FileNotFoundError:  # another process was faster
      continue
    about = own.lstat()
    if stat.S_ISREG(about.st_mode) and about.st_nlink == 1:
      break
    own.unlink()  # a link, which somebody planted
  return own


def _place() -> str:
  """8 hex digits of the host, its boot and the container: where pids mean."""
  facts = [socket.gethostname()]
  try:
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text()
    facts += [boot, os.readlink('/proc/self/ns/pid')]
  except OSError:
    pass  # no Linux
  return hashlib.sha256('\0'.join(facts).encode()).hexdigest()[:8]


def _alive(candidate: pathlib.Path, owner: str) -> bool:
  """Whether the process in '.place.pid.token' is at work; '' is nobody."""
  if not owner:
    return False
  place, _, pid = owner.removeprefix('.').partition('.')
  if place != _place():
    try:
      return time.time() - candidate.lstat().st_mtime < _ABANDONED
    except FileNotFoundError:
      return True
  try:
    os.kill(int(pid.partition('.')[0]), 0)
  except (ValueError, OverflowError, ProcessLookupError):
    return False
  except PermissionError:
    return True
  return True


def _size(path: pathlib.Path) -> int:
  try:
    return path.lstat().st_size
  except FileNotFoundError:
    return 0


def _proved(part: pathlib.Path, digests: Collection[str]) -> bool:
  try:
    return files.matches(part, digests)
  except (files.WrongFileError, FileNotFoundError):
    return False


def _receive_all(
  url: str, part: pathlib.Path, limit: int, timeout: float, attempts: int
) -> None:
  """Connects until the file is whole, as long as each attempt adds bytes."""
  for attempt in range(attempts):
    before = _size(part)
    try:
      if _receive(url, part, limit, timeout):
        return
      reason = 'the connection broke off'
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
      reason = f'{type(error).__name__}: {error}'
    except urllib.error.HTTPError as error:
      raise TransferError(f'{url} answered {error.code} {error.reason}') from (
        error
      )
    except urllib.error.URLError as error:
      raise UnreachableError(f'{url}: {error.reason}') from error
    if _size(part) <= before:
      break
    logging.info(
      '%s: %s; attempt %d of %d.', url, reason, attempt + 1, attempts
    )
  raise TransferError(
    f'{url} stopped after {_size(part)} bytes ({reason}); they are kept, and '
    'the next attempt goes on from there'
  )


def _receive(url: str, part: pathlib.Path, limit: int, timeout: float) -> bool:
  """One connection; whether the answer came to its end."""
  start = _size(part)
  request = urllib.request.Request(url, headers={'User-Agent': 'parallel_ar'})
  # A page or a proxy may compress what it sends; offsets need the plain bytes.
  request.add_header('Accept-Encoding', 'identity')
  if start:
    request.add_header('Range', f'bytes={start}-')
  try:
    answer = urllib.request.urlopen(request, timeout=timeout)
  except urllib.error.HTTPError as error:
    error.close()
    if error.code != 416 or not start:
      raise
    return True  # nothing is missing after `start`: the digest decides
  with answer:
    begins = f'bytes {start}-'
    if not answer.headers.get('Content-Range', '').startswith(begins):
      start = 0  # the server sends the whole file, from its beginning
    length = answer.headers.get('Content-Length')
    total = None if length is None else start + int(length)
    if total is not None and total > limit:
      raise TransferError(f'{url} offers {total} bytes, expected <= {limit}')
    with _writable(part, start) as file, _bar(url, total) as bar:
      bar.update(start)
      while block := answer.read(_BLOCK):
        file.write(block)
        bar.update(len(block))
        if file.tell() > limit:
          file.truncate(0)
          raise TransferError(f'{url} sends more than {limit} bytes')
  return total is None or _size(part) == total


def _writable(part: pathlib.Path, start: int) -> IO[bytes]:
  """Opens a partial file to go on, or afresh; never what a link points to."""
  if not start:
    part.unlink(missing_ok=True)
  flags = os.O_APPEND if start else os.O_CREAT | os.O_EXCL
  file = os.open(part, os.O_WRONLY | os.O_NOFOLLOW | flags, 0o666)
  return os.fdopen(file, 'ab' if start else 'wb')


def _bar(url: str, total: int | None) -> tqdm.tqdm:
  """A progress bar, on a terminal only."""
  return tqdm.tqdm(
    total=total,
    desc=url.rsplit('/', 1)[-1],
    unit='B',
    unit_scale=True,
    leave=False,
    disable=not sys.stderr.isatty(),
  )
