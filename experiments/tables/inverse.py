"""The inverse of a masked autoregressive flow: rank by rank, and at once.

  ./run.sh tables/inverse

Trains a MAF on a Gaussian field whose entropy is known, so that its layers hold
real dependencies and its nats can be judged, and inverts it in two ways, in
turn: one rank a pass, and the fixed point of all ranks, which run the same
compiled solver and end at the same bits. 'error' is the largest |f(x) - u|.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import models
from parallel_ar.analysis import timing

_SIDE = flags.DEFINE_integer('side', 28, 'Height and width.', lower_bound=2)
_LAYERS = flags.DEFINE_integer('layers', 8, 'Layers.', lower_bound=1)
_HIDDEN = flags.DEFINE_integer('hidden', 512, 'Hidden units.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 300, 'Training steps.', lower_bound=0)
_BATCH = flags.DEFINE_integer('batch', 16, 'Samples at once.', lower_bound=1)
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Timed rounds.', lower_bound=1)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  side, event = _SIDE.value, (_SIDE.value, _SIDE.value)
  hidden = (_HIDDEN.value,)
  layers = models.maf(event=event, layers=_LAYERS.value, hidden=hidden)
  draw, entropy = field(side)
  params, nats = fit(layers, draw)
  u = jax.random.normal(jax.random.key(2), (_BATCH.value, *event))

  def invert(one_rank: bool):
    return jax.block_until_ready(
      models.flow_inverse(layers, params, u, None, one_rank)
    )

  rounds = timing.in_turn(
    {'sequential': lambda: invert(True), 'fixed point': lambda: invert(False)},
    rounds=_ROUNDS.value,
  )
  gain = timing.ratio(rounds, 'sequential', 'fixed point')
  slow, (x, passes) = invert(True)[0], invert(False)
  back = models.flow_log_prob(layers, params, x)[1]
  error = float(jnp.abs(back - u).max())
  deviation = float(jnp.abs(x - slow).max())
  per_layer = np.asarray(passes.max(1))
  print(
    f'{len(layers)} layers over {side * side} dimensions, {nats:.1f} nats a '
    f'sample (entropy of the source {entropy:.1f})\n\n'
    '| inverse | passes, all layers | s | deviation from sequential | error |\n'
    '|---|--:|--:|--:|--:|'
  )
  for name, count in (
    ('sequential', side * side * len(layers)),
    ('fixed point', int(per_layer.sum())),
  ):
    seconds = timing.summarize(rounds.seconds[name])
    off = deviation if name == 'fixed point' else 0.0
    print(f'| {name} | {count} | {seconds.text()} | {off:.1e} | {error:.1e} |')
  print(f'\nThe fixed point is {gain.text(digits=1)} times as fast.')
  numbers: report.Numbers = {
    'fixed point: gain': (gain.median, 'x'),
    'fixed point: passes': (int(per_layer.sum()), 'passes'),
    'sequential: passes': (side * side * len(layers), 'passes'),
    'deviation': (deviation, '1'),
    'error': (error, '1'),
    'loss': (nats, 'nats'),
    'entropy': (entropy, 'nats'),
  }
  config = {
    'side': side,
    'layers': len(layers),
    'hidden': _HIDDEN.value,
    'steps': _STEPS.value,
    'batch': _BATCH.value,
  }
  report.save(
    _OUT.value, numbers, config, started, rounds, passes=per_layer.tolist()
  )


def field(side: int):
  """A Gaussian field of correlation exp(-distance / 2): sampler and entropy."""
  place = np.stack(np.unravel_index(np.arange(side * side), (side, side)), -1)
  distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
  covariance = np.exp(-distance / 2) + 1e-3 * np.eye(side * side)
  root = np.linalg.cholesky(covariance)
  entropy = np.log(np.diag(root)).sum()
  entropy += 0.5 * side * side * (1 + np.log(2 * np.pi))
  factor = jnp.asarray(root, jnp.float32)

  def draw(key, num):
    normal = jax.random.normal(key, (num, side * side))
    return (normal @ factor.T).reshape(num, side, side)

  return draw, float(entropy)


def fit(layers, draw):
  """Maximum likelihood by Adam; the nats are of fresh samples."""
  keys = jax.random.split(jax.random.key(0), len(layers))
  params = tuple(
    jax.jit(layer.init)(k) for layer, k in zip(layers, keys, strict=True)
  )
  schedule = optax.cosine_decay_schedule(1e-3, max(_STEPS.value, 1))
  # The layers' scales multiply: without clipping a step can blow them up.
  clip = optax.clip_by_global_norm(1.0)
  optimizer = optax.chain(clip, optax.adam(schedule))
  state = optimizer.init(params)

  def loss(params, x):
    return -models.flow_log_prob(layers, params, x)[0].mean()

  @jax.jit
  def step(params, state, key):
    grads = jax.grad(loss)(params, draw(key, 128))
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state

  for key in jax.random.split(jax.random.key(1), _STEPS.value):
    params, state = step(params, state, key)
  return params, float(loss(params, draw(jax.random.key(3), 512)))


if __name__ == '__main__':
  entry.run(main)
