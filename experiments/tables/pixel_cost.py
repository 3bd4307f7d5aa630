"""What a pixel costs to decode from a cache, at several sizes of the image.

  ./run.sh tables/pixel_cost

A Gated PixelCNN of random parameters is sampled by `cached` without its proof,
at every size in turn. If the cost of a pixel does not depend on the area, the
column of microseconds is flat; that of a pass is printed beside it, which grows
with the area, and which `ancestral` pays for every pixel.
"""

import functools
import time
from typing import Any

import jax
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import likelihood, models, samplers
from parallel_ar.analysis import timing

_SIZES = options.define_numbers('sizes', [14, 28, 56], 'Heights and widths.')
_BATCH = flags.DEFINE_integer('batch', 1, 'Images at once.', lower_bound=1)
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Timed rounds.', lower_bound=1)
_FEATURES = flags.DEFINE_integer('features', 32, 'Channels.', lower_bound=1)
_LAYERS = flags.DEFINE_integer('layers', 7, 'Gated layers.', lower_bound=1)
_KERNEL = flags.DEFINE_integer('kernel', 7, 'Kernel size, odd.', lower_bound=3)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  sizes = _SIZES.value
  network: dict[str, Any] = {
    'features': _FEATURES.value,
    'layers': _LAYERS.value,
    'size': _KERNEL.value,
  }
  programs: dict[str, Any] = {}
  for size in sizes:
    model = models.gated_pixelcnn(event=(size, size, 1), **network)
    params = jax.jit(model.init)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), _BATCH.value)
    draw = functools.partial(samplers.cached(model, verify=False), params, keys)
    one_pass = jax.jit(functools.partial(likelihood.log_prob, model))
    x = draw().x
    programs[f'decode {size}'] = lambda d=draw: jax.block_until_ready(d())
    programs[f'pass {size}'] = lambda f=one_pass, p=params, x=x: (
      jax.block_until_ready(f(p, x))
    )
  rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
  print('| image | decode, us a pixel | one pass, us a pixel | one pass, ms |')
  print('|---|--:|--:|--:|')
  numbers = {}
  for size in sizes:
    pixels = size * size * _BATCH.value
    decode = timing.summarize(rounds.seconds[f'decode {size}'] / pixels)
    whole = timing.summarize(rounds.seconds[f'pass {size}'])
    print(
      f'| {size} x {size} | {decode.text(1e6)} '
      f'| {1e6 * whole.median / pixels:.2f} | {whole.text(1e3)} |'
    )
    numbers[f'{size}: decode'] = (1e6 * decode.median, 'us a pixel')
    numbers[f'{size}: pass'] = (1e3 * whole.median, 'ms')
  report.save(_OUT.value, numbers, network, started, rounds, batch=_BATCH.value)


if __name__ == '__main__':
  entry.run(main)
