"""Trains a grid of settings and seeds, and prints the table of them.

  ./run.sh sweep --config=configs/digits_made.py --seeds=3 \
      --grid=optimizer.learning_rate=0.001,0.01 --grid='model.hidden=(64,),(9,)'
  ./run.sh sweep --config=configs/digits_made.py --seeds=2 --jobs=2 \
      --name=short --config.train.steps=60

Every value of each --grid meets every value of the others and every seed: each
is a run of its own, in a directory that says what it is. The same command goes
on where it was stopped; a run that is done is only evaluated again. Other flags
hold for all. The table has one line for what differs but for the seed, with the
mean over seeds and its standard error; `runs --under=` lists each run. On Slurm
the same words make an array, one task a run:

  ./run.sh launch/slurm --time=02:00:00 --run='sweep \
      --config=configs/digits_made.py --seeds=3 --workdir=/share/runs/sweep'
"""

import pathlib
import subprocess
import sys
import time

from absl import flags

from experiments import entry, grid, listing, options
from parallel_ar.training import bucket, run_directory

_CONFIG = options.define_config()
_GRID = flags.DEFINE_multi_string(
  'grid', [], 'A field of the config and its values: train.steps=100,200.'
)
_SEEDS = flags.DEFINE_integer(
  'seeds', 1, 'Seeds of each point: 0, 1, ...', lower_bound=1
)
_JOBS = flags.DEFINE_integer('jobs', 1, 'Runs at once.', lower_bound=1)
_NAME = flags.DEFINE_string(
  'name',
  None,
  'The runs lie in runs/sweeps/NAME; that of the config without it.',
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'The runs lie here instead.')
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Directory of the data files; ./data without it.'
)


def main() -> None:
  """Runs the script."""
  entry.require(_CONFIG)
  words = sys.argv[1:]
  points = grid.points(words)
  grid.check(list(points.values()))
  under = run_directory.resolve(grid.place(words))
  print(f'{len(points)} runs in {under}', file=sys.stderr)
  away = bucket.is_address(under)
  logs = bucket.Spool(under) if away else None  # what grows lies here
  try:
    failed = _train(points, under, logs)
  finally:
    if logs is not None:
      logs.close()
  runs = [listing.read(path, under) for path in listing.found(under)]
  wanted = [run for run in runs if run.name in points]
  for line in listing.over_seeds(wanted):
    print(line)
  if failed:
    raise RuntimeError(
      f'{len(failed)} of {len(points)} runs failed: {", ".join(failed)}. What '
      f'each said is in {under}/NAME.log; the same command trains them again.'
    )


def _train(
  points: dict[str, list[str]],
  under: pathlib.Path,
  logs: bucket.Spool | None,
) -> list[str]:
  """Trains all points, some at once; the names of those that failed."""
  folder = under if logs is None else logs.folder
  waiting, failed = list(points), []
  running: dict[str, subprocess.Popen] = {}
  try:
    while waiting or running:
      while waiting and len(running) < _JOBS.value:
        name = waiting.pop(0)
        if logs is not None:
          logs.fetch(f'{name}.log')
        log = folder / f'{name}.log'
        running[name] = _start(points[name], under / name, log)
      time.sleep(0.2)
      if logs is not None:
        logs.send_soon()  # one that fails ends no training
      for name, process in list(running.items()):
        if (code := process.poll()) is not None:
          del running[name]
          failed += [name] * bool(code)
          done = len(points) - len(waiting) - len(running)
          said = 'failed' if code else 'done'
          print(f'{done} of {len(points)}: {name}, {said}', file=sys.stderr)
  finally:
    for process in running.values():  # on Ctrl-C each saves what it has
      process.terminate()
    for process in running.values():
      process.wait()
  return failed


def _start(
  words: list[str], workdir: pathlib.Path, log: pathlib.Path
) -> subprocess.Popen:
  log.parent.mkdir(parents=True, exist_ok=True)
  command = [sys.executable, '-m', 'experiments.train', *words]
  with log.open('ab') as file:
    return subprocess.Popen(
      [*command, f'--workdir={workdir}'],
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=subprocess.STDOUT,
    )


if __name__ == '__main__':
  entry.run(main)
