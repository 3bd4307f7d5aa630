"""What quantized weights lose, and what they save.

  ./run.sh tables/quantization --workdirs=runs/digits_gated_pixelcnn

Evaluates every run on its test split with float32, int8 and int4 weights (a
scale for each output channel; 'int4 / 32' one for every 32 inputs of it, where
32 divides them), and times one pass of a batch, all in turn. Weights only:
products are float32, so on a CPU the gain is memory and not time.
"""

import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import likelihood, quantize
from parallel_ar.analysis import timing
from parallel_ar.training import datasets, evaluate, run_directory, trained

_WORKDIRS = flags.DEFINE_list('workdirs', None, 'Directories of runs.')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Directory of data files.')
_COUNT = flags.DEFINE_integer(
  'count', None, 'Only so many test examples; all by default.', lower_bound=1
)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed rounds.', lower_bound=1)
_OUT = options.define_output('out', 'Write the result here, as JSON.')

KINDS: dict[str, tuple[quantize.Bits, int]] = {
  'int8': ('int8', 0),
  'int4': ('int4', 0),
  'int4 / 32': ('int4', 32),
}


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  directories = [run_directory.resolve(d) for d in entry.require(_WORKDIRS)]
  numbers: report.Numbers = {}
  print(
    '| run | weights | bits/dim | lost | MB | one pass, ms | of float32 |\n'
    '|---|---|--:|--:|--:|--:|--:|'
  )
  for directory in directories:
    numbers |= measure(directory)
  config = {'runs': [directory.name for directory in directories]}
  report.save(_OUT.value, numbers, config, started)


def measure(workdir: pathlib.Path) -> report.Numbers:
  """Prints the rows of one run, and returns their numbers."""
  run = trained.load(workdir)
  config = run.config
  test = run.load_split(config.evaluate.split, _DATA_DIR.value)
  if _COUNT.value:
    first = lambda leaf: leaf[: _COUNT.value]
    context = jax.tree.map(first, test.context)
    test = dataclasses.replace(test, x=first(test.x), context=context)
  variants: dict[str, Any] = {'float32': (run.models, run.params)}
  for name, (kind, tile) in KINDS.items():
    made = [quantize.weights(m, run.params, kind, tile) for m in run.models]
    variants[name] = tuple(m for m, _ in made), made[0][1]
  found = {
    name: evaluate.evaluate(models, params, test, config.evaluate.batch_size)
    for name, (models, params) in variants.items()
  }
  x = test.x[: min(len(test), config.evaluate.batch_size)]
  context = datasets.contexts(run.models[0], test, len(x))
  rounds = timing.in_turn(
    {
      name: functools.partial(_one_pass(models[0]), params, x, context)
      for name, (models, params) in variants.items()
    },
    rounds=_ROUNDS.value,
  )
  numbers: report.Numbers = {}
  whole = found['float32'].bits_per_dim
  label = f'{run.models[0].name}, {config.data.name}'
  for name, (_, params) in variants.items():
    bits, size = found[name].bits_per_dim, quantize.num_bytes(params)
    seconds = timing.summarize(rounds.seconds[name])
    share = timing.ratio(rounds, name, 'float32')
    print(
      f'| {label} | {name} | {bits:.4f} | {bits - whole:+.4f} '
      f'| {size / 1e6:.3f} | {seconds.text(1e3)} | {share.text()} |'
    )
    numbers |= {
      f'{label}, {name}: bits/dim': (bits, 'bits/dim'),
      f'{label}, {name}: lost': (bits - whole, 'bits/dim'),
      f'{label}, {name}: bytes': (size, 'bytes'),
      f'{label}, {name}: of float32': (share.median, '1'),
    }
  return numbers


def _one_pass(model: Any) -> Any:
  function = jax.jit(functools.partial(likelihood.log_prob, model))
  return lambda *args: jax.block_until_ready(function(*args))


if __name__ == '__main__':
  entry.run(main)
