"""The directory of one run: who owns it, and how files in it are replaced.

config.json       the configuration of the run
metrics.jsonl     one record a line
checkpoints/      one directory a step
tensorboard/      scalars
samples/          grids, one PNG a step
result.json       the evaluation on the test split, once all steps are done
"""

import contextlib
import hashlib
import json
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any, BinaryIO

from parallel_ar.distributed import multihost
from parallel_ar.training import configuration, disk

PathLike = str | os.PathLike[str]
DRAFTS: set[pathlib.Path] = set()  # being written by this process, see `whole`


def changes(directory: PathLike, config: dict[str, Any]) -> list[str]:
  """What `config` changes of the run that lives in `directory`.

  A run may be continued with another schedule, length or data section, and
  says so. It may not become another model: its parameters would not fit.

  Args:
    directory: working directory, which need not exist.
    config: JSON form of the configuration, see `configuration.to_json`.

  Returns:
    Lines such as 'train.steps: 100 -> 200'; empty for a new directory.

  Raises:
    ValueError: the model section differs, or config.json cannot be read.
  """
  path = pathlib.Path(directory) / 'config.json'
  if not path.exists():
    return []
  try:
    old = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(
      f'{path} is not JSON ({error}), so nothing says which run lives there. '
      'Restore the file, or choose another working directory.'
    ) from error
  lines = configuration.differences(old, config)
  model = [line for line in lines if line.startswith('model')]
  if model:
    raise ValueError(
      f'{directory} holds a run of another model: {"; ".join(model)} (there -> '
      'here). Choose another working directory, or the config of that run.'
    )
  return lines


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


def claim(directory: PathLike, config: dict[str, Any], finished: bool) -> None:
  """Writes config.json; process 0 does, for all.

  A result.json is of a finished run: where steps are to come, the one of a
  shorter run goes away.

  Args:
    directory: working directory.
    config: JSON form of the configuration.
    finished: whether all steps are done.
  """
  if not multihost.is_first():
    return
  path = pathlib.Path(directory)
  replace(path / 'config.json', json.dumps(config, indent=2) + '\n')
  if not finished:
    (path / 'result.json').unlink(missing_ok=True)


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

  Args:
    path: of the file; its folder is made, and what had the name is replaced.

  Yields:
    The draft, open for bytes. Where the block raises, it is removed; what a
    dead process of this host has left of the file is, too.

  Raises:
    OSError: names the file.
  """
  path = pathlib.Path(path)
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
  except OSError as error:
    if error.filename is None:  # of a write: tell what could not be written
      raise OSError(error.errno, error.strerror, str(path)) from error
    raise
  finally:
    draft.unlink(missing_ok=True)
    DRAFTS.discard(draft)
