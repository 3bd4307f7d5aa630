"""The start of a run: it meets what lies in its directory, then begins.

What is cheap is compared first: the config before data are read, the data
before the directory is opened. Nothing is written before all of it fits.
"""

import json
import pathlib
import time
from collections.abc import Callable, Sequence

import jax

from parallel_ar import model as model_lib
from parallel_ar.data.dataset import Dataset
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import multihost
from parallel_ar.model import AutoregressiveModel
from parallel_ar.training import identity, run_directory
from parallel_ar.training.identity import Json


class Start:
  """One start of a run, which is new or goes on.

  Attributes:
    identity: of the run, with its history once it has begun.
    began: when it came, by the monotonic clock, in seconds.
    said: lines for a person about what differs.
  """

  def __init__(self, directory: pathlib.Path, config: Json, allowed: bool):
    """Compares the config, precision and conditions.

    Args:
      directory: working directory, which need not exist.
      config: JSON form of the configuration.
      allowed: whether changes of the run are, see `identity.admit`.

    Raises:
      ValueError: the start does not fit the run, or a file cannot be read.
    """
    self._directory, self._allowed = directory, allowed
    self.began = time.monotonic()
    self._there = identity.read(directory)
    self.identity = identity.of(config)
    self.said: list[str] = []
    self._admit()

  def meet_data(self, train: Dataset, valid: Dataset | None) -> None:
    """Compares the data, also between hosts.

    Raises:
      ValueError: they are not those of the run.
      RollCallError: another host has other data, or other modules.
    """
    multihost.require_same(
      'the code of your own',
      ', '.join(' '.join(m) for m in self.identity['modules'].items()),
      'Give every host the same modules.',
    )
    data = {'train': identity.fingerprint(train)}
    if valid is not None:
      data['valid'] = identity.fingerprint(valid)
    self.identity |= {'data': data}
    multihost.require_same(
      'the data it read',
      ', '.join(f'{split} {data[split]["digest"]}' for split in data),
      'Give every host the same files.',
    )
    self._admit()

  def meet_checkpoint(self, extra: Json) -> None:
    """Takes the identity in a checkpoint where the directory has none."""
    if self._there is None or 'data' not in self._there:
      self._there = extra.get('identity', self._there)
      self._admit()

  def begin(self, step: int, steps: int) -> None:
    """Writes what the run is from now on; process 0 does, for all.

    A result.json is of a finished run: where steps are to come, the one of a
    shorter run goes away.

    Args:
      step: updates done.
      steps: updates of the whole run.

    Raises:
      ValueError: the run is done, and nothing would be trained.
    """
    there, config = self._there, self.identity['config']
    if step > steps:
      raise ValueError(
        f'{self._directory} holds a run of {step} steps already, beyond '
        f'config.train.steps = {steps}. Ask for more steps, or choose another '
        'working directory.'
      )
    if there is not None:
      law, conditions, free = identity.changes(there, self.identity)
      if law and step >= steps:
        raise identity.OtherRun(
          f'{self._directory} holds a run that is done after step {step}: '
          f'nothing would be trained with {"; ".join(law)}. Ask for more '
          'config.train.steps, or choose another working directory.'
        )
      self.said = [f'changed since this run began: {x}' for x in law + free]
      if conditions:
        self.said.append(
          'other conditions, which can change bits and are noted in '
          f'{identity.FILE}: {"; ".join(conditions)}'
        )
      if 'data' not in there:
        self.said.append(
          'this run began before runs had an identity: its config was '
          'compared; its data, precision and versions are those of now'
        )
    if step < steps or there is None or 'data' not in there:
      self.identity = identity.grown(there, self.identity, step)
    else:
      self.identity = there | {'config': config}
    if not multihost.is_first():
      return
    for name, content in (
      (identity.FILE, self.identity),
      ('config.json', config),
    ):
      text = json.dumps(content, indent=2) + '\n'
      run_directory.replace(self._directory / name, text)
    if step < steps:
      (self._directory / 'result.json').unlink(missing_ok=True)

  def tell(
    self,
    say: Callable[[str], None],
    models: Sequence[AutoregressiveModel],
    step: int,
  ) -> None:
    """Tells a person on what runs, what, and what differs from before."""
    say(multihost.devices())
    say(model_lib.describe(models[0]))
    mesh = jax.sharding.get_mesh()
    if mesh.size > 1:
      say(f'mesh: {mesh_lib.describe(mesh.shape)}')
    if len(models) > 1:
      say(f'{len(models)} models share the parameters')
    if step:
      say(f'resuming after step {step} in {self._directory}')
    for line in self.said:
      say(line)

  def _admit(self) -> None:
    if self._there is not None:
      identity.admit(self._directory, self._there, self.identity, self._allowed)
