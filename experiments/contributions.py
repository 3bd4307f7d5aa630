"""Parallel sampling and coding of one run, all programs in one table.

  ./run.sh contributions --png=runs/contributions.png
  ./run.sh contributions --workdir=runs/my_run

Every sampler that the model of the run has and both methods of the codec (the
first --coded test events, --batches events a pass): passes and seconds an
example, temporary memory of a batch's program, bits/dim beyond the model's own,
and integers that differ from ancestral samples, or from the events that were
encoded. Then what stopping a fixed point early would cost: after k passes from
zeros under the noise of --count keys, the pixels that are wrong, and the nats
that the model gives to what stands there. Without --workdir the config
digits_gated_pixelcnn is trained first, a minute or two.
"""

import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from configs import digits_gated_pixelcnn
from experiments import entry, options, plots
from experiments.tables import report
from experiments.tables import samplers as table
from parallel_ar import coding, describe, likelihood, samplers
from parallel_ar.analysis import timing
from parallel_ar.data import dataset
from parallel_ar.model import position_noise
from parallel_ar.training import configuration, datasets, loop, trained

_CODED = flags.DEFINE_integer(
  'coded', 100, 'Test events that are encoded.', lower_bound=1
)
_BATCHES = options.define_numbers(
  'batches', [1, 4, 16], 'Events of one pass of the codec.'
)
_METHODS = flags.DEFINE_list(
  'methods', ['lanes', 'stream'], 'Methods of the codec.'
)
_TRAIN = flags.DEFINE_string(
  'train', 'runs/digits_gated_pixelcnn', 'Where to train without --workdir.'
)
_FULL = flags.DEFINE_bool('full', False, 'Encodes the whole split.')
_PNG = options.define_output('png', 'Draw both tables here.', options.PICTURES)

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(table)  # workdir, count, batch, rounds, out, ...


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  path = FLAGS.workdir
  if path is None:
    path = _TRAIN.value
    loop.train(digits_gated_pixelcnn.get_config(), pathlib.Path(path))
  run = trained.load(path)
  model = run.models[0]
  data = dataset.binarize_once(
    run.load_split(run.config.evaluate.split, FLAGS.data_dir)
  )
  print(f'{describe(model)}\n')
  print(
    '| program | passes an example | steps | ms an example | memory MB '
    '| beyond the model, bits/dim | different integers |\n'
    '|---|--:|--:|--:|--:|--:|--:|'
  )
  numbers: report.Numbers = {}
  context = datasets.contexts(model, data, FLAGS.count)
  for name, row in table.measure(model, run.params, context).items():
    cost = 1e3 * row.seconds.median / FLAGS.batch
    tell(
      numbers,
      name,
      float(row.passes.mean()),
      cost,
      row.different,
      float(row.steps.mean()),
      row.temporary_bytes / 1e6,
    )
  rounds = codecs(run, data, numbers)
  left = stopped(run, context, numbers)
  if _PNG.value:
    draw(numbers, left, _PNG.value)
    print(f'\npicture: {_PNG.value}')
  report.save(
    FLAGS.out,
    numbers,
    configuration.to_json(run.config),
    started,
    rounds,
    model=describe(model),
    params=run.params_name,
    count=FLAGS.count,
    batch=FLAGS.batch,
  )


def tell(
  numbers: report.Numbers,
  name: str,
  passes: float,
  cost: float,
  different: int,
  steps: float = 0.0,
  memory: float | None = None,
  beyond: float | None = None,
) -> None:
  """Prints and keeps one row."""
  show = lambda value, text: '' if value is None else format(value, text)
  print(
    f'| {name} | {passes:.2f} | {steps:.0f} | {cost:.2f} '
    f'| {show(memory, ".2f")} | {show(beyond, "+.4f")} | {different} |'
  )
  measured = {
    'passes': (passes, 'passes'),
    'steps': (steps, 'steps'),
    'cost': (cost, 'ms'),
    'different': (different, 'integers'),
    'memory': (memory, 'MB'),
    'beyond the model': (beyond, 'bits/dim'),
  }
  for what, (value, unit) in measured.items():
    if value is not None:
      numbers[f'{name}: {what}'] = value, unit


def codecs(
  run: trained.Trained, data: dataset.Dataset, numbers: report.Numbers
) -> timing.Rounds:
  """Encodes and decodes with every method and batch, in turn."""
  count = len(data) if _FULL.value else min(_CODED.value, len(data))
  model, x = run.models[0], data.x[:count]
  context = datasets.contexts(model, data, count)
  log_prob = jax.jit(functools.partial(likelihood.log_prob, model))
  nats = -np.asarray(log_prob(run.params, x, context), np.float64).sum()
  pairs, programs, found = {}, {}, {}
  for size in _BATCHES.value:
    for method in _METHODS.value:
      name = f'{method}, batch {size}'
      pair = coding.codec(model, method=method, batch=size, verify=False)
      pairs[name] = pair.encode(run.params, x, context)

      def decode(name: str = name, pair: Any = pair) -> None:
        found[name] = pair.decode(run.params, pairs[name], context)

      programs[name] = decode
  rounds = timing.in_turn(programs, rounds=FLAGS.rounds)
  for name, file in pairs.items():
    beyond = (8 * len(file) - nats / np.log(2)) / x.size
    cost = 1e3 * timing.summarize(rounds.seconds[name]).median / count
    different = int((found[name].x != x).sum())
    passes = found[name].evaluations / count
    tell(numbers, f'decode, {name}', passes, cost, different, beyond=beyond)
  own = nats / np.log(2) / x.size
  print(f'\nThe model gives these {count} events {own:.4f} bits/dim.')
  numbers['the model'] = own, 'bits/dim'
  return rounds


def stopped(
  run: trained.Trained, context: Any, numbers: report.Numbers
) -> dict[int, tuple[float, float]]:
  """What stands after k passes: wrong positions, and its nats."""
  model, params = run.models[0], run.params
  keys = jax.random.split(jax.random.key(FLAGS.seed), FLAGS.count)
  final = samplers.fixed_point(model)(params, keys, context).x
  noise = jax.vmap(functools.partial(position_noise, model))(keys)

  @jax.jit
  def one_pass(x: Any) -> tuple[Any, Any]:
    def one(x: Any, noise: Any, context: Any) -> tuple[Any, Any]:
      dist = model.conditionals(params, x, context)
      picked = model.head.pick(dist, noise).astype(x.dtype)
      return picked, -model.head.log_prob(dist, x).sum()

    return jax.vmap(one)(x, noise, context)

  x, kept = jnp.zeros_like(final), {}
  most = model.depth
  for k in range(most + 1):
    x_next, nats = one_pass(x)
    wrong = np.asarray(x != final)
    kept[k] = float(wrong.mean()), float(np.asarray(nats).mean())
    if not wrong.any():
      break
    x = x_next
  print('\n| passes | wrong positions | nats of what stands |\n|--:|--:|--:|')
  for k, (share, nats) in kept.items():
    if k & (k - 1) == 0 or k == max(kept):
      print(f'| {k} | {share:.2%} | {nats:.2f} |')
      numbers[f'after {k} passes: wrong'] = share, '1'
      numbers[f'after {k} passes: nats'] = nats, 'nats'
  return kept


def draw(
  numbers: report.Numbers, left: dict[int, tuple[float, float]], path: str
) -> None:
  """The time of an example by program; stopping early."""
  made, axes = plots.figure(2, size=5.0)
  one, two = axes[0]
  ends = ': cost'
  names = [n.removesuffix(ends) for n in numbers if n.endswith(ends)]
  one.barh(names[::-1], [numbers[n + ends][0] for n in names[::-1]])
  one.set(xscale='log', xlabel='ms an example', title='programs')
  k = list(left)
  two.plot(k, [100 * share for share, _ in left.values()], 'o-')
  two.set(xlabel='passes', ylabel='wrong positions, %', title='stopped early')
  other = two.twinx()
  other.plot(k, [nats for _, nats in left.values()], 's-', color='tab:red')
  other.set_ylabel('nats of what stands', color='tab:red')
  plots.save(made, path)


if __name__ == '__main__':
  entry.run(main)
