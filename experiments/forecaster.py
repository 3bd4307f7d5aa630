"""Trains forecasting heads on a run: small heads that guess the next slots.

  ./run.sh forecaster --workdir=runs/digits_gated_pixelcnn --steps=300

The run's parameters stay as they are. The heads go to forecaster.npz in the
run's directory, where `sample --forecaster=learned` and `tables/samplers` find
them. It prints how often the pick of head t is the model's own, on the
validation split.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from absl import flags

from experiments import entry, options
from parallel_ar import describe
from parallel_ar.data import dataset, pipeline
from parallel_ar.samplers import learned
from parallel_ar.training import bucket, run_directory, trained

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Directory of the data files.'
)
_HORIZON = flags.DEFINE_integer(
  'horizon', 8, 'Slots that are forecast.', lower_bound=1
)
_STEPS = flags.DEFINE_integer('steps', 1000, 'Updates.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 32, 'Examples a step.', lower_bound=1)
_RATE = flags.DEFINE_float(
  'learning_rate', 3e-3, 'Of Adam, falls to zero.', lower_bound=1e-12
)


def main() -> None:
  """Runs the script."""
  workdir = run_directory.resolve(entry.require(_WORKDIR))
  folder = workdir.parent if bucket.is_file(workdir) else workdir
  out = folder / 'forecaster.npz'
  options.check_writable(out)
  run = trained.load(workdir)
  model = run.models[0]
  if model.context is not None:
    raise ValueError(
      f'Forecasting heads take a run without a context; {model.name} has '
      f'{model.context}.'
    )
  heads = learned.init(model, _HORIZON.value)
  splits = run.config.data.train_split, run.config.data.valid_split or 'test'
  train, held = (run.load_split(split, _DATA_DIR.value) for split in splits)
  schedule = optax.cosine_decay_schedule(_RATE.value, _STEPS.value)
  adam = optax.adam(schedule)
  state = adam.init(heads)

  def mean_loss(heads, x, key):
    keys = jax.random.split(key, len(x))
    each = lambda x, key: learned.loss(model, run.params, heads, x, key)
    nats, same = jax.vmap(each)(x, keys)
    return nats.mean(), same.mean(0)

  @jax.jit
  def step(heads, state, x, key):
    (nats, _), grads = jax.value_and_grad(mean_loss, has_aux=True)(
      heads, x, key
    )
    updates, state = adam.update(grads, state)
    return optax.apply_updates(heads, updates), state, nats

  key, order = jax.random.key(0), pipeline.batches(train, _BATCH.value)
  bar = tqdm.tqdm(range(_STEPS.value), unit='step', disable=None)
  for n in bar:
    x = jnp.asarray(order[n]['x'], jnp.int32)
    heads, state, nats = step(heads, state, x, jax.random.fold_in(key, n))
    if n % 50 == 0:
      bar.set_postfix(nats=f'{float(nats):.4f}')
  x = jnp.asarray(dataset.binarize_once(held).x[:200], jnp.int32)
  nats, same = jax.jit(mean_loss)(heads, x, key)
  print(describe(model))
  print(f'mean KL on {held.split}: {float(nats):.4f} nats a forecast')
  print('agreement of head t = 1, 2, ...: ' + _list(same))
  with run_directory.whole(out) as file:
    np.savez(file, **jax.device_get(heads))
  print(f'heads: {out}')


def _list(values: jax.Array) -> str:
  return ', '.join(f'{float(v):.3f}' for v in values)


if __name__ == '__main__':
  entry.run(main)
