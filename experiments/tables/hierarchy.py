"""What independence costs in nats, beside the depth that it saves.

  ./run.sh tables/hierarchy --config=configs/digits_made.py

Trains the config once for every layout of its positions into groups that are
drawn together: the same data, steps and parameters, another rank. 'raster' is
the full model; 'multiscale3', 2 and 1 go from coarse to fine with that many
groups an octave; 'blocksB' are runs of B positions, a dial from fully
sequential (1) to fully independent (all). A sample takes at most as many passes
as there are groups.
"""

import pathlib
import re
import time

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import entry
from experiments.tables import report
from parallel_ar import samplers
from parallel_ar.training import configuration, datasets, evaluate, loop

_CONFIG = config_flags.DEFINE_config_file(
  'config', 'configs/digits_made.py', 'A family that takes any order.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/hierarchy', 'Directory of the runs, one a layout.'
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Directory of data files.')
_LAYOUTS = flags.DEFINE_list(
  'layouts',
  ['raster', 'blocks2', 'blocks4', 'blocks8', 'blocks16', 'blocks64']
  + ['multiscale3', 'multiscale2', 'multiscale1'],
  'Layouts; the first is the one that others are compared with.',
)
_SAMPLES = flags.DEFINE_integer(
  'samples', 64, 'Samples whose passes are counted.', lower_bound=1
)
_OUT = flags.DEFINE_string('out', None, 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  base = entry.require(_CONFIG)
  test = datasets.load_split(base, base.evaluate.split, _DATA_DIR.value)
  layouts = [name.strip() for name in _LAYOUTS.value]
  configs = {name: layout(base, name) for name in layouts}
  numbers: report.Numbers = {}
  rows, first = [], None
  for name, config in configs.items():
    run = loop.train(
      config, pathlib.Path(_WORKDIR.value) / name, data_dir=_DATA_DIR.value
    )
    found = evaluate.evaluate(
      run.models, run.params, test, config.evaluate.batch_size
    )
    model = run.models[0]
    keys = jax.random.split(jax.random.key(0), _SAMPLES.value)
    passes = float(
      samplers.fixed_point(model)(run.params, keys).info.passes.mean()
    )
    first = found.nats if first is None else first
    rows.append(
      f'| {name} | {model.depth} | {passes:.1f} | {found.nats:.2f} ± '
      f'{found.standard_error:.2f} | {found.nats - first:+.2f} '
      f'| {found.bits_per_dim:.3f} |'
    )
    numbers[f'{name}: depth'] = model.depth, 'passes'
    numbers[f'{name}: passes mean'] = passes, 'passes'
    numbers[f'{name}: test nats'] = found.nats, 'nats'
    numbers[f'{name}: error'] = found.standard_error, 'nats'
  print(
    '| layout | groups | passes of fixed_point | nats | lost | bits/dim |\n'
    '|---|--:|--:|--:|--:|--:|'
  )
  print('\n'.join(rows))
  report.save(_OUT.value, numbers, configuration.to_json(base), started)


def layout(base: ConfigDict, name: str) -> ConfigDict:
  """The config with the positions laid out otherwise.

  Raises:
    ValueError: an unknown layout.
  """
  match = re.fullmatch(r'(raster|random|multiscale[123]|blocks[1-9]\d*)', name)
  if match is None:
    raise ValueError(
      f'--layouts: {name!r} is none; choose from raster, random, blocksB with '
      'B positions a block, and multiscale1, 2 or 3.'
    )
  kind = name.rstrip('0123456789')
  size = int(name.removeprefix(kind) or 0)
  config = configuration.from_json(configuration.to_json(base))
  config.model.order = kind
  if kind == 'blocks':
    config.model.order_block = size
  if kind == 'multiscale':
    config.model.order_groups = size
  return config


if __name__ == '__main__':
  entry.run(main)
