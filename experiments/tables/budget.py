"""What a budget of steps costs in bits, for a model of any order.

  ./run.sh tables/budget --workdir=runs/digits_ardm

Measures L[s], the nats of a position when s others are known, on the validation
split under random orders; finds the groups that spend a budget of K steps best
by the dynamic program of `analysis.budget`; and prints the bits/dim that it
expects beside those measured on the test split, where the groups are the tied
rank of the model that samples with them. Even groups stand beside them, and the
time of a batch of samples from the cache, all budgets in turn.
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import likelihood, order, samplers
from parallel_ar import models as models_lib
from parallel_ar.analysis import budget, timing
from parallel_ar.data import pipeline
from parallel_ar.training import configuration, datasets, evaluate, trained

_WORKDIR = flags.DEFINE_string('workdir', None, 'A run of ardm or two_stream.')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Directory of data files.')
_BUDGETS = options.define_numbers(
  'budgets', [1, 2, 4, 8, 16, 32, 64], 'Steps of a sample.'
)
_ORDERS = flags.DEFINE_integer(
  'orders', 4, 'Orders of an example that L is measured under.', lower_bound=1
)
_TESTED = flags.DEFINE_integer(
  'tested', 4, 'Other orders that bits are measured under.', lower_bound=1
)
_COUNT = flags.DEFINE_integer(
  'count', None, 'Examples of each split; without it all.', lower_bound=2
)
_BATCH = flags.DEFINE_integer('batch', 16, 'Samples in turn.', lower_bound=1)
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Timed rounds.', lower_bound=1)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  run = trained.load(entry.require(_WORKDIR))
  num = run.models[0].num_positions
  wanted = _BUDGETS.value
  if max(wanted) > num:
    raise ValueError(
      f'--budgets: {max(wanted)} steps are more than the {num} positions of '
      f'{run.models[0].name}.'
    )
  if run.config.model.name not in ('ardm', 'two_stream'):
    raise ValueError(
      f'--workdir is a run of {run.config.model.name}, which was trained on '
      'one order. Policies need a model of any order: ardm or two_stream.'
    )
  losses = measure_losses(run, split(run, 'valid'))
  found = budget.schedules(budget.monotone(losses))
  test = split(run, run.config.evaluate.split)
  dims = run.models[0].num_dims
  bits = functools.partial(likelihood.bits_per_dim, num_dims=dims)
  numbers: report.Numbers = {}
  rows: list[tuple[int, str, dict[str, Any]]] = []
  programs: dict[str, Any] = {}
  for steps in wanted:
    sizes, even = found.sizes(steps), budget.even_sizes(num, steps)
    best, models = measure(run, test, sizes)
    plain, _ = measure(run, test, even)
    programs[str(steps)] = sampling(run, models[0])
    values = {
      'expected': bits(float(found.nats[steps - 1])),
      'measured': bits(best[0]),
      'error': bits(best[1]),
      'even groups': bits(plain[0]),
    }
    numbers |= {
      f'{steps} steps: {name}': (float(value), 'bits/dim')
      for name, value in values.items()
    }
    groups = ', '.join(str(n) for n in sizes[:8])
    groups += ', ...' if len(sizes) > 8 else ''
    rows.append((steps, groups, values))
  rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
  for steps in wanted:
    seconds = timing.summarize(rounds.seconds[str(steps)])
    numbers[f'{steps} steps: seconds'] = seconds.median, 's'
  show(rows, rounds)
  config = configuration.to_json(run.config)
  details = {
    'losses': np.asarray(losses).tolist(),
    'params': run.params_name,
    'orders': _ORDERS.value,
    'tested': _TESTED.value,
    'batch': _BATCH.value,
  }
  report.save(_OUT.value, numbers, config, started, rounds, **details)


def show(
  rows: list[tuple[int, str, dict[str, Any]]], rounds: timing.Rounds
) -> None:
  """Prints the table."""
  print(
    '| steps | groups | expected bits/dim | measured | even groups '
    f'| {_BATCH.value} samples, s |\n|--:|---|--:|--:|--:|--:|'
  )
  for steps, groups, values in rows:
    seconds = timing.summarize(rounds.seconds[str(steps)])
    print(
      f'| {steps} | {groups} | {values["expected"]:.3f} '
      f'| {values["measured"]:.3f} ± {values["error"]:.3f} '
      f'| {values["even groups"]:.3f} | {seconds.text(digits=3)} |'
    )


def split(run: trained.Trained, name: str) -> Any:
  """The first examples of a split."""
  data = run.load_split(name, _DATA_DIR.value)
  if not _COUNT.value:
    return data
  first = lambda leaf: leaf[: _COUNT.value]
  context = jax.tree.map(first, data.context)
  return dataclasses.replace(data, x=first(data.x), context=context)


def under(run: trained.Trained, rank: np.ndarray) -> Any:
  """The run's model under another rank."""
  return models_lib.build(run.config.model, rank)[0]


def measure_losses(run: trained.Trained, data: Any) -> np.ndarray:
  """L, the nats of a position by how many are known, float[D]."""
  model, size = run.models[0], run.config.evaluate.batch_size
  measure = jax.jit(functools.partial(budget.known_losses, model))
  total = np.zeros(model.num_positions)
  for n in range(_ORDERS.value):
    batches = pipeline.padded_batches(data, size)
    for b, (batch, kept) in enumerate(batches):
      key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), n), b)
      x, context = np.asarray(batch['x'])[kept], None
      if model.context is not None:
        context = np.asarray(batch['context'])[kept]
      # Weighted by its size, so that the smaller last batch counts rightly.
      total += np.asarray(measure(run.params, x, context, key)) * len(x)
  return total / (_ORDERS.value * len(data.x))


def measure(
  run: trained.Trained, data: Any, sizes: np.ndarray
) -> tuple[tuple[float, float], list[Any]]:
  """Test nats with their error, and the models, under a policy's groups."""
  shape = run.models[0].rank.shape
  models: list[Any] = []
  each: list[np.ndarray] = []
  for seed in range(_TESTED.value):
    rank = order.random(shape, 1000 + seed)  # not those of L
    model = under(run, order.tie(rank, sizes.tolist()))
    found = evaluate.evaluate(
      [model], run.params, data, run.config.evaluate.batch_size
    )
    models.append(model)
    each.append(found.per_example)
  nats = np.mean(each, 0)
  error = nats.std(ddof=1) / np.sqrt(len(nats))
  return (float(nats.mean()), float(error)), models


def sampling(run: trained.Trained, model: Any) -> Any:
  """Draws a batch from the cache."""
  keys = jax.random.split(jax.random.key(0), _BATCH.value)
  data = run.load_split('valid', _DATA_DIR.value)
  context = datasets.contexts(model, data, _BATCH.value)
  draw = jax.jit(samplers.cached(model, verify=False))
  return lambda: jax.block_until_ready(draw(run.params, keys, context).x)


if __name__ == '__main__':
  entry.run(main)
