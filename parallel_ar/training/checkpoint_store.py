"""Steps on a disk, over orbax: when one gets its name, and when one goes.

  STEP           complete, on the disk, and released
  STEP.draft*    being written, or being removed
  corrupt-STEP-N moved aside, see `checkpoint`

The order of a save is the promise. Orbax writes the draft in the background;
the draft is opened again and compared with its description; all its files and
directories are synced; the caller releases it; it is renamed; the directory is
synced; and only then older steps go, each losing its name before its files. So
a power cut at any moment leaves the newest released step whole.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import orbax.checkpoint as ocp
from etils import epath

from parallel_ar.distributed import multihost
from parallel_ar.training import (
  bucket,
  checkpoint_faults,
  checkpoint_meta,
  disk,
)
from parallel_ar.training.checkpoint_meta import BrokenCheckpoint, Json

Publish = Callable[[pathlib.Path], None]

# Seconds until hosts look again: NFS keeps the names in a directory for 60.
LAGS = (1.0, 4.0, 15.0, 45.0)
_PATIENCE = 86400  # seconds: a held save waits for the next step of the run


class LostSave(RuntimeError):
  """A step that was to be saved is not there."""


@dataclasses.dataclass
class _Save:
  """A save in flight."""

  step: int
  meta: Json
  keeps: Callable[[list[int]], list[int]]
  wanted: bool = True
  decided: threading.Event = dataclasses.field(default_factory=threading.Event)
  error: Exception | None = None


class _Draft(ocp.path.atomicity.AtomicRenameTemporaryPath):
  """What orbax writes; what follows its own rename is the store's."""

  publish: Publish

  def __init__(self, temporary_path, final_path, **options):
    super().__init__(_Literal(temporary_path), final_path, **options)

  async def finalize(self) -> None:
    await super().finalize()
    await asyncio.to_thread(self.publish, pathlib.Path(self.get_final()))


class _Literal(type(epath.Path())):  # type: ignore[misc]
  """A path whose brackets are no pattern, though orbax globs below it."""

  def glob(self, pattern: str) -> Iterator['_Literal']:
    for path in pathlib.Path(self).glob(pattern):
      yield type(self)(path)


class Store:
  """The steps of one directory. All processes of a job call it alike.

  Attributes:
    directory: where the steps lie.
  """

  _kind: type[ocp.path.atomicity.TemporaryPathBase] = _Draft
  _look = 'look for a full disk or a removed directory'  # where a save is lost

  def __init__(self, directory: pathlib.Path, *, read_only: bool):
    """Opens the directory; makes it and clears old drafts, unless read-only."""
    self.directory = directory
    self._save: _Save | None = None
    if not read_only and multihost.is_first():
      self._make_directory()
      for draft in self._drafts():
        self._remove(draft)
    for name in ('absl', 'asyncio'):
      logging.getLogger(name).addFilter(_reported_here)
    publish = staticmethod(self._publish)
    self._orbax = ocp.AsyncCheckpointer(
      ocp.CompositeCheckpointHandler(),
      async_options=ocp.AsyncOptions(timeout_secs=_PATIENCE),
      temporary_path_class=type('Draft', (self._kind,), {'publish': publish}),
    )

  def steps(self) -> list[int]:
    """Steps that are there, oldest first."""
    return sorted(int(name) for name in self._names() if name.isdecimal())

  def steps_of_all(self) -> list[int]:
    """As `steps`, once all processes see the same: disks of networks lag.

    Raises:
      RollCallError: they do not; it names one that differs from process 0.
    """
    for wait in LAGS:
      steps = self.steps()
      if len(set(multihost.gather('steps', str(steps)))) == 1:
        return steps
      time.sleep(wait)
    multihost.require_same(
      'the checkpoints it sees',
      f'steps {(steps := self.steps())} in {self.directory}',
      'The working directory must lie on a file system that all hosts share, '
      'under the same path.',
    )
    return steps

  def path(self, step: int) -> pathlib.Path:
    """Where a step lies."""
    return self.directory / str(step)

  def saving(self) -> int | None:
    """The last step that `save` was asked for, until it is lost or dropped."""
    return None if self._save is None else self._save.step

  def save(
    self,
    items: dict[str, Any],
    meta: Json,
    keeps: Callable[[list[int]], list[int]],
    *,
    hold: bool,
  ) -> None:
    """Starts a save, after `wait`.

    Args:
      items: name -> tree of arrays, which may be donated after the return.
      meta: see `checkpoint_meta.make`.
      keeps: which of the steps that are there stay once this one is.
      hold: leave it a draft until `release`.

    Raises:
      LostSave: it failed at once.
    """
    self._save = save = _Save(meta['step'], meta, keeps)
    if not hold:
      save.decided.set()
    args = {k: ocp.args.StandardSave(v) for k, v in items.items()}
    args['meta'] = ocp.args.JsonSave(meta)
    try:
      draft = self._begin(save.step)
      self._orbax.save(draft, args=ocp.args.Composite(**args), force=True)
    except Exception as error:
      self._lose(error)

  def held(self) -> int | None:
    """The step that waits for `release`, if there is one."""
    save = self._save
    return save.step if save and not save.decided.is_set() else None

  def release(self, wanted: bool = True) -> None:
    """Lets the held step have its name, or drops it."""
    if self._save is not None and not self._save.decided.is_set():
      self._save.wanted = wanted
      self._save.decided.set()

  def wait(self) -> None:
    """Waits for the save in flight, which is not held any more.

    Raises:
      LostSave: it failed, or its directory was removed since.
    """
    save = self._save
    if save is None:
      return
    assert save.decided.is_set(), 'a held save ends with release'
    try:
      self._orbax.wait_until_finished()
    except Exception as error:
      self._lose(error)
    if not save.wanted:
      self._save = None
    elif save.error is not None or not self._is_there(save.step):
      self._lose(save.error)

  def close(self) -> None:
    """Ends the threads. A step that is still held is dropped."""
    self.release(wanted=False)
    try:
      self.wait()
    finally:
      self._orbax.close()

  def read_meta(self, step: int) -> Json:
    """The description of a step, as it is on the disk."""
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    return self._orbax.restore(self.path(step), args=args)['meta']

  def read(self, step: int, items: dict[str, Any]) -> dict[str, Any]:
    """Trees of arrays, where the templates in `items` say."""
    args = {k: ocp.args.StandardRestore(v) for k, v in items.items()}
    restored = self._orbax.restore(
      self.path(step), args=ocp.args.Composite(**args)
    )
    return {name: restored[name] for name in items}

  def move_aside(self, step: int) -> str:
    """Renames a step to corrupt-STEP-N; returns that name."""
    count = sum(p.startswith(f'corrupt-{step}-') for p in self._names())
    name = f'corrupt-{step}-{count}'
    if multihost.is_first():
      self._rename(step, name)
    multihost.all_agree('quarantine', True)
    return name

  # What a disk does; `checkpoint_bucket` has what a bucket does.

  def _make_directory(self) -> None:
    disk.make_directory(self.directory)

  def _names(self) -> list[str]:
    if not self.directory.is_dir():
      return []
    return [path.name for path in self.directory.iterdir() if path.is_dir()]

  def _is_there(self, step: int) -> bool:
    return self.path(step).is_dir()

  def _begin(self, step: int) -> pathlib.Path:
    """Where orbax is to put the draft of a step."""
    return self.directory / f'{step}{disk.DRAFT}'

  def _release(self, draft: pathlib.Path, step: int) -> None:
    """Gives a draft that is on the disk its name."""
    os.rename(draft, self.path(step))
    disk.sync(self.directory)

  def _rename(self, step: int, name: str) -> None:
    self.path(step).rename(self.directory / name)
    disk.sync(self.directory)

  def _remove(self, path: pathlib.Path) -> None:
    disk.remove(path)

  def _sync(self, path: pathlib.Path) -> None:
    disk.sync_tree(path)

  def _publish(self, draft: pathlib.Path) -> None:
    """Gives the draft its name; process 0, in orbax's thread.

    An error is kept for `wait`: raised here, it would leave the other processes
    at orbax's barrier.
    """
    save = self._save
    assert save is not None
    try:
      prove(draft, save.meta)
      self._sync(draft)
      save.decided.wait()
      if not save.wanted:
        self._remove(draft)
        return
      self._release(draft, save.step)
    except Exception as error:  # whatever it is: `_lose` tells it apart
      save.error = error
      return
    steps = self.steps()
    self._forget(set(steps) - set(save.keeps(steps)) - {save.step})

  def _forget(self, steps: Iterable[int]) -> None:
    for step in sorted(steps):
      try:
        self._remove(self.path(step))
      except OSError as error:  # no reason to lose the save
        print(
          f'The old checkpoint of step {step} cannot be removed: {error}.',
          file=sys.stderr,
          flush=True,
        )

  def _clear(self, step: int) -> None:
    """Removes the draft of a save that failed, and room it took.

    Orbax raises the first error while its other writes go on and make their
    directories again, so this looks until nothing comes back.
    """
    quiet, deadline = 0, time.monotonic() + 10
    while quiet < 3 and time.monotonic() < deadline:
      drafts = [d for d in self._drafts() if _step(d.name) == str(step)]
      quiet = 0 if drafts else quiet + 1
      for draft in drafts:
        with contextlib.suppress(OSError):
          self._remove(draft)
      time.sleep(0.05)

  def _drafts(self) -> list[pathlib.Path]:
    return [self.directory / n for n in self._names() if _is_draft(n)]

  def _lose(self, error: Exception | None) -> NoReturn:
    """Ends a save that failed; the steps before it are as they were.

    Raises:
      LostSave: the disk or the bucket did not take the step.
      Exception: anything else that went wrong, which is a bug, as it is.
    """
    save, self._save = self._save, None
    assert save is not None
    save.wanted = False
    save.decided.set()
    if multihost.is_first():
      self._clear(save.step)
    if error and not checkpoint_faults.of_storage(error, self.directory):
      raise error
    reason = f' ({checkpoint_faults.reason(error)})' if error else ''
    raise LostSave(
      f'The checkpoint of step {save.step} did not reach {self.directory}'
      f'{reason}: {self._look}'
    ) from error


def prove(draft: pathlib.Path, meta: Json) -> None:
  """Opens every array of a draft again, and its description.

  No array is read whole: what costs as much as a restore is done at the end of
  a run only.

  Raises:
    BrokenCheckpoint: something is not there, or not what was to be written.
  """
  handler = ocp.StandardCheckpointHandler()
  for name, layout in meta['layout'].items():
    try:
      tree = handler.metadata(literal(draft / name)).tree
    except (OSError, ValueError, KeyError) as error:  # all say the same
      why = checkpoint_faults.reason(error)
      raise BrokenCheckpoint(f'{name} cannot be opened: {why}') from error
    found = sorted(checkpoint_meta.layout(tree).values())
    if found != sorted(layout.values()):
      raise BrokenCheckpoint(f'{name} has other arrays than were written')
  text = (draft / 'meta' / 'metadata').read_text()
  if checkpoint_meta.digest(json.loads(text)) != meta['digest']:
    raise BrokenCheckpoint('its description is not what was written')


def literal(path: pathlib.Path) -> Any:
  """A path as orbax takes it; addresses have no signs of patterns."""
  return epath.Path(path) if bucket.is_address(path) else _Literal(path)


def _step(name: str) -> str:
  return name.partition('.')[0]


def _is_draft(name: str) -> bool:
  step, _, rest = name.partition('.')
  return step.isdecimal() and rest.startswith(
    (disk.DRAFT[1:], 'orbax-checkpoint-tmp')
  )


def _reported_here(record: logging.LogRecord) -> bool:
  """Keeps what orbax logs, but for the errors that are raised here as well."""
  orbax = f'{os.sep}orbax{os.sep}'
  of_orbax = orbax in record.pathname
  # Of several arrays that are not written, or read, orbax raises one error and
  # forgets the tasks of the others.
  text = record.getMessage() if record.name == 'asyncio' else ''
  forgotten = disk.DRAFT in text or orbax in text
  return not ((of_orbax or forgotten) and record.levelno >= logging.ERROR)
