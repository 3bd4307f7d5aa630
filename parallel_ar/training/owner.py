"""One writer: who owns a working directory, and how a second start is told.

The owner holds the file `owner.lock` in the directory: a line of JSON that
names its host, its process and its start, under an advisory lock of the file
(flock), which the kernel lets go of when the process dies. So on one machine a
dead owner, however it died, is known at once, and a living one too.

Locks may not cross hosts (network disks, mounted buckets), so the owner also
writes a new number into its line every BEAT_SECONDS. Whoever finds the line of
another machine watches it, by a clock of its own: it changes, and the owner
lives; it is silent for SILENCE_SECONDS, and the owner is dead. An owner that
finds another's line in the place of its own has lost the directory, and saves
nothing more.

A bucket has no locks, and makes an object for one of all who ask at once: the
line alone tells there, by its process on one machine, and else by its beat.
"""

import fcntl
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from typing import Any, NoReturn

from parallel_ar.distributed import multihost
from parallel_ar.training import bucket

NAME = 'owner.lock'
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
_SETTLE_SECONDS = 2.0  # to write a line, and for two that take over at once


class OwnedElsewhere(ValueError):
  """Another process trains in this directory."""


class Owner:
  """Holds a directory from `take` to `release`; a context manager."""

  def __init__(self, directory: pathlib.Path):
    """Holds nothing yet; `take` is the way in."""
    self.directory = directory
    self._path = directory / NAME
    self._made = self._missing()
    self._file = -1
    self._held = False
    self._record: dict[str, Any] = {
      'host': socket.gethostname(),
      'pid': os.getpid(),
      'since': time.strftime('%Y-%m-%d %H:%M:%S %z'),
      'boot': _boot(),
      'process': _process(os.getpid()),
      'token': uuid.uuid4().hex,
      'beat': 0,
    }
    self._lost: str | None = None
    self._ended = threading.Event()

  def check(self) -> None:
    """Checks that the directory is still this process's.

    Raises:
      OwnedElsewhere: another has taken it.
    """
    if self._lost is not None:
      raise OwnedElsewhere(self._lost)

  def release(self) -> None:
    """Gives the directory back; safe to call twice."""
    self._ended.set()
    if self._held:
      if _token(_read(self._path)) == self._record['token']:
        self._path.unlink(missing_ok=True)
      self._close()
    for folder in self._made:  # of a start that was refused: as it was
      try:
        folder.rmdir()
      except OSError:
        return

  def __enter__(self) -> 'Owner':
    return self

  def __exit__(self, *unused) -> None:
    self.release()

  def take(self) -> None:
    """Makes the directory and claims it; see the function `take`."""
    for folder in reversed(self._made):
      folder.mkdir(exist_ok=True)
    patience = time.monotonic() + _SETTLE_SECONDS
    while not self._claim(late=time.monotonic() > patience):
      self._close()
      time.sleep(0.05)
    threading.Thread(target=self._beat, daemon=True).start()

  def _missing(self) -> list[pathlib.Path]:
    """Directories that have to be made, the inmost first."""
    path = self.directory
    return [p for p in (path, *path.parents) if not p.exists()]

  def _claim(self, late: bool) -> bool:
    """One try; False where the file is just being made or given back."""
    self._file, new = _open(self._path)
    self._held = True
    locked = _lock(self._file)
    there = _read(self._path)
    if not _is_at(self._file, self._path):
      return False
    if locked is False:
      if there is None and not late:
        return False
      self._refuse(there)
    if there is None and not (new or late):
      return False
    return self._take_over(there, bool(locked))

  def _take_over(self, there: dict[str, Any] | None, locked: bool) -> bool:
    """Writes the line, in the place of one whose owner is dead."""
    if there is not None and not self._is_dead(there, locked):
      return False
    self._write()
    if there is not None and there['boot'] != self._record['boot']:
      time.sleep(_SETTLE_SECONDS)
      now = _read(self._path)
      if _token(now) != self._record['token']:
        self._refuse(now)
    return True

  def _is_dead(self, there: dict[str, Any], locked: bool) -> bool:
    """Whether the one who wrote a line is dead; False: it has gone itself.

    Args:
      there: the line.
      locked: this process now has the lock of its file.

    Raises:
      OwnedElsewhere: it is alive.
    """
    if there['boot'] == self._record['boot']:
      if locked:
        return True
      if there['process'].split()[0] == self._record['process'].split()[0]:
        if there['process'] == _process(there['pid']):
          self._refuse(there)
        return True
    print(
      f'{self.directory}: {_who(there)} trained here and did not say that it '
      f'ended. Watching for {SILENCE_SECONDS:.0f} s whether it still does.',
      file=sys.stderr,
      flush=True,
    )
    end = time.monotonic() + SILENCE_SECONDS
    while time.monotonic() < end:
      time.sleep(min(1.0, SILENCE_SECONDS / 10))
      now = _read(self._path)
      if now is None:
        return False
      if now != there:
        self._refuse(now)
    return True

  def _refuse(self, there: dict[str, Any] | None) -> NoReturn:
    self._close()
    raise OwnedElsewhere(
      f'{self.directory} is being trained by {_who(there)}. A directory has '
      'one writer: wait for that process, stop it, or choose another working '
      'directory. Nothing was changed there.'
    )

  def _close(self) -> None:
    self._held = False
    if self._file >= 0:
      os.close(self._file)
      self._file = -1

  def _write(self) -> None:
    line = self._line()
    os.pwrite(self._file, line, 0)
    os.ftruncate(self._file, len(line))
    os.fsync(self._file)

  def _line(self) -> bytes:
    return json.dumps(self._record).encode() + b'\n'

  def _beat(self) -> None:
    while not self._ended.wait(BEAT_SECONDS):
      there = _read(self._path)
      if there is not None and there['token'] != self._record['token']:
        self._lost = (
          f'{self.directory} was taken by {_who(there)}: this process was '
          f'silent for {SILENCE_SECONDS:.0f} s, or its {NAME} was removed. It '
          'saves nothing more; the other one goes on from what is saved.'
        )
        return
      self._record['beat'] += 1
      try:
        self._write()
      except OSError:
        continue  # a full or passing disk; the next beat may come through


class _OfBucket(Owner):
  """Holds a directory in a bucket."""

  def _missing(self) -> list[pathlib.Path]:
    return []

  def _claim(self, late: bool) -> bool:
    made = bucket.create(self._path, self._line())
    there = None if made else _read(self._path)
    # It is there and its own where the answer to the request was lost.
    if made or _token(there) == self._record['token']:
      self._held = True
      return True
    if there is None and not late:
      return False
    self._held = self._take_over(there, locked=False)
    return self._held

  def _write(self) -> None:
    bucket.write(self._path, self._line())


def take(directory: str | os.PathLike[str]) -> Owner:
  """Makes this process the one writer of a directory.

  Of several processes of a job, process 0 holds it for all.

  Args:
    directory: made where it is not there, and removed again where its owner
      leaves it empty.

  Returns:
    The owner; release it in `finally`, or use it as a context manager.

  Raises:
    OwnedElsewhere: a living process holds it; nothing there was changed.
  """
  kind = _OfBucket if bucket.is_address(directory) else Owner
  owner, problem = kind(bucket.place(directory)), None
  if multihost.is_first():
    try:
      owner.take()
    except (OwnedElsewhere, OSError) as error:
      problem = error
      owner.release()
  refusal = multihost.gather('owner', '' if problem is None else str(problem))
  if problem is not None:
    raise problem
  if refusal[0]:
    raise OwnedElsewhere(refusal[0])
  return owner


def state(directory: str | os.PathLike[str]) -> str:
  """Whether somebody trains in a directory; takes no lock.

  Returns:
    'training'; 'died' where an owner left its line there; 'stopped'.
  """
  path = bucket.place(directory) / NAME
  try:
    fresh = time.time() - bucket.changed(path) < SILENCE_SECONDS
  except OSError:
    return 'stopped'
  record = _read(path)
  if record is None:
    return 'stopped'
  lives = fresh  # of another machine: by its heartbeat
  here, there = _process(record['pid']), str(record['process'])
  if (
    record['boot'] == _boot()
    and here.partition(' ')[0] == there.partition(' ')[0]
  ):
    lives = here == there
  return 'training' if lives else 'died'


def _open(path: pathlib.Path) -> tuple[int, bool]:
  """(descriptor, whether this call made the file)."""
  while True:
    try:
      return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
    except FileExistsError:
      pass
    try:
      return os.open(path, os.O_RDWR), False
    except FileNotFoundError:
      continue


def _lock(file: int) -> bool | None:
  """True: locked; False: another holds it; None: no locks on this disk."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:
    return None
  return True


def _is_at(file: int, path: pathlib.Path) -> bool:
  """Whether an open file still has its name."""
  try:
    return os.path.samestat(os.fstat(file), path.stat())
  except FileNotFoundError:
    return False


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  """The line of a file; None where there is none, or it is being made."""
  try:
    record = json.loads(bucket.content(path).partition(b'\n')[0])
    return record if record.keys() >= _FIELDS else None
  except (OSError, ValueError, AttributeError):
    return None


_FIELDS = {'host', 'pid', 'since', 'boot', 'process', 'token', 'beat'}


def _token(record: dict[str, Any] | None) -> str | None:
  return None if record is None else record['token']


def _who(record: dict[str, Any] | None) -> str:
  if record is None:
    return 'another process, which has not said who it is'
  return f'process {record["pid"]} on {record["host"]} since {record["since"]}'


def _boot() -> str:
  """One start of one kernel; the host's name where the system tells none."""
  try:
    text = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text()
  except OSError:
    return socket.gethostname()
  return text.strip()


def _process(pid: int) -> str:
  """'NAMESPACE START' of a living process; START is empty of a dead one.

  A number of a process is used again, and stands for another one in another
  container; the time of its start, and its namespace, tell them apart.
  """
  try:
    space = os.readlink('/proc/self/ns/pid')
  except OSError:
    space = 'pid'
  try:
    text = pathlib.Path(f'/proc/{pid}/stat').read_text()
    return f'{space} {text.rpartition(")")[2].split()[19]}'
  except (OSError, IndexError):
    pass
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return f'{space} '
  except OSError:
    pass
  return f'{space} lives'
