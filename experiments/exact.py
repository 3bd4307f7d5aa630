"""A trained run in whole numbers: what it loses, and its program.

  ./run.sh exact --workdir=runs/digits_gated_pixelcnn
  ./run.sh exact --workdir=runs/digits_gated_pixelcnn --weight_bits=10 \
      --activation_bits=12 --program=digits.npz

Ranges are taken from the validation split, the loss is over the test split. The
program is what `parallel_ar/exact/reference` reads without JAX.
"""

import dataclasses
import math

import numpy as np
from absl import flags

from experiments import entry, options
from parallel_ar import exact
from parallel_ar.data import dataset
from parallel_ar.exact import save
from parallel_ar.training import datasets, evaluate, trained

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Directory of the data files; ./data without it.'
)
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
_EXAMPLES = flags.DEFINE_integer(
  'examples', 64, 'Examples of which ranges are taken.', lower_bound=1
)
_TEST = flags.DEFINE_integer(
  'num_test', 0, 'Examples that are tested; 0 for all.', lower_bound=0
)
_PROGRAM = options.define_output(
  'program', 'Write the whole-number program here.', ['.npz']
)


def main() -> None:
  """Runs the script."""
  run = trained.load(entry.require(_WORKDIR))
  if len(run.models) > 1:
    raise ValueError(
      f'exact takes one model; this run is a mixture of {len(run.models)}.'
    )
  (model,) = run.models
  shown = _first(run.load_split('valid', _DATA_DIR.value), _EXAMPLES.value)
  x = np.asarray(shown.x).astype(model.event.dtype)
  context = datasets.contexts(model, shown, len(shown))
  found = exact(
    model,
    run.params,
    x,
    context,
    weight_bits=_WEIGHTS.value,
    activation_bits=_ACTIVATIONS.value,
  )
  print(found.report)
  data = run.load_split('test', _DATA_DIR.value)
  data = _first(data, _TEST.value or len(data))
  batch = run.config.evaluate.batch_size
  of = lambda models, params: evaluate.evaluate(
    models, params, data, batch, params_name=run.params_name
  )
  before = of(run.models, run.params)
  after = of([found.model], found.params)
  print(f'float          {before}')
  print(f'whole numbers  {after}')
  loss = after.nats - before.nats
  bits = loss / model.num_dims / math.log(2)
  print(
    f'loss {loss:.4f} nats, {bits:.5f} bits/dim, over {len(data)} examples of '
    'test'
  )
  if _PROGRAM.value:
    save(found.report.program, _PROGRAM.value)
    print(f'program: {_PROGRAM.value}')


def _first(data: dataset.Dataset, count: int) -> dataset.Dataset:
  """The first examples of a split, as bits where it holds grey levels."""
  context = None if data.context is None else data.context[:count]
  data = dataclasses.replace(data, x=data.x[:count], context=context)
  return dataset.binarize_once(data)


if __name__ == '__main__':
  entry.run(main)
