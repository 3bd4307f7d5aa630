"""Speculative sampling on two runs: acceptance and speed against the formula.

  ./run.sh tables/speculative --workdir=MODEL --draft=DRAFT

Both runs are of the same data. For every window g and both rules, shared noise
(the integers of ancestral sampling, proved) and rejection (the law only), it
prints the measured acceptance alpha, the tokens of a round beside
(1 - alpha^(g+1)) / (1 - alpha), and the time beside that of `cached`; the gain
that the formula promises takes c, the draft's time of a slot over the model's.
"""

import functools
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import describe, samplers
from parallel_ar.analysis import timing
from parallel_ar.samplers.speculative import expected_speedup, expected_tokens
from parallel_ar.training import configuration, trained

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_DRAFT = flags.DEFINE_string('draft', None, "Directory of the draft's run.")
_WINDOWS = options.define_numbers('windows', [2, 4, 8], 'Proposals a round.')
_BATCH = flags.DEFINE_integer('batch', 1, 'Samples at once.', lower_bound=1)
_COUNT = flags.DEFINE_integer(
  'count',
  4,
  'Samples for the acceptance; a multiple of --batch.',
  lower_bound=1,
)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed rounds.', lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the samples.', lower_bound=0)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  run = trained.load(entry.require(_WORKDIR))
  small = trained.load(entry.require(_DRAFT))
  model, draft = run.models[0], small.models[0]
  if model.context is not None or _COUNT.value % _BATCH.value:
    raise ValueError(
      'This table takes runs without a context, and --count a multiple of '
      f'--batch; got the context {model.context}, --count={_COUNT.value} and '
      f'--batch={_BATCH.value}.'
    )
  keys = jax.random.split(jax.random.key(_SEED.value), _COUNT.value)
  keys = keys.reshape(-1, _BATCH.value)
  draws, windows = _samplers(run, small)
  programs = {
    name: functools.partial(lambda d: jax.block_until_ready(d(keys[0])), draw)
    for name, draw in draws.items()
  }
  rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
  cost = timing.ratio(rounds, 'draft alone', 'cached, not proved').median
  want = [np.asarray(draws['cached'](k).x) for k in keys]
  print(describe(model))
  print(f'draft {describe(draft)}; c = {cost:.3f}\n')
  print(
    '| sampler | alpha | tokens a round | formula | seconds | times as fast as '
    'cached | formula | different integers |'
  )
  print('|---|--:|--:|--:|--:|--:|--:|--:|')
  numbers: dict[str, tuple[float | int, str]] = {'c': (cost, '1')}
  for name, g in windows.items():
    drawn = [jax.device_get(draws[name](k)) for k in keys]
    numbers |= _row(name, g, model.num_positions, drawn, want, rounds, cost)
  report.save(
    _OUT.value,
    numbers,
    configuration.to_json(run.config),
    started,
    seed=_SEED.value,
    model=describe(model),
    draft=describe(draft),
    batch=_BATCH.value,
    count=_COUNT.value,
  )


def _samplers(
  run: trained.Trained, small: trained.Trained
) -> tuple[dict[str, Any], dict[str, int]]:
  """Every sampler (keys -> Sample), and the windows of those with a draft."""
  model, draft = run.models[0], small.models[0]
  pair = run.params, small.params
  draws: dict[str, Any] = {
    'cached': functools.partial(samplers.cached(model), run.params),
    'cached, not proved': functools.partial(
      samplers.cached(model, verify=False), run.params
    ),
    'draft alone': functools.partial(
      samplers.cached(draft, verify=False), small.params
    ),
  }
  rules = {
    'shared noise': samplers.speculative,
    'rejection': samplers.rejection,
  }
  windows = {}
  for g in _WINDOWS.value:
    for rule, make in rules.items():
      name = f'{rule}, window {g}'
      draws[name] = functools.partial(make(model, draft, window=g), pair)
      windows[name] = g
  return draws, windows


def _row(
  name: str,
  window: int,
  slots: int,
  drawn: list[Any],
  want: list[np.ndarray],
  rounds: timing.Rounds,
  cost: float,
) -> dict[str, tuple[float | int, str]]:
  """Prints what a sampler with a draft drew beside `cached`; its numbers."""
  # Rejection keeps the law, not the integers: nothing is to be compared.
  base = 'cached' if name.startswith('shared') else 'cached, not proved'
  numbers: dict[str, tuple[float | int, str]] = {}
  different: Any = '-'
  if name.startswith('shared'):
    pairs = zip(drawn, want, strict=True)
    different = int(sum((d.x != w).sum() for d, w in pairs))
    numbers[f'{name}: different'] = (different, 'integers')
  tested = sum(int(d.info.tested.sum()) for d in drawn)
  alpha = sum(int(d.info.agreed.sum()) for d in drawn) / tested
  steps = np.mean([d.info.steps.mean() for d in drawn])
  tokens = slots / float(steps)
  seconds = timing.summarize(rounds.seconds[name])
  gain = timing.ratio(rounds, base, name)
  promised = expected_speedup(alpha, window, cost)
  formula = float(expected_tokens(alpha, window))
  print(
    f'| {name} | {alpha:.3f} | {tokens:.2f} | {formula:.2f} '
    f'| {seconds.median:.3f} | {gain.text()} | {promised:.2f} | {different} |'
  )
  return numbers | {
    f'{name}: alpha': (alpha, '1'),
    f'{name}: tokens a round': (tokens, 'tokens'),
    f'{name}: formula': (formula, 'tokens'),
    f'{name}: gain over {base}': (gain.median, 'x'),
    f'{name}: seconds': (seconds.median, 's'),
  }


if __name__ == '__main__':
  entry.run(main)
