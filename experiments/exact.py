"""A trained run in whole numbers: what it loses, and its program.

  ./run.sh exact --workdir=runs/digits_gated_pixelcnn
  ./run.sh exact --workdir=runs/digits_gated_pixelcnn --weight_bits=10 \
      --activation_bits=12 --program=digits.npz
  ./run.sh exact --workdir=runs/digits_gated_pixelcnn --activation_bits=8 \
      --steps=200

Ranges are taken from the validation split, the loss is over the test split.
With --steps the parameters are trained on the grids first, towards the run's
own probabilities, by straight-through gradients. The program is what
`parallel_ar/exact/reference` reads without JAX.
"""

import math
from typing import Any

from absl import flags

from experiments import entry, options, tuning
from parallel_ar import exact
from parallel_ar.exact import Exact, save
from parallel_ar.training import evaluate, run_directory, trained

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_GRIDS = tuning.Flags()
_WEIGHTS = flags.DEFINE_integer(
  'weight_bits', 8, 'Bits of the weights.', lower_bound=2, upper_bound=16
)
_ACTIVATIONS = flags.DEFINE_integer(
  'activation_bits',
  10,
  'Bits of what the weights meet.',
  lower_bound=2,
  upper_bound=16,
)
_PROGRAM = options.define_output(
  'program', 'Write the whole-number program here.', ['.npz']
)


def main() -> None:
  """Runs the script."""
  run = trained.load(entry.require(_WORKDIR))
  bits: Any = {
    'weight_bits': _WEIGHTS.value,
    'activation_bits': _ACTIVATIONS.value,
  }
  shown, updates = _GRIDS.shown(run), _GRIDS.updates
  lower = lambda params: exact(run.model, params, *shown, **bits)
  found = lower(run.params)
  print(found.report)
  data = _GRIDS.tested(run)
  batch, name = run.config.evaluate.batch_size, run.params_name
  before = evaluate.evaluate(
    run.models, run.params, data, batch, params_name=name
  )
  print(f'float          {before}')

  def tell(what: str, found: Exact, name: str) -> None:
    after = evaluate.evaluate(
      [found.model], found.params, data, batch, params_name=name
    )
    print(f'{what}  {after}')
    loss = after.nats - before.nats
    bits = loss / run.model.num_dims / math.log(2)
    print(
      f'loss {loss:.4f} nats, {bits:.5f} bits/dim, over {len(data)} examples '
      'of test'
    )

  tell('whole numbers', found, name)
  if updates.steps:
    params = _GRIDS.tuned(run, shown, **bits)
    found = lower(params)
    tell('after training', found, f'{name} and {updates.steps} more')
  if _PROGRAM.value:
    with run_directory.whole(_PROGRAM.value) as file:
      save(found.report.program, file)
    print(f'program: {_PROGRAM.value}')


if __name__ == '__main__':
  entry.run(main)
