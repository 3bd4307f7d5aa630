"""The directory of one run: how it is named, and how files are replaced.

owner.lock        who writes here now, see `owner`
identity.json     what the run is, and what was changed of it, see `identity`
config.json       the configuration of the run
metrics.jsonl     one record a line
checkpoints/      one directory a step
tensorboard/      scalars
samples/          grids, one PNG a step
result.json       the evaluation on the test split, once all steps are done
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import socket
from collections.abc import Iterator
from typing import Any, BinaryIO

import jax

from parallel_ar.distributed import multihost
from parallel_ar.training import bucket, configuration, disk

PathLike = str | os.PathLike[str]
DRAFTS: set[pathlib.Path] = set()  # being written by this process, see `whole`
# What was meant for an address, and would be a directory here.
_GOOGLE = re.compile(r'\s*(gcs:/*|gs:/*|gs//+)', re.IGNORECASE)
_ADDRESS = re.compile(r'\s*(s3(?=:)|[a-z][a-z0-9+.-]+(?=:/))', re.IGNORECASE)


def resolve(path: PathLike) -> pathlib.Path:
  """The path that a person meant, where files can be written and read back.

  `~` is the home directory; gs://BUCKET/... is a place in a bucket.

  Raises:
    ValueError: an address of another kind, or a name that is no text.
  """
  text = os.path.expanduser(os.fspath(path))
  if bucket.is_address(text):
    return bucket.address(text)
  if _GOOGLE.match(text):
    meant = f'gs://{_GOOGLE.sub("", text)}'
    raise ValueError(f'{text!r} is no address. Did you mean {meant}?')
  if address := _ADDRESS.match(text):
    raise ValueError(
      f'{text}: {address[1]}: addresses are not written or read: arrays of '
      'checkpoints go to gs://BUCKET/... alone. Take such a bucket, mount this '
      'one, or name a directory that all hosts share.'
    )
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f'{os.fsencode(text)!r}: the name is not UTF-8, and checkpoints cannot '
      'be written below it. Rename it.'
    ) from error
  if '\0' in text:
    raise ValueError(f'{text!r}: a name of a file holds no NUL. Rename it.')
  return pathlib.Path(text)


def local(path: PathLike) -> pathlib.Path:
  """As `resolve`, for what only a disk can do: append, rename, make folders.

  Raises:
    ValueError: as `resolve`, or it is an address.
  """
  found = resolve(path)
  if bucket.is_address(found):
    raise ValueError(
      f'{path}: this needs a disk; name a place of this machine, and copy the '
      'files to the bucket afterwards.'
    )
  return found


def is_stream(path: PathLike) -> bool:
  """Whether a device, a pipe or an open file: written into, never replaced."""
  path = pathlib.Path(path)
  inside = lambda *roots: any(map(path.is_relative_to, roots))
  opened = inside('/dev', '/proc') and not inside('/dev/shm')
  return path.exists() and (opened or not path.is_file())


def behind_links(path: PathLike) -> pathlib.Path:
  """Where a file of this name is, or will be: a link stays a link."""
  path = pathlib.Path(path)
  return pathlib.Path(os.path.realpath(path)) if path.is_symlink() else path


def agree(config: dict[str, Any]) -> None:
  """Checks that every process of a job runs the same configuration.

  Args:
    config: JSON form of it.

  Raises:
    RollCallError: names the host that differs, and a field.
  """
  if len(set(multihost.gather('config', _digest(config)))) == 1:
    return
  for process, text in enumerate(
    multihost.gather('fields', json.dumps(config))
  ):
    lines = configuration.differences(config, json.loads(text))
    if lines:
      raise multihost.RollCallError(
        f'Process {process} on {multihost.host(process)} has another '
        f'configuration than this one: {"; ".join(lines[:3])} (here -> there). '
        'Start the same command on every host.'
      )


def _digest(config: dict[str, Any]) -> str:
  text = json.dumps(config, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def replace(path: PathLike, content: str | bytes) -> None:
  """Writes a whole file or leaves the old one: no reader sees half of it."""
  with whole(path) as file:
    file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole(path: PathLike) -> Iterator[BinaryIO]:
  """A file to write that gets its name when all of it is on the disk.

  Of several processes the first one writes, what all would write alike.

  Args:
    path: of the file; its folder is made, and what had the name is replaced,
      or, of a symbolic link, what it points to. A device or a pipe is written
      into instead, when all of it is there.

  Yields:
    The draft, open for bytes. Where the block raises, it is removed; what a
    dead process of this host has left of the file is, too.

  Raises:
    OSError: names the file.
  """
  path = resolve(path)
  away, content = bucket.is_address(path), io.BytesIO()
  first = not jax.distributed.is_initialized() or multihost.is_first()
  try:
    if away or not first:
      yield content
      if first:
        bucket.write(path, content.getvalue())
    elif is_stream(path):
      yield content
      path.write_bytes(content.getvalue())
    else:
      with _draft(behind_links(path)) as file:
        yield file
  except OSError as error:
    of_draft = str(error.filename).endswith(disk.DRAFT)
    if error.filename is None or of_draft:  # tell what could not be written
      raise OSError(error.errno, error.strerror, str(path)) from error
    raise


@contextlib.contextmanager
def _draft(path: pathlib.Path) -> Iterator[BinaryIO]:
  """`whole` on a disk."""
  host = socket.gethostname().partition('.')[0]
  draft = path.with_name(f'{path.name}.{host}.{os.getpid()}{disk.DRAFT}')
  DRAFTS.add(draft)
  try:
    disk.make_directory(path.parent)
    disk.clear_drafts(path, host)
    with draft.open('wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(draft, path)
    disk.sync(path.parent)
  finally:
    draft.unlink(missing_ok=True)
    DRAFTS.discard(draft)
