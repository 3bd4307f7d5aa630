"""Checkpoints of a run.

One directory a step holds the items `params`, `ema` (where one is kept),
`opt_state`, `spikes` (where train.skip_spikes is on) and `meta`. They are
separate, so that evaluation reads the parameters alone. `checkpoint_meta` says
what `meta` holds, `checkpoint_store` when a step gets its name.

What is read is compared with the checksums taken from the arrays before they
were written, on whatever mesh and number of hosts either happened. What is
damaged is stepped over, newest to oldest, with a line on stderr, and a run
moves it aside once an older step has been read. What the disk does not give is
tried again, then ends the run (`checkpoint_faults`). A checkpoint of another
model is refused, with the fields that differ.
"""

import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from parallel_ar.distributed import multihost
from parallel_ar.training import (
  bucket,
  checkpoint_bucket,
  checkpoint_faults,
  checkpoint_meta,
  checksum,
  results,
)
from parallel_ar.training.checkpoint_meta import Json, OtherRunError
from parallel_ar.training.checkpoint_store import LostSave
from parallel_ar.training.state import TrainState
from parallel_ar.types import Params


class CheckpointError(RuntimeError):
  """Checkpoints exist, but none can be read or written."""


class NonFiniteState(ValueError):
  """A state that holds nan or infinity was about to be saved."""


class Checkpoints:
  """The checkpoints of one run; close it in `finally`.

  Saves run in the background: leaving without `close` loses the one in flight.

  Attributes:
    directory: where they lie.
    best_step: a step that is kept beside the newest ones.
    notes: what else than was asked for was read, and why, a line each.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    config: Json,
    *,
    keep: int = 2,
    read_only: bool = False,
  ):
    """Opens or makes the directory.

    Args:
      directory: of the checkpoints.
      config: JSON form of the run's configuration.
      keep: newest checkpoints that are kept, beside `best_step`.
      read_only: open another run's checkpoints, and change nothing.
    """
    self.directory = bucket.absolute(directory)
    self.best_step: int | None = None
    self.notes: list[str] = []
    self._told: set[int] = set()
    self._config = config
    self._keep = keep
    self._saved_at = time.monotonic()
    self._store = checkpoint_bucket.store(self.directory, read_only=read_only)

  def steps(self) -> list[int]:
    """Steps with a checkpoint, oldest first."""
    return self._store.steps()

  def save(
    self, step: int, state: TrainState, extra: Json, *, hold: bool = False
  ) -> None:
    """Starts saving a state; a step that is saved already is left alone.

    Args:
      step: updates done.
      state: may be donated to the next step as soon as this returns.
      extra: JSON data of the loop, returned by `restore_latest`.
      hold: write it, but keep the older steps and give it no name before
        `release`; without that, closing drops it.

    Raises:
      NonFiniteState: the state holds nan or infinity; nothing is written.
      CheckpointError: the previous save failed.
    """
    there = step == self._store.saving() or step in self.steps()
    if multihost.from_first('saved already', there):
      return
    items = _items(state)
    finite, sums = checksum.inspect(items)
    if not finite:
      raise NonFiniteState(f'The state after step {step} is not finite.')
    self.wait()
    meta = checkpoint_meta.make(step, self._config, items, sums, extra)
    self._saved_at = time.monotonic()
    keep, best = self._keep, self.best_step
    keeps = lambda steps: [s for s in steps if s in steps[-keep:] or s == best]
    try:
      self._store.save(items, meta, keeps, hold=hold)
    except LostSave as error:
      raise _lost(error) from error

  def held(self) -> int | None:
    """The step that waits for `release`, or None."""
    return self._store.held()

  def release(self) -> None:
    """Lets the held step become the newest."""
    self._store.release()

  def drop(self) -> None:
    """Throws the held step away."""
    self._store.release(wanted=False)

  def newest(self) -> str:
    """A sentence on what a run can go back to."""
    self.wait()
    if not (steps := self.steps()):
      return 'No checkpoint was saved before it.'
    return f'The newest checkpoint is of step {steps[-1]}, in {self.directory}.'

  def time_is_up(self, minutes: float) -> bool:
    """Whether the last save began so long ago, by the clock of process 0."""
    passed = time.monotonic() - self._saved_at >= 60 * minutes
    return multihost.from_first('time to save', passed)

  def restore_latest(
    self, template: TrainState
  ) -> tuple[TrainState, Json] | None:
    """The newest state that can be read and is what was written.

    Broken newer steps are renamed to corrupt-STEP-N, so that the run can save
    those steps again.

    Args:
      template: a state of this run, or its shapes, dtypes and shardings: the
        mesh may be another than the one that saved. A leaf without a sharding
        is put on one device.

    Returns:
      (state, the `extra` saved with it), or None where there is no checkpoint.

    Raises:
      OtherRunError: the newest checkpoint is of another model or optimizer.
      CheckpointError: there are checkpoints, and none can be read.
      RollCallError: names a host that sees other checkpoints than process 0.
    """
    items = _items(template)

    def read(step):
      meta = self._meta(step)
      self._refuse(step, meta, items)
      return self._read(step, items, meta), meta['extra']

    steps = self._store.steps_of_all()
    if not steps:
      return None
    step, (trees, extra), broken = self._newest(read, steps)
    for bad, why in broken.items():
      name = self._store.move_aside(bad)
      self.tell(
        f'Checkpoint of step {bad} is damaged ({why}) and was moved to {name}; '
        f'the run goes on from step {step}.'
      )
    return self._state(step, trees, template), extra

  def read_back(self, step: int, template: TrainState) -> TrainState:
    """The state of a step that this process has saved.

    Raises:
      CheckpointError: it cannot be read, or is not what was written.
    """
    self.wait()
    items = _items(template)
    _, trees, _ = self._newest(
      lambda at: self._read(at, items, self._meta(at)), [step]
    )
    return self._state(step, trees, template)

  def latest_extra(self) -> Json:
    """What the loop saved beside the newest state; see `save`.

    Raises:
      ValueError: there is no checkpoint.
      CheckpointError: nothing can be read.
    """
    at, meta, broken = self._newest(self._meta, self._need())
    self._tell_of(broken, at)
    return meta['extra']

  def restore_params(
    self,
    template: Params,
    which: str = 'auto',
    step: int | None = None,
    *,
    prefer: int | None = None,
  ) -> tuple[Params, str, int]:
    """Parameters alone, for evaluation and sampling.

    Args:
      template: parameters of the model, or their shapes and dtypes.
      which: 'raw', 'ema', or 'auto' for the average where one is kept.
      step: a step with a checkpoint; None for the newest readable one.
      prefer: without a `step`, the one to try first, such as the best.

    Returns:
      (params, 'raw' or 'ema', step). `notes` tells where it is another step
      than the first that was tried.

    Raises:
      ValueError: no such checkpoint, or no average in it.
      OtherRunError: the checkpoint is of another model.
      CheckpointError: nothing can be read.
    """
    steps = self._need(step)
    absent = {}
    if prefer in steps:
      steps = [s for s in steps if s != prefer] + [prefer]
    elif prefer is not None and step is None:
      absent = {prefer: 'it is the best on validation, and not there'}

    def read(at):
      meta = self._meta(at)
      self._refuse(at, meta, {'params': template})
      kept = 'ema' in meta['layout']
      if which == 'ema' and not kept:
        raise OtherRunError(
          f'The checkpoint of step {at} keeps no moving average: its run had '
          "train.ema_decay = 0. Ask for 'raw' parameters."
        )
      item = 'ema' if kept and which != 'raw' else 'params'
      name = {'ema': 'ema', 'params': 'raw'}[item]
      return self._read(at, {item: template}, meta)[item], name

    at, (params, name), broken = self._newest(read, steps)
    self._tell_of(absent | broken, at)
    return params, name, at

  def wait(self) -> None:
    """Waits for the save in flight, and makes sure that it is there.

    Raises:
      CheckpointError: it failed; what was written of it is removed.
    """
    try:
      self._store.wait()
    except LostSave as error:
      raise _lost(error) from error

  def close(self) -> None:
    """Waits for the save in flight, then closes."""
    try:
      self._store.close()
    except LostSave as error:
      raise _lost(error) from error

  def _need(self, step: int | None = None) -> list[int]:
    """The steps to choose from; only `step`, where one is asked for."""
    steps = self.steps()
    if not steps or (step is not None and step not in steps):
      wanted = 'checkpoint' if step is None else f'checkpoint of step {step}'
      raise ValueError(
        f'{self.directory} holds no {wanted} (steps there: {steps}). Train '
        'first, or name a step that is there.'
      )
    return steps if step is None else [step]

  def _meta(self, step: int) -> Json:
    meta = self._store.read_meta(step)
    checkpoint_meta.check(meta, step, str(self.directory))
    return meta

  def _read(
    self, step: int, items: dict[str, Any], meta: Json
  ) -> dict[str, Any]:
    """The items, where the templates say, compared with their checksums."""
    trees = self._store.read(step, jax.tree.map(_abstract, items))
    for name, found in checksum.inspect(trees)[1].items():
      checkpoint_meta.compare(meta, name, found)
    return trees

  def _state(
    self, step: int, trees: dict[str, Any], template: TrainState
  ) -> TrainState:
    place = _place(template.step)
    trees['step'] = jax.make_array_from_callback(
      (), place, lambda _: np.asarray(step, np.int32)
    )
    return template._replace(**trees)

  def _newest(
    self, read: Callable[[int], Any], steps: list[int]
  ) -> tuple[int, Any, dict[int, str]]:
    """Reads the last step that can be read; also why later ones cannot."""
    broken: dict[int, str] = {}
    for step in reversed(steps):
      path = self._store.path(step)
      verdict, found, problem = checkpoint_faults.attempt(
        functools.partial(read, step), path
      )
      if verdict == 'good':
        return step, found, broken
      why = checkpoint_faults.reason(problem)
      if verdict == 'refused':
        raise problem or OtherRunError(why)
      if verdict == 'unread':
        raise CheckpointError(
          f'The checkpoint of step {step} in {self.directory} cannot be read '
          f'now ({why}). Nothing shows that it is damaged, so nothing was '
          'changed there: look at the disk, its permissions and the memory, '
          'then give the same command again.'
        ) from problem
      broken[step] = why
    reasons = '; '.join(f'step {step}: {why}' for step, why in broken.items())
    raise CheckpointError(
      f'{self.directory} holds checkpoints, but none can be read: {reasons}. '
      'Nothing was changed there. Bring a good one back, or start anew in '
      'another working directory.'
    )

  def _refuse(self, step: int, meta: Json, items: dict[str, Any]) -> None:
    where = f'The checkpoint of step {step} in {self.directory}'
    checkpoint_meta.refuse(meta, self._config, items, where)

  def _tell_of(self, broken: dict[int, str], used: int) -> None:
    for step, why in broken.items():
      if step in self._told:
        continue
      self._told.add(step)
      self.tell(
        f'Checkpoint of step {step} cannot be read ({why}); step {used} is '
        'read instead.'
      )

  def tell(self, line: str) -> None:
    """As the function `tell`; also in `notes`."""
    self.notes.append(line)
    tell(line)


def tell(line: str) -> None:
  """A line on stderr, and in the results of this process."""
  results.note(line)
  if multihost.is_first():
    print(line, file=sys.stderr, flush=True)


def _lost(error: LostSave) -> CheckpointError:
  return CheckpointError(
    f'{error}. Older checkpoints are as they were, and the same command goes '
    'on from the newest.'
  )


def _items(state: TrainState) -> dict[str, Any]:
  """What is saved, item by item; the step is the directory's name."""
  items = state._asdict()
  del items['step']
  return {name: tree for name, tree in items.items() if tree is not None}


def _place(leaf: Any) -> jax.sharding.Sharding:
  """Where a leaf lies or should lie; orbax warns where it has to guess."""
  place = getattr(leaf, 'sharding', None)
  here = jax.local_devices()[0]
  return place or jax.sharding.SingleDeviceSharding(here)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_place(leaf))
