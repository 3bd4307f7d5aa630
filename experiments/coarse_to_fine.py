"""Coarse-to-fine forecasts: a run on every second pixel guesses a fine one.

  ./run.sh coarse_to_fine --workdir=FINE --coarse=COARSE --data_dir=DATA

COARSE is a run of the same data with config.data.stride=2. Its model draws
every second pixel of every second row with the noise that the fine model has
there; the other pixels are picked, with their own noise, from a table of
p(pixel | 3 x 3 coarse neighbours), counted on the training split. That image
is the first guess of `fixed_point`. docs/coarse_to_fine.md tells what came out.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import describe, samplers, transform
from parallel_ar.model import AutoregressiveModel, position_noise
from parallel_ar.samplers import forecasters
from parallel_ar.training import configuration, trained

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the fine run.')
_COARSE = flags.DEFINE_string('coarse', None, 'Directory of the coarse run.')
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Directory of the data files.'
)
_COUNT = flags.DEFINE_integer('count', 64, 'Samples to draw.', lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the samples.', lower_bound=0)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  fine = trained.load(entry.require(_WORKDIR))
  coarse = trained.load(entry.require(_COARSE))
  model, small = fine.models[0], coarse.models[0]
  want = tuple(-(-n // 2) for n in model.event.shape[:2])
  if small.event.shape != (*want, 1) or model.head.name != 'bernoulli':
    raise ValueError(
      f'--coarse must be a run on every second pixel, event {(*want, 1)}, of '
      f'the binary data of --workdir, event {model.event.shape}; it has '
      f'{small.event.shape} and the fine head is {model.head.name}. Train it '
      'with --config.data.stride=2.'
    )
  data = fine.load_split(fine.config.data.train_split, _DATA_DIR.value)
  logits = upsampling(np.asarray(data.x))
  small = shared_noise(small, model)
  keys = jax.random.split(jax.random.key(_SEED.value), _COUNT.value)
  rough = samplers.fixed_point(small)(coarse.params, keys)
  noise = jax.vmap(lambda key: position_noise(model, key))(keys)
  guess = jax.vmap(refine, (0, 0, None))(rough.x, noise, logits)
  plain = samplers.fixed_point(model)(fine.params, keys)
  told = forecasters.guess(lambda *_: guess, 'coarse')
  helped = samplers.fixed_point(model, told)(fine.params, keys)
  x = np.asarray(plain.x)
  right = lambda y: float((np.asarray(y) == x).mean())
  numbers = {
    'different integers': (int((np.asarray(helped.x) != x).sum()), 'integers'),
    'coarse passes mean': (float(rough.info.passes.mean()), 'passes'),
    'fine passes mean, from zeros': (
      float(plain.info.passes.mean()),
      'passes',
    ),
    'fine passes mean, from coarse': (
      float(helped.info.passes.mean()),
      'passes',
    ),
    'first guess right, zeros': (right(np.zeros_like(x)), '1'),
    'first guess right, coarse': (right(guess), '1'),
    'coarse pixels right': (right_coarse(rough.x, x), '1'),
  }
  print(describe(model))
  print(describe(small))
  for name, (value, unit) in numbers.items():
    print(f'{name}: {value:.4g} {unit if unit != "1" else ""}'.rstrip())
  report.save(
    _OUT.value,
    numbers,
    configuration.to_json(fine.config),
    started,
    seed=_SEED.value,
    model=describe(model),
    coarse=describe(small),
    count=_COUNT.value,
  )


def shared_noise(
  small: AutoregressiveModel, model: AutoregressiveModel
) -> AutoregressiveModel:
  """The coarse model with the noise that its pixels have in the fine one."""
  height, width = model.event.shape[:2]
  place = np.arange(height * width).reshape(height, width)[::2, ::2].reshape(-1)
  noise = model.head.noise
  head = small.head._replace(
    noise=lambda key, position: noise(key, jnp.asarray(place)[position])
  )
  return transform.wrap(small, head=head)


def upsampling(x: np.ndarray) -> np.ndarray:
  """Logits of p(pixel | 3 x 3 coarse neighbours): float32[2, 2, 512].

  Args:
    x: 0 or 1, [N, H, W, 1] with H and W even.
  """
  code = np.asarray(_code(jnp.asarray(x[:, ::2, ::2, 0], jnp.int32)))
  logits = np.zeros((2, 2, 512), np.float32)
  for a in range(2):
    for b in range(2):
      ones = np.bincount(code.ravel(), x[:, a::2, b::2, 0].ravel(), 512)
      total = np.bincount(code.ravel(), minlength=512)
      p = (ones + 0.5) / (total + 1)
      logits[a, b] = np.log(p) - np.log1p(-p)
  return logits


def refine(rough: Any, noise: Any, logits: Any) -> Any:
  """One fine image picked from its coarse one: int32[H, W, 1]."""
  code = _code(rough[..., 0][None])[0]
  wide = jnp.asarray(logits)[:, :, code]  # [2, 2, H/2, W/2]
  wide = wide.transpose(2, 0, 3, 1).reshape(noise.shape)
  return (wide + noise > 0).astype(jnp.int32)


def right_coarse(rough: Any, x: np.ndarray) -> float:
  """Share of the coarse pixels that the fine sample has too."""
  return float((np.asarray(rough) == x[:, ::2, ::2]).mean())


def _code(x: Any) -> Any:
  """The 3 x 3 neighbourhood of every pixel as a number, zeros outside."""
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)))
  height, width = x.shape[1:]
  bits = [
    padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)
  ]
  return sum(bit << n for n, bit in enumerate(bits))


if __name__ == '__main__':
  entry.run(main)
