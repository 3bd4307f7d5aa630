"""The record behind a printed number: what, from what, on what."""

import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
from typing import Any

import jax

from parallel_ar import precision
from parallel_ar.training import bucket, configuration, run_directory

PACKAGES = (
  'parallel_ar',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
)

# What every record that this process makes from now on tells.
_NOTES: list[str] = []
_RUNS: dict[str, dict[str, Any]] = {}


def note(line: str) -> None:
  """Notes what happened on the way and changes what a number is of.

  Such as a checkpoint that could not be read.
  """
  if line not in _NOTES:
    _NOTES.append(line)


def note_run(directory: str | os.PathLike[str], facts: dict[str, Any]) -> None:
  """Notes that this process read parameters of a run.

  Every record that is made afterwards has the facts, whoever makes it.

  Args:
    directory: of the run, or a file of its parameters.
    facts: JSON data; see `identity.note`.
  """
  path = bucket.absolute(directory)
  name = str(_inside(path) or path.name)
  _RUNS[str(path)] = {'run': name} | facts


def result_json(
  numbers: dict[str, tuple[float | int, str]],
  *,
  config: dict[str, Any],
  seed: int,
  wall_seconds: float,
  command: list[str] | None = None,
  details: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """The record of one run, as JSON data.

  Args:
    numbers: name -> (value, unit), for example {'test': (88.4, 'nats')}.
    config: JSON form of the configuration.
    seed: seed of the run.
    wall_seconds: time of the run, that of its earlier starts included.
    command: argument vector; None for that of this process.
    details: further named facts: split, binarization, parameters, step.

  Returns:
    A dict with keys command, config, commit, seed, versions, hardware,
    wall_seconds, date, numbers, details, and runs: what `note_run` was told.
  """
  return {
    'command': portable(sys.argv if command is None else command),
    'commit': commit(),
    'date': datetime.date.today().isoformat(),
    'seed': seed,
    'wall_seconds': round(wall_seconds, 3),
    'numbers': {
      name: {'value': value, 'unit': unit}
      for name, (value, unit) in numbers.items()
    },
    'details': (details or {}) | ({'notes': _NOTES[:]} if _NOTES else {}),
    'hardware': hardware(),
    'versions': versions(),
    'runs': list(_RUNS.values()),
    'config': config,
  }


def of_evaluation(
  evaluation: Any, config: Any, wall_seconds: float, **details: Any
) -> dict[str, Any]:
  """The record of an `evaluate.Evaluation`.

  Args:
    evaluation: what was measured.
    config: ConfigDict of the run.
    wall_seconds: time of the run.
    **details: further facts.

  Returns:
    As `result_json`.
  """
  facts = evaluation._asdict()
  units = {'nats': 'nats', 'standard_error': 'nats', 'bits_per_dim': 'bits/dim'}
  numbers = {name: (facts.pop(name), unit) for name, unit in units.items()}
  facts.pop('per_example')
  return result_json(
    numbers,
    config=configuration.to_json(config),
    seed=config.seed,
    wall_seconds=wall_seconds,
    details=facts | details,
  )


def portable(argv: list[str]) -> str:
  """The command as another machine would run it.

  An experiment is run through run.sh, another module of the project by its
  name, and an absolute path in a flag, which holds for one machine, is told
  from the repository on, or becomes the flag's name in capitals.

  Args:
    argv: the argument vector, the script first.

  Returns:
    For example './run.sh train --config=configs/a.py --data_dir=DATA_DIR'.
  """
  script, words = argv[0], []
  for word in argv[1:]:
    name, equals, value = word.partition('=')
    if equals and os.path.isabs(value):
      value = str(_inside(value) or name.lstrip('-').upper())
    words.append(f'{name}{equals}{value}')
  path = _inside(pathlib.Path(script).absolute())
  if path is not None and path.suffix == '.py':
    folder, *rest = path.with_suffix('').parts
    script = f'./run.sh {"/".join(rest)}'
    if folder != 'experiments':
      script = f'.venv/bin/python -m {".".join([folder, *rest])}'
  return ' '.join([script, shlex.join(words)]).strip()


def _inside(path: str | os.PathLike[str]) -> pathlib.Path | None:
  """The path from the repository on; None for one that is elsewhere."""
  root = pathlib.Path(__file__).parents[2]
  path = pathlib.Path(path)
  return path.relative_to(root) if path.is_relative_to(root) else None


def save(path: str | os.PathLike[str], record: dict[str, Any]) -> None:
  """Writes a record as indented JSON, whole or not at all.

  A line on stderr says where a file below results/ names no commit to fetch.
  """
  warn_of_commit(path, record.get('commit', 'unknown'))
  run_directory.replace(path, json.dumps(record, indent=2) + '\n')


def warn_of_commit(path: str | os.PathLike[str], commit: str) -> None:
  """Says on stderr that a file to keep would name no code that exists."""
  inside = _inside(bucket.absolute(path))
  if inside is None or inside.parts[0] != 'results':
    return
  if re.fullmatch('[0-9a-f]{40}', commit) is None:
    print(
      f'warning: {inside} names the commit {commit}: its code cannot be '
      'fetched again. Commit first, and run from a clean tree; the tests '
      'refuse the file otherwise.',
      file=sys.stderr,
    )


@functools.cache
def commit() -> str:
  """The commit of this source tree, '-dirty' where it has changes.

  Asked once: the code that runs is that of the start. A file in results/ is no
  code, and one that was just written makes nothing dirty.

  Returns:
    40 hex digits with or without the mark; 'unknown' outside a checkout.
  """
  root = pathlib.Path(__file__).parent

  def git(*arguments):
    done = subprocess.run(
      ('git', '-C', str(root), *arguments),
      capture_output=True,
      text=True,
      check=True,
    )
    return done.stdout.strip()

  try:
    head = git('rev-parse', 'HEAD')
    where = (':(top)', ':(top,exclude)results')
    changed = git('status', '--porcelain', '--', *where)
    return head + ('-dirty' if changed else '')
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'


def hardware() -> dict[str, Any]:
  """CPU model, usable cores, XLA's flags, and the devices jax computes on.

  `float32_products` is what these are where no level is asked for.
  """
  if hasattr(os, 'sched_getaffinity'):
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count() or 1
  devices = jax.devices()
  return {
    'cpu': _cpu_model(),
    'cores': cores,
    'platform': devices[0].platform,
    'device_kind': devices[0].device_kind,
    'num_devices': len(devices),
    'num_processes': jax.process_count(),
    'float32_products': precision.products('default'),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
  }


def versions() -> dict[str, str]:
  """Python and the packages that decide a run's bits."""
  found = {'python': platform.python_version()}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def _cpu_model() -> str:
  try:
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()
