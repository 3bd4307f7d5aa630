"""What trained runs lose in whole numbers of few bits.

  ./run.sh tables/whole_loss \
      --workdirs=runs/digits_gated_pixelcnn,runs/digits_made --steps=200 \
      --out=results/whole_loss.json

Evaluates every run on its test split in floats and in whole numbers of so many
bits of weights and of what they meet; ranges are of validation examples. With
--steps the first of the bits stand there a second time, after so many updates
on the grids (see `exact`).
"""

import time

from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import exact
from parallel_ar.training import evaluate, run_directory, trained, whole
from parallel_ar.types import Params

_WORKDIRS = flags.DEFINE_list('workdirs', None, 'Directories of runs.')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Directory of data files.')
_BITS = flags.DEFINE_list(
  'bits', ['8/8', '8/10', '10/12'], 'Of weights / of what they meet.'
)
_STEPS = flags.DEFINE_integer(
  'steps', 0, 'Updates on the first grids; 0 for none.', lower_bound=0
)
_EXAMPLES = flags.DEFINE_integer(
  'examples', 64, 'Examples of which ranges are taken.', lower_bound=1
)
_TEST = flags.DEFINE_integer(
  'num_test', 0, 'Examples that are tested; 0 for all.', lower_bound=0
)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  directories = [run_directory.resolve(d) for d in entry.require(_WORKDIRS)]
  bits = [_bits(text) for text in _BITS.value]
  head = ['float', *_BITS.value]
  head += [f'{_BITS.value[0]}, {_STEPS.value} updates'] * (_STEPS.value > 0)
  print('| run | ' + ' | '.join(head) + ' |\n|---|' + '--:|' * len(head))
  numbers: report.Numbers = {}
  for directory in directories:
    run = trained.load(directory)
    found = _losses(run, bits)
    first, *others = found
    shown = [f'{first:.4f}', *(f'{bits - first:+.5f}' for bits in others)]
    name = f'{run.model.name}, {run.config.data.name}'
    print(f'| {name} | ' + ' | '.join(shown) + ' |', flush=True)
    numbers[f'{name}: float'] = first, 'bits/dim'
    for what, value in zip(head[1:], others, strict=True):
      numbers[f'{name}: lost at {what}'] = value - first, 'bits/dim'
  config = {
    'runs': [directory.name for directory in directories],
    'examples': _EXAMPLES.value,
    'steps': _STEPS.value,
  }
  report.save(_OUT.value, numbers, config, started)


def _bits(text: str) -> tuple[int, int]:
  """'8/10' as two numbers."""
  try:
    weights, activations = map(int, text.split('/'))
  except ValueError as error:
    raise ValueError(
      f'--bits has {text!r}; expected bits of weights and of what they meet, '
      "as in '8/10'."
    ) from error
  return weights, activations


def _losses(run: trained.Trained, bits: list[tuple[int, int]]) -> list[float]:
  """Bits a dimension, in floats and in whole numbers."""
  data = run.load_split('test', _DATA_DIR.value)
  data = whole.first(data, _TEST.value or len(data))
  shown = whole.examples(run, _EXAMPLES.value, _DATA_DIR.value)
  batch = run.config.evaluate.batch_size

  def lowered(params: Params, weights: int, activations: int) -> float:
    found = exact(
      run.model,
      params,
      *shown,
      weight_bits=weights,
      activation_bits=activations,
    )
    return evaluate.evaluate(
      [found.model], found.params, data, batch
    ).bits_per_dim

  whole_numbers = [lowered(run.params, *pair) for pair in bits]
  if _STEPS.value:
    weights, activations = bits[0]
    params = whole.tune(
      run,
      shown,
      weight_bits=weights,
      activation_bits=activations,
      steps=_STEPS.value,
      data_dir=_DATA_DIR.value,
    )
    whole_numbers.append(lowered(params, weights, activations))
  before = evaluate.evaluate(run.models, run.params, data, batch)
  return [before.bits_per_dim, *whole_numbers]


if __name__ == '__main__':
  entry.run(main)
