"""When more parallelism loses efficiency, and what helps then.

  ./run.sh efficiency --png=runs/efficiency.png
  ./run.sh efficiency --config=configs/digits_gated_pixelcnn.py \
      --cases=windows,dispatch,sharding,batches,bandwidth

Seven ways to be too parallel, each timed in turn with its remedy:

  windows    fixed-point passes over more slots than a round can settle
  sharding   a batch over more (virtual) devices of one CPU than it feeds
  batches    training steps of too few examples
  dispatch   a call of a compiled step for every slot
  bandwidth  a cached loop that reads all weights for one token
  newton     DEER on a recurrence whose errors grow
  drafts     speculative sampling with a draft that misses

A gain is the time of the first row of a case over that of the row, for a unit
of work; a row with '*' is a remedy. With --config the first five take that
config's model (trained by --steps updates on its data where it matters); the
last two, and all without --config, take small networks of the house.
"""

import importlib
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from experiments import entry, options, plots
from experiments.limits import decoding, drafts, newton, race, stepping
from experiments.tables import report
from parallel_ar.training import configuration

_CONFIG = options.define_config()
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Directory of data files.')
_CASES = flags.DEFINE_list('cases', [], 'Which of the seven; all by default.')
_STEPS = flags.DEFINE_integer(
  'steps', 200, 'Updates of the model that draws.', lower_bound=1
)
_BATCH = flags.DEFINE_integer(
  'batch', 8, 'Samples at once, for windows.', lower_bound=1
)
_DEVICES = flags.DEFINE_integer(
  'devices', 8, 'Most devices; a power of two.', lower_bound=1
)
_BATCHES = options.define_numbers(
  'batches', [1, 4, 16, 64, 256], 'Examples of a step.'
)
_SAMPLES = options.define_numbers('samples', [1, 4, 16, 64], 'Of bandwidth.')
_FEATURES = flags.DEFINE_integer(
  'features', 384, 'Width of the model that reads its weights.', lower_bound=4
)
_LENGTH = flags.DEFINE_integer(
  'length', 64, 'Slots of the house networks.', lower_bound=8
)
_RADII = options.define_numbers(
  'radii', [0.5, 1, 1.5, 2, 3], 'Spectral radii of newton.', 0, float
)
_DRAFTS = options.define_numbers(
  'drafts', [0, 20, 200], 'Updates of the drafts.', least=0
)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed rounds.', lower_bound=1)
_FULL = flags.DEFINE_bool('full', False, 'Twice the sizes, and 9 rounds.')
_PNG = options.define_output('png', 'Draw every case here.', options.PICTURES)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  if unknown := set(_CASES.value) - set(CASES):
    raise ValueError(
      f'--cases={sorted(unknown)[0]}: choose from {", ".join(CASES)}.'
    )
  if _DEVICES.value < 1 or _DEVICES.value & (_DEVICES.value - 1):
    raise ValueError(f'--devices={_DEVICES.value} must be a power of two.')
  found: dict[str, race.Case] = {}
  numbers: report.Numbers = {}
  for name, make in CASES.items():
    if name in (_CASES.value or CASES):
      found[name] = make(9 if _FULL.value else _ROUNDS.value)
      show(name, found[name], numbers)
  if _PNG.value:
    draw(found, _PNG.value)
    print(f'\npicture: {_PNG.value}')
  config = configuration.to_json(_CONFIG.value) if _CONFIG.value else {}
  report.save(_OUT.value, numbers, config, started, cases=list(found))


def _config(name: str) -> Any:
  """The config of the flag, or one of the house."""
  if _CONFIG.value is not None:
    return _CONFIG.value
  return importlib.import_module(f'configs.{name}').get_config()


def _windows(rounds: int) -> race.Case:
  config = _config('digits_transformer')
  model, params = race.trained(config, _STEPS.value, _DATA_DIR.value)
  return decoding.windows(model, params, _BATCH.value, rounds)


def _sharding(rounds: int) -> race.Case:
  config = _config('digits_transformer')
  return stepping.sharding_too_far(config, _DEVICES.value, rounds)


def _batches(rounds: int) -> race.Case:
  sizes = _BATCHES.value
  config = _config('digits_transformer')
  return stepping.small_batches(config, sizes, 16, _DATA_DIR.value, rounds)


def _dispatch(rounds: int) -> race.Case:
  config = _config('digits_transformer')
  model, params = race.trained(config, 0, _DATA_DIR.value)
  return decoding.dispatch(model, params, rounds)


def _bandwidth(rounds: int) -> race.Case:
  section = {
    'name': 'transformer',
    'event': (_LENGTH.value,),
    'num_values': 256,
    'features': _FEATURES.value * (2 if _FULL.value else 1),
    'layers': 4,
    'heads': 4,
  }
  if _CONFIG.value is not None:
    section = _CONFIG.value.model.to_dict()
  samples = _SAMPLES.value
  return decoding.bandwidth(section, samples, rounds)


def _newton(rounds: int) -> race.Case:
  radii = _RADII.value
  length = (16 if _FULL.value else 8) * _LENGTH.value
  return newton.case(length, 16, radii, rounds)


def _drafts(rounds: int) -> race.Case:
  numbers = _DRAFTS.value
  width = max(_FEATURES.value // 2, 4)
  return drafts.drafts(
    _LENGTH.value, width, 4, _STEPS.value // 2, numbers, rounds
  )


CASES: dict[str, Callable[[int], race.Case]] = {
  'windows': _windows,
  'sharding': _sharding,
  'batches': _batches,
  'dispatch': _dispatch,
  'bandwidth': _bandwidth,
  'newton': _newton,
  'drafts': _drafts,
}


def show(name: str, case: race.Case, numbers: report.Numbers) -> None:
  """Prints a case, and keeps its numbers."""
  print(f'\n**{case.title}**\n')
  print(f'| what | {case.counted} | us a {case.unit} | gain |')
  print('|---|--:|--:|--:|')
  for row in case.rows:
    star = '*' if row.remedy else ''
    print(
      f'| {row.name}{star} | {row.counted} | {row.seconds.text(1e6, 1)} '
      f'| {row.gain.text()} |',
      flush=True,
    )
    numbers[f'{name}, {row.name}: us'] = 1e6 * row.seconds.median, 'us'
    numbers[f'{name}, {row.name}: gain'] = row.gain.median, 'x'
  for label, fact in case.facts.items():
    numbers[f'{name}, {label}'] = fact


def draw(found: dict[str, race.Case], path: str) -> None:
  """Time of a unit of work in every case; remedies are green."""
  made, axes = plots.figure(min(len(found), 4), 1 + (len(found) - 1) // 4)
  for place in axes.reshape(-1)[len(found) :]:
    place.set_axis_off()
  for place, (name, case) in zip(axes.reshape(-1), found.items(), strict=False):
    lines = list(dict.fromkeys(row.line for row in case.rows if row.line))
    for line in lines:
      some = [row for row in case.rows if row.line == line]
      at = [row.at for row in some]
      each = [1e6 * row.seconds.median for row in some]
      place.plot(at, each, 'o-', label=line)
    loose = [row for row in case.rows if not row.line]
    for row in loose:
      us = 1e6 * row.seconds.median
      color = 'C2' if row.remedy else 'C3'
      place.axhline(us, color=color, linestyle='--', linewidth=1)
      place.text(
        0.02,
        us,
        row.name,
        fontsize=5,
        color=color,
        transform=place.get_yaxis_transform(),
      )
    place.set(title=name, xlabel=case.axis, ylabel=f'us a {case.unit}')
    place.set_yscale('log')
    if not lines:
      place.set_xticks([])
    if name == 'newton':
      place.legend(fontsize=6)
    elif lines:
      place.set_xscale('log', base=2)
      place.legend(fontsize=6)
  plots.save(made, path)


if __name__ == '__main__':
  entry.run(main)
