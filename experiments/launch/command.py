"""What every launcher runs: the same command, until the run has its result."""

import pathlib
import shlex
import subprocess
from collections.abc import Sequence

from absl import flags

from experiments import grid
from parallel_ar.training import bucket

DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print what would be done, and do nothing.'
)
RUN = flags.DEFINE_string(
  'run',
  None,
  "The experiment and its flags, such as --run='train --config=configs/a.py "
  "--workdir=/share/runs/a'. It is the same on every host and at every start.",
)
# What every process of a job knows and no stranger does (`roll_call`).
TOKEN = 'PARALLEL_AR_JOB_TOKEN'
TRIES = 3  # starts in a row that fail and save nothing new


def experiment(*more: str) -> list[str]:
  """The words of --run, with --distributed=on.

  Args:
    *more: further flags, for where --run does not say them.

  Raises:
    ValueError: it is missing, is no `train`, or names no absolute --workdir.
  """
  words = shlex.split(RUN.value or '')
  if not words or words[0] != 'train':
    raise ValueError(
      "--run must be a training, such as --run='train "
      "--config=configs/digits_made.py --workdir=/share/runs/made'."
    )
  workdir()
  return _with(words, '--distributed=on', *more)


def sweep(*more: str) -> dict[str, list[str]]:
  """Where --run is a sweep: working directory -> the words of each training.

  Args:
    *more: further flags, for where --run does not say them.

  Raises:
    ValueError: it names no absolute --workdir, its grid is none, or a point
      of it has no config, where the file is here too.
  """
  words = shlex.split(RUN.value or '')
  if words[:1] != ['sweep']:
    return {}
  points = grid.points(words[1:])
  if pathlib.Path(grid.config(words)).is_file():
    grid.check(list(points.values()))
  return {
    f'{workdir()}/{name}': _with(
      ['train', *flags_, f'--workdir={workdir()}/{name}'],
      '--distributed=on',
      *more,
    )
    for name, flags_ in points.items()
  }


def _with(words: list[str], *more: str) -> list[str]:
  """The words, and those flags of `more` that they have not."""
  given = {word.partition('=')[0] for word in words}
  return words + [w for w in more if w.partition('=')[0] not in given]


def workdir() -> pathlib.Path:
  """The --workdir of --run: the one place that survives the machines.

  Raises:
    ValueError: there is none, it is relative, or no place in a bucket.
  """
  given = [
    word.partition('=')[2]
    for word in shlex.split(RUN.value or '')
    if word.startswith('--workdir=')
  ]
  if len(given) != 1 or not given[0].startswith(('/', 'gs://')):
    raise ValueError(
      '--run needs one absolute --workdir=/..., on a file system that all '
      'hosts share and that outlives them, or gs://BUCKET/...: a restart '
      'resumes what lies there.'
    )
  return bucket.place(given[0])


def result() -> str:
  """The file that says that the run is done."""
  return str(workdir() / 'result.json')


def do(words: Sequence[str], check: bool = True) -> int:
  """Runs a command, or prints it under --dry_run; returns its exit code.

  Args:
    words: of the command.
    check: whether to end where it fails.

  Raises:
    RuntimeError: it failed, under `check`.
    FileNotFoundError: there is no such program here.
  """
  print('+', shlex.join(words), flush=True)
  if DRY_RUN.value:
    return 0
  try:
    code = subprocess.run(words).returncode
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f'{words[0]} is not installed here. Install it, or look at what would be '
      'done with --dry_run.'
    ) from error
  if code and check:
    raise RuntimeError(f'{words[0]} ended with exit code {code}.')
  return code
