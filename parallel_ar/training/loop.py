"""The training loop.

Order of a run: check the config and the directory -> data -> models -> their
fit -> state -> restore -> steps. Order of a step: batch, dispatch, metrics of
the step BEFORE where they are wanted, then what is due: validation, sample
grid, checkpoint. `pace` has what keeps the device busy meanwhile.

A run is a function of its identity: parameters come from `seed`, the batch of a
step from (seed, step), what an objective draws from (seed, step, example), and
nothing else is drawn. Hence a run that was killed and resumed ends with the
bits of one that was not, and a start with another identity is refused.
"""

import contextlib
import functools
import os
import pathlib
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from parallel_ar import models as models_lib
from parallel_ar import precision, samplers
from parallel_ar.analysis import complexity
from parallel_ar.data import pipeline
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import multihost, sharding
from parallel_ar.model import AutoregressiveModel
from parallel_ar.training import (
  boards,
  bucket,
  checkpoint,
  configuration,
  datasets,
  evaluate,
  identity,
  interrupt,
  metrics,
  outcome,
  owner,
  pace,
  packing,
  pictures,
  run_directory,
  start,
  state,
  step,
)
from parallel_ar.training import profile as profile_lib
from parallel_ar.training.outcome import NonFiniteLoss, Summary
from parallel_ar.training.selection import Selection
from parallel_ar.training.state import TrainState
from parallel_ar.types import Params

_LOOK_EVERY = 100  # steps after which one that is not finite ends the run
_NOTHING_YET = (
  'stopped before the first step of this process. What earlier ones saved is '
  'as it was; the same command goes on.'
)


def train(
  config: ConfigDict,
  workdir: str | os.PathLike[str],
  *,
  data_dir: str | os.PathLike[str] | None = None,
  progress: bool | None = None,
  profile: int = 0,
  allow_changes: bool = False,
  held: owner.Owner | None = None,
) -> Summary:
  """Trains the model of a config, or goes on where a killed run stopped.

  Args:
    config: see `configuration.default_config`.
    workdir: directory of this run; see `run_directory` for its files.
    data_dir: where data files lie, for sources that read files.
    progress: True for a bar, False for silence, None for a bar on a terminal
      and plain lines elsewhere.
    profile: steps to trace into `workdir`/profile, after the first ones.
    allow_changes: go on with other settings, and write that into the history.
    held: `workdir`, where the caller holds it already; see `owner.take`.

  Returns:
    A Summary.

  Raises:
    ValueError: the config or the data is wrong, or `workdir` is another's.
    NonFiniteLoss: a loss, gradient or state is not finite, and is not saved.
    interrupt.Interrupted: SIGTERM, SIGUSR1 or SIGINT; the state is saved.
    checkpoint.CheckpointError: checkpoints cannot be read or written.
  """
  workdir = run_directory.resolve(workdir)
  configuration.validate(config)
  mesh = mesh_lib.make(config.mesh)
  sharding.check(config.model.name, mesh)
  at_once = config.train.batch_size // config.train.accumulate
  mesh_lib.check_batch(mesh, at_once, 'train.batch_size / train.accumulate')
  run_directory.agree(recorded := configuration.to_json(config))
  with contextlib.ExitStack() as stack:
    signals = stack.enter_context(interrupt.StopSignals(_NOTHING_YET))
    held = held or stack.enter_context(owner.take(workdir))
    begin = start.Start(workdir, recorded, allow_changes)
    train_data, valid_data = datasets.load_for_training(config, data_dir)
    models = models_lib.build(config.model)
    for data in filter(None, (train_data, valid_data)):
      datasets.check_fit(models[0], data)
    begin.meet_data(train_data, valid_data)
    stack.enter_context(jax.set_mesh(mesh))
    stack.enter_context(precision.scope(config.train.precision))
    run = _Run(config, workdir, models, train_data, valid_data)
    stack.callback(run.batches.close)
    stack.callback(run.pace.close)
    run.signals, run.owner, run.begin = signals, held, begin
    run.checkpoints = checkpoint.Checkpoints(
      workdir / 'checkpoints', recorded, keep=config.train.keep
    )
    stack.callback(run.checkpoints.close)
    run.restore()
    begin.begin(run.start, config.train.steps)
    run.writer = metrics.writer(
      workdir,
      start=run.start,
      steps=config.train.steps,
      **boards.options(config, models[0]),
      progress=progress,
    )
    stack.callback(run.writer.close)
    begin.tell(run.writer.say, models, run.start)
    run.profile = profile_lib.Profile(workdir / 'profile', run.start, profile)
    stack.callback(run.profile.close)
    return run.summary(run.steps())


class _Run:
  """The parts of a run, and its position."""

  checkpoints: checkpoint.Checkpoints
  writer: metrics.MetricWriter
  profile: profile_lib.Profile
  signals: interrupt.StopSignals
  owner: owner.Owner
  begin: start.Start

  def __init__(
    self,
    config: ConfigDict,
    workdir: pathlib.Path,
    models: tuple[AutoregressiveModel, ...],
    train_data: Any,
    valid_data: Any | None,
  ):
    self.config = types.SimpleNamespace(**config.train)  # quicker to read
    self.seed = config.seed
    self.workdir = workdir
    self.models = models
    self.valid_data = valid_data
    self.evaluation = config.evaluate
    self.train_data = train_data
    reads: Any = {'narrow': True, 'workers': config.train.data_workers}
    size = config.train.batch_size
    self.batches = pipeline.batches(train_data, size, config.seed, **reads)
    load = functools.partial(mesh_lib.place_batch, self.batches)
    tokens = size * models[0].num_positions
    self.pace = pace.Pace(load, self.config.steps, tokens=tokens)
    transform, self.create = state.of_config(config, models[0])
    shapes = jax.eval_shape(self.create, jax.random.key(0))
    mesh = jax.sharding.get_mesh()
    places = sharding.state_shardings(shapes, config.model.name, mesh)
    whole = mesh_lib.replicated(mesh)
    given = config, models, transform, shapes, places, whole
    self.train_step, self.packing = step.of_config(*given)
    self.seen = jax.jit(outcome.nothing_seen, out_shardings=whole)()
    self.log_prob = evaluate.make_log_prob(models, self.evaluation.precision)
    self.sampler = jax.jit(samplers.fixed_point(models[0]))
    kept = shapes.ema is not None
    self.params_name = evaluate.chosen(self.evaluation.params, kept)
    self.selection = Selection()
    self.start = 0
    self.seconds = 0.0  # of processes before
    self.packed: packing.Packed

  @property
  def state(self) -> TrainState:
    """After the last step; the next one takes its arrays over."""
    return self.packing.unpack(self.packed)

  @state.setter
  def state(self, state: TrainState) -> None:
    self.packed = self.packing.pack(state)

  def restore(self) -> None:
    """The newest checkpoint, or a fresh state, born where it will lie."""
    found = self.checkpoints.restore_latest(self.packing.template)
    if found is None:
      records = self.workdir / 'metrics.jsonl'
      if bucket.is_file(records) and bucket.size(records):
        checkpoint.tell(f'No checkpoint beside {records}: the run begins anew.')
      create = jax.jit(self.create, out_shardings=self.packing.state_places)
      data = state.first_data(self.models[0], self.batches)
      self.state = create(jax.random.key(self.seed), data=data)
      return
    self.state, extra = found
    self.begin.meet_checkpoint(extra)
    self.seconds = extra.get('seconds', 0.0)
    self.selection = Selection(**extra['selection'])
    self.start = int(self.state.step)
    if self.config.keep_best:
      self.checkpoints.best_step = self.selection.best_step

  def steps(self) -> str:
    """Trains to the end; returns why it stopped."""
    config = self.config
    self._validate_if_due(self.start)  # a signal may have come before it
    for at in range(self.start + 1, config.steps + 1):
      if self.selection.exhausted(config.patience):
        return 'patience'
      self.owner.check()
      batch = self.pace.batch(at - 1)
      with self.profile.step(at, self.packed):
        done = self.train_step(self.packed, self.seen, batch)
        self.packed, self.seen, values = done
      self.signals.nothing_to_save = None
      if self.pace.pending and self._wanted(at - 1):
        self._settle()
      self.pace.dispatched(at, values, self.seen)
      self.writer.advance(at)
      self._validate_if_due(at)
      if self._due(at, config.sample_every):
        self._sample(at)
      if self._must_save(at):
        self._save(at)
      self._leave_if_asked(at)
    return 'steps'

  def _finish_save(self, at: int) -> None:
    """Ends the save of the last state, whose loss one step more gives."""
    if self.checkpoints.held() == at:
      done = self.train_step(self.packed, self.seen, self.pace.batch(at))
      self._check(jax.device_get(done[1]))
    self.checkpoints.wait()

  def summary(self, stopped: str) -> Summary:
    """Waits for the last save and picks the parameters to evaluate."""
    at, nats = int(self.state.step), None
    if self.checkpoints.held() == at:
      self._finish_save(at)
      self.state = self.checkpoints.read_back(at, self.packing.template)
    params = self._eval_params()
    if self.selection.evaluated == at:
      nats = self.selection.nats
    if self.config.keep_best and self.selection.best_step not in (-1, at):
      at, nats = self.selection.best_step, self.selection.best_nats
      params, _, _ = self.checkpoints.restore_params(
        self.state.params, self.params_name, at
      )
    name = f'{self.params_name} of step {at}'
    config = identity.note(self.workdir, self.begin.identity, name, at)
    what = self.state, self.models, params, name
    return Summary(*what, nats, stopped, self._seconds(), config)

  def _seconds(self) -> float:
    """Time of this process and of those before it, up to their last saves."""
    return self.seconds + time.monotonic() - self.begin.began

  def _due(self, at: int, every: int) -> bool:
    return every > 0 and at > 0 and at % every == 0

  def _must_save(self, at: int) -> bool:
    return (
      at == self.config.steps
      or self._due(at, self.config.checkpoint_every)
      or (
        self.config.checkpoint_minutes > 0
        and self._due(at, self.config.log_every)
        and self.checkpoints.time_is_up(self.config.checkpoint_minutes)
      )
      or self.selection.exhausted(self.config.patience)
      or (self.config.keep_best and self.selection.best_step == at)
    )

  def _wanted(self, at: int) -> bool:
    """Whether the numbers of a step are read as soon as they are there."""
    first, saved = at == self.start + 1, self.checkpoints.held() is not None
    return self._logged(at) or self._due(at, _LOOK_EVERY) or first or saved

  def _logged(self, at: int) -> bool:
    return self._due(at, self.config.log_every) or at == self.config.steps

  def _settle(self) -> None:
    """Fetches the metrics of the pending step, records them, and checks them.

    Raises:
      NonFiniteLoss: names the first step that was not finite, whatever was
        dispatched since.
    """
    if self.pace.pending is None:
      return
    at, values, seen = self.pace.fetch()
    if at == self.start + 1:  # whose time is compilation
      given = self.packed, self.seen, self.pace.batch(at - 1)
      self.pace.start(at, complexity.count(self.train_step, *given).work)
      self.writer.start_clock(at)
    if wrong := int(seen.step):
      values = outcome.of_first_bad(seen, self.models[0].num_dims)
      self.writer.write('train', wrong, values)
    elif self._logged(at):
      rates = self.pace.rates(at, self.writer.rate(at))
      self.writer.write('train', at, values | rates)
    self.writer.advance(at, values)
    self._check(seen)

  def _check(self, seen: outcome.Seen) -> None:
    """Checks the steps so far: the held state may be saved then."""
    if at := int(seen.step):
      self.checkpoints.drop()
      wrong = outcome.not_finite(seen._asdict())
      raise NonFiniteLoss(at, wrong, self.checkpoints.newest())
    self.checkpoints.release()

  @contextlib.contextmanager
  def _aside(self) -> Iterator[None]:
    """Leaves the time of what is no step out of the rates."""
    with self.writer.paused(), self.pace.away():
      yield

  def _validate_if_due(self, at: int) -> None:
    """Validates once, and updates the selection."""
    due = self._due(at, self.config.eval_every) or at == self.config.steps
    done = self.selection.evaluated == at
    if self.valid_data is None or not self.config.eval_every or not due or done:
      return
    self._settle()
    with self._aside():
      result = evaluate.evaluate(
        self.models,
        self._eval_params(),
        self.valid_data,
        self.evaluation.batch_size,
        params_name=f'{self.params_name} of step {at}',
        level=self.evaluation.precision,
        log_prob=self.log_prob,
        poll=lambda: self._leave_if_asked(at),
      )
    self.selection = self.selection.update(at, result.nats)
    if self.config.keep_best:
      self.checkpoints.best_step = self.selection.best_step
    names = 'nats', 'standard_error', 'bits_per_dim'
    self.writer.write('valid', at, {n: getattr(result, n) for n in names})

  def _sample(self, at: int) -> None:
    """Draws a grid from the same noise every time, so that grids compare."""
    self._settle()
    with self._aside(), precision.scope(self.evaluation.precision):
      params = self._eval_params()  # in all processes, though one shows them
      pictures.draw(
        self.models[0],
        functools.partial(self.sampler, params),
        self.train_data,
        path := self.workdir / 'samples' / f'step_{at:08d}.png',
        seed=self.seed,
        count=self.config.sample_count,
      )
      self.writer.show(at, path, params)

  def _save(self, at: int) -> None:
    """Saves a state; the numbers of the step after it decide if it stays."""
    self._settle()
    self.owner.check()
    self.writer.sync()
    extra = {
      'seed': self.seed,
      'selection': self.selection._asdict(),
      'seconds': self._seconds(),
      'identity': self.begin.identity,
    }
    try:
      with self._aside():
        self.checkpoints.save(at, self.state, extra, hold=True)
    except checkpoint.NonFiniteState as error:
      what = 'its new state is not finite'
      raise NonFiniteLoss(at, what, self.checkpoints.newest()) from error

  def _leave_if_asked(self, at: int) -> None:
    if (name := self.signals.asked()) is None:
      return
    self._save(at)
    self._finish_save(at)
    stop = interrupt.Interrupted(name, at, str(self.checkpoints.directory))
    if multihost.is_first():
      print(stop.message, file=sys.stderr, flush=True)
    raise stop

  def _eval_params(self) -> Params:
    return getattr(self.state, 'ema' if self.params_name == 'ema' else 'params')
