"""Trains on all workers of a TPU VM pod, and starts again until it is done.

  ./run.sh launch/tpu_pod --name=pod --zone=us-west4-a --dry_run \
      --accelerator_type=v5litepod-16 --version=v2-alpha-tpuv5-lite --spot \
      --run='train --config=configs/digits_made.py --workdir=/share/runs/made'

A loop on your machine: is the pod there and READY? Else delete what is left
and create it, and run --setup on every worker. Then run the command on all
workers at once. It ends when the run is done, is preempted, or a worker dies,
which ends the others; unless result.json is there by then, the loop begins
anew. The working directory stays the same, so each start goes on where the last
one saved. Three starts in a row that fail within two minutes end the loop: that
is a mistake in the command, and no preemption.
"""

import shlex
import subprocess
import time

from absl import flags

from experiments import entry
from experiments.launch import command

_NAME = flags.DEFINE_string('name', None, 'Name of the TPU VM.')
_ZONE = flags.DEFINE_string('zone', None, 'Its zone.')
_PROJECT = flags.DEFINE_string('project', None, 'Google Cloud project.')
_TYPE = flags.DEFINE_string(
  'accelerator_type',
  None,
  'To create it, such as v5litepod-16; without it the pod must exist.',
)
_VERSION = flags.DEFINE_string(
  'version', 'tpu-ubuntu2204-base', 'Its runtime version.'
)
_SPOT = flags.DEFINE_bool('spot', False, 'Create it as a spot VM.')
_SETUP = flags.DEFINE_string(
  'setup',
  'true',
  'Run on every worker after its creation: mount the share, clone this '
  'repository, install jax[tpu].',
)
_REPOSITORY = flags.DEFINE_string(
  'repository', 'parallel_ar', 'This repository on the workers.'
)
_RESTARTS = flags.DEFINE_integer(
  'max_restarts', 100, 'Starts after the first.', lower_bound=0
)
_WAIT = flags.DEFINE_integer(
  'wait', 60, 'Seconds between two starts.', lower_bound=0
)

_QUICK, _TRIES = 120, 3  # seconds, and starts that end within them
# What an interrupted start left running would hold the chips. The brackets keep
# the pattern from matching the shell that holds it.
_CLEAR = "pkill -TERM -f '[e]xperiments.train' && sleep 10; "
_CLEAR += "pkill -KILL -f '[e]xperiments.train'; true"
_TPU = ('gcloud', 'compute', 'tpus', 'tpu-vm')


def main() -> None:
  """Runs the script."""
  for flag in (_NAME, _ZONE):
    entry.require(flag)
  training = f'cd {_REPOSITORY.value} && ./run.sh ' + shlex.join(
    command.experiment()
  )
  quick = 0
  for start in range(_RESTARTS.value + 1):
    if start:
      print(f'start {start + 1} in {_WAIT.value} s', flush=True)
      time.sleep(_WAIT.value)
    if not _ready():
      if not _make():
        continue
      if _on('all', _SETUP.value):
        continue
    _on('all', _CLEAR)
    began = time.monotonic()
    failed = _on('all', training) != 0
    quick = quick + 1 if failed and time.monotonic() - began < _QUICK else 0
    if _on('0', f'test -e {shlex.quote(command.result())}') == 0:
      print(f'the run is done: {command.result()}')
      return
    if quick == _TRIES:
      break
  raise RuntimeError(
    f'No {command.result()} after {start + 1} starts: look at the '
    'last lines of the workers above.'
  )


def _ready() -> bool:
  """Whether the pod is there and READY; under --dry_run it is not."""
  words = [*_TPU, 'describe', _name(), *_where(), '--format=value(state)']
  if command.DRY_RUN.value:
    command.do(words)
    return not _TYPE.value
  print('+', shlex.join(words), flush=True)
  try:
    done = subprocess.run(words, capture_output=True, text=True)
  except FileNotFoundError as error:
    raise FileNotFoundError(
      'gcloud is not installed here. Install the Google Cloud SDK, or look at '
      'what would be done with --dry_run.'
    ) from error
  return done.stdout.strip() == 'READY'


def _make() -> bool:
  """Deletes what is left of the pod and creates it; False: try again later."""
  if not _TYPE.value:
    raise ValueError(
      f'The TPU VM {_name()} is not READY in {_ZONE.value}, and without '
      '--accelerator_type nothing is created. Create it, or say of which type.'
    )
  name = _name()
  command.do([*_TPU, 'delete', name, *_where(), '--quiet'], check=False)
  spot = ['--spot'] if _SPOT.value else []
  create = [*_TPU, 'create', name, *_where()]
  create += [f'--accelerator-type={_TYPE.value}', f'--version={_VERSION.value}']
  return command.do(create + spot, check=False) == 0


def _on(worker: str, text: str) -> int:
  """Runs a shell command on workers; returns its exit code."""
  words = [*_TPU, 'ssh', _name(), *_where(), f'--worker={worker}']
  return command.do([*words, f'--command={text}'], check=False)


def _name() -> str:
  return entry.require(_NAME)


def _where() -> list[str]:
  project = [f'--project={_PROJECT.value}'] if _PROJECT.value else []
  return [f'--zone={_ZONE.value}', *project]


if __name__ == '__main__':
  entry.run(main)
