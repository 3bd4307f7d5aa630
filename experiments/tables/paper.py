"""The tables of papers, ours beside the published numbers, cell by cell.

  ./run.sh tables/paper --tables=uci_dna,uci_mushrooms
  ./run.sh tables/paper --run --minutes=30 --data_dir=data
  ./run.sh tables/paper --write

Prints the tables as Markdown, then the cells that have no results file, what
each would take on two cores, and the command that fills it. A published number
without a mark was read in a source that is named, one with † where another
source cites it, one with * is recalled and to be checked before it is quoted.
--csv writes every row with its difference, standard error, seed, commit and
command. --run runs the missing cells that fit into --minutes, shortest first; a
run that is stopped goes on with the same command. --write renews docs/tables.md
and the README from the results files, and a test fails where they differ.
"""

import csv
import io
import pathlib
import re
import subprocess
import sys

from absl import flags

from configs import paper
from experiments import entry, options
from experiments.tables import join
from parallel_ar.training import run_directory

_TABLES = flags.DEFINE_list(
  'tables', list(join.TITLES), 'Only these tables, by their short names.'
)
_CSV = options.define_output(
  'csv', 'Also write all rows here, as CSV.', ['.csv']
)
_RUN = flags.DEFINE_bool('run', False, 'Run missing cells of these tables.')
_MINUTES = flags.DEFINE_float(
  'minutes', 60, 'Of --run, all cells together, as estimated.', lower_bound=0
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Directory of data files.')
_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/paper', 'Directory of the runs, a folder for each.'
)
_WRITE = flags.DEFINE_bool('write', False, 'Renew docs/tables.md and README.')

PAGE = join.ROOT / 'docs' / 'tables.md'
README = join.ROOT / 'README.md'
# Rows of the README: the table, and the beginning of the row's name.
CHOSEN = (
  ('mnist_fixed', 'MADE [500], 1 mask'),
  ('mnist_fixed', 'MADE [8000], 1 mask'),
  ('mnist_fixed', 'Gated PixelCNN of 433 k'),
  ('mnist_dynamic', 'Gated PixelCNN of 244 k'),
  ('uci_dna', 'MADE [500], 1 mask'),
  ('uci_dna', 'MADE [500], masks'),
  ('uci_mushrooms', 'MADE [500], 1 mask'),
)


def main() -> None:
  """Runs the script."""
  for table in _TABLES.value:
    if table not in join.TITLES:
      known = ', '.join(join.TITLES)
      raise ValueError(f'There is no table {table!r}; take some of {known}.')
  if _RUN.value:
    run()
  if _CSV.value:
    rows = io.StringIO(newline='')
    csv.writer(rows).writerows(join.csv_rows(_TABLES.value))
    run_directory.replace(_CSV.value, rows.getvalue())
  if _WRITE.value:
    for path, text in written().items():
      run_directory.replace(path, text)
  print('\n\n'.join(map(join.markdown, _TABLES.value)))
  print(to_do(list(wanted())))


def wanted() -> dict[str, paper.Cell]:
  """The missing cells of the tables asked for, shortest first."""
  cells = {
    name: cell
    for name, cell in join.missing().items()
    if name.partition('/')[0] in _TABLES.value
  }
  return dict(sorted(cells.items(), key=lambda item: item[1].minutes))


def command(name: str) -> list[str]:
  """The flags of `train` that fill a cell."""
  return [
    f'--config=configs/paper.py:{name}',
    f'--result=results/paper/{name}.json',
  ]


def to_do(names: list[str]) -> str:
  """What is missing and what it takes; '' where nothing is."""
  if not names:
    return ''
  total = sum(paper.CELLS[name].minutes for name in names)
  rows = [
    f'{paper.CELLS[name].minutes:6.1f} min  ./run.sh train '
    f'{" ".join(command(name))} --data_dir=DATA'
    for name in names
  ]
  head = f'\n{len(names)} cells have no results file, {total:.0f} minutes:'
  return '\n'.join([head, *rows])


def run() -> None:
  """Runs the missing cells that fit; a failed one ends the script.

  Raises:
    RuntimeError: a run failed, or was stopped.
  """
  left = _MINUTES.value
  for name, cell in wanted().items():
    if cell.minutes > left:
      print(f'{name} takes {cell.minutes:g} minutes, {left:.1f} are left')
      continue
    left -= cell.minutes
    (join.RESULTS / name).parent.mkdir(parents=True, exist_ok=True)
    words = [*command(name), f'--workdir={_WORKDIR.value}/{name}']
    if _DATA_DIR.value:
      words.append(f'--data_dir={_DATA_DIR.value}')
    print(f'{name}: {" ".join(words)}', flush=True)
    script = [sys.executable, '-m', 'experiments.train', *words]
    done = subprocess.run(script, cwd=join.ROOT, check=False)
    if done.returncode or not (join.RESULTS / f'{name}.json').exists():
      raise RuntimeError(
        f'The run of {name} ended with exit code {done.returncode} and no '
        'result; the same command goes on from its last checkpoint.'
      )


def written() -> dict[pathlib.Path, str]:
  """docs/tables.md and README.md as the results files have them."""
  tables = '\n\n'.join(map(join.markdown, join.TITLES))
  return {
    PAGE: replaced(PAGE, tables),
    README: replaced(README, '\n'.join(headline())),
  }


def replaced(path: pathlib.Path, block: str) -> str:
  """The text of a page with another block between its marks.

  Raises:
    ValueError: the page has no marks.
  """
  text, begin, end = path.read_text(), '<!-- tables -->', '<!-- end -->'
  pattern = re.compile(f'{begin}\n.*?{end}', re.DOTALL)
  if len(pattern.findall(text)) != 1:
    raise ValueError(f'{path} needs one block from {begin} to {end}.')
  return pattern.sub(lambda _: f'{begin}\n{block}\n{end}', text)


def headline() -> list[str]:
  """The README's table."""
  rows = ['| test split | ours | published | file |', '|---|--:|--:|---|']
  for table, start in CHOSEN:
    title = join.TITLES[table]
    for name, one, ours in join.lines(table):
      if not name.startswith(start) or not ours:
        continue
      theirs = ''
      if one:
        theirs = f'{one.shown(title.unit)}, {one.paper} {one.year}'
      link = f'[`{ours.file}`]({ours.file})'
      what = f'{name}, {title.heading}, {title.unit}'
      rows.append(f'| {what} | {ours} | {theirs} | {link} |')
  return rows


if __name__ == '__main__':
  entry.run(main)
