"""The gradient noise scale of a config, and the batch size that pays.

  ./run.sh gradient_noise --config=configs/digits_made.py \
      --png=runs/gradient_noise.png

Trains the config's model with its own optimizer and measures B_noise = tr(S) /
|G|^2 on the way, from gradients of single examples and from two sizes of batch.
Then trains it afresh with every batch size of --batches until the mean nats on
the validation split (the head of it, --valid examples) are at --target, at the
best of a few learning rates, and sets steps and examples beside the hyperbola
steps = S_min (1 + B_crit / B). Examples/s are those of the timed steps.
"""

import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import entry, options, plots
from experiments.tables import report
from parallel_ar import describe, likelihood, models
from parallel_ar.analysis import gradient_noise
from parallel_ar.data import pipeline
from parallel_ar.training import (
  configuration,
  datasets,
  optimizer,
  state,
  step,
)

_CONFIG = options.define_config()
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Directory of data files.')
_AT = options.define_numbers(
  'at', [0, 10, 50, 200], 'Updates after which the noise is measured.', least=0
)
_EXAMPLES = flags.DEFINE_integer(
  'examples', 512, 'Examples whose gradients are taken.', lower_bound=4
)
_BATCHES = options.define_numbers(
  'batches', [8, 32, 128, 512], 'Batch sizes of the frontier.'
)
_TARGET = flags.DEFINE_float(
  'target',
  0.0,
  'Nats to reach; 0: what --at leaves, and 1 % more.',
  lower_bound=0,
)
_RATES = options.define_numbers(
  'rates',
  [0.5, 1, 2],
  'Learning rates tried, of sqrt(B / B0) times own.',
  1e-9,
  float,
)
_VALID = flags.DEFINE_integer(
  'valid', 200, 'Validation examples.', lower_bound=1
)
_MOST = flags.DEFINE_integer(
  'most', 3000, 'Updates after which a batch size gives up.', lower_bound=1
)
_FULL = flags.DEFINE_bool(
  'full', False, 'Twice as many batch sizes, and five learning rates.'
)
_PNG = options.define_output('png', 'Draw both here.', options.PICTURES)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


class Reached(NamedTuple):
  """The updates and the rate with which a batch size reached the target."""

  steps: int
  rate: float
  examples_per_second: float


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  config = entry.require(_CONFIG)
  built = models.build(config.model)
  train = datasets.load_split(config, config.data.train_split, _DATA_DIR.value)
  valid = datasets.load_split(config, config.data.valid_split, _DATA_DIR.value)
  datasets.check_fit(built[0], train)
  print(describe(built[0]))
  trainer = Trainer(config, built, train, valid)
  numbers: report.Numbers = {}
  rows, nats = noises(trainer, numbers)
  target = _TARGET.value or 1.01 * nats
  found = frontier(trainer, target, numbers)
  numbers['target'] = target, 'nats'
  if len(found) > 1:
    fit = gradient_noise.fit_frontier(
      list(found), [r.steps for r in found.values()]
    )
    conclude(fit, found, numbers)
    if _PNG.value:
      draw(built[0].name, rows, found, fit, _PNG.value)
      print(f'picture: {_PNG.value}')
  else:
    print('Fewer than two batch sizes reached the target: no frontier.')
  report.save(
    _OUT.value,
    numbers,
    configuration.to_json(config),
    started,
    model=describe(built[0]),
  )


class Trainer:
  """Training of one config with any batch size and learning rate."""

  def __init__(self, config: Any, built: Any, train: Any, valid: Any):
    self.config, self.models, self.train = config, built, train
    self.valid = _rows(valid, min(_VALID.value, len(valid)))
    self.loss = step.make_loss(built, config.seed)
    members = list(built)

    @jax.jit
    def nats(params: Any, batch: Any) -> Any:
      context = None if built[0].context is None else batch['context']
      return -likelihood.mixture_log_prob(
        members, params, batch['x'], context
      ).mean()

    self._nats = nats

  def nats(self, params: Any) -> float:
    """Mean nats of the validation examples."""
    return float(self._nats(params, self.valid))

  def run(
    self, batch: int, rate: float, constant: bool
  ) -> tuple[Any, Any, Any]:
    """The first state, the compiled update and the batches."""
    section = self.config.optimizer.copy_and_resolve_references()
    with section.unlocked():
      section.learning_rate = rate
      if constant:  # a schedule would tie the target to its length
        section.schedule = 'constant'
    steps = self.config.train.steps
    rule = optimizer.make(section, steps=steps)
    update = step.make_train_step(
      self.models,
      rule,
      schedule=optimizer.schedule(section, steps=steps),
      seed=self.config.seed,
    )
    first = state.create(self.models[0], rule, jax.random.key(self.config.seed))
    data = pipeline.batches(self.train, batch, self.config.seed)
    return first, jax.jit(update, donate_argnums=0), data.starting_at(0)


def noises(
  trainer: Trainer, numbers: report.Numbers
) -> tuple[list[tuple[int, Any, Any]], float]:
  """Prints B_noise on the way; returns the rows and the last nats."""
  at = sorted(set(_AT.value))
  config = trainer.config
  size = config.train.batch_size
  now, update, data = trainer.run(size, config.optimizer.learning_rate, False)
  count = min(_EXAMPLES.value, len(trainer.train))
  sample = _rows(trainer.train, count)
  big = 2 ** int(math.log2(max(count // 4, 2)))
  loss = lambda params, batch: trainer.loss(params, batch, 0)
  print(f'\nGradient noise on {count} training examples, batch {size}:\n')
  print('| updates | nats | tr(S) | squared norm | B_noise | two batches |')
  print('|--:|--:|--:|--:|--:|--:|')
  rows, done = [], 0
  for n in at:
    for _ in range(n - done):
      now, _ = update(now, next(data))
    done = n
    one = gradient_noise.per_example(loss, now.params, sample)
    cut = [
      jax.tree.map(lambda a, s=s: a[s : s + big], sample)
      for s in range(0, count - big + 1, big)
    ]
    two = gradient_noise.two_batches(loss, now.params, cut, max(big // 16, 1))
    nats = trainer.nats(now.params)
    rows.append((n, one, two))
    print(
      f'| {n} | {nats:.3f} | {one.trace:.3g} | {one.squared_norm:.3g} '
      f'| {one.scale:.1f} ± {one.standard_error:.1f} '
      f'| {two.scale:.1f} ± {two.standard_error:.1f} |'
    )
    measured = {
      'noise scale': (one.scale, 'examples'),
      'standard error': (one.standard_error, 'examples'),
      'two batches': (two.scale, 'examples'),
      'nats': (nats, 'nats'),
    }
    for name, (value, unit) in measured.items():
      if math.isfinite(value):  # too few examples to see |G|: no number
        numbers[f'{n} updates: {name}'] = value, unit
  return rows, nats


def frontier(
  trainer: Trainer, target: float, numbers: report.Numbers
) -> dict[int, Reached]:
  """Prints the updates that every batch size needs."""
  sizes = _BATCHES.value
  rates = _RATES.value
  if _FULL.value:
    sizes = sorted({*sizes, *(int(b * 2) for b in sizes)})
    rates = [0.25, 0.5, 1, 2, 4]
  sizes = [b for b in sizes if b <= len(trainer.train)]
  print(f'\nUpdates until {target:.3f} nats on {_VALID.value} examples:\n')
  print('| batch | updates | examples | learning rate | examples/s |')
  print('|--:|--:|--:|--:|--:|')
  found = {}
  own = trainer.config.optimizer.learning_rate
  for b in sizes:
    scaled = own * math.sqrt(b / trainer.config.train.batch_size)
    best = None
    for r in rates:
      most = _MOST.value if best is None else best.steps - 1
      reached = _until(trainer, b, scaled * r, target, most)
      best = reached or best
    if best is None:
      print(f'| {b} | more than {_MOST.value} | | | |')
      continue
    found[b] = best
    print(
      f'| {b} | {best.steps} | {b * best.steps:,} | {best.rate:.2g} '
      f'| {best.examples_per_second:,.0f} |'
    )
    numbers |= {
      f'batch {b}: updates': (best.steps, 'updates'),
      f'batch {b}: examples': (b * best.steps, 'examples'),
      f'batch {b}: learning rate': (best.rate, '1'),
      f'batch {b}: examples/s': (best.examples_per_second, 'examples/s'),
    }
  return found


def _until(
  trainer: Trainer, batch: int, rate: float, target: float, most: int
) -> Reached | None:
  """Trains until the target; None where that takes more than `most`."""
  now, update, data = trainer.run(batch, rate, True)
  every = 5
  seconds, timed = 0.0, 0
  for n in range(0, most, every):
    start = time.perf_counter()
    for _ in range(every):
      now, metrics = update(now, next(data))
    jax.block_until_ready(now.params)
    if n:  # the first calls compile
      seconds, timed = seconds + time.perf_counter() - start, timed + every
    nats = trainer.nats(now.params)
    if not math.isfinite(nats):
      return None
    if nats <= target and n + every <= most:
      speed = batch * timed / seconds if seconds else float('nan')
      return Reached(n + every, rate, speed)
  return None


def conclude(
  fit: gradient_noise.Frontier,
  found: dict[int, Reached],
  numbers: report.Numbers,
) -> None:
  """Prints the fitted frontier."""
  print(
    f'\nFitted: steps = {fit.min_steps:.0f} (1 + {fit.critical:.0f} / B); '
    f'measured steps are off by a factor of at most {math.exp(fit.error):.2f}.'
  )
  print('| batch | updates | predicted | examples for one of S_min |')
  print('|--:|--:|--:|--:|')
  for b, r in found.items():
    print(
      f'| {b} | {r.steps} | {float(fit.steps(b)):.0f} '
      f'| {b * r.steps / fit.min_steps:.0f} |'
    )
    numbers[f'batch {b}: predicted updates'] = float(fit.steps(b)), 'updates'
  numbers |= {
    'critical batch': (fit.critical, 'examples'),
    'least updates': (fit.min_steps, 'updates'),
    'largest factor off': (math.exp(fit.error), '1'),
  }


def draw(
  name: str,
  rows: list,
  found: dict[int, Reached],
  fit: gradient_noise.Frontier,
  path: str,
) -> None:
  """Noise against updates, and examples against steps."""
  made, axes = plots.figure(2)
  left, right = axes[0]
  at = [n for n, _, _ in rows]
  for label, index in (('per example', 1), ('two batches', 2)):
    values = [row[index].scale for row in rows]
    left.plot(at, values, 'o-', label=label)
  left.set(
    xlabel='updates', ylabel='noise scale, examples', title=name, yscale='log'
  )
  left.set_xscale('symlog', linthresh=10)
  left.legend()
  sizes = np.array(list(found))
  steps = np.array([r.steps for r in found.values()])
  right.loglog(steps, sizes * steps, 'o', label='measured')
  many = np.geomspace(sizes.min() / 2, sizes.max() * 2)
  right.loglog(
    fit.steps(many), many * fit.steps(many), label='S_min (1 + B_crit / B)'
  )
  for b, s in zip(sizes, steps, strict=True):
    right.annotate(f' {b}', (s, b * s))
  right.set(xlabel='updates to the target', ylabel='examples', title='batch')
  right.legend()
  plots.save(made, path)


def _rows(source: Any, count: int) -> Any:
  """The head of a dataset as a batch."""
  batch = pipeline.batches(source, count, 0)[0]
  if batch['context'] is None:
    batch = {'x': batch['x']}
  return jax.tree.map(np.asarray, batch)


if __name__ == '__main__':
  entry.run(main)
