"""The whole promise in five minutes: train, one pass, oracle, exact samples.

  ./run.sh quickstart

Trains a Gated PixelCNN on handwritten digits of 8x8 pixels, then measures on
the test split the exact bits/dim from one compiled pass and from the
sequential oracle, beside an independent-pixel model and a PNG; draws 1,000
samples with two samplers and compares every integer. Leaves report.md,
samples.png, result.json, metrics.jsonl and checkpoints/ in the working
directory.
"""

import io
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image

from configs import digits_gated_pixelcnn
from experiments import entry
from parallel_ar import describe, likelihood, precision, samplers
from parallel_ar.analysis import timing
from parallel_ar.data import dataset
from parallel_ar.model import AutoregressiveModel
from parallel_ar.training import (
  datasets,
  evaluate,
  loop,
  pictures,
  results,
  run_directory,
)
from parallel_ar.types import Params

_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/quickstart', 'Directory of the run.'
)
_STEPS = flags.DEFINE_integer(
  'steps',
  None,
  'Training steps; without it those of the config.',
  lower_bound=1,
)
_SAMPLES = flags.DEFINE_integer(
  'samples',
  1000,
  'Samples to draw with both samplers; also the most images for the oracle.',
  lower_bound=1,
)
_ROUNDS = flags.DEFINE_integer(
  'rounds', 3, 'Rounds of each timing, taken in turn.', lower_bound=1
)

_SAMPLE_BATCH = 250  # samples drawn at once


class Agreement(NamedTuple):
  """Two samplers on the same keys."""

  x: np.ndarray  # [N, *event]
  different: int  # integers that differ
  depth: int  # passes of ancestral
  passes: np.ndarray  # [N], of fixed_point
  seconds: tuple[float, float]  # ancestral, fixed_point, without compilation


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  workdir = run_directory.resolve(_WORKDIR.value)
  config = digits_gated_pixelcnn.get_config()
  if _STEPS.value:
    config.train.steps = _STEPS.value
  _say('training a Gated PixelCNN on 8x8 handwritten digits')
  run = loop.train(config, workdir)
  model = run.models[0]
  train = datasets.load_split(config, 'train')
  test = datasets.load_split(config, 'test')

  _say('exact likelihood of the test split: one pass, then the oracle')
  evaluation = evaluate.evaluate(
    run.models, run.params, test, config.evaluate.batch_size
  )
  with precision.scope(config.evaluate.precision):
    gap, ratio = _one_pass_and_oracle(model, run.params, test)

    _say(f'{_SAMPLES.value} samples of the same keys from two samplers')
    agreement = _compare_samplers(model, run.params)
  pictures.save_grid(
    agreement.x[:64], workdir / 'samples.png', num_values=test.num_values
  )

  numbers = {
    'bits_per_dim': (evaluation.bits_per_dim, 'bits/dim'),
    'independent_pixels': (_independent_pixels(train, test), 'bits/dim'),
    'png': (_png(test), 'bits/dim'),
    'oracle_gap': (gap, 'bits/dim'),
    'oracle_time_ratio': (ratio.median, 'x'),
    'different_integers': (agreement.different, 'integers'),
    'ancestral_passes': (agreement.depth, 'passes'),
    'fixed_point_passes_mean': (float(agreement.passes.mean()), 'passes'),
    'fixed_point_passes_max': (int(agreement.passes.max()), 'passes'),
    'sampler_time_ratio': (
      agreement.seconds[0] / agreement.seconds[1],
      'x',
    ),
  }
  report = _report(model, evaluation, numbers, ratio, agreement)
  run_directory.replace(workdir / 'report.md', report)
  record = results.result_json(
    numbers,
    config=config.to_dict(),
    seed=config.seed,
    wall_seconds=time.monotonic() - started,
    details={
      'standard_error_nats': evaluation.standard_error,
      'precision': evaluation.precision,
    },
  )
  results.save(workdir / 'result.json', record)
  print(report)
  _say(f'{time.monotonic() - started:.0f} s; see {workdir}/report.md')
  if agreement.different:
    raise RuntimeError(
      f'{agreement.different} integers differ between ancestral and '
      'fixed_point. They must be equal: please report this with result.json.'
    )


def _one_pass_and_oracle(
  model: AutoregressiveModel, params: Params, test: dataset.Dataset
) -> tuple[float, timing.Summary]:
  """Largest gap in bits/dim, and T_sequential / T_one_pass in turn."""
  x = jnp.asarray(test.x[: _SAMPLES.value], model.event.dtype)
  one = jax.jit(likelihood.log_prob, static_argnums=0)
  oracle = jax.jit(likelihood.sequential_log_prob, static_argnums=0)
  gap = jnp.abs(one(model, params, x) - oracle(model, params, x)).max()
  rounds = timing.in_turn(
    {
      'oracle': lambda: oracle(model, params, x).block_until_ready(),
      'one pass': lambda: one(model, params, x).block_until_ready(),
    },
    rounds=_ROUNDS.value,
    warmup=0,  # both have just run
  )
  ratio = timing.ratio(rounds, 'oracle', 'one pass')
  return float(likelihood.bits_per_dim(gap, model.num_dims)), ratio


def _compare_samplers(model: AutoregressiveModel, params: Params) -> Agreement:
  """Draws the same keys with both samplers and counts the differences."""
  keys = jax.random.split(jax.random.key(1), _SAMPLES.value)
  slow, slow_seconds = _draw(samplers.ancestral(model), params, keys)
  fast, fast_seconds = _draw(samplers.fixed_point(model), params, keys)
  x = np.concatenate([s.x for s in fast])
  return Agreement(
    x=x,
    different=int((x != np.concatenate([s.x for s in slow])).sum()),
    depth=model.depth,
    passes=np.concatenate([s.info.passes for s in fast]),
    seconds=(slow_seconds, fast_seconds),
  )


def _draw(
  sampler: Callable[..., samplers.Sample], params: Params, keys: Any
) -> tuple[list[samplers.Sample], float]:
  """Samples in batches, and the time without the first compilation."""
  batches = [
    keys[i : i + _SAMPLE_BATCH] for i in range(0, len(keys), _SAMPLE_BATCH)
  ]
  for size in {len(b) for b in batches}:
    jax.block_until_ready(sampler(params, keys[:size]))
  started = time.monotonic()
  drawn = [jax.device_get(sampler(params, batch)) for batch in batches]
  return drawn, time.monotonic() - started


def _independent_pixels(train: dataset.Dataset, test: dataset.Dataset) -> float:
  """Bits/dim of p(x) = prod_i p_i(x_i), add-one counts of the training set."""
  values = np.arange(train.num_values)
  counts = 1 + (train.x[..., None] == values).sum(0)
  log_p = np.log(counts / counts.sum(-1, keepdims=True))
  hot = test.x[..., None] == values
  nats = -(hot * log_p).sum() / len(test)
  return float(likelihood.bits_per_dim(nats, test.x[0].size))


def _png(test: dataset.Dataset) -> float:
  """Bits/dim of the test images tiled into one optimised grey PNG."""
  height, width = test.event[:2]
  columns = 20
  rows = len(test) // columns
  tiles = test.x[: rows * columns, ..., 0]
  tiles = tiles.reshape(rows, columns, height, width).swapaxes(1, 2)
  picture = tiles.reshape(rows * height, columns * width).astype(np.uint8)
  file = io.BytesIO()
  Image.fromarray(picture).save(file, 'PNG', optimize=True)
  return 8 * len(file.getvalue()) / picture.size


def _report(
  model: AutoregressiveModel,
  evaluation: evaluate.Evaluation,
  numbers: dict[str, tuple[float, str]],
  ratio: timing.Summary,
  agreement: Agreement,
) -> str:
  value = {name: number for name, (number, _) in numbers.items()}
  share = value['fixed_point_passes_mean'] / agreement.depth
  speedup = value['sampler_time_ratio']
  return f"""# Quickstart

{describe(model)}

| test split, {evaluation.count} images | bits/dim |
|---|--:|
| this model, exact, one compiled pass | {value['bits_per_dim']:.4f} |
| largest gap of an image to the oracle | {value['oracle_gap']:.1e} |
| independent pixels | {value['independent_pixels']:.4f} |
| PNG of all images | {value['png']:.4f} |

The sequential oracle needs {model.depth} passes and takes
{ratio.text(digits=1)} times as long as the one pass (median and quartiles of
{ratio.size} rounds, taken in turn).

| {len(agreement.x)} samples, the same keys | passes an image | \
seconds |
|---|--:|--:|
| ancestral | {agreement.depth} | {agreement.seconds[0]:.2f} |
| fixed point | {agreement.passes.mean():.1f} (max \
{agreement.passes.max()}) | {agreement.seconds[1]:.2f} |

Different integers: {agreement.different} of {agreement.x.size}. The fixed point
takes {share:.0%} of the passes and is {speedup:.1f} times as fast.

![samples](samples.png)
"""


def _say(text: str) -> None:
  print(f'quickstart: {text}', flush=True)


if __name__ == '__main__':
  entry.run(main)
