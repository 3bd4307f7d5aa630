"""Trains on a Slurm cluster, and queues again until the run is done.

  ./run.sh launch/slurm --nodes=4 --gpus_per_node=8 --time=12:00:00 --dry_run \
      --run='train --config=configs/digits_made.py --workdir=/share/runs/made'

One task a node or, with GPUs, one a GPU; JAX finds the others from what Slurm
sets. Two minutes before the time is up, or when the job is preempted, Slurm
sends SIGUSR1 or SIGTERM: the run saves and ends, the batch script sees that
there is no result.json yet, and queues the same job again. So it does when a
process died, of whatever: memory errors, a lost link, kill -9. Only after three
starts in a row that failed and saved nothing new, as a mistake in the command
does, the job ends with the exit code. A node that fails is requeued by Slurm
itself. A --run that is a sweep becomes an array, one task a run; `./run.sh runs
--under=` its directory prints the table.
"""

import pathlib
import re
import shlex
import sys
import tempfile

from absl import flags

from experiments import entry
from experiments.launch import command
from parallel_ar.training import bucket

_NODES = flags.DEFINE_integer('nodes', 1, 'Nodes of the job.', lower_bound=1)
_GPUS = flags.DEFINE_integer(
  'gpus_per_node',
  0,
  'GPUs and tasks of a node; 0: one task, no GPU.',
  lower_bound=0,
)
_CPUS = flags.DEFINE_integer(
  'cpus_per_task', 8, 'Cores of a task.', lower_bound=1
)
_TIME = flags.DEFINE_string('time', '04:00:00', 'Longest time of one start.')
_PARTITION = flags.DEFINE_string('partition', None, 'Slurm partition.')
_ACCOUNT = flags.DEFINE_string('account', None, 'Slurm account.')
_RESTARTS = flags.DEFINE_integer(
  'max_restarts', 100, 'Starts after the first.', lower_bound=0
)
_GRACE = flags.DEFINE_integer(
  'grace', 120, 'Seconds between signal and end.', lower_bound=1
)
_REPOSITORY = flags.DEFINE_string(
  'repository', '.', 'This repository, as the nodes see it.'
)

_SCRIPT = """#!/bin/bash
{options}
set -u
cd -- {repository}
{choice}
mkdir -p -- "$(dirname -- "$workdir")"
export {token}="$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n')"
newest() {{
  ls -- "$workdir/checkpoints" 2>/dev/null | grep -x '[0-9]*' | sort -n \\
    | tail -n 1
}}
before="$(newest)"
# Each start of the job runs this file from its top.
srun --kill-on-bad-exit=1 ./run.sh {experiment}
code=$?
failed=0
if (( code != 0 )) && [[ "$(newest)" == "$before" ]]; then
  failed=$(( $(cat -- "$workdir.slurm.failed" 2>/dev/null || echo 0) + 1 ))
fi
echo "$failed" >"$workdir.slurm.failed"
if [[ -e "$workdir/result.json" ]]; then
  rm -f -- "$workdir.slurm.failed"
  echo 'the run is done'
  exit 0
elif (( failed >= {tries} )); then
  rm -f -- "$workdir.slurm.failed"
  echo "srun ended with exit code $code; {tries} starts in a row failed and" \
    'saved nothing new: look at the lines above' >&2
  exit "$code"
elif (( ${{SLURM_RESTART_COUNT:-0}} >= {restarts} )); then
  echo 'no result after {restarts} restarts: look at the log' >&2
  exit 1
fi
echo "srun ended with exit code $code; queueing the same job again"
scontrol requeue "$SLURM_JOB_ID"
"""


def script() -> str:
  """The batch script.

  Raises:
    ValueError: the working directory is in a bucket.
  """
  platform = ['--platform=cuda'] if _GPUS.value else []
  runs = command.sweep(*platform)
  experiment = '"$@"' if runs else shlex.join(command.experiment(*platform))
  if bucket.is_address(command.workdir()):
    raise ValueError(
      f'{command.workdir()}: Slurm writes its log, and the batch script its '
      'count of failures, beside the working directory, and both need files. '
      'Name a directory that all nodes share, such as one of NFS.'
    )
  log = str(command.workdir()).replace('%', '%%')  # else a pattern of Slurm's
  options = {
    'job-name': f'par-{command.workdir().name}',
    'nodes': _NODES.value,
    'ntasks-per-node': max(1, _GPUS.value),
    'cpus-per-task': _CPUS.value,
    'time': _TIME.value,
    'signal': f'USR1@{_GRACE.value}',
    'output': f'{log}.slurm.log',
    'open-mode': 'append',
  }
  if runs:
    options['output'] = f'{log}.%a.slurm.log'
    options['array'] = f'0-{len(runs) - 1}'
  if _GPUS.value:
    options['gpus-per-node'] = _GPUS.value
  for name, flag in (('partition', _PARTITION), ('account', _ACCOUNT)):
    if flag.value:
      options[name] = flag.value
  lines = [
    f'#SBATCH --{name}={_quoted(name, value)}'
    for name, value in options.items()
  ]
  repository = pathlib.Path(_REPOSITORY.value).absolute()
  return _SCRIPT.format(
    options='\n'.join([*lines, '#SBATCH --requeue']),
    repository=shlex.quote(str(repository)),
    choice=_choice(runs),
    experiment=experiment,
    token=command.TOKEN,
    tries=command.TRIES,
    restarts=_RESTARTS.value,
  )


def _quoted(name: str, value: object) -> str:
  """A value as a line of #SBATCH takes it.

  Raises:
    ValueError: it holds what no such line can.
  """
  text = str(value)
  if re.search(r'["\\\x00-\x1f]', text):
    raise ValueError(
      f'{text!r} is to be --{name} of Slurm, whose lines take no \\, no " and '
      'no line break. Name it otherwise.'
    )
  return text if re.fullmatch(r"[^\s'#]+", text) else f'"{text}"'


def _choice(runs: dict[str, list[str]]) -> str:
  """The lines that set the working directory and, in an array, the command."""
  if not runs:
    return f'workdir={shlex.quote(str(command.workdir()))}'
  cases = (
    f'{n}) workdir={shlex.quote(where)}; set -- {shlex.join(words)} ;;'
    for n, (where, words) in enumerate(runs.items())
  )
  return '\n'.join(['case "$SLURM_ARRAY_TASK_ID" in', *cases, 'esac'])


def main() -> None:
  """Runs the script."""
  text = script()
  print(text)
  if not command.DRY_RUN.value:
    _make_room()
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'job.sbatch'
    path.write_text(text)
    command.do(['sbatch', str(path)])


def _make_room() -> None:
  """Makes the folder of the log, without which Slurm starts no job."""
  folder = command.workdir().parent
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    print(
      f'{folder} cannot be made here ({error.strerror}). Slurm starts nothing '
      'where it is missing, since its log lies there: look that nodes have it.',
      file=sys.stderr,
    )


if __name__ == '__main__':
  entry.run(main)
