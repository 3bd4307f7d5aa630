"""Samples of a trained run, as a PNG or as text.

  ./run.sh sample --workdir=runs/digits_gated_pixelcnn --out=samples.png
  ./run.sh sample --workdir=runs/digits_gated_pixelcnn --sampler=ancestral

The same seed gives the same integers with every sampler; they differ in cost.
"""

import pathlib
import time

import jax
import numpy as np
from absl import flags

from experiments import entry
from parallel_ar import describe, samplers, transform
from parallel_ar.data import text
from parallel_ar.training import datasets, pictures, trained

_SAMPLERS = {
  'ancestral': samplers.ancestral,
  'cached': samplers.cached,
  'fixed_point': samplers.fixed_point,
}

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Directory of the data files, for contexts and symbols.'
)
_SAMPLER = flags.DEFINE_enum(
  'sampler',
  'fixed_point',
  list(_SAMPLERS),
  'How to draw; cached needs a family with a decode path.',
)
_COUNT = flags.DEFINE_integer('count', 64, 'Samples to draw.', lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the samples.')
_TEMPERATURE = flags.DEFINE_float(
  'temperature',
  1.0,
  'Draw from the model whose conditionals are tempered; 1 is the model itself.',
)
_PARAMS = flags.DEFINE_enum(
  'params', 'auto', ['auto', 'raw', 'ema'], 'Which parameters; see evaluate.'
)
_STEP = flags.DEFINE_integer('step', None, 'Step of the checkpoint.')
_OUT = flags.DEFINE_string(
  'out', None, 'PNG of image events, else text or .npy; samples.* in workdir.'
)


def main() -> None:
  """Runs the script."""
  workdir = pathlib.Path(entry.require(_WORKDIR))
  run = trained.load(workdir, which=_PARAMS.value, step=_STEP.value)
  model = run.models[0]
  if _TEMPERATURE.value != 1.0:
    model = transform.with_temperature(model, _TEMPERATURE.value)
  print(describe(model))
  data = context = None
  if model.context is not None or run.config.data.name in ('text', 'kjv'):
    split = run.config.evaluate.split
    data = datasets.load_split(run.config, split, _DATA_DIR.value)
    context = datasets.contexts(model, data, _COUNT.value)
  keys = jax.random.split(jax.random.key(_SEED.value), _COUNT.value)
  started = time.monotonic()
  sample = _SAMPLERS[_SAMPLER.value](model)(run.params, keys, context)
  x, log_prob, info = jax.device_get(sample)
  seconds = time.monotonic() - started
  print(
    f'{_SAMPLER.value}: {_COUNT.value} samples in {seconds:.2f} s with '
    f'compilation; passes mean {info.passes.mean():.1f}, max '
    f'{info.passes.max()} of {model.depth}; mean {-log_prob.mean():.2f} nats'
  )
  _write(x, workdir, model.head.num_values, data)


def _write(x: np.ndarray, workdir: pathlib.Path, num_values, data) -> None:
  """Writes a picture, text or an array, whatever the event is."""
  if pictures.is_image(x.shape[1:]) and num_values:
    out = pathlib.Path(_OUT.value or workdir / 'samples.png')
    pictures.save_grid(x, out, num_values=num_values)
  elif data is not None and data.symbols is not None:
    out = pathlib.Path(_OUT.value or workdir / 'samples.txt')
    out.write_bytes(b'\n\n'.join(text.decode(data, row[None]) for row in x))
  else:
    out = pathlib.Path(_OUT.value or workdir / 'samples.npy')
    np.save(out, x)
  print(f'samples: {out}')


if __name__ == '__main__':
  entry.run(main)
