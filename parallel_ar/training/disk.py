"""Files and directories that a power cut leaves whole.

A name is on the disk only when its directory is synced, and bytes only when
their file is. So what must never be half there is written under a draft's name,
synced, renamed, and its directory synced; and what goes away loses its name
before its parts.
"""

import errno
import os
import pathlib
import shutil
from collections.abc import Iterator

PathLike = str | os.PathLike[str]

DRAFT = '.draft'  # ends the name of what is not yet, or no more, whole


def make_directory(path: PathLike) -> None:
  """Makes a directory with its parents, their names on the disk."""
  path = pathlib.Path(path)
  missing = [at for at in (path, *path.parents) if not at.exists()]
  path.mkdir(parents=True, exist_ok=True)
  for made in missing:
    sync(made.parent)


def clear_drafts(path: pathlib.Path, host: str) -> None:
  """Removes what dead processes of this host have left of a file.

  Args:
    path: of the file; its drafts are PATH.HOST.PID.draft.
    host: name of this host.
  """
  for draft in _drafts(path):
    _, there, pid, _ = draft.name.rsplit('.', 3)
    if there == host and pid.isdecimal() and not _alive(int(pid)):
      draft.unlink(missing_ok=True)


def sync(path: PathLike) -> None:
  """Waits until a file, or the names in a directory, are on the disk.

  File systems that cannot sync a directory say EINVAL, which is no failure.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):
      raise
  finally:
    os.close(descriptor)


def sync_tree(path: PathLike) -> None:
  """As `sync`, for a directory and all below it, itself last."""
  for folder, _, files in os.walk(path, topdown=False, onerror=_raise):
    for name in files:
      sync(os.path.join(folder, name))
    sync(folder)


def remove(path: PathLike) -> None:
  """Removes a directory: first its name, so that none is found half empty."""
  path = pathlib.Path(path)
  if DRAFT not in path.name:
    path = path.rename(path.with_name(f'{path.name}{DRAFT}'))
    sync(path.parent)
  shutil.rmtree(path)


def read_all(path: PathLike) -> None:
  """Reads every byte below a directory.

  Raises:
    OSError: the disk does not give them all.
  """
  for folder, _, files in os.walk(path, onerror=_raise):
    for name in files:
      with open(os.path.join(folder, name), 'rb') as file:
        while file.read(1 << 20):
          pass


def _raise(error: OSError) -> None:
  raise error


def _drafts(path: pathlib.Path) -> Iterator[pathlib.Path]:
  for other in path.parent.iterdir():
    rest = other.name.removeprefix(f'{path.name}.')
    if rest != other.name and rest.endswith(DRAFT) and rest.count('.') == 2:
      yield other


def _alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    return True
  return True
