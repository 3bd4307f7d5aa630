"""What it costs to use the future, and what it gives: any order and infilling.

  ./run.sh future_information --png=runs/future.png
  ./run.sh future_information --workdirs=runs/digits_ardm,runs/digits_made

Trains, on the digits, for the same updates and with about the same number of
parameters: a causal Transformer, an order-agnostic model (ARDM), two-stream
attention, next-scale prediction and multiscale groups; and for each mask whose
known pixels are no prefix a causal Transformer whose order puts them first
(prefix conditioning, one model a mask). Prints bits/dim, the time of a pass of
100 images, taken in turn, and the passes of a sample; then for each mask -log
p(missing | known) in nats per missing pixel, smaller is better: exact from one
pass where the known pixels come first, exact by a sum where few events could be
missing, else between two bounds from --draws samples. --workdirs takes runs of
your own instead, of one unconditional image source.
"""

import functools
import pathlib
import re
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import entry, fitting, options, plots
from experiments.tables import report
from parallel_ar import likelihood, models, order, samplers
from parallel_ar.analysis import infill, timing
from parallel_ar.data import dataset
from parallel_ar.training import (
  bucket,
  configuration,
  datasets,
  evaluate,
  identity,
  params_file,
  run_directory,
  trained,
)

_WORKDIRS = flags.DEFINE_list('workdirs', [], 'Runs to compare; else trains.')
_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/future', 'Where trained parameters are kept, a file a row.'
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Directory of data files.')
_STEPS = flags.DEFINE_integer('steps', 600, 'Updates a model.', lower_bound=1)
_EVERY = flags.DEFINE_integer(
  'every', 50, 'Updates between validations.', lower_bound=1
)
_FEATURES = flags.DEFINE_integer(
  'features', 48, 'Width of the Transformers.', lower_bound=4
)
_ONLY = flags.DEFINE_list('only', [], 'Only these rows, by name.')
_MASKS = flags.DEFINE_list(
  'masks',
  ['bottom half', 'random half', 'middle square', 'coarse grid', 'two pixels'],
  'Which pixels are missing.',
)
_COUNT = flags.DEFINE_integer(
  'count', 300, 'Test images that are infilled.', lower_bound=2
)
_DRAWS = flags.DEFINE_integer(
  'draws', 32, 'Samples of an image for the bounds.', lower_bound=2
)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed rounds.', lower_bound=1)
_FULL = flags.DEFINE_bool(
  'full', False, 'Width 64, 3,000 updates, 256 samples for the bounds.'
)
_PNG = options.define_output('png', 'Draw both tables here.', options.PICTURES)
_OUT = options.define_output('out', 'Write the result here, as JSON.')

# row -> (config, whether --features sets its width)
_ROWS = {
  'causal': ('configs/digits_transformer.py', True),
  'ardm': ('configs/digits_ardm.py', True),
  'two_stream': ('configs/digits_two_stream.py', True),
  'next_scale': ('configs/digits_next_scale.py', True),
  'multiscale': ('configs/digits_multiscale.py', False),
}
_PREFIX = 'causal, known first'
_FEW = 512  # events that could be missing are summed over


class Row(NamedTuple):
  """A trained model."""

  config: Any
  model: Any
  params: Any


class Filled(NamedTuple):
  """-log p(missing | known) of every image, nats a missing pixel.

  `low` is smaller than `nats` where only bounds are known.
  """

  nats: np.ndarray
  low: np.ndarray
  how: str


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  rows = loaded() if _WORKDIRS.value else trained_here()
  first = next(iter(rows.values()))
  test = split(first.config, first.config.evaluate.split)
  known = {m: mask(m, first.model.rank.shape[:2]) for m in _MASKS.value}
  known = {m: k.reshape(first.model.rank.shape) for m, k in known.items()}
  numbers: report.Numbers = {}
  rounds = tell_models(rows, test, numbers)
  filled = tell_masks(rows, test, known, numbers)
  if _PNG.value:
    draw(rows, filled, numbers, _PNG.value)
    print(f'\npicture: {_PNG.value}')
  report.save(
    _OUT.value,
    numbers,
    {name: configuration.to_json(row.config) for name, row in rows.items()},
    started,
    rounds,
    draws=draws(),
    count=_COUNT.value,
  )


def draws() -> int:
  """K of the bounds."""
  return 256 if _FULL.value else _DRAWS.value


def split(config: Any, name: str) -> dataset.Dataset:
  """A split, bits drawn once."""
  return dataset.binarize_once(
    datasets.load_split(config, name, _DATA_DIR.value)
  )


def mask(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """bool[H, W], the known pixels.

  Raises:
    ValueError: an unknown mask.
  """
  height, width = shape
  row, column = np.indices((height, width))
  inside = lambda at, size: (at >= size // 4) & (at < size - size // 4)
  middle = (row == height // 2) & (np.abs(column - width // 2 + 0.5) < 1)
  masks = {
    'bottom half': row < height // 2,
    'random half': order.random((height, width), 7) < height * width // 2,
    'middle square': ~(inside(row, height) & inside(column, width)),
    'coarse grid': (row % 2 == 0) & (column % 2 == 0),
    'two pixels': ~middle,
  }
  if name not in masks:
    raise ValueError(
      f'--masks: there is no mask {name!r}; there are {", ".join(masks)}.'
    )
  return masks[name]


def loaded() -> dict[str, Row]:
  """The runs of --workdirs."""
  rows = {}
  for path in _WORKDIRS.value:
    run = trained.load(path)
    model = run.models[0]
    if (
      len(run.models) > 1
      or model.context is not None
      or len(model.event.shape) not in (2, 3)
      or model.event.shape[2:] not in ((), (1,))
    ):
      raise ValueError(
        f'{path}: infilling takes one unconditional model of images with one '
        f'channel; this is {len(run.models)} of {model.name}, event '
        f'{model.event.shape}.'
      )
    rows[pathlib.Path(path).name] = Row(run.config, model, run.params)
  return rows


def trained_here() -> dict[str, Row]:
  """Every row of the table, trained for the same updates."""
  rows = {}
  for name, (path, wide) in _ROWS.items():
    if not _ONLY.value or name in _ONLY.value:
      rows[name] = train(name, path, wide)
  if not _ONLY.value or _PREFIX in _ONLY.value:
    for name in _MASKS.value:
      known = mask(name, (8, 8)).reshape(8, 8, 1)
      few = 17 ** int((~known).sum()) <= _FEW
      if few or infill.comes_first(order.raster((8, 8, 1)), known):
        continue  # the causal model itself is exact
      rank = order.known_first(order.raster((8, 8, 1)), known)
      label = f'{_PREFIX}: {name}'
      rows[label] = train(label, *_ROWS['causal'], rank)
  if not rows:
    raise ValueError(
      f'--only has none of the rows {", ".join((*_ROWS, _PREFIX))}.'
    )
  return rows


def train(name: str, path: str, wide: bool, rank: Any = None) -> Row:
  """A model of a config; from its file where it has been trained before."""
  config = fitting.read(path)
  if wide:
    config.model.features = 64 if _FULL.value else _FEATURES.value
    config.model.layers = 2
  config.train.steps = 3000 if _FULL.value else _STEPS.value
  steps, recorded = config.train.steps, configuration.to_json(config)
  fit = fitting.Fit(config, steps, rank)
  named = re.sub('[^a-z]+', '_', name)
  file = run_directory.resolve(f'{_WORKDIR.value}/{named}.npz')
  learnt, chosen = split(config, 'train'), split(config, 'valid')
  data = {'train': learnt, 'valid': chosen}
  who = identity.of(recorded) | {
    'data': {name: identity.fingerprint(one) for name, one in data.items()}
  }
  if bucket.is_file(file):
    there = params_file.read_meta(file)
    found = there.get('identity') or {}
    same = there['config'] == recorded and found.get('data') == who['data']
    if same and there['step'] == steps:
      identity.note(file, found, f'raw of step {steps}', steps)
      shapes = jax.eval_shape(fit.model.init, jax.random.key(0))
      return Row(config, fit.model, params_file.load(file, shapes)[0])
  params = fit.train(learnt, chosen, _EVERY.value)
  params_file.save(
    file, params, recorded, step=steps, which='raw', identity=who
  )
  return Row(config, fit.model, params)


def tell_models(
  rows: dict[str, Row], test: dataset.Dataset, numbers: report.Numbers
) -> timing.Rounds:
  """Prints bits, times and passes of every model."""
  programs = {}
  wait = lambda program, *args: jax.block_until_ready(program(*args))
  for name, row in rows.items():
    one = jax.jit(functools.partial(likelihood.log_prob, row.model))
    programs[name] = functools.partial(wait, one, row.params, test.x[:100])
  rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
  print(f'{len(test)} test images\n')
  print('| model | parameters | bits/dim | a pass, ms | depth | passes |')
  print('|---|--:|--:|--:|--:|--:|')
  for name, row in rows.items():
    size = row.config.evaluate.batch_size
    found = evaluate.evaluate([row.model], row.params, test, size)
    scale = found.bits_per_dim / found.nats
    keys = jax.random.split(jax.random.key(0), 64)
    drawn = samplers.fixed_point(row.model)(row.params, keys)
    passes = float(np.mean(drawn.info.passes + drawn.info.steps))
    count = sum(int(p.size) for p in jax.tree.leaves(row.params))
    cost = timing.summarize(rounds.seconds[name])
    error = found.standard_error * scale
    print(
      f'| {name} | {count:,} | {found.bits_per_dim:.3f} ± {error:.3f} '
      f'| {cost.text(1e3, 1)} | {row.model.depth} | {passes:.1f} |'
    )
    numbers |= {
      f'{name}: parameters': (count, 'parameters'),
      f'{name}: bits/dim': (found.bits_per_dim, 'bits/dim'),
      f'{name}: error': (error, 'bits/dim'),
      f'{name}: a pass': (1e3 * cost.median, 'ms'),
      f'{name}: depth': (row.model.depth, 'passes'),
      f'{name}: passes mean': (passes, 'passes'),
    }
  return rounds


def fill(row: Row, x: np.ndarray, known: np.ndarray) -> Filled:
  """Infilling under one mask, the most exact way there is."""
  model, missing = row.model, int((~known).sum())
  if model.conditionals_given is not None:
    rank = order.known_first(model.rank, known)
    model = models.build(row.config.model, rank)[0]
  if infill.comes_first(model.rank, known):
    nats = -infill.exact(model, row.params, x, known) / missing
    return Filled(nats, nats, 'one pass')
  if model.head.num_values**missing <= _FEW:
    nats = -infill.enumerated(model, row.params, x, known) / missing
    return Filled(nats, nats, 'sum')
  found = infill.bounds(model, row.params, x, known, jax.random.key(0), draws())
  return Filled(-found.at_least / missing, -found.at_most / missing, 'bounds')


def tell_masks(
  rows: dict[str, Row],
  test: dataset.Dataset,
  known: dict[str, np.ndarray],
  numbers: report.Numbers,
) -> dict[tuple[str, str], Filled]:
  """Prints nats a missing pixel, models by masks."""
  x, found = test.x[: _COUNT.value].astype(np.int32), {}
  print(f'\n-log p(missing | known), nats a missing pixel, {len(x)} images:\n')
  print('| missing | pixels | model | nats | from |\n|---|--:|---|--:|---|')
  for name, where in known.items():
    for label, row in rows.items():
      if label.startswith(_PREFIX) and label != f'{_PREFIX}: {name}':
        continue  # trained for another mask
      one = found[name, label] = fill(row, x, where)
      label = label.partition(':')[0]
      error = one.nats.std(ddof=1) / np.sqrt(len(x))
      low, high = one.low.mean(), one.nats.mean()
      text = f'{high:.3f} ± {error:.3f}'
      if one.how == 'bounds':
        text = f'{low:.3f} to {text}'
        numbers[f'{name}, {label}: low'] = float(low), 'nats'
      pixels = int((~where).sum())
      print(f'| {name} | {pixels} | {label} | {text} | {one.how} |')
      numbers[f'{name}, {label}: nats'] = float(high), 'nats'
      numbers[f'{name}, {label}: error'] = float(error), 'nats'
  return found


def draw(
  rows: dict[str, Row],
  filled: dict[tuple[str, str], Filled],
  numbers: report.Numbers,
  path: str,
) -> None:
  """Bits against the time of a pass, and infilling by mask."""
  made, axes = plots.figure(2, size=5.0)
  left, right = axes[0]
  for name in rows:
    if name.startswith(_PREFIX):
      continue
    at = [numbers[f'{name}: {what}'][0] for what in ('a pass', 'bits/dim')]
    left.errorbar(*at, yerr=numbers[f'{name}: error'][0], fmt='o', label=name)
  left.set(xlabel='a pass of 100 images, ms', ylabel='bits/dim', xscale='log')
  left.legend()
  masks = list(dict.fromkeys(m for m, _ in filled))
  labels = list(dict.fromkeys(n.partition(':')[0] for _, n in filled))
  for k, label in enumerate(labels):
    place, middle, half = [], [], []
    for (m, name), one in filled.items():
      if name.partition(':')[0] == label:
        low, high = one.low.mean(), one.nats.mean()
        place.append(masks.index(m) + (k - len(labels) / 2) * 0.12)
        middle.append((low + high) / 2)
        error = one.nats.std(ddof=1) / np.sqrt(len(one.nats))
        half.append((high - low) / 2 + error)
    right.errorbar(place, middle, yerr=half, fmt='o', label=label)
  right.set(ylabel='nats a missing pixel', title='infilling, smaller is better')
  right.set_xticks(range(len(masks)), masks, rotation=20)
  right.legend(fontsize='small')
  plots.save(made, path)


if __name__ == '__main__':
  entry.run(main)
