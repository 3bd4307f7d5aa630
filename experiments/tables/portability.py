"""Writes codec files in some environments and reads them in others.

  ./run.sh tables/portability --out=results/portability.json
  ./run.sh tables/portability --export=DIR
  ./run.sh tables/portability --check=DIR --platform=cuda --out=FILE

An environment is a number of cores and XLA_FLAGS; each writes, and then each
reads the files of all, in processes of their own. Networks have random weights
and events are random, so that decoding takes many passes. A file is decoded
(every integer is compared), refused before decoding, or LOST: its bits agreed
on the probe and it did not come back. Reading stands for `lanes` of batches 1,
3 and 8 and `stream`, so a cell counts four files.
"""

import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from experiments import entry, options
from experiments.tables import report, whole_numbers
from experiments.tables.whole_numbers import Network, events
from parallel_ar import coding
from parallel_ar.models import gated_pixelcnn, made, transformer
from parallel_ar.testing.case import random_params
from parallel_ar.training import results, run_directory

_RUN_SH = (
  '--xla_cpu_experimental_ynn_fusion_type='
  '-individual_convolution,-individual_dot,-dot'
)
# What run.sh sets and what it leaves alone, and what others set.
_FLAGS = {
  'run.sh': _RUN_SH,
  'none': '',
  '8 devices': '--xla_force_host_platform_device_count=8',
  'fast math': '--xla_cpu_enable_fast_math=true',
  'wide vectors': '--xla_cpu_prefer_vector_width=512',
  'SSE only': '--xla_cpu_max_isa=SSE4_2',
}
_KINDS = (('lanes', 1), ('lanes', 3), ('lanes', 8), ('stream', 8))

_SETTINGS = flags.DEFINE_list(
  'settings', list(_FLAGS), 'XLA_FLAGS of the environments, by name.'
)
_CORES = options.define_numbers('cores', [1, 2], 'Cores of the environments.')
_OUT = options.define_output('out', 'Write the result here, as JSON.')
_WRITE = flags.DEFINE_string('write', None, 'Of a process: write files here.')
_READ = flags.DEFINE_list('read', None, 'Of a process: read files of these.')
_EXPORT = flags.DEFINE_string(
  'export', None, 'Write models in whole numbers here, for another machine.'
)
_CHECK = flags.DEFINE_string('check', None, 'Compute what --export wrote here.')


def main() -> None:
  """Runs the script."""
  if _EXPORT.value:
    place = run_directory.local(_EXPORT.value)
    whole_numbers.export(place, list(whole_numbers.networks()))
  elif _CHECK.value:
    _print_check(run_directory.local(_CHECK.value))
  elif _WRITE.value:
    _write(run_directory.local(_WRITE.value))
  elif _READ.value:
    print(json.dumps(_read([pathlib.Path(d) for d in _READ.value])))
  else:
    _table()


def networks() -> Iterator[Network]:
  """Products, convolutions, attention."""
  yield Network('MADE 784-2000', made(event=(784,), hidden=(2000,)))
  image = gated_pixelcnn(event=(12, 12, 1), num_values=2, features=32, layers=4)
  yield Network('Gated PixelCNN', image)
  text = transformer(event=(64,), num_values=32, features=128, layers=2)
  yield Network('Transformer', text)


def _write(directory: pathlib.Path) -> None:
  """Files of every network and kind; their proof is left to the readers."""
  for name, model in networks():
    params, x = random_params(model, 0, 1.0), events(model)
    for method, batch in _KINDS:
      pair = coding.codec(model, method=method, batch=batch, verify=False)
      path = directory / f'{name} {method} {batch}'
      path.write_bytes(pair.encode(params, x))


def _read(directories: list[pathlib.Path]) -> dict[str, dict[str, int]]:
  """Outcomes of all files, counted by directory and network."""
  found: dict[str, dict[str, int]] = {}
  for name, model in networks():
    params, x = random_params(model, 0, 1.0), events(model)
    for method, batch in _KINDS:
      pair = coding.codec(model, method=method, batch=batch)
      for directory in directories:
        data = (directory / f'{name} {method} {batch}').read_bytes()
        try:
          same = np.array_equal(pair.decode(params, data).x, x)
          outcome = 'decoded' if same else 'LOST'
        except coding.BadFile as error:
          before = str(error).startswith('The file cannot be decoded here')
          outcome = 'refused' if before else 'LOST'
        cell = found.setdefault(f'{directory.name}|{name}', {})
        cell[outcome] = cell.get(outcome, 0) + 1
  return found


def _print_check(directory: pathlib.Path) -> None:
  """A table of `check`, and its record."""
  started = time.monotonic()
  about = json.loads((directory / 'about.json').read_text())
  kind = lambda hardware: hardware['device_kind']
  print(
    f'Written on {kind(about["hardware"])} ({about["hardware"]["cpu"]}, jaxlib '
    f'{about["versions"]["jaxlib"]}), computed on {kind(results.hardware())}.\n'
  )
  print('| model | products | integers | different |')
  print('|---|---|--:|--:|')
  numbers: report.Numbers = {}
  cells: dict[str, Any] = {}
  wrong = compared = 0
  found = whole_numbers.check(directory, list(whole_numbers.networks()))
  for name, carried, counts in found:
    different, of = map(sum, zip(*counts.values(), strict=True))
    print(f'| {name} | {carried} | {of} | {different} |', flush=True)
    numbers[f'{name}: different'] = different, 'integers'
    numbers[f'{name}: compared'] = of, 'integers'
    cells[name] = {'carriers': carried, 'counts': counts}
    wrong, compared = wrong + different, compared + of
  print(f'\n{wrong} of {compared} integers differ.')
  numbers |= {
    'different': (wrong, 'integers'),
    'compared': (compared, 'integers'),
  }
  config = {
    'samples': whole_numbers.SAMPLES,
    'events': whole_numbers.EVENTS,
  }
  report.save(_OUT.value, numbers, config, started, cells=cells, writer=about)


# ---------------------------------------------------------------- environments


def _table() -> None:
  """Writes and reads in every environment."""
  started = time.monotonic()
  environments = [
    (f'{cores} core{"s" * (cores > 1)}, {name}', cores, _FLAGS[name])
    for name in _SETTINGS.value
    for cores in _CORES.value
  ]
  totals: collections.Counter[str] = collections.Counter()
  cells: dict[str, dict[str, int]] = {}
  with tempfile.TemporaryDirectory() as root:
    directories = [pathlib.Path(root) / name for name, *_ in environments]
    for directory, (_, cores, setting) in zip(
      directories, environments, strict=True
    ):
      directory.mkdir()
      _child(cores, setting, f'--write={directory}')
    for name, cores, setting in environments:
      paths = ','.join(json.dumps(str(d)) for d in directories)
      said = _child(cores, setting, f'--read={paths}')
      for cell, outcomes in json.loads(said.splitlines()[-1]).items():
        cells[f'{cell}|{name}'] = outcomes
        totals.update(outcomes)
  names = [name for name, *_ in environments]
  _print(names, cells)
  numbers: report.Numbers = {
    f'files {outcome}': (totals[outcome], 'files')
    for outcome in ('decoded', 'refused', 'LOST')
  }
  config = {'environments': names, 'kinds': [list(kind) for kind in _KINDS]}
  report.save(_OUT.value, numbers, config, started, cells=cells)


def _child(cores: int, setting: str, argument: str) -> str:
  """What a process prints that may use so many cores."""
  own = os.sched_getaffinity(0)
  if cores > len(own):
    raise ValueError(f'{cores} cores are asked for and there are {len(own)}.')
  environment = os.environ | {'XLA_FLAGS': setting}
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  os.sched_setaffinity(0, sorted(own)[:cores])  # a child inherits it
  try:
    done = subprocess.run(
      [sys.executable, '-m', 'experiments.tables.portability', argument],
      env=environment,
      capture_output=True,
      text=True,
    )
  finally:
    os.sched_setaffinity(0, own)
  if done.returncode:
    raise ValueError(f'{setting!r} failed: {done.stderr[-400:]}')
  return done.stdout


def _print(names: list[str], cells: dict[str, dict[str, int]]) -> None:
  """A table for each network: written below, read to the right."""
  word = lambda found: ', '.join(f'{n} {what}' for what, n in found.items())
  for network in dict.fromkeys(cell.split('|')[1] for cell in cells):
    print(f'\n| {network}: written with | ' + ' | '.join(names) + ' |')
    print('|---|' + '--:|' * len(names))
    for writer in names:
      row: list[Any] = [
        word(cells[f'{writer}|{network}|{reader}']) for reader in names
      ]
      print(f'| {writer} | ' + ' | '.join(row) + ' |')


if __name__ == '__main__':
  entry.run(main)
