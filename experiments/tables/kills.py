"""Kills a training at random moments; it must end as if nothing had been.

  ./run.sh tables/kills --kills=20 --out=results/kills.json

Trains once undisturbed. Then trains the same in another directory, in processes
that are ended by SIGKILL: one in four while it starts, the others at a random
moment of up to 100 steps and the saves between them. The last one goes on to
the end. All arrays of the two final checkpoints (parameters, average,
optimizer) are compared by their checksums, and the test nats by ==.
"""

import json
import pathlib
import random
import shutil
import subprocess
import sys
import time

from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar.training import run_directory

_CONFIG = flags.DEFINE_string(
  'config', 'configs/digits_made.py', 'What is trained.'
)
_STEPS = flags.DEFINE_integer(
  'steps', 3000, 'Updates of the run.', lower_bound=1
)
_EVERY = flags.DEFINE_integer(
  'every', 20, 'Updates between checkpoints.', lower_bound=1
)
_KILLS = flags.DEFINE_integer(
  'kills', 20, 'How often it is killed.', lower_bound=1
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the moments.', lower_bound=0)
_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/kills', 'Directory of both runs; replaced.'
)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  workdir = run_directory.local(_WORKDIR.value)
  shutil.rmtree(workdir, ignore_errors=True)
  whole, killed = workdir / 'whole', workdir / 'killed'
  _finish(whole)
  moments = random.Random(_SEED.value)
  kills: list[dict[str, float]] = []
  while len(kills) < _KILLS.value:
    kill = _kill(killed, moments)
    if kill is None:
      raise ValueError(
        f'The run ended after {len(kills)} kills. Ask for more --steps.'
      )
    print(f'kill {len(kills) + 1}: {kill}', flush=True)
    kills.append(kill)
  _finish(killed)
  ours, theirs = _sums(killed), _sums(whole)
  different = sum(ours.get(path) != theirs[path] for path in theirs)
  nats = [_nats(killed), _nats(whole)]
  numbers: report.Numbers = {
    'kills': (len(kills), 'processes'),
    'kills in a save': (sum(k['in_save'] for k in kills), 'processes'),
    'kills before the first step': (
      sum(k['early'] for k in kills),
      'processes',
    ),
    'arrays': (len(theirs), 'arrays'),
    'different arrays': (different, 'arrays'),
    'test, killed': (nats[0], 'nats'),
    'test, undisturbed': (nats[1], 'nats'),
  }
  for name, (value, unit) in numbers.items():
    print(f'{name}: {value} {unit}')
  config = {name: flags.FLAGS[name].value for name in ('config', 'steps')}
  report.save(
    _OUT.value,
    numbers,
    config | {'every': _EVERY.value, 'seed': _SEED.value},
    started,
    kills=kills,
  )
  if different or nats[0] != nats[1]:
    raise RuntimeError('The killed run did not end with the same bits.')


def _start(workdir: pathlib.Path, stderr: int) -> subprocess.Popen:
  return subprocess.Popen(
    [
      *(sys.executable, '-m', 'experiments.train'),
      *(f'--config={_CONFIG.value}', f'--workdir={workdir}'),
      f'--config.train.steps={_STEPS.value}',
      f'--config.train.checkpoint_every={_EVERY.value}',
      *('--config.train.eval_every=500', '--config.train.log_every=1'),
      '--config.train.tensorboard=False',
    ],
    stdout=subprocess.DEVNULL,
    stderr=stderr,
    text=True,
  )


def _finish(workdir: pathlib.Path) -> None:
  process = _start(workdir, subprocess.PIPE)
  _, said = process.communicate()
  if process.returncode:
    raise RuntimeError(f'The training ended with {said[-2000:]}')


def _kill(
  workdir: pathlib.Path, moments: random.Random
) -> dict[str, float] | None:
  """Starts a process and kills it; None where it was done before."""
  metrics = workdir / 'metrics.jsonl'
  early = moments.random() < 0.25
  steps = 0 if early else moments.randrange(100)
  wait = moments.uniform(0, 5 if early else 0.2)
  before = metrics.stat().st_ino if metrics.exists() else None
  process = _start(workdir, subprocess.DEVNULL)
  if not early:
    first = None
    while process.poll() is None:
      made = _records(metrics, before)
      first = made if first is None else first
      if made is not None and first is not None and made >= first + steps:
        break
      time.sleep(0.002)
  time.sleep(wait)
  done = process.poll() is not None
  process.kill()
  process.wait()
  if done:
    return None
  drafts = list((workdir / 'checkpoints').glob('*.draft*'))
  return {
    'early': int(early),
    # At its start a process still sees what the one before left.
    'in_save': int(bool(drafts) and not early),
    'seconds': round(wait, 3),
    'newest_step': max(_steps(workdir), default=0),
  }


def _records(metrics: pathlib.Path, before: int | None) -> int | None:
  """Steps in the file that this process has made; None before it has."""
  if not metrics.exists() or metrics.stat().st_ino == before:
    return None
  return metrics.read_bytes().count(b'"train"')


def _steps(workdir: pathlib.Path) -> list[int]:
  found = (workdir / 'checkpoints').glob('*')
  return [int(path.name) for path in found if path.name.isdigit()]


def _sums(workdir: pathlib.Path) -> dict[str, str]:
  """Item and path -> checksum, of the last checkpoint."""
  newest = workdir / 'checkpoints' / str(max(_steps(workdir)))
  meta = json.loads((newest / 'meta' / 'metadata').read_text())
  return {
    item + path: value
    for item, sums in meta['checksums'].items()
    for path, value in sums.items()
  }


def _nats(workdir: pathlib.Path) -> float:
  record = json.loads((workdir / 'result.json').read_text())
  return record['numbers']['nats']['value']


if __name__ == '__main__':
  entry.run(main)
