"""What a run is: everything that can change its parameters, and its history.

A run gets its identity when it begins, in `identity.json` of its directory and
in every checkpoint. A start finds it there and compares itself:

  config      its fields but for the FREE ones, which change no parameter
  data        what was read: examples, values, symbols, labels, a digest
  modules     code of one's own that the config names, a digest of each
  precision   of the numbers and the kind of the keys, beside model.dtype
  conditions  versions, devices, code: they change bits, and no law

A difference in one of the first four is refused, or allowed by name and then
remembered: `history` has one entry a field, and the step from which it holds.
Conditions may change (a job moves); they are remembered too. Every result that
is made of the run has it.
"""

import hashlib
import inspect
import json
import os
import pathlib
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from parallel_ar import models
from parallel_ar.data import dataset, sources
from parallel_ar.data.dataset import Dataset
from parallel_ar.training import (
  bucket,
  configuration,
  optimizer,
  own_code,
  results,
)

Json = dict[str, Any]

FILE = 'identity.json'
FORMAT = 1
_TIME = '%Y-%m-%d %H:%M:%S %z'
# Fields that change no parameter: how long, what is kept, told and measured.
FREE = (
  'train.log_every',
  'train.checkpoint_every',
  'train.checkpoint_minutes',
  'train.keep',
  'train.sample_every',
  'train.sample_count',
  'train.tensorboard',
  'train.data_workers',
  'train.wandb',
  'train.histograms',
  'evaluate.batch_size',
  'evaluate.split',
  'data.verify',
  'data.path',  # what lies there is compared
)
# They change which step is chosen, where one is chosen (keep_best, patience).
SELECTION = (
  'data.valid_split',
  'train.eval_every',
  'train.keep_best',
  'train.patience',
  'evaluate.params',
  'evaluate.precision',
)
_PRECISION = (
  'jax_enable_x64',
  'jax_default_matmul_precision',
  'jax_default_prng_impl',
  'jax_threefry_partitionable',
)


class OtherRun(ValueError):
  """A start would change the run that lies in its directory."""


def of(config: Json) -> Json:
  """The identity of a run that begins now, before its data are read.

  Args:
    config: JSON form of its configuration.

  Returns:
    JSON data, whose `data` and `history` are empty yet.
  """
  devices = jax.devices()
  conditions = {
    **results.versions(),
    'code': results.commit(),
    'devices': f'{len(devices)} x {devices[0].device_kind}',
    'processes': jax.process_count(),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
  }
  return {
    'format': FORMAT,
    'began': time.strftime(_TIME),
    'config': config,
    'data': {},
    'modules': own_code.digests(config),
    'precision': {name: getattr(jax.config, name) for name in _PRECISION},
    'conditions': conditions,
    'history': [],
  }


def fingerprint(data: Dataset) -> Json:
  """What a split is, whoever reads it: names, ranges and a digest.

  Returns:
    JSON data: `source`, `split`, `examples`, `event`, `num_values`, `binarize`,
    `symbols` (hexadecimal, of text), `labels` ('dtype[shape] low..high') and
    `digest`, of SHA-256 over all; beyond 1 GiB over rows at equal distances.
  """
  digest, labels = hashlib.sha256(), []
  dataset.add_rows(digest, data.x)
  for leaf in map(np.asarray, jax.tree.leaves(data.context)):
    dataset.add_rows(digest, leaf)
    shape = list(leaf.shape[1:])
    labels.append(f'{leaf.dtype}{shape} {leaf.min()}..{leaf.max()}')
  return {
    'source': data.name,
    'split': data.split,
    'examples': len(data),
    'event': list(data.event),
    'num_values': data.num_values,
    'binarize': data.binarize,
    'symbols': _symbols(data),
    'labels': '; '.join(labels) or None,
    'digest': digest.hexdigest()[:32],
  }


def read(directory: str | os.PathLike[str]) -> Json | None:
  """The identity in a working directory; None where no run lies there.

  A run of before there were identities has only its `config`.

  Raises:
    ValueError: a file is there that cannot be read.
  """
  for name in (FILE, 'config.json'):
    path = bucket.place(directory) / name
    try:
      found = configuration.read(path)
    except FileNotFoundError:
      continue
    if name != FILE:
      found = {'config': found, 'history': []}
    elif isinstance(found, dict) and found.get('format') != FORMAT:
      raise ValueError(
        f'{path} has format {found.get("format")}; this version reads '
        f'{FORMAT}. Use the version of parallel_ar that wrote it.'
      )
    return checked(found, path)
  return None


def checked(found: Any, where: pathlib.Path) -> Json:
  """An identity that was read, whoever wrote it.

  Raises:
    ValueError: it has not the form of one.
  """
  try:
    history(found, found['history'][-1]['step'] + 1 if found['history'] else 0)
    _filled(config_at(found, 0))
    for data in found.get('data', {}).values():
      data.keys()
      bytes.fromhex(data.get('symbols') or '')
  except Exception as error:  # of anyone: it fails in many ways
    raise ValueError(
      f'{where} does not say which run lies there ({type(error).__name__}: '
      f'{error}). Restore the file, or choose another working directory.'
    ) from error
  return found


def changes(there: Json, here: Json) -> tuple[list[str], list[str], list[str]]:
  """What a start changes of a run.

  Args:
    there: identity of the run.
    here: identity of the start; parts that either lacks are not compared.

  Returns:
    (what can change the law of the parameters, conditions, what changes no
    parameter), lines such as 'optimizer.learning_rate: 0.01 -> 0.1'.
  """
  old, new = _filled(there['config']), _filled(here['config'])
  both = (old, new)
  selects = any(c['train']['keep_best'] or c['train']['patience'] for c in both)
  free: tuple[str, ...] = FREE if selects else FREE + SELECTION
  if not any(optimizer.depends_on_steps(c['optimizer']) for c in both):
    free += ('train.steps',)
  kinds: dict[str, list[str]] = {'law': [], 'conditions': [], 'free': []}
  for line in configuration.differences(old, new):
    path = line.partition(':')[0]
    kind = 'free' if path in free else 'law'
    kinds['conditions' if path.startswith('mesh.') else kind].append(line)
  for split in ('train', 'valid') if selects else ('train',):
    old, new = (i.get('data', {}).get(split) for i in (there, here))
    kinds['law'] += _part_changes(old, new, f'{split}_data')
  for part in ('modules', 'precision', 'conditions'):
    lines = _part_changes(there.get(part), here.get(part), part)
    kinds[part if part in kinds else 'law'] += lines
  return kinds['law'], kinds['conditions'], kinds['free']


def check_vocabulary(identity: Json | None, data: Dataset) -> None:
  """Checks that another split means by its values what a run learnt of them.

  Args:
    identity: of the run that reads `data`; None or old ones tell nothing.
    data: any split.

  Raises:
    OtherRun: names the symbols that differ.
  """
  learnt = ((identity or {}).get('data') or {}).get('train')
  here = {'num_values': data.num_values, 'symbols': _symbols(data)}
  lines = _part_changes(learnt, here, prefix='data')
  if lines:
    raise OtherRun(
      f'{data.name} {data.split} is not of the data that this run learnt from: '
      f'{"; ".join(lines)} (there -> here). Its values stand for other '
      'symbols; name the data of the run.'
    )


def admit(
  directory: str | os.PathLike[str], there: Json, here: Json, allowed: bool
) -> None:
  """Refuses a start that would make a run another one.

  Args:
    directory: of the run, for the message.
    there: identity of the run.
    here: identity of the start.
    allowed: whether all changes are, but for those of the model.

  Raises:
    OtherRun: names the fields, there -> here.
  """
  law, _, _ = changes(there, here)
  model = [line for line in law if line.startswith('model.')]
  if model:
    raise OtherRun(
      f'{directory} holds a run of another model: {"; ".join(model[:6])} '
      '(there -> here). Choose another working directory, or the config of '
      'that run.'
    )
  if law and not allowed:
    steps = any(line.startswith('train.steps:') for line in law)
    raise OtherRun(
      f'{directory} holds a run with other settings: {"; ".join(law[:6])} '
      '(there -> here). A result belongs to the run that made it: choose '
      'another working directory, or the settings of that run; '
      '--allow_changes goes on with the new ones, and tells it in the history.'
      + steps
      * ' (The rates of this schedule depend on train.steps.)'
    )


def grown(there: Json | None, here: Json, step: int) -> Json:
  """The identity after a start: that of the start, and a longer history.

  Args:
    there: identity of the run; None for a new one.
    here: identity of the start.
    step: updates done before it.
  """
  if there is None:
    return here
  law, conditions, _ = changes(there, here)
  entries = [
    {
      'step': step,
      'date': time.strftime(_TIME),
      'field': field,
      'change': change,
    }
    for field, _, change in (line.partition(': ') for line in law + conditions)
  ]
  return here | {
    'began': there.get('began', 'before runs had an identity'),
    'data': there.get('data', {}) | here['data'],
    'history': there['history'] + entries,
  }


def history(identity: Json | None, step: int) -> list[str]:
  """What was changed on the way to the parameters of a step, a line a field."""
  return [
    f'at step {entry["step"]}: {entry["field"]} {entry["change"]}'
    for entry in (identity or {}).get('history', [])
    if entry['step'] < step
  ]


def config_at(identity: Json, step: int) -> Json:
  """The configuration that made the parameters of a step."""
  config = json.loads(json.dumps(identity['config']))
  for entry in reversed(identity['history']):
    *sections, field = entry['field'].split('.')
    if entry['step'] < step or (sections or [field])[0] not in config:
      continue
    place = config
    for section in sections:
      place = place[section]
    place.pop(field, None)
    if not entry['change'].startswith('absent ->'):
      place[field], _ = json.JSONDecoder().raw_decode(entry['change'])
  return config


def note(
  directory: str | os.PathLike[str], identity: Json, params: str, step: int
) -> ConfigDict:
  """Lets every result of this process tell from which run it was made.

  Args:
    directory: of the run.
    identity: of the run.
    params: which of its parameters, such as 'ema of step 900'.
    step: their step.

  Returns:
    The configuration that made them.
  """
  data = identity.get('data', {}).get('train')
  told = history(identity, step)
  facts = {'params': params, 'history': told, 'data': data}
  results.note_run(directory, facts)
  return configuration.from_json(config_at(identity, step))


def _symbols(data: Dataset) -> str | None:
  return None if data.symbols is None else data.symbols.hex()


def _part_changes(old: Json | None, new: Json | None, prefix: str) -> list[str]:
  """Differences of the fields that both have."""
  if not old or not new:
    return []
  lines = []
  both = old.keys() & new.keys()
  for line in configuration.differences(
    {key: old[key] for key in both}, {key: new[key] for key in both}, prefix
  ):
    if line.startswith(f'{prefix}.symbols:') and old['symbols']:
      if new['symbols']:
        line = f'{prefix}.symbols: {_symbol_change(old, new)}'
    lines.append(line)
  return lines


def _symbol_change(old: Json, new: Json) -> str:
  """'only there b'..', only here b'..''."""
  there, here = (set(bytes.fromhex(i['symbols'])) for i in (old, new))
  shown = lambda some: repr(bytes(sorted(some)))[1:]
  return (
    f'{shown(there - here)} (only there) -> {shown(here - there)} (only here)'
  )


def _filled(config: Json) -> Json:
  """The config with every default that it leaves out."""
  filled = configuration.to_json(configuration.default_config())
  for section, fields in config.items():
    known = filled.get(section)
    both = isinstance(known, dict) and isinstance(fields, dict)
    filled[section] = known | fields if both else fields
  for section, makers in (
    ('model', models.FAMILIES),
    ('data', sources.SOURCES),
  ):
    maker = makers.get(filled[section].get('name'))
    if maker is not None:
      filled[section] = _defaults(maker) | filled[section]
  return filled


def _defaults(maker: Any) -> Json:
  """Arguments of a factory that JSON has a form for, by name."""
  found = {}
  for name, parameter in inspect.signature(maker).parameters.items():
    value = parameter.default
    if isinstance(value, type) and issubclass(value, np.generic):
      value = np.dtype(value).name
    if isinstance(value, bool | int | float | str | tuple):
      found[name] = json.loads(json.dumps(value))
  return found
