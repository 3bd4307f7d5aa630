"""What the files of runs say: fields, steps, numbers and states."""

import json
import math
import os
import pathlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from parallel_ar.training import bucket, configuration, identity, owner

_MOST_FIELDS = 8  # that a line on the terminal shows
_MOST_BYTES = 1 << 28  # of a metrics.jsonl


class Run(NamedTuple):
  """One line.

  Attributes:
    name: its path below --under.
    fields: path -> value, of its config.
    step: of its last record.
    valid: least nats on validation; nan where there is none.
    test: nats of its result; nan where there is none.
    state: see the module.
  """

  name: str
  fields: dict[str, Any]
  step: int
  valid: float
  test: float
  state: str


def found(under: pathlib.Path) -> Iterator[pathlib.Path]:
  """Directories with a config.json, none inside another."""
  there: Any = under  # pathlib's paths walk from Python 3.12 on
  away = bucket.is_address(under)
  walk = there.walk() if away else os.walk(under)
  for folder, inner, files in walk:
    inner.sort()
    if 'config.json' in files:
      inner.clear()
      name = str(folder)
      if away:  # fsspec walks over names without their gs://
        name = f'gs://{name.removeprefix("gs://")}'
      yield bucket.place(name)


def read(path: pathlib.Path, under: pathlib.Path) -> Run:
  """What the files of a run say; nothing is imported, locked or changed."""
  name = str(path.relative_to(under)) if path != under else path.name
  try:
    config = configuration.from_json(configuration.read(path / 'config.json'))
    fields = dict(_flat(configuration.to_json(config)))
  except (ValueError, OSError):
    return Run(name, {}, 0, math.nan, math.nan, 'unreadable')
  step, valid = _progress(path / 'metrics.jsonl')
  test = _result(path / 'result.json')
  if test is not None:
    return Run(name, fields, step, valid, test, 'done')
  return Run(name, fields, step, valid, math.nan, owner.state(path))


def differences(runs: list[Run]) -> list[str]:
  """The fields that not all runs agree on, but for those that change nothing.

  Steps and the choice of a checkpoint are among them.
  """
  readable = [run.fields for run in runs if run.fields]
  paths = dict.fromkeys(path for fields in readable for path in fields)
  return [
    path
    for path in paths
    if path not in identity.FREE
    and len({json.dumps(fields.get(path)) for fields in readable}) > 1
  ]


def table(runs: list[Run], differing: list[str]) -> Iterator[str]:
  """The lines of the table."""
  rows = [('run', 'state', 'step', 'valid', 'test', 'what differs')]
  for run in runs:
    of = run.fields.get('train.steps')
    words = [f'{p}={run.fields[p]}' for p in differing if p in run.fields]
    if len(words) > _MOST_FIELDS:
      more = f'and {len(words) - _MOST_FIELDS} more: --out=x.csv'
      words = [*words[:_MOST_FIELDS], more]
    step = f'{run.step}/{of}' if of else '-'
    nats = [f'{n:.4f}' if n == n else '-' for n in (run.valid, run.test)]
    valid, test = nats
    rows.append((run.name, run.state, step, valid, test, ' '.join(words)))
  yield from _aligned(rows)


def over_seeds(runs: list[Run]) -> Iterator[str]:
  """A table with one line for runs that differ in their seed only, best first.

  Nats are means over the seeds, with their standard error where there are two.
  """
  differing = [path for path in differences(runs) if path != 'seed']
  groups: dict[str, list[Run]] = {}
  for run in runs:
    words = [f'{p}={run.fields[p]}' for p in differing if p in run.fields]
    groups.setdefault(' '.join(words) or 'all', []).append(run)
  rows = [('test', 'valid', 'runs', 'what differs')]
  for what, group in sorted(groups.items(), key=lambda g: _order(g[1])):
    done = sum(run.state == 'done' for run in group)
    count = f'{done}' if done == len(group) else f'{done} of {len(group)}'
    test, valid = (
      _mean([getattr(run, kind) for run in group]) for kind in ('test', 'valid')
    )
    rows.append((test, valid, count, what))
  yield from _aligned(rows)


def _order(runs: list[Run]) -> float:
  """The mean of what is there on the test split; without any, last."""
  found = [run.test for run in runs if run.test == run.test]
  return statistics.fmean(found) if found else math.inf


def _mean(values: list[float]) -> str:
  found = [value for value in values if value == value]
  if not found:
    return '-'
  mean = f'{statistics.fmean(found):.4f}'
  if len(found) < 2:
    return mean
  return f'{mean} ± {statistics.stdev(found) / math.sqrt(len(found)):.4f}'


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
  """The rows as lines of columns."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    cells = [cell.ljust(w) for cell, w in zip(row, widths, strict=True)]
    yield '  '.join(cells).rstrip()


def _flat(data: Any, path: str = '') -> Iterator[tuple[str, Any]]:
  if not isinstance(data, dict):
    yield path, data
    return
  for key, value in data.items():
    yield from _flat(value, f'{path}.{key}' if path else key)


def _progress(path: pathlib.Path) -> tuple[int, float]:
  """The last step and the least nats on validation."""
  step, valid = 0, math.nan
  try:
    if bucket.size(path) > _MOST_BYTES:
      return step, valid
    lines = bucket.content(path).splitlines()
  except OSError:
    return step, valid
  for line in lines:
    try:
      record = json.loads(line)
      step = max(step, int(record['step']))
      if record['kind'] == 'valid':
        nats = float(record['nats'])
        valid = nats if math.isnan(valid) else min(valid, nats)
    except (ValueError, KeyError, TypeError):
      continue  # the end of a line that is being written
  return step, valid


def _result(path: pathlib.Path) -> float | None:
  try:
    return float(configuration.read(path)['numbers']['nats']['value'])
  except (OSError, ValueError, KeyError, TypeError):
    return None
