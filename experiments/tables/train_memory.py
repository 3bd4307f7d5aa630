"""Peak memory of training a config, as the process saw it.

  ./run.sh tables/train_memory --config=configs/long_transformer.py

Trains the config for a few steps in a process of its own for every policy of
`layers.remat`, and prints the peak resident memory of that process (Python and
the compiler are in it) and the seconds of the last step. Nothing is evaluated.
"""

import json
import pathlib
import tempfile
import time
from typing import Any

from absl import flags

from experiments import alone, entry, options
from experiments.tables import report
from parallel_ar import describe, models
from parallel_ar.layers import remat
from parallel_ar.training import configuration, loop

_CONFIG = options.define_config(
  'config', 'configs/long_transformer.py', 'Config of the run.'
)
_POLICIES = flags.DEFINE_list(
  'policies', ['full', 'none'], 'Values of config.model.remat.'
)
_STEPS = flags.DEFINE_integer('steps', 3, 'Steps of training.', lower_bound=2)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Directory of data files.')
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  base = configuration.to_json(entry.require(_CONFIG))
  if unknown := set(_POLICIES.value) - set(remat.POLICIES):
    raise ValueError(
      f'--policies: {sorted(unknown)[0]!r} is none; choose from '
      f'{", ".join(remat.POLICIES)}.'
    )
  numbers: report.Numbers = {}
  print('| remat | peak resident, GB | seconds a step | loss, nats |')
  print('|---|--:|--:|--:|')
  for policy in _POLICIES.value:
    config = {**base, 'model': {**base['model'], 'remat': policy}}
    steps = {'steps': _STEPS.value, 'eval_every': 0, 'keep_best': False}
    config['train'] = {**base['train'], **steps, 'log_every': 1, 'patience': 0}
    peak, seconds, loss = alone.run(
      f'remat {policy}', _train, config, _DATA_DIR.value
    )
    print(f'| {policy} | {peak / 1e9:.2f} | {seconds:.1f} | {loss:.1f} |')
    numbers[f'remat {policy}: peak'] = peak, 'bytes'
    numbers[f'remat {policy}: step'] = seconds, 's'
  (model, *_) = models.build(configuration.from_json(base).model)
  print(describe(model))
  report.save(_OUT.value, numbers, base, started, model=describe(model))


def _train(config: Any, data_dir: str | None) -> tuple[int, float, float]:
  """Trains; peak resident bytes, seconds of the last step, and its loss."""
  with tempfile.TemporaryDirectory() as workdir:
    loop.train(
      configuration.from_json(config),
      workdir,
      data_dir=data_dir,
      progress=False,
    )
    lines = (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
  last = json.loads(lines[-1])
  return alone.peak(), 1 / last['steps_per_second'], last['loss_nats']


if __name__ == '__main__':
  entry.run(main)
