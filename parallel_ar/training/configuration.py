"""The configuration of a run: every field, its default and its checks.

A file under configs/ takes `default_config()`, overrides what differs and
names its model; a flag overrides that. Sections `data` and `model` are open,
because their fields are the arguments of a data source and a model factory,
which check them; in the others an unknown field is an error that suggests the
nearest name. Where a name is expected, `my.module:function` is taken too.
"""

import functools
import json
import math
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from parallel_ar import precision, resolve
from parallel_ar.partition import AXES
from parallel_ar.training import bucket, optimizer, rules

_OPEN = 'options', 'schedule_options', 'mup_base'
OPEN_SECTIONS = 'data', 'model', *(f'optimizer.{name}' for name in _OPEN)
_MOST_BYTES = 1 << 22  # of a config.json


def default_config() -> ConfigDict:
  """Every field with its default.

  Returns:
    A locked ConfigDict whose sections `data` and `model` accept new fields.
  """
  config = ConfigDict(
    {
      'seed': 0,  # initial parameters, data order and sample grids
      'mesh': _mesh(),
      'data': _data(),
      'model': _model(),
      'optimizer': _optimizer(),
      'train': _train(),
      'evaluate': _evaluate(),
    }
  )
  config.lock()
  for section in OPEN_SECTIONS:
    _get(config, section).unlock()
  return config


def _mesh() -> dict[str, Any]:
  return {  # devices of each axis, see `partition`; -1: what the others leave
    'data': -1,  # parts of a batch, each with a copy of the parameters
    'fsdp': 1,  # parts of a batch, each with a part of the parameters
    'tensor': 1,  # parts of heads and hidden features
    'sequence': 1,  # parts of the slots of one example
  }


def _data() -> dict[str, Any]:
  return {
    'name': 'digits',  # source; its own fields may follow
    'train_split': 'train',
    'valid_split': 'valid',  # '' for a source without one
  }


def _model() -> dict[str, Any]:
  return {
    'name': '',  # family; the arguments of its factory follow
  }


def _optimizer() -> dict[str, Any]:
  return {
    'name': 'adam',  # `rules.HOUSE`, any of optax, or my.module:function
    'learning_rate': 1e-3,  # the peak of the schedule
    'schedule': 'constant',  # SCHEDULES, any of optax, or my.module:function
    'warmup_steps': 0,  # linear rise to the peak, in updates
    'decay_steps': 0,  # updates of cosine and linear; 0: the rest of the run
    'end_factor': 0.0,  # last rate / peak, of cosine and linear
    'decay_rate': 1.0,  # exponential: factor for every decay_steps updates
    'clip_norm': 0.0,  # largest global norm of the gradient; 0: any
    'weight_decay': 0.0,  # on leaves of two or more axes
    'b1': 0.9,  # adam, adamw
    'b2': 0.999,  # adam, adamw
    'eps': config_dict.placeholder(float),  # None: the rule's own
    'rho': 0.95,  # adadelta
    'initial_accumulator': 0.0,  # adagrad
    'momentum': 0.0,  # sgd
    'nesterov': False,  # sgd
    'options': {},  # arguments of any other rule
    'schedule_options': {},  # arguments of any other schedule
    'mup_base': {},  # fields of the model at the width tuned for, see `mup`
    'groups': (),  # fields by a parameter's path, 'embed: learning_rate=1e-4'
  }


def _train() -> dict[str, Any]:
  return {
    'batch_size': 64,  # examples of one update
    'accumulate': 1,  # micro-batches that a batch is cut into
    'steps': 1000,  # updates of the whole run
    'ema_decay': 0.0,  # moving average of the parameters; 0: none
    'precision': 'default',  # of float32 products, see `precision`
    'skip_sigmas': 0.0,  # leave out spikes of so many deviations; 0: none
    'skip_window': 128,  # steps that spikes are compared with
    'log_every': 50,  # steps between records of the training metrics
    'eval_every': 500,  # steps between validations; 0: never
    'checkpoint_every': 500,  # steps between checkpoints; 0: not by steps
    'checkpoint_minutes': 0.0,  # also after so long, at a log; 0: not by time
    'keep': 2,  # newest checkpoints kept
    'keep_best': False,  # keep the best on validation, and end with it
    'patience': 0,  # validations without a new best before stopping; 0: no stop
    'sample_every': 0,  # steps between sample grids of images; 0: never
    'sample_count': 16,  # images of a grid
    'tensorboard': True,  # also write for TensorBoard
    'data_workers': 0,  # processes that read batches ahead, from disk
    'wandb': '',  # project at Weights & Biases; '' for none
    'histograms': False,  # of the parameters, for both, with sample grids
  }


def _evaluate() -> dict[str, Any]:
  return {
    'batch_size': 100,
    'split': 'test',  # of experiments.evaluate; training uses valid_split
    'params': 'auto',  # raw, ema, or auto: the average where one is kept
    'precision': 'highest',  # of float32 products: likelihood and samples
  }


# field -> (what holds, what was expected, the names that there are)
_Check = tuple[Callable[[Any], bool], str, *tuple[str, ...]]
_POSITIVE: _Check = (lambda v: v >= 1, 'a whole number of at least 1')
_COUNT: _Check = (lambda v: v >= 0, 'a whole number of at least 0')
_RATE: _Check = (lambda v: 0 < v < math.inf, 'a finite number above 0')
_AMOUNT: _Check = (lambda v: 0 <= v < math.inf, 'a finite number, at least 0')
_FRACTION: _Check = (lambda v: 0 <= v < 1, 'a number in [0, 1)')
_AXIS: _Check = (lambda v: v == -1 or v >= 1, '-1 or a size of at least 1')
_NAME: _Check = (lambda v: bool(v), 'a name')


def _one_of(*names: str) -> _Check:
  return (lambda v: v in names, f'one of {", ".join(names)}', *names)


def _named(names: Sequence[str]) -> _Check:
  right = lambda v: v in names or resolve.is_own(v)
  known = f'one of {", ".join(names)}, or my.module:function'
  return (right, known, *names)


_CHECKS: dict[str, _Check] = {
  'seed': (lambda v: 0 <= v < 2**32, 'a whole number in [0, 2^32)'),
  **dict.fromkeys((f'mesh.{axis}' for axis in AXES), _AXIS),
  **dict.fromkeys(('data.name', 'data.train_split', 'model.name'), _NAME),
  'optimizer.name': _named([*rules.HOUSE, *rules.of_optax()]),
  'optimizer.schedule': _named(optimizer.schedule_names()),
  'optimizer.learning_rate': _RATE,
  'optimizer.warmup_steps': _COUNT,
  'optimizer.decay_steps': _COUNT,
  'optimizer.end_factor': _AMOUNT,
  'optimizer.decay_rate': _RATE,
  'optimizer.clip_norm': _AMOUNT,
  'optimizer.weight_decay': _AMOUNT,
  **dict.fromkeys(('optimizer.b1', 'optimizer.b2'), _FRACTION),
  'optimizer.eps': (lambda v: v is None or v > 0, 'a number above 0'),
  'optimizer.initial_accumulator': _AMOUNT,
  **dict.fromkeys(('optimizer.rho', 'optimizer.momentum'), _FRACTION),
  'optimizer.groups': (lambda v: {str}.issuperset(map(type, v)), 'texts'),
  'train.batch_size': _POSITIVE,
  'train.accumulate': _POSITIVE,
  'train.steps': _POSITIVE,
  'train.ema_decay': _FRACTION,
  'train.skip_sigmas': _AMOUNT,
  'train.skip_window': (lambda v: v >= 4, 'a whole number of at least 4'),
  **dict.fromkeys(('train.keep', 'train.log_every'), _POSITIVE),
  **dict.fromkeys(('train.eval_every', 'train.checkpoint_every'), _COUNT),
  'train.checkpoint_minutes': _AMOUNT,
  'train.patience': _COUNT,
  'train.sample_every': _COUNT,
  'train.sample_count': _POSITIVE,
  'train.data_workers': _COUNT,
  'evaluate.batch_size': _POSITIVE,
  'evaluate.params': _one_of('auto', 'raw', 'ema'),
  'train.precision': _one_of(*precision.LEVELS),
  'evaluate.precision': _one_of(*precision.LEVELS),
}


def validate(config: ConfigDict) -> None:
  """Checks every field's presence, type and value, and how they go together.

  The fields of `data` and `model` beyond the names are checked by the source
  and the factory that take them.

  Args:
    config: the configuration of a run.

  Raises:
    ValueError: names the field, its value, and what was expected.
  """
  defaults = default_config()
  _check_fields(defaults, config, '')
  _check_values(config)
  train = config.train
  if train.batch_size % train.accumulate:
    raise ValueError(
      f'config.train.accumulate = {train.accumulate} does not divide '
      f'config.train.batch_size = {train.batch_size}. A batch is cut into '
      'equal micro-batches; change one of the two.'
    )
  validated = train.eval_every > 0 and bool(config.data.valid_split)
  if (train.patience or train.keep_best) and not validated:
    raise ValueError(
      'config.train.patience and config.train.keep_best select on the '
      'validation split. Set config.train.eval_every above 0 and '
      'config.data.valid_split to the name of a split.'
    )
  to_json(config)


def to_json(config: ConfigDict) -> dict[str, Any]:
  """The configuration as JSON data: what is stored and compared.

  Args:
    config: the configuration of a run.

  Returns:
    Nested dicts, lists and scalars; tuples become lists.

  Raises:
    ValueError: a field holds something that JSON has no form for.
  """

  def refuse(value):
    raise ValueError(
      f'A field of the config holds {value!r} of type '
      f'{type(value).__name__}. Use numbers, strings, booleans, None, and '
      'tuples or dicts of them, so that the run can be recorded.'
    )

  return json.loads(json.dumps(config.to_dict(), default=refuse))


def from_json(data: Any) -> ConfigDict:
  """The configuration that `to_json` recorded; lists become tuples.

  A field that is absent, because an older version wrote the record, has its
  default; one that is not known any more stays.

  Args:
    data: JSON data.

  Returns:
    A ConfigDict that is not locked.

  Raises:
    ValueError: it records no run: no names of the data and the model, or
      fields of other types or values.
  """

  def restore(v):
    if isinstance(v, dict):
      return {key: restore(item) for key, item in v.items()}
    return tuple(map(restore, v)) if isinstance(v, list) else v

  if not isinstance(data, dict):
    raise ValueError(
      f'A recorded config is an object of sections, not {type(data).__name__}.'
    )
  made = default_config().to_dict()
  for key, value in restore(data).items():
    if not isinstance(made.get(key), dict):
      made[key] = value
    elif isinstance(value, dict):
      made[key] |= value
    else:
      raise ValueError(f'config.{key} = {value!r}: expected a section.')
  for name in ('data', 'model'):
    if 'name' not in data.get(name, {}):
      raise ValueError(
        f'config.{name}.name is missing, and nothing else says what it was.'
      )
  config = ConfigDict(made)
  known = default_config()
  for key in known:
    if not isinstance(known[key], ConfigDict):
      _check_type(f'.{key}', known[key], config[key])
      continue
    for field in known[key]:
      _check_type(f'.{key}.{field}', known[key][field], config[key][field])
  _check_values(config)
  return config


def read(path: str | os.PathLike[str]) -> Any:
  """The JSON data in a config.json, whoever wrote it.

  Raises:
    FileNotFoundError: no such file.
    ValueError: it is not JSON, or larger than a config is.
  """
  content = bucket.content(path, _MOST_BYTES + 1)
  try:
    if len(content) > _MOST_BYTES:
      raise ValueError(f'over {_MOST_BYTES} bytes')
    return json.loads(content)
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f'{path} is no config of a run that can be read: '
      f'{type(error).__name__}: {error}. Restore the file, or choose another '
      'working directory.'
    ) from error


def differences(old: Any, new: Any, prefix: str = '') -> list[str]:
  """What changed between two JSON configs.

  Args:
    old: nested dicts.
    new: nested dicts.
    prefix: path of both.

  Returns:
    Lines such as 'train.steps: 100 -> 200', in the order of the paths.
  """
  if not (isinstance(old, dict) and isinstance(new, dict)):
    same = old == new and type(old) is type(new)
    shown = f'{json.dumps(old)} -> {json.dumps(new)}'
    return [] if same else [f'{prefix}: {shown}']
  lines = []
  for key in sorted(old.keys() | new.keys()):
    path = f'{prefix}.{key}' if prefix else key
    if not {str(c.get(key, {})) for c in (old, new)} - {'{}', '[]'}:
      continue  # what is empty says as little as what is absent
    if key not in new:
      lines.append(f'{path}: {json.dumps(old[key])} -> absent')
    elif key not in old:
      lines.append(f'{path}: absent -> {json.dumps(new[key])}')
    else:
      lines.extend(differences(old[key], new[key], path))
  return lines


def _check_fields(defaults: ConfigDict, config: Any, prefix: str) -> None:
  """Presence and types, section by section."""
  if not isinstance(config, ConfigDict):
    raise ValueError(
      f'config{prefix} is a {type(config).__name__}; expected a ConfigDict '
      'such as default_config() returns.'
    )
  for key in config:
    if key not in defaults and prefix.lstrip('.') not in OPEN_SECTIONS:
      known = ', '.join(sorted(defaults))
      raise ValueError(
        f'config{prefix} has no field {key!r}.{resolve.near(key, defaults)} '
        f'Known fields: {known}.'
      )
  for key in defaults:
    path = f'{prefix}.{key}'
    if key not in config:
      raise ValueError(
        f'config{path} is missing. Start from default_config() and override.'
      )
    default, value = defaults[key], config[key]
    if isinstance(default, ConfigDict):
      _check_fields(default, value, path)
    else:
      _check_type(path, default, value)


def _check_values(config: ConfigDict) -> None:
  for path, (holds, expected, *names) in _CHECKS.items():
    value = _get(config, path)
    if not holds(value):
      raise ValueError(
        f'config.{path} = {value!r}: expected {expected}.'
        f'{resolve.near(value, names)}'
      )


def _check_type(path: str, default: Any, value: Any) -> None:
  expected = float if default is None else type(default)
  if default is None and value is None:
    return
  accepted = {float: (int, float), tuple: (tuple, list)}.get(expected, expected)
  is_bool = isinstance(value, bool)
  if not isinstance(value, accepted) or (is_bool and expected is not bool):
    raise ValueError(
      f'config{path} = {value!r} is of type {type(value).__name__}; expected '
      f'{expected.__name__}.'
    )


def _get(config: ConfigDict, path: str) -> Any:
  return functools.reduce(operator.getitem, path.split('.'), config)
