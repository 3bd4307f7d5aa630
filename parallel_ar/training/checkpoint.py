"""Checkpoints of a run, over orbax.

One directory a step holds the items `params`, `ema` (where one is kept),
`opt_state` and `meta`. They are separate, so that evaluation reads the
parameters alone. `meta` is JSON: the step, the config, the shapes of every
leaf, a fingerprint of the model, package versions, and what the loop adds.

A directory gets its final name only when it is complete, so a kill in the
middle of a save leaves the step before as the newest. What is broken all the
same is stepped over, newest to oldest, and moved aside once an older step has
been read. A checkpoint of another model is never broken: it is refused, with
the fields that differ.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from parallel_ar.training import configuration, results
from parallel_ar.training import state as state_lib
from parallel_ar.training.state import TrainState
from parallel_ar.types import Params

Json = dict[str, Any]
FORMAT = 1


class CheckpointError(RuntimeError):
  """Checkpoints exist, but none can be read or written."""


class OtherRunError(ValueError):
  """A checkpoint belongs to another model or another optimizer."""


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
    if not bool(_all_finite(state)):
      raise NonFiniteState(f'The state after step {step} is not finite.')
    self.wait()
    items = _items(state)
    meta = {
      'format': FORMAT,
      'step': step,
      'config': self._config,
      'fingerprint': fingerprint(self._config, state.params),
      'layout': {name: layout(tree) for name, tree in items.items()},
      'versions': results.versions(),
      'extra': extra,
    }
    args = {k: ocp.args.StandardSave(v) for k, v in items.items()}
    args['meta'] = ocp.args.JsonSave(meta)
    self._manager.save(step, args=ocp.args.Composite(**args), force=True)
    self._saved = step

  def restore_latest(
    self, template: TrainState
  ) -> tuple[TrainState, Json] | None:
    """The newest state that can be read.

    Broken newer steps are renamed to corrupt-STEP-N, so that the run can save
    those steps again.

    Args:
      template: a state of this run, or its shapes and dtypes.

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
      return self._read(step, items), meta['extra']

    steps = self.steps()
    if not steps:
      return None
    step, (trees, extra), broken = self._newest(read, steps)
    for bad in broken:
      self._quarantine(bad)
    restored = TrainState(
      step=jnp.asarray(step, jnp.int32),
      params=trees['params'],
      ema=trees.get('ema'),
      opt_state=trees['opt_state'],
    )
    return restored, extra

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
      return self._read(at, {item: template})[item], name

    at, (params, name), _ = self._newest(read, steps)
    return params, name, at

  def wait(self) -> None:
    """Waits for the save in flight, and makes sure that it is there."""
    self._manager.wait_until_finished()
    if self._saved is None:
      return
    if not (self.directory / str(self._saved)).is_dir():
      raise CheckpointError(
        f'The checkpoint of step {self._saved} did not reach '
        f'{self.directory}: look for a full disk or a removed directory.'
      )

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

  def _meta(self, step: int) -> Json:
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    meta = self._manager.restore(step, args=args)['meta']
    if meta['format'] != FORMAT:
      raise OtherRunError(
        f'The checkpoint of step {step} in {self.directory} has format '
        f'{meta["format"]}; this version reads format {FORMAT}.'
      )
    return meta

  def _read(self, step: int, items: dict[str, Any]) -> dict[str, Any]:
    args = {
      name: ocp.args.StandardRestore(jax.tree.map(_abstract, tree))
      for name, tree in items.items()
    }
    restored = self._manager.restore(step, args=ocp.args.Composite(**args))
    return {name: restored[name] for name in items}

  def _newest(
    self, read: Callable[[int], Any], steps: list[int]
  ) -> tuple[int, Any, list[int]]:
    """Reads the newest step that can be read; also tells the broken ones."""
    broken: dict[int, Exception] = {}
    for step in sorted(steps, reverse=True):
      try:
        return step, read(step), list(broken)
      except OtherRunError:
        raise
      except Exception as error:
        broken[step] = error
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
    """Raises where the checkpoint has other leaves than `items`."""
    where = f'The checkpoint of step {step} in {self.directory}'
    here = {name: layout(tree) for name, tree in items.items()}
    lines = configuration.differences(
      meta['config']['model'], self._config['model'], 'model'
    )
    there = {'params': meta['layout']['params']}
    lines += configuration.differences(there, {'params': here['params']})
    if lines:
      raise OtherRunError(
        f'{where} is of another model: {_some(lines)} (checkpoint -> here). '
        'Use the config of that run, or another working directory.'
      )
    others = {name: meta['layout'].get(name) for name in here}
    lines = configuration.differences(others, here)
    if lines:
      raise OtherRunError(
        f'{where} does not fit the training configuration: {_some(lines)} '
        '(checkpoint -> here). The optimizer or the moving average changed; '
        'use the config of that run, or another working directory.'
      )

  def _quarantine(self, step: int) -> None:
    source = self.directory / str(step)
    if source.is_dir():
      count = len(list(self.directory.glob(f'corrupt-{step}-*')))
      source.rename(self.directory / f'corrupt-{step}-{count}')
    self._manager.reload()


def layout(tree: Any) -> dict[str, str]:
  """Path -> 'dtype[shape]' of every leaf."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path): f'{np.dtype(leaf.dtype).name}'
    f'[{", ".join(str(n) for n in leaf.shape)}]'
    for path, leaf in leaves
  }


def fingerprint(config: Json, params: Params) -> str:
  """16 hex digits of the model section and the shapes of its parameters."""
  facts = {'model': config['model'], 'params': layout(params)}
  text = json.dumps(facts, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


_all_finite = jax.jit(state_lib.all_finite)


def _items(state: TrainState) -> dict[str, Any]:
  """What is saved, item by item; the step is the directory's name."""
  items = {'params': state.params, 'opt_state': state.opt_state}
  return items if state.ema is None else items | {'ema': state.ema}


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  """Shape, dtype and place; orbax warns where it has to guess the place."""
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _some(lines: list[str], most: int = 5) -> str:
  more = f'; and {len(lines) - most} more' if len(lines) > most else ''
  return '; '.join(lines[:most]) + more
