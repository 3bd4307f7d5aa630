"""Every family on the same digits: what it costs and what it reaches.

  ./run.sh gallery

Trains each configs/digits_*.py as it stands, evaluates it on the test split,
times the one-pass likelihood of 100 images, all families in turn, and draws
samples. Writes docs/gallery.md with the table and a picture beside it. Runs
stay in the working directory; a second call goes on where the first stopped.
"""

import functools
import importlib
import pathlib
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import likelihood, samplers
from parallel_ar.analysis import timing
from parallel_ar.training import (
  configuration,
  datasets,
  evaluate,
  loop,
  pictures,
  run_directory,
)

_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/gallery', 'Directory of the runs, one a family.'
)
_DOCS = flags.DEFINE_string('docs', 'docs', 'Where gallery.md is written.')
_STEPS = flags.DEFINE_integer(
  'steps',
  None,
  'Training steps; without it those of the configs.',
  lower_bound=1,
)
_ONLY = flags.DEFINE_list('only', [], 'Only these, by name; all by default.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed rounds.', lower_bound=1)
_OUT = options.define_output('out', 'Write the result here, as JSON.')

_COLUMNS = 12  # samples of a family in the picture


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  files = sorted(pathlib.Path('configs').glob('digits_*.py'))
  names = [f.stem.removeprefix('digits_') for f in files]
  if unknown := set(_ONLY.value) - set(names):
    raise ValueError(
      f'--only: there is no configs/digits_{sorted(unknown)[0]}.py; there are '
      f'{", ".join(names)}.'
    )
  docs = pathlib.Path(_DOCS.value)
  options.check_writable(docs / 'gallery.md')
  runs = {n: train(n) for n in names if not _ONLY.value or n in _ONLY.value}
  some = next(iter(runs.values()))[0]
  test = datasets.load_split(some, some.evaluate.split)
  x = test.x[:100]
  programs = {
    name: functools.partial(_one_pass(run), x)
    for name, (_, run) in runs.items()
  }
  rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
  numbers: report.Numbers = {}
  lines, drawn = [], []
  for name, (config, run) in runs.items():
    found = evaluate.evaluate(
      run.models, run.params, test, config.evaluate.batch_size
    )
    model = run.models[0]
    keys = jax.random.split(jax.random.key(0), _COLUMNS)
    sample = samplers.fixed_point(model)(run.params, keys)
    drawn.append(np.asarray(sample.x))
    count = sum(int(p.size) for p in jax.tree.leaves(run.params))
    cost = timing.summarize(rounds.seconds[name])
    passes = float(np.mean(sample.info.passes))
    bits = found.bits_per_dim
    lines.append(
      f'| [{name}](../configs/digits_{name}.py) | {model.depth} | {count:,} '
      f'| {cost.text(1e3)} | {bits:.3f} | {passes:.1f} '
      f'| {"own" if model.decode else "derived"} |'
    )
    numbers |= {
      f'{name}: bits/dim': (bits, 'bits/dim'),
      f'{name}: depth': (model.depth, 'passes'),
      f'{name}: parameters': (count, 'parameters'),
      f'{name}: one pass': (1e3 * cost.median, 'ms'),
      f'{name}: passes mean': (passes, 'passes'),
    }
  pictures.save_grid(
    np.concatenate(drawn),
    docs / 'images' / 'gallery.png',
    num_values=test.num_values,
    columns=_COLUMNS,
  )
  text = page(list(runs), lines)
  run_directory.replace(docs / 'gallery.md', text)
  print(text)
  config = {'steps': _STEPS.value or some.train.steps, 'families': list(runs)}
  report.save(_OUT.value, numbers, config, started, rounds)


def train(name: str) -> tuple[Any, Any]:
  """The config of a family and its finished run."""
  module = importlib.import_module(f'configs.digits_{name}')
  config = module.get_config()
  if _STEPS.value:
    config.train.steps = _STEPS.value
  configuration.validate(config)
  return config, loop.train(config, f'{_WORKDIR.value}/{name}')


def _one_pass(run: Any) -> Any:
  function = jax.jit(functools.partial(likelihood.log_prob, run.models[0]))
  return lambda x: jax.block_until_ready(function(run.params, x))


def page(names: list[str], lines: list[str]) -> str:
  """docs/gallery.md."""
  rows = '\n'.join(lines)
  return f"""# Gallery

Written by `./run.sh gallery` ([its numbers](../results/gallery.json)). Every
family on the same 8 x 8 digits of 17 grey levels, trained as its config says:
likelihood of the 300 test images, one pass of 100 images on two CPU cores
(median and quartiles, all in turn), and the passes of `fixed_point` for a
sample. Depth is that of the slow loop. The cache is one that the family brings,
or is [derived](derived_cache.md) from the pass.
No model was chosen by its test bits, and none was tuned beyond its config: a
comparison of costs more than of families.

| family | depth | parameters | one pass, ms | test bits/dim | passes | cache |
|---|--:|--:|--:|--:|--:|---|
{rows}

Samples, a row each in the order of the table, the same keys:

![samples of every family](images/gallery.png)
"""


if __name__ == '__main__':
  entry.run(main)
