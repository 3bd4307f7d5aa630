"""Checkpoints of a run, over orbax.

One directory a step holds the items `params`, `ema` (where one is kept),
`opt_state`, `spikes` (where train.skip_spikes is on) and `meta`. They are
separate, so that evaluation reads the parameters alone. `checkpoint_meta` says
what `meta` holds.

A directory gets its final name only when it is complete, so a kill in the
middle of a save leaves the step before as the newest. What is read is compared
with the checksums taken from the arrays before they were written, on whatever
mesh and number of hosts either happened. What is broken is stepped over, newest
to oldest, and moved aside once an older step has been read. A checkpoint of
another model is never broken: it is refused, with the fields that differ.
"""

import functools
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from parallel_ar.distributed import multihost
from parallel_ar.training import checkpoint_meta, checksum
from parallel_ar.training import state as state_lib
from parallel_ar.training.checkpoint_meta import Json, OtherRunError
from parallel_ar.training.state import TrainState
from parallel_ar.types import Params


class CheckpointError(RuntimeError):
  """Checkpoints exist, but none can be read or written."""


class NonFiniteState(ValueError):
  """A state that holds nan or infinity was about to be saved."""


class Checkpoints:
  """The checkpoints of one run; close it in `finally`.

  Saves run in the background: leaving without `close` loses the one in flight.
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
    self.directory = pathlib.Path(directory).absolute()
    self.best_step: int | None = None
    self._config = config
    self._keep = keep
    self._saved: int | None = None
    self._saved_at = time.monotonic()
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
      ),
    )

  def steps(self) -> list[int]:
    """Steps with a checkpoint, oldest first."""
    return sorted(self._manager.all_steps())

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Orbax's preservation policy: the newest `keep`, and the best."""
    del context
    kept = sorted(c.step for c in checkpoints)[-self._keep :]
    return [c.step in kept or c.step == self.best_step for c in checkpoints]

  def save(self, step: int, state: TrainState, extra: Json) -> None:
    """Starts saving a state; a step that is saved already is left alone.

    Args:
      step: updates done.
      state: may be donated to the next step as soon as this returns.
      extra: JSON data of the loop, returned by `restore_latest`.

    Raises:
      NonFiniteState: the state holds nan or infinity; nothing is written.
      CheckpointError: the previous save failed.
    """
    if step in self._manager.all_steps():
      return
    items = _items(state)
    finite, sums = _inspect(items)
    if not finite:
      raise NonFiniteState(f'The state after step {step} is not finite.')
    self.wait()
    meta = checkpoint_meta.make(step, self._config, items, sums, extra)
    args = {k: ocp.args.StandardSave(v) for k, v in items.items()}
    args['meta'] = ocp.args.JsonSave(meta)
    self._saved, self._saved_at = step, time.monotonic()
    try:
      self._manager.save(step, args=ocp.args.Composite(**args), force=True)
    except (ValueError, OSError, RuntimeError) as error:
      self._lost(error)

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
    """
    items = _items(template)

    def read(step):
      meta = self._meta(step)
      self._refuse(step, meta, items)
      return self._read(step, items, meta), meta['extra']

    steps = self.steps()
    multihost.require_same(
      'the checkpoints it sees',
      f'steps {steps} in {self.directory}',
      'The working directory must lie on a file system that all hosts share, '
      'under the same path.',
    )
    if not steps:
      return None
    step, (trees, extra), broken = self._newest(read, steps)
    for bad in broken:
      self._quarantine(bad)
    place = _place(template.step)
    trees['step'] = jax.make_array_from_callback(
      (), place, lambda _: np.asarray(step, np.int32)
    )
    return template._replace(**trees), extra

  def latest_extra(self) -> Json:
    """What the loop saved beside the newest state; see `save`.

    Raises:
      ValueError: there is no checkpoint.
      CheckpointError: nothing can be read.
    """
    return self._newest(self._meta, self._need())[1]['extra']

  def restore_params(
    self, template: Params, which: str = 'auto', step: int | None = None
  ) -> tuple[Params, str, int]:
    """Parameters alone, for evaluation and sampling.

    Args:
      template: parameters of the model, or their shapes and dtypes.
      which: 'raw', 'ema', or 'auto' for the average where one is kept.
      step: a step with a checkpoint; None for the newest readable one.

    Returns:
      (params, 'raw' or 'ema', step).

    Raises:
      ValueError: no such checkpoint, or no average in it.
      OtherRunError: the checkpoint is of another model.
      CheckpointError: nothing can be read.
    """
    steps = self._need(step)

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

    at, (params, name), _ = self._newest(read, steps)
    return params, name, at

  def wait(self) -> None:
    """Waits for the save in flight, and makes sure that it is there.

    Raises:
      CheckpointError: it failed; what was written of it is removed.
    """
    try:
      self._manager.wait_until_finished()
    except (ValueError, OSError, RuntimeError) as error:
      self._lost(error)
    if (
      self._saved is not None
      and not (self.directory / str(self._saved)).is_dir()
    ):
      self._lost(None)

  def close(self) -> None:
    """Waits for the save in flight, then closes."""
    try:
      self.wait()
    finally:
      self._manager.close()

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

  def _lost(self, error: Exception | None) -> None:
    """Ends a save that failed; the steps before it are as they were."""
    step, self._saved = self._saved, None
    if multihost.is_first():
      draft = f'{step}.orbax-checkpoint-tmp'
      shutil.rmtree(self.directory / draft, ignore_errors=True)
    reason = '' if error is None else f' ({str(error).strip()[-200:]})'
    raise CheckpointError(
      f'The checkpoint of step {step} did not reach {self.directory}{reason}: '
      'look for a full disk or a removed directory. Older checkpoints are as '
      'they were; make room, and the same command goes on from the newest.'
    ) from error

  def _meta(self, step: int) -> Json:
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    meta = self._manager.restore(step, args=args)['meta']
    checkpoint_meta.check(meta, step, str(self.directory))
    return meta

  def _read(
    self, step: int, items: dict[str, Any], meta: Json
  ) -> dict[str, Any]:
    """The items, where the templates say, compared with their checksums."""
    args = {
      name: ocp.args.StandardRestore(jax.tree.map(_abstract, tree))
      for name, tree in items.items()
    }
    restored = self._manager.restore(step, args=ocp.args.Composite(**args))
    trees = {name: restored[name] for name in items}
    for name, found in _inspect(trees)[1].items():
      checkpoint_meta.compare(meta, name, found)
    return trees

  def _newest(
    self, read: Callable[[int], Any], steps: list[int]
  ) -> tuple[int, Any, list[int]]:
    """Reads the newest step that can be read; also tells the broken ones."""
    broken: dict[int, Exception] = {}
    for step in sorted(steps, reverse=True):
      found, problem = None, None
      try:
        found = read(step)
      except Exception as error:
        problem = error
      refused = isinstance(problem, OtherRunError)
      good = multihost.all_agree('restore', problem is None or refused)
      if problem is not None and refused and good:
        raise problem
      if good:
        return step, found, list(broken)
      broken[step] = problem or RuntimeError('another process cannot read it')
    reasons = '; '.join(
      f'step {step}: {type(error).__name__}: {str(error)[:120]}'
      for step, error in broken.items()
    )
    raise CheckpointError(
      f'{self.directory} holds checkpoints, but none can be read: {reasons}. '
      'Nothing was changed there. Bring a good one back, or start anew in '
      'another working directory.'
    )

  def _refuse(self, step: int, meta: Json, items: dict[str, Any]) -> None:
    where = f'The checkpoint of step {step} in {self.directory}'
    checkpoint_meta.refuse(meta, self._config, items, where)

  def _quarantine(self, step: int) -> None:
    source = self.directory / str(step)
    if multihost.is_first() and source.is_dir():
      count = len(list(self.directory.glob(f'corrupt-{step}-*')))
      source.rename(self.directory / f'corrupt-{step}-{count}')
    multihost.all_agree('quarantine', True)
    self._manager.reload()


def _items(state: TrainState) -> dict[str, Any]:
  """What is saved, item by item; the step is the directory's name."""
  items = state._asdict()
  del items['step']
  return {name: tree for name, tree in items.items() if tree is not None}


def _look(items: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
  sums = {name: checksum.words(tree) for name, tree in items.items()}
  return state_lib.all_finite(items), sums


@functools.cache
def _look_from(place: jax.sharding.Sharding | None) -> Callable[..., Any]:
  """`_look`, compiled, with a result that every process can read."""
  return jax.jit(_look, out_shardings=place)


def _inspect(items: dict[str, Any]) -> tuple[bool, dict[str, dict[str, str]]]:
  """Whether all is finite, and the checksums of every item."""
  places = [leaf.sharding for leaf in jax.tree.leaves(items)]
  meshes = [p.mesh for p in places if isinstance(p, jax.sharding.NamedSharding)]
  whole = jax.sharding.PartitionSpec()
  place = jax.sharding.NamedSharding(meshes[0], whole) if meshes else None
  finite, sums = jax.device_get(_look_from(place)(items))
  names = {k: checksum.hex_digits(items[k], v) for k, v in sums.items()}
  return bool(finite), names


def _place(leaf: Any) -> jax.sharding.Sharding:
  """Where a leaf lies or should lie; orbax warns where it has to guess."""
  place = getattr(leaf, 'sharding', None)
  here = jax.local_devices()[0]
  return place or jax.sharding.SingleDeviceSharding(here)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_place(leaf))
