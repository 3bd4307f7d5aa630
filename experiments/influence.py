"""How fast fixed-point sampling converges on a run, and how fast it should.

  ./run.sh influence --workdir=runs/digits_gated_pixelcnn

Measures the mean influence matrix C on samples of the run's model, and sets the
number of wrong positions after each fixed-point pass beside the prediction
sum(C^k e_0). docs/coarse_to_fine.md has the derivation.
"""

import time

import jax
import numpy as np
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import describe, samplers
from parallel_ar.analysis import influence
from parallel_ar.training import configuration, trained

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_EVENTS = flags.DEFINE_integer(
  'events', 8, 'Samples that C is averaged over.', lower_bound=1
)
_COUNT = flags.DEFINE_integer(
  'count', 64, 'Samples whose passes are counted.', lower_bound=1
)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the samples.', lower_bound=0)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  run = trained.load(entry.require(_WORKDIR))
  model = run.models[0]
  key, other = jax.random.split(jax.random.key(_SEED.value))
  drawn = jax.random.split(other, _EVENTS.value)
  x = samplers.fixed_point(model)(run.params, drawn).x
  matrix = influence.matrix(model, run.params, x)
  keys = jax.random.split(key, _COUNT.value)
  found = influence.decay(model, run.params, keys, matrix)
  rows, columns = matrix.sum(1), matrix.sum(0)
  print(describe(model))
  print(
    f'influence on a position, sum over inputs: mean {rows.mean():.3f}, max '
    f'{rows.max():.3f}; of a position, sum over outputs: mean '
    f'{columns.mean():.3f}, max {columns.max():.3f}\n'
  )
  print('| pass | wrong positions | predicted |')
  print('|--:|--:|--:|')
  for k, (wrong, guess) in enumerate(
    zip(found.measured, found.predicted, strict=True)
  ):
    print(f'| {k} | {wrong:.2f} | {guess:.2f} |')
  few = np.flatnonzero(found.predicted < 0.5)
  says = f'{few[0]}' if few.size else f'more than {len(found.measured) - 1}'
  print(
    f'\nPasses: mean {found.passes:.1f}; less than half a position is wrong '
    f'after {np.flatnonzero(found.measured < 0.5)[0]} passes, predicted {says}.'
  )
  report.save(
    _OUT.value,
    {
      'row sum mean': (float(rows.mean()), '1'),
      'row sum max': (float(rows.max()), '1'),
      'column sum mean': (float(columns.mean()), '1'),
      'column sum max': (float(columns.max()), '1'),
      'passes mean': (found.passes, 'passes'),
    },
    configuration.to_json(run.config),
    started,
    seed=_SEED.value,
    model=describe(model),
    params=run.params_name,
    measured=found.measured.tolist(),
    predicted=found.predicted.tolist(),
  )


if __name__ == '__main__':
  entry.run(main)
