"""What a run has learnt, read from its directory."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from parallel_ar import coding, doors, memo, npz, precision, samplers
from parallel_ar import model as model_lib
from parallel_ar import models as models_lib
from parallel_ar.data.dataset import Dataset
from parallel_ar.distributed import sharding
from parallel_ar.model import AutoregressiveModel
from parallel_ar.samplers import Sample, Sampler
from parallel_ar.training import (
  bucket,
  checkpoint,
  configuration,
  datasets,
  evaluate,
  own_code,
  params_file,
  run_directory,
)
from parallel_ar.training import identity as identity_lib
from parallel_ar.types import ArrayLike, Context, Params, PRNGKey


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trained:
  """Models and parameters of a run, and what they are for.

    run = par.load('runs/digits_made')
    run.log_prob(x)             # nats[B]
    run.sample(16).x            # or run.sample(keys, x=..., known=...)
    run.codec().encode(run.params, x)

  Attributes:
    config: the run's own configuration.
    models: its models, which share `params`.
    params: the parameters.
    params_name: for example 'ema of step 900'.
    step: updates that made them.
    identity: of the run, see `identity`; None of an old file of parameters.
    notes: what else than was asked for was read, and why; each line was said
      on stderr, and is in the results of this process.
    where: the working directory, or the file of parameters.
  """

  config: ConfigDict
  models: tuple[AutoregressiveModel, ...]
  params: Params
  params_name: str
  step: int
  identity: identity_lib.Json | None
  notes: tuple[str, ...]
  where: pathlib.Path

  def __repr__(self) -> str:
    members = f', mixture of {len(self.models)}' * (len(self.models) > 1)
    about = model_lib.describe(self.models[0])
    return f'<{about}{members}; {self.params_name} of {self.where}>'

  @property
  def model(self) -> AutoregressiveModel:
    """The one model of the run.

    Raises:
      ValueError: the run is a mixture of several.
    """
    if len(self.models) > 1:
      raise ValueError(
        f'{self.where} is a mixture of {len(self.models)} models, which '
        'average p(x); they are not one chain of conditionals. Take '
        'run.log_prob, or one member, run.models[k].'
      )
    return self.models[0]

  @property
  def symbols(self) -> bytes | None:
    """Of a run of text: the byte that value v stands for is symbols[v]."""
    data = ((self.identity or {}).get('data') or {}).get('train') or {}
    text = data.get('symbols')
    return None if text is None else bytes.fromhex(text)

  def log_prob(self, x: ArrayLike, context: Context = None) -> jax.Array:
    """log p(x), of a mixture log mean p(x); one pass a model, compiled once.

    Args:
      x: array[B, *event], integers in 0..V-1 of a head of symbols.
      context: leaves with leading axis B, or None for an unconditional model.

    Returns:
      float[B], nats.

    Raises:
      ValueError: what does not fit the model.
    """
    model = self.models[0]
    x, context = doors.check_batch(model, x, context)
    level = self.config.evaluate.precision
    log_prob = memo.once(
      model,
      ('log_prob', level),
      lambda: evaluate.make_log_prob(self.models, level),
    )
    return log_prob(self.params, x, context)

  def sample(
    self,
    keys: PRNGKey | int,
    context: Context = None,
    *,
    x: ArrayLike | None = None,
    known: ArrayLike | None = None,
    sampler: Callable[[AutoregressiveModel], Sampler] = samplers.fixed_point,
  ) -> Sample:
    """Exact samples; the same integers for a key, whatever the sampler.

    Args:
      keys: key[B]; a number B stands for `jax.random.split(jax.random.key(0),
        B)`.
      context: leaves with leading axis B, or None.
      x: array[B, *event], values of the known positions.
      known: bool[B, *positions], which keep their value from `x`.
      sampler: such as `par.cached`.

    Returns:
      A Sample: x[B, *event], log_prob float[B] in nats, and what it cost.

    Raises:
      ValueError: what does not fit the model, or a mixture.
    """
    if isinstance(keys, int | np.integer):
      keys = jax.random.split(jax.random.key(0), int(keys))
    draw = memo.once(self.model, sampler, lambda: sampler(self.model))
    with precision.scope(self.config.evaluate.precision):
      return draw(self.params, keys, context, x=x, known=known)

  def codec(self, **options: Any) -> coding.Codec:
    """The lossless codec of the run's model; see `par.codec` for `options`.

    Returns:
      A Codec: `encode(run.params, x)` gives bytes, `decode(run.params, bytes)`
      the events again.
    """
    return coding.codec(self.model, **options)

  def load_split(
    self, split: str, data_dir: str | os.PathLike[str] | None = None
  ) -> Dataset:
    """A split of the run's data, whose values mean what the run learnt.

    Args:
      split: which part.
      data_dir: where data files lie.

    Raises:
      ValueError: it cannot be read, does not fit, or has other symbols.
    """
    data = datasets.load_split(self.config, split, data_dir)
    datasets.check_fit(self.models[0], data)
    identity_lib.check_vocabulary(self.identity, data)
    return data


def read_config(workdir: str | os.PathLike[str]) -> ConfigDict:
  """The configuration of a run, or of a file of parameters.

  Raises:
    ValueError: there is no run, or it names code that is not here, or that a
      record may not call (see `resolve.trust`).
  """
  path = run_directory.resolve(workdir)
  try:
    if bucket.is_file(path):
      data = params_file.read_meta(path)['config']
    else:
      path = path / 'config.json'
      data = configuration.read(path)
  except FileNotFoundError as error:
    raise ValueError(
      f'{workdir} holds no run: there is no config.json. Name the working '
      'directory that experiments.train was given.'
    ) from error
  try:
    config = configuration.from_json(data)
  except ValueError as error:
    raise ValueError(f'{path} records no run: {error}') from error
  own_code.trust(config, path)
  return config


def load(
  workdir: str | os.PathLike[str],
  *,
  which: str = 'auto',
  step: int | None = None,
) -> Trained:
  """Loads a finished, stopped or running run; changes nothing there.

  Parameters are put on the mesh in force, or on one device, whatever mesh they
  were trained on.

  Args:
    workdir: the working directory that `loop.train` was given, or a file of
      parameters that `params_file.save` wrote.
    which: 'raw', 'ema', or 'auto' for what the run itself validates.
    step: a step with a checkpoint; None for the best on validation where the
      run keeps it, else the newest.

  Returns:
    A Trained.

  Raises:
    ValueError: there is no run, no such checkpoint, or no such parameters in
      the file.
    checkpoint.CheckpointError: no checkpoint can be read.
  """
  workdir = run_directory.resolve(workdir)
  if bucket.is_file(workdir):
    return _load_file(workdir, which, step)
  config = read_config(workdir)
  recorded = configuration.to_json(config)
  models, template = _build(config, workdir)
  if which == 'auto':
    which = config.evaluate.params
  places = _places(template, config)
  if places is not None:
    template = sharding.with_shardings(template, places)
  checkpoints = checkpoint.Checkpoints(
    workdir / 'checkpoints', recorded, read_only=True
  )
  try:
    params, name, step = _restore(checkpoints, template, which, step, config)
    if name == 'raw' != which and config.train.ema_decay:
      checkpoints.tell(
        f'The checkpoint of step {step} keeps no moving average, though the '
        'run has train.ema_decay: its raw parameters are read.'
      )
  finally:
    checkpoints.close()
  identity = identity_lib.read(workdir)
  assert identity is not None, 'there is a config'
  notes = (*checkpoints.notes, *_told(own_code.changed(identity, config)))
  name = f'{name} of step {step}'
  config = identity_lib.note(workdir, identity, name, step)
  own_code.trust(config, workdir)
  return Trained(config, models, params, name, step, identity, notes, workdir)


def _restore(
  checkpoints: checkpoint.Checkpoints,
  template: Params,
  which: str,
  step: int | None,
  config: ConfigDict,
) -> tuple[Params, str, int]:
  """Of the step that was asked for, or the best, or the newest."""
  best = None
  if step is None and config.train.keep_best:
    best = checkpoints.latest_extra()['selection']['best_step']
  prefer = best if best is not None and best >= 0 else None
  return checkpoints.restore_params(template, which, step, prefer=prefer)


def _load_file(path: pathlib.Path, which: str, step: int | None) -> Trained:
  meta = params_file.read_meta(path)
  name, at = meta['params'], meta['step']
  if which not in ('auto', name) or step not in (None, at):
    raise ValueError(
      f'{path} holds the {name} parameters of step {at} only. Leave out '
      '--params and --step, or name the directory of the run.'
    )
  config = read_config(path)
  models, template = _build(config, path)
  params, _ = params_file.load(path, template)
  places = _places(template, config)
  if places is not None:
    params = jax.device_put(params, places)
  notes = []
  if name == 'raw' and which == 'auto' == config.evaluate.params:
    if config.train.ema_decay:
      notes.append(
        f'{path.name} holds the raw parameters of step {at}, though its run '
        'validates their moving average.'
      )
  notes = _told(notes + own_code.changed(meta.get('identity'), config))
  name = f'{name} of step {at}'
  identity = meta.get('identity')  # absent from files of before there were
  if isinstance(identity, dict):
    identity = identity_lib.checked(identity | {'config': meta['config']}, path)
    config = identity_lib.note(path, identity, name, at)
    own_code.trust(config, path)
  return Trained(config, models, params, name, at, identity, tuple(notes), path)


def _told(notes: list[str]) -> list[str]:
  """Lines, said on stderr and noted in every result."""
  for note in notes:
    checkpoint.tell(note)
  return notes


def _build(
  config: ConfigDict, where: pathlib.Path
) -> tuple[tuple[AutoregressiveModel, ...], Params]:
  """The models of a recorded config, and the shapes of their parameters."""
  try:
    params_file.check_scale(config.model.to_dict())
    models = models_lib.build(config.model)
    return models, jax.eval_shape(models[0].init, jax.random.key(0))
  except Exception as error:  # a record of anyone fails in many ways
    raise ValueError(
      f'{where} records a model that cannot be built here: {npz.told(error)}. '
      'Use the version of parallel_ar that wrote it, or restore the record.'
    ) from error


def _places(params: Params, config: ConfigDict) -> Any:
  """Where parameters lie on the mesh in force; None without one."""
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return None
  return sharding.param_shardings(params, config.model.name, mesh)
