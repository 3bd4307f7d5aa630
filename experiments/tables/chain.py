"""A chain of models, coarse to fine, beside one model of the whole image.

  ./run.sh tables/chain --config=configs/chain_digits.py

Trains one model for every level of a pyramid (`data.pyramid`): --coarse on the
grid of stride 2^(levels - 1), and --config once for each finer grid, on the
pixels that it adds, given the finished coarser image:

  p(x) = p(x_1) prod_l p(x_l | x_1, ..., x_{l-1})

Beside them --full, a model of all pixels. Prints nats of the chain, level by
level and together, the passes of a sample (fixed point within each level) and
the depth, the passes that are always enough. Give the chain as many parameters
as the full model.
"""

import time
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments import entry, options
from experiments.tables import report
from parallel_ar import samplers
from parallel_ar.data import pyramid
from parallel_ar.training import configuration, datasets, evaluate, loop

_CONFIG = options.define_config(
  'config',
  'configs/chain_digits.py',
  'Model of what a level adds; its event and context are set here.',
)
_COARSE = options.define_config(
  'coarse',
  'configs/digits_gated_pixelcnn.py',
  'Model of the coarsest level.',
)
_FULL = options.define_config(
  'full', 'configs/digits_gated_pixelcnn.py', 'Model of the whole image.'
)
_LEVELS = flags.DEFINE_integer('levels', 3, 'Levels.', lower_bound=2)
_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/chain', 'Directory of the runs, one a level.'
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Directory of data files.')
_SAMPLES = flags.DEFINE_integer(
  'samples', 64, 'Samples whose passes are counted.', lower_bound=1
)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  base = entry.require(_CONFIG)
  configs = levels(base, entry.require(_COARSE), _LEVELS.value)
  configs['full'] = shared(entry.require(_FULL), base)
  runs, nats = {}, {}
  for name, config in configs.items():
    runs[name] = loop.train(
      config, f'{_WORKDIR.value}/{name}', data_dir=_DATA_DIR.value
    )
    test = datasets.load_split(config, config.evaluate.split, _DATA_DIR.value)
    found = evaluate.evaluate(
      runs[name].models, runs[name].params, test, config.evaluate.batch_size
    )
    nats[name] = found.per_example
  parts = [name for name in configs if name != 'full']
  keys = jax.random.split(jax.random.key(0), _SAMPLES.value)
  drawn = samplers.hierarchical(chain([runs[name] for name in parts]))(
    [runs[name].params for name in parts], keys
  )
  passes = {
    name: np.asarray(info.passes)
    for name, info in zip(parts, drawn.info, strict=True)
  }
  full = runs['full']
  whole = samplers.fixed_point(full.models[0])(full.params, keys)
  passes['full'] = np.asarray(whole.info.passes)
  depths = {name: run.models[0].depth for name, run in runs.items()}
  counts = {
    name: sum(int(p.size) for p in jax.tree.leaves(run.params))
    for name, run in runs.items()
  }
  tables: tuple[dict[str, Any], ...] = (nats, passes, depths, counts)
  for table in tables:
    table['chain'] = sum(table[name] for name in parts)
  numbers: report.Numbers = {}
  print(
    '| model | parameters | depth | passes of fixed_point (most) | nats | lost '
    '|\n|---|--:|--:|--:|--:|--:|'
  )
  for name in (*parts, 'chain', 'full'):
    numbers |= row(name, nats, passes[name], depths[name], counts[name])
  kept = {name: configuration.to_json(c) for name, c in configs.items()}
  report.save(_OUT.value, numbers, kept, started)


def levels(
  base: ConfigDict, coarse: ConfigDict, count: int
) -> dict[str, ConfigDict]:
  """The configs of the levels, coarsest first."""
  strides = [2**k for k in range(count - 1, -1, -1)]
  configs = {f'level 1, stride {strides[0]}': shared(coarse, base)}
  for l, stride in enumerate(strides[1:], 2):
    configs[f'level {l}, stride {stride}'] = shared(base, base)
  for l, config in enumerate(configs.values()):
    config.data.stride = strides[l]
    config.data.refine = l > 0
    if l > 0:
      config.model.context_channels = 1
    test = datasets.load_split(config, config.evaluate.split, _DATA_DIR.value)
    config.model.event = test.event
  return configs


def shared(config: ConfigDict, base: ConfigDict) -> ConfigDict:
  """A copy of the config with the data, training and mesh of `base`."""
  config = configuration.from_json(configuration.to_json(config))
  other = configuration.from_json(configuration.to_json(base))
  for section in ('data', 'mesh', 'train', 'evaluate'):
    config[section] = other[section]
  config.data.stride = 1
  config.data.refine = False
  return config


def chain(runs: list[Any]) -> list[samplers.Level]:
  """The trained levels, each given the image of the levels before."""
  head = runs[0].models[0].head

  def condition(before: tuple, context: Any) -> Any:
    del context
    image, *added = before
    for new in added:
      image = pyramid.join(image, new)
    return pyramid.scaled(image, head.num_values)

  return [samplers.Level(run.models[0], condition) for run in runs]


def row(
  name: str, nats: dict[str, Any], passes: Any, depth: int, count: int
) -> report.Numbers:
  """Prints the row of a level, of the chain or of the full model."""
  own = nats[name]
  mean, error = own.mean(), own.std(ddof=1) / np.sqrt(own.size)
  lost = f'{mean - nats["full"].mean():+.2f}' if name == 'chain' else ''
  print(
    f'| {name} | {count:,} | {depth} | {passes.mean():.1f} ({passes.max()}) '
    f'| {mean:.2f} ± {error:.2f} | {lost} |'
  )
  return {
    f'{name}: parameters': (count, 'parameters'),
    f'{name}: depth': (depth, 'passes'),
    f'{name}: passes mean': (float(passes.mean()), 'passes'),
    f'{name}: passes max': (int(passes.max()), 'passes'),
    f'{name}: test nats': (float(mean), 'nats'),
    f'{name}: error': (float(error), 'nats'),
  }


if __name__ == '__main__':
  entry.run(main)
