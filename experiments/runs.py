"""Lists runs: what differs between them, how far, how good, in which state.

  ./run.sh runs
  ./run.sh runs --under=runs/sweep --sort=valid --out=sweep.csv

A run is any directory below --under with a config.json. Fields are shown where
the runs differ; nats of the best validation and of the test split. States:
`done` (there is a result.json), `training`, `died` (its owner left no word),
`stopped` (the same command goes on), `unreadable`.
"""

import csv
import io
import math

from absl import flags

from experiments import entry, listing, options
from parallel_ar.training import run_directory

_UNDER = flags.DEFINE_string('under', 'runs', 'Where the runs lie.')
_SORT = flags.DEFINE_enum(
  'sort', 'name', ['name', 'valid', 'test'], 'Order of the lines; best first.'
)
_OUT = options.define_output(
  'out', 'Also write all fields that differ, as CSV.', ['.csv']
)


def main() -> None:
  """Runs the script."""
  under = run_directory.resolve(_UNDER.value)
  if not under.is_dir():
    raise ValueError(f'--under={under}: there is no such directory.')
  runs = [listing.read(path, under) for path in listing.found(under)]
  if not runs:
    raise ValueError(
      f'No run lies below {under}: a run is a directory with a config.json, as '
      './run.sh train makes it.'
    )
  key = {'name': lambda run: run.name} | {
    kind: lambda run, k=kind: (math.isnan(getattr(run, k)), getattr(run, k))
    for kind in ('valid', 'test')
  }
  runs.sort(key=key[_SORT.value])
  differing = listing.differences(runs)
  for line in listing.table(runs, differing):
    print(line)
  if _OUT.value:
    text = io.StringIO(newline='')
    writer = csv.writer(text)
    writer.writerow(['run', 'state', 'step', 'valid', 'test', *differing])
    for run in runs:
      own = [run.fields.get(path, '') for path in differing]
      writer.writerow([run.name, run.state, *run[2:5], *own])
    run_directory.replace(_OUT.value, text.getvalue())
    print(f'all fields: {_OUT.value}')


if __name__ == '__main__':
  entry.run(main)
