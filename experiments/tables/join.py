"""What the paper tables are joined from, and how they are written.

A table has the rows of third_party/published/TABLE.csv in their order, each
with our number where a results file has one, then the rows of ours that nobody
has published. Nothing is copied from one column into the other: a cell without
a results file is blank. Both columns have the unit of the table.

`CELLS` of configs/paper.py are runs of a likelihood; `MEASURED` are numbers of
the other scripts' results, by file and name.
"""

import csv
import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from configs import paper
from experiments.tables.measured import MEASURED, Measured

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / 'results' / 'paper'
PUBLISHED = ROOT / 'third_party' / 'published'
COLUMNS = (
  'model',
  'dataset',
  'split',
  'binarization',
  'metric',
  'value',
  'unit',
  'paper',
  'year',
  'location',
  'evidence',
)
EVIDENCE = {
  'verified': '',
  'secondary': '†',  # read where another cites it
  'recalled': '*',
}
BOUND = {'nll_bound': '≤ ', 'nll_approx': '~ '}


class Title(NamedTuple):
  """A table.

  Attributes:
    heading: of the page.
    unit: of both columns; '' where every row has its own.
    note: what to know before a comparison.
    alike: the columns are of one thing, so that they have a difference.
  """

  heading: str
  unit: str
  note: str
  alike: bool = True


TITLES: dict[str, Title] = {
  'mnist_fixed': Title(
    'Binarized MNIST, fixed binarization',
    'nats',
    'Test split of 10,000; the files of Larochelle and Murray 2011. Never '
    'compare with the next table: there every epoch has new bits.',
  ),
  'mnist_dynamic': Title(
    'Binarized MNIST, dynamic binarization',
    'nats',
    'Ours: 60,000 training images, bits drawn for every batch; the test '
    'images drawn once from a named seed; the last parameters. '
    'pytorch-generative takes the best epoch on the test split.',
  ),
  'uci_dna': Title('DNA', 'nats', '1400 / 600 / 1186 x 180.'),
  'uci_mushrooms': Title('Mushrooms', 'nats', '2000 / 500 / 5624 x 112.'),
  'uci_nips': Title('NIPS-0-12', 'nats', '400 / 100 / 1240 x 500.'),
  'uci_adult': Title('Adult', 'nats', '5000 / 1414 / 26147 x 123.'),
  'uci_connect4': Title('Connect-4', 'nats', '16000 / 4000 / 47557 x 126.'),
  'uci_ocr_letters': Title(
    'OCR letters', 'nats', '32152 / 10000 / 10000 x 128.'
  ),
  'uci_rcv1': Title('RCV1', 'nats', '40000 / 10000 / 150000 x 150.'),
  'uci_web': Title('Web', 'nats', '14000 / 3188 / 32561 x 300.'),
  'mnist8': Title('8-bit MNIST', 'bits/dim', 'Test split of 10,000.'),
  'fashion8': Title('8-bit Fashion-MNIST', 'bits/dim', 'Test split of 10,000.'),
  'jsb': Title(
    'JSB chorales',
    'nats/frame',
    '88 keys a frame, quarter notes. RNN, TCN, LSTM and GRU treat the keys of '
    'a frame as independent given the past; NADE and RNN-NADE do not.',
  ),
  'shakespeare': Title(
    'Tiny Shakespeare',
    'nats/char',
    '65 characters; the last tenth is held out.',
  ),
  'kjv': Title('King James Bible', 'nats/char', 'No published number.'),
  'cifar10': Title('CIFAR-10', 'bits/dim', 'Ready, not run: see docs/data.md.'),
  'imagenet32': Title(
    'ImageNet 32 (the old files)', 'bits/dim', 'Ready, not run.'
  ),
  'imagenet64': Title(
    'ImageNet 64 (the old files)', 'bits/dim', 'Ready, not run.'
  ),
  'text8': Title('text8', 'bits/char', 'Ready, not run.'),
  'enwik8': Title(
    'enwik8',
    'bits/byte',
    'Ready, not run. Sizes of compressors are of all 100 MB and not of the '
    'test split of 5 MB: two different things in one column.',
  ),
  'song': Title(
    'Fixed points: Song et al. 2021',
    '',
    'Theirs: one V100, scaled times, to a tolerance. Ours: two CPU cores, one '
    'compiled loop, the same integers as ancestral sampling.',
    alike=False,
  ),
  'predictive': Title(
    'Passes in per cent: a table as Wiggers and Hoogeboom 2020 have',
    '% of D passes',
    'Their numbers could not be read in any source at hand, so the column is '
    'empty. Batch 32 counts the slowest sample of a batch.',
    alike=False,
  ),
  'row_caches': Title(
    'Caches by batch: Ramachandran et al. 2017',
    'times as fast',
    'Theirs: a K40 GPU, CIFAR-10; ours: two CPU cores, smaller images.',
    alike=False,
  ),
  'speculative': Title(
    'Acceptance of speculative sampling: Leviathan et al. 2023',
    'acceptance',
    'Ours: bytes of Shakespeare, target 4.9 M, draft 0.46 M parameters.',
    alike=False,
  ),
  'budget': Title(
    'A budget of steps: ARDM, Hoogeboom et al. 2022',
    'bits/dim',
    'Theirs: text8, a bound; ours: 8x8 digits of 17 values, exact.',
    alike=False,
  ),
  'newton': Title(
    'Newton iterations over time: DEER',
    'iterations',
    'Ours: a GRU, until the states equal those of the loop to rounding.',
    alike=False,
  ),
  'codec': Title(
    'Files of a lossless codec',
    'bits/dim',
    'Other data in every row: compare a row with the model of the same data.',
    alike=False,
  ),
}


class Published(NamedTuple):
  """A row of a CSV file under third_party/published/."""

  model: str
  dataset: str
  split: str
  binarization: str
  metric: str
  value: float | None
  unit: str
  paper: str
  year: str
  location: str
  evidence: str

  def shown(self, unit: str) -> str:
    """The value, with its unit where that is not the table's."""
    if self.value is None:
      return ''
    own = '' if self.unit in (unit, '1') else f' {self.unit}'
    mark = EVIDENCE[self.evidence]
    return f'{BOUND.get(self.metric, "")}{self.value:g}{own}{mark}'


class Ours(NamedTuple):
  """Our number: value and standard error (nan where none), and its file."""

  value: float
  error: float
  unit: str
  file: str
  record: dict[str, Any]

  def __str__(self) -> str:
    if math.isnan(self.error):
      return f'{self.value:.4g}'
    digits = max(2, 1 - math.floor(math.log10(self.error or 1)))
    return f'{self.value:.{digits}f} ± {self.error:.{digits}f}'


class Line(NamedTuple):
  """One row of a table; at least one of the two columns is filled."""

  name: str
  published: Published | None
  ours: Ours | None

  @property
  def difference(self) -> str:
    """Ours less the published value, where both have one."""
    one = self.published
    if not (self.ours and one and one.value is not None):
      return ''
    return f'{self.ours.value - one.value:+.3g}'


def published(table: str) -> list[Published]:
  """The rows of a table's CSV file; none where there is no file.

  Raises:
    ValueError: the columns are not those of `COLUMNS`, two rows have one
      name, or the evidence is of no known kind.
  """
  path = PUBLISHED / f'{table}.csv'
  if not path.exists():
    return []
  with path.open(newline='') as file:
    reader = csv.DictReader(file)
    rows = list(reader)
  if tuple(reader.fieldnames or ()) != COLUMNS:
    raise ValueError(f'{path}: expected the columns {", ".join(COLUMNS)}.')
  found: dict[str, Published] = {}
  for row in rows:
    value = float(row['value']) if row['value'] else None
    texts: dict[str, Any] = dict(row)
    one = Published(**(texts | {'value': value}))
    if one.model in found:
      raise ValueError(f'{path} has two rows {one.model!r}; tell them apart.')
    if one.evidence not in EVIDENCE:
      raise ValueError(
        f'{path}, {one.model}: evidence {one.evidence!r}; expected '
        f'{", ".join(EVIDENCE)}.'
      )
    found[one.model] = one
  return list(found.values())


def lines(table: str) -> list[Line]:
  """The rows of a table: published ones in their order, then ours alone.

  Raises:
    ValueError: a cell repeats a row that the CSV file does not have.
  """
  rows = {row.model: row for row in published(table)}
  mine: dict[str, list[Line]] = {}
  for name, repeats, ours in _ours(table):
    if repeats and repeats not in rows:
      raise ValueError(
        f'{name} of {table} repeats {repeats!r}, which third_party/published/'
        f'{table}.csv does not have.'
      )
    mine.setdefault(repeats, []).append(Line(name, rows.get(repeats), ours))
  joined = []
  for model, row in rows.items():
    joined += mine.get(model, [Line(model, row, None)])
  return joined + [line for line in mine.get('', []) if line.ours]


def _ours(table: str) -> Iterator[tuple[str, str, Ours | None]]:
  """(name, the published row that it repeats, our number) of a table."""
  unit = TITLES[table].unit
  for name, cell in paper.TABLES.get(table, {}).items():
    path = RESULTS / table / f'{name}.json'
    record = json.loads(path.read_text()) if path.exists() else None
    yield cell.row, cell.published, record and of_run(path, record, unit)
  for one in MEASURED.get(table, ()):
    yield one.row, one.published, of_measured(one, unit)


def of_run(path: pathlib.Path, record: dict[str, Any], unit: str) -> Ours:
  """The likelihood of a results file, in the unit of its table.

  nats and nats/frame are those of an example, whose event is a frame there;
  nats/char are the nats of an example over its characters.

  Raises:
    ValueError: no such unit.
  """
  dims = record['details']['num_dims']
  scale = {
    'nats': 1.0,
    'nats/frame': 1.0,
    'nats/char': 1 / dims,
    **dict.fromkeys(
      ('bits/dim', 'bits/char', 'bits/byte'), 1 / (dims * math.log(2))
    ),
  }
  if unit not in scale:
    raise ValueError(f'{path}: a run has no {unit}, only {", ".join(scale)}.')
  numbers = record['numbers']
  value = numbers['nats']['value'] * scale[unit]
  error = numbers['standard_error']['value'] * scale[unit]
  return Ours(value, error, unit, str(path.relative_to(ROOT)), record)


def of_measured(one: Measured, unit: str) -> Ours:
  """A number of another script's results file."""
  path = ROOT / one.file
  record = json.loads(path.read_text())
  numbers = record['numbers']
  value = numbers[one.number]['value'] * one.scale
  error = numbers[one.error]['value'] * one.scale if one.error else math.nan
  return Ours(value, error, unit, one.file, record)


def markdown(table: str) -> str:
  """A table as Markdown, with its heading and note."""
  title = TITLES[table]
  unit = f', {title.unit}' if title.unit else ''
  rows = [
    f'### {title.heading}',
    '',
    title.note,
    '',
    f'| model | published{unit} | ours | difference | source | file |',
    '|---|--:|--:|--:|---|---|',
  ]
  for line in lines(table):
    one, ours = line.published, line.ours
    name = line.name
    if one and line.name != one.model:
      name = f'{line.name} ({one.model})'
    cells = [name, one.shown(title.unit) if one else '']
    cells += [str(ours or ''), line.difference if title.alike else '']
    cells.append(_source(one) if one else '')
    cells.append(_link(ours) if ours else '')
    rows.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(rows)


def _source(row: Published) -> str:
  parts = [row.paper, row.year, row.location]
  return ', '.join(part for part in parts if part).replace('|', '/')


def _link(ours: Ours) -> str:
  name = ours.file.removeprefix('results/').removeprefix('paper/')
  return f'[`{name}`](../{ours.file})'


def csv_rows(tables: Iterable[str]) -> list[Sequence[Any]]:
  """Every row of the tables, a header first, for a CSV file."""
  header = ['table', 'row', 'published', 'unit', 'ours', 'standard error']
  header += ['difference', 'evidence', 'paper', 'location', 'file', 'seed']
  header += ['commit', 'date', 'seconds', 'command']
  rows: list[Sequence[Any]] = [header]
  for table in tables:
    for line in lines(table):
      name, one, ours = line
      row = [table, name, one.value if one else None, TITLES[table].unit]
      row += [ours.value, ours.error] if ours else [None, None]
      row += [line.difference]
      row += [one.evidence, one.paper, one.location] if one else [None] * 3
      row += [ours.file] if ours else [None]
      keys = 'seed', 'commit', 'date', 'wall_seconds', 'command'
      row += [ours.record[key] if ours else None for key in keys]
      rows.append(row)
  return rows


def missing() -> dict[str, paper.Cell]:
  """The cells that no results file fills, by TABLE/CELL."""
  return {
    name: cell
    for name, cell in paper.CELLS.items()
    if not (RESULTS / f'{name}.json').exists()
  }
