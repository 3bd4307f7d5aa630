"""What whole numbers cost: one pass beside the float pass, and a cache.

  ./run.sh tables/whole_speed --out=results/whole_speed.json

Times one pass over a batch (-log p of every event) of three networks with
random weights, in floats and in whole numbers of 8 and 10 bits, in turn; and,
of the Gated PixelCNN, samples by the derived cache, where floats need a pass at
the end that proves them.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import exact, likelihood, samplers
from parallel_ar.analysis import timing
from parallel_ar.exact import Exact
from parallel_ar.model import AutoregressiveModel
from parallel_ar.models import gated_pixelcnn, made, transformer
from parallel_ar.testing.case import make_case, random_params

_NETWORKS = flags.DEFINE_list(
  'networks', ['gated', 'made', 'transformer'], 'Which networks.'
)
_BATCH = flags.DEFINE_integer('batch', 32, 'Events of a pass.', lower_bound=1)
_SAMPLES = flags.DEFINE_integer(
  'samples', 16, 'Samples of a cache; 0 leaves it out.', lower_bound=0
)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed rounds.', lower_bound=1)
_BITS = options.define_numbers('bits', [8, 10], 'Weights, activations.')
_OUT = options.define_output('out', 'Write the result here, as JSON.')


class Network(NamedTuple):
  """A model that is timed."""

  name: str
  make: Callable[[], AutoregressiveModel]


NETWORKS = {
  'gated': Network(
    'Gated PixelCNN 28 x 28, 7 x 32',
    lambda: gated_pixelcnn(
      event=(28, 28, 1), features=32, layers=7, size=7, head_features=32
    ),
  ),
  'made': Network(
    'MADE [8000]', lambda: made(event=(28, 28, 1), hidden=(8000,))
  ),
  'transformer': Network(
    'Transformer 6 x 256, 64 characters',
    lambda: transformer(event=(64,), num_values=65, features=256, layers=6),
  ),
}


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  numbers: report.Numbers = {}
  carriers: dict[str, dict[str, int]] = {}
  print('| | float | whole numbers | of float |\n|---|--:|--:|--:|')
  for name in _NETWORKS.value:
    network = NETWORKS[name]
    for what, programs, found in _programs(network):
      rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
      share = timing.ratio(rounds, 'whole', 'float')
      times = {n: timing.summarize(t) for n, t in rounds.seconds.items()}
      label = f'{network.name}, {what}'
      print(
        f'| {label} | {times["float"].text(1e3)} ms '
        f'| {times["whole"].text(1e3)} ms | {share.text()} |',
        flush=True,
      )
      numbers |= {
        f'{label}: float': (times['float'].median, 's'),
        f'{label}: whole numbers': (times['whole'].median, 's'),
        f'{label}: of float': (share.median, '1'),
      }
      products = found.report.products
      carriers[network.name] = {
        kind: sum(p.carrier == kind for p in products)
        for kind in sorted({p.carrier for p in products})
      }
  config = {'batch': _BATCH.value, 'bits': list(_BITS.value)}
  report.save(_OUT.value, numbers, config, started, carriers=carriers)


def _programs(
  network: Network,
) -> Iterator[tuple[str, dict[str, Callable[[], Any]], Exact]]:
  """What is timed, in floats and in whole numbers."""
  model = network.make()
  params = random_params(model, 0, 1.0)
  case = make_case(model, params=params, batch=max(_BATCH.value, 16))
  weights, activations = map(int, _BITS.value)
  found = exact(
    model,
    params,
    case.x[:16],
    weight_bits=weights,
    activation_bits=activations,
  )
  pairs = {'float': (model, params), 'whole': (found.model, found.params)}
  x = np.asarray(case.x[: _BATCH.value])
  one = lambda model: functools.partial(likelihood.log_prob, model)
  yield (
    f'one pass, batch {len(x)}',
    {name: _ready(one(m), p, x) for name, (m, p) in pairs.items()},
    found,
  )
  if network is NETWORKS['gated'] and _SAMPLES.value:
    keys = jax.random.split(jax.random.key(0), _SAMPLES.value)
    yield (
      f'cached, {len(keys)} samples',
      {
        name: _ready(samplers.cached(m), p, keys)
        for name, (m, p) in pairs.items()
      },
      found,
    )


def _ready(function: Callable, *args: Any) -> Callable[[], Any]:
  """The compiled function on its arguments, waited for."""
  compiled = jax.jit(function)
  return lambda: jax.block_until_ready(compiled(*args))


if __name__ == '__main__':
  entry.run(main)
