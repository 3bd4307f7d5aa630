"""What independence costs in nats, beside the depth that it saves.

  ./run.sh tables/hierarchy --config=configs/digits_made.py
  ./run.sh tables/hierarchy --config=configs/bmnist_multiscale.py \
      --layouts=multiscale1,multiscale2,multiscale3 \
      --full=configs/bmnist_gated_pixelcnn.py --full.model.features=15

Trains the config once for every layout of its positions into groups that are
drawn together: the same data, steps and parameters, another rank. 'raster' is
the full model; 'multiscale3', 2 and 1 go from coarse to fine with that many
groups an octave; 'blocksB' are runs of B positions, a dial from fully
sequential (1) to fully independent (all); 'strides8-2-1' are the levels of a
next-scale model. A sample takes at most as many passes as there are groups.
Where the family cannot be its own full model, --full names
the config of another: it gets the data, steps and batches of --config, and
should have as many parameters.
"""

import re
import time

import jax
from absl import flags
from ml_collections import ConfigDict

from experiments import entry, options
from experiments.tables import report
from parallel_ar import samplers
from parallel_ar.training import configuration, datasets, evaluate, loop

_CONFIG = options.define_config(
  'config', 'configs/digits_made.py', 'A family that takes any order.'
)
_FULL = options.define_config(
  'full', None, 'Config of the full model, where --layouts has none.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/hierarchy', 'Directory of the runs, one a layout.'
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Directory of data files.')
_LAYOUTS = flags.DEFINE_list(
  'layouts',
  ['raster', 'blocks2', 'blocks4', 'blocks8', 'blocks16', 'blocks64']
  + ['multiscale3', 'multiscale2', 'multiscale1'],
  'Layouts; others are compared with the first one, or with --full.',
)
_SAMPLES = flags.DEFINE_integer(
  'samples', 64, 'Samples whose passes are counted.', lower_bound=1
)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  base = entry.require(_CONFIG)
  test = datasets.load_split(base, base.evaluate.split, _DATA_DIR.value)
  layouts = [name.strip() for name in _LAYOUTS.value]
  configs = {name: layout(base, name) for name in layouts}
  if _FULL.value is not None:
    configs = {'full': as_long(_FULL.value, base)} | configs
  numbers: report.Numbers = {}
  rows, first = [], None
  for name, config in configs.items():
    run = loop.train(
      config, f'{_WORKDIR.value}/{name}', data_dir=_DATA_DIR.value
    )
    found = evaluate.evaluate(
      run.models, run.params, test, config.evaluate.batch_size
    )
    model = run.models[0]
    keys = jax.random.split(jax.random.key(0), _SAMPLES.value)
    passes = samplers.fixed_point(model)(run.params, keys).info.passes
    mean, most = float(passes.mean()), int(passes.max())
    count = sum(int(p.size) for p in jax.tree.leaves(run.params))
    first = found.nats if first is None else first
    rows.append(
      f'| {name} | {count:,} | {model.depth} | {mean:.1f} ({most}) '
      f'| {found.nats:.2f} ± {found.standard_error:.2f} '
      f'| {found.nats - first:+.2f} | {found.bits_per_dim:.3f} |'
    )
    numbers[f'{name}: parameters'] = count, 'parameters'
    numbers[f'{name}: depth'] = model.depth, 'passes'
    numbers[f'{name}: passes mean'] = mean, 'passes'
    numbers[f'{name}: passes max'] = most, 'passes'
    numbers[f'{name}: test nats'] = found.nats, 'nats'
    numbers[f'{name}: error'] = found.standard_error, 'nats'
  print(
    '| layout | parameters | groups | passes of fixed_point (most) | nats '
    '| lost | bits/dim |\n|---|--:|--:|--:|--:|--:|--:|'
  )
  print('\n'.join(rows))
  kept = configuration.to_json(base)
  if _FULL.value is not None:
    kept = {'full': configuration.to_json(_FULL.value), 'groups': kept}
  report.save(_OUT.value, numbers, kept, started)


def as_long(full: ConfigDict, base: ConfigDict) -> ConfigDict:
  """The full model's config with the data and the training of `base`."""
  config = configuration.from_json(configuration.to_json(full))
  shared = configuration.from_json(configuration.to_json(base))
  for section in ('data', 'train', 'evaluate'):
    config[section] = shared[section]
  return config


def layout(base: ConfigDict, name: str) -> ConfigDict:
  """The config with the positions laid out otherwise.

  Raises:
    ValueError: an unknown layout.
  """
  kinds = r'raster|random|multiscale[123]|blocks[1-9]\d*|strides\d+(-\d+)*'
  if re.fullmatch(kinds, name) is None:
    raise ValueError(
      f'--layouts: {name!r} is none; choose from raster, random, blocksB with '
      'B positions a block, multiscale1, 2 or 3, and stridesA-B-C with the '
      'strides of the levels.'
    )
  config = configuration.from_json(configuration.to_json(base))
  if name.startswith('strides'):
    strides = name.removeprefix('strides').split('-')
    config.model.strides = tuple(map(int, strides))
    return config
  kind = name.rstrip('0123456789')
  size = int(name.removeprefix(kind) or 0)
  config.model.order = kind
  if kind == 'blocks':
    config.model.order_block = size
  if kind == 'multiscale':
    config.model.order_groups = size
  return config


if __name__ == '__main__':
  entry.run(main)
