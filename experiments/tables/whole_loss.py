"""What trained runs lose in whole numbers of few bits.

  ./run.sh tables/whole_loss \
      --workdirs=runs/digits_gated_pixelcnn,runs/digits_made --steps=200 \
      --out=results/whole_loss.json

Evaluates every run on its test split in floats and in whole numbers of so many
bits of weights and of what they meet; ranges are of validation examples. With
--steps the first of the bits stand there a second time, after so many updates
on the grids (see `exact`). What whole frequencies cost by themselves, as in any
codec, stands before them. A loss is a mean of differences, example by example;
its standard error is theirs.
"""

import math
import time
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments import entry, options, tuning
from experiments.tables import report
from parallel_ar import exact
from parallel_ar.coding import quantize
from parallel_ar.training import evaluate, run_directory, trained
from parallel_ar.types import Params

_WORKDIRS = flags.DEFINE_list('workdirs', None, 'Directories of runs.')
_GRIDS = tuning.Flags()
_BITS = flags.DEFINE_list(
  'bits', ['8/8', '8/10', '10/12'], 'Of weights / of what they meet.'
)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  directories = [run_directory.resolve(d) for d in entry.require(_WORKDIRS)]
  bits = [_bits(text) for text in _BITS.value]
  updates = _GRIDS.updates
  head = [f'frequencies of {quantize.PRECISION} bits', *_BITS.value]
  head += [f'{_BITS.value[0]}, {updates.steps} updates'] * (updates.steps > 0)
  print(f'| run | float | {" | ".join(head)} |')
  print('|---|' + '--:|' * (1 + len(head)))
  numbers: report.Numbers = {}
  tested = []
  for directory in directories:
    run = trained.load(directory)
    before, *found = _evaluations(run, bits)
    tested.append(before.count)
    lost = [_lost(before, after) for after in found]
    name = f'{run.model.name}, {run.config.data.name}'
    numbers[f'{name}: float'] = before.bits_per_dim, 'bits/dim'
    for what, loss in zip(head, lost, strict=True):
      numbers[f'{name}: lost at {what}'] = loss.bits_per_dim, 'bits/dim'
      numbers[f'{name}: lost at {what}, nats'] = loss.nats, 'nats'
      numbers[f'{name}: its standard error, {what}'] = loss.error, 'nats'
    shown = [f'{loss.bits_per_dim:+.5f}' for loss in lost]
    print(f'| {name}, bits/dim | {before.bits_per_dim:.4f} | {_row(shown)}')
    shown = [f'{loss.nats:+.4f} ± {loss.error:.4f}' for loss in lost]
    print(f'| nats | {before.nats:.4f} | {_row(shown)}', flush=True)
  config = {
    'runs': [directory.name for directory in directories],
    'updates': updates._asdict(),
    'tested': tested,
  }
  report.save(_OUT.value, numbers, config, started)


def _row(cells: list[str]) -> str:
  return ' | '.join(cells) + ' |'


class _Loss(NamedTuple):
  """Mean over examples, and its standard error, of the paired differences."""

  bits_per_dim: float
  nats: float
  error: float


def _lost(before: evaluate.Evaluation, after: evaluate.Evaluation) -> _Loss:
  each = after.per_example - before.per_example
  error = each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else math.nan
  return _Loss(
    after.bits_per_dim - before.bits_per_dim,
    after.nats - before.nats,
    float(error),
  )


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


def _evaluations(
  run: trained.Trained, bits: list[tuple[int, int]]
) -> list[evaluate.Evaluation]:
  """In floats, as a codec takes them, and in whole numbers; tuned at last."""
  data, shown = _GRIDS.tested(run), _GRIDS.shown(run)
  batch = run.config.evaluate.batch_size

  def lowered(params: Params, pair: tuple[int, int]) -> evaluate.Evaluation:
    found = exact(run.model, params, *shown, **_named(pair))
    return evaluate.evaluate([found.model], found.params, data, batch)

  floats = run.model, quantize.quantized(run.model)
  found = [evaluate.evaluate([m], run.params, data, batch) for m in floats]
  found += [lowered(run.params, pair) for pair in bits]
  if _GRIDS.updates.steps:
    params = _GRIDS.tuned(run, shown, **_named(bits[0]))
    found.append(lowered(params, bits[0]))
  return found


def _named(pair: tuple[int, int]) -> Any:
  return dict(zip(('weight_bits', 'activation_bits'), pair, strict=True))


if __name__ == '__main__':
  entry.run(main)
