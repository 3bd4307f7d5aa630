"""Drafts that miss: speculative sampling with better and worse proposals."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.limits import race
from parallel_ar import samplers
from parallel_ar.analysis import timing
from parallel_ar.model import AutoregressiveModel
from parallel_ar.samplers import path
from parallel_ar.samplers.speculative import expected_tokens
from parallel_ar.training import configuration

MOST = 16  # the longest draft that is considered


def best_window(
  alpha: float, c: float, block: float = 0.0
) -> tuple[int, float]:
  """The draft length that the formula promises most of.

    S(g) = E(a, g) / (g c + 1 + g v)

  with v = 0 that of Leviathan et al. (2023, theorem 3.8), whose model takes a
  block of g + 1 slots in the time of one; v is what a further slot costs.

  Args:
    alpha: a, the share of tested proposals that is accepted.
    c: time of a slot of the draft over that of the model.
    block: v.

  Returns:
    g and S; g = 0, no draft, where nothing is above 1.
  """
  gain = lambda g: float(expected_tokens(alpha, g)) / (g * c + 1 + g * block)
  best = max(range(MOST + 1), key=gain)
  return best, gain(best)


def config_of(length: int, features: int, layers: int, steps: int) -> Any:
  """A Transformer on a Markov chain of 16 states."""
  config = configuration.default_config()
  config.data.name = 'markov'
  config.data.num_values = 16
  config.data.length = length
  config.data.num_examples = 2000
  config.model.name = 'transformer'
  config.model.event = (length,)
  config.model.num_values = 16
  config.model.features = features
  config.model.layers = layers
  config.model.heads = 2
  config.optimizer.learning_rate = 3e-3 if layers == 1 else 1e-3
  config.optimizer.warmup_steps = min(10, steps)
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = 16
  config.train.steps = max(steps, 1)
  return config


def drafts(
  length: int,
  features: int,
  layers: int,
  steps: int,
  qualities: list[int],
  rounds: int,
) -> race.Case:
  """Drafts after fewer and more updates, each at several lengths.

  Args:
    length: of the sequences.
    features: of the model; the draft has one block of an eighth.
    layers: of the model.
    steps: updates of the model.
    qualities: updates of the drafts.
    rounds: timed.

  Returns:
    The case. Remedies are the length by the formula, and the one by the formula
    with the measured cost of a further slot, which may be no draft at all.
  """
  model, params = race.trained(
    config_of(length, features, layers, steps), steps, None
  )
  keys = jax.random.split(jax.random.key(7), 1)
  plain = samplers.cached(model, verify=False)
  entries = [
    race.Entry(
      'cached loop', race.draw_of(plain, params, keys, None), length, '', '', 0
    )
  ]
  want = np.asarray(plain(params, keys).x)
  facts: dict[str, tuple[float, str]] = {}
  extra = _further_slot(model, params, rounds)
  facts['cost of a further slot'] = extra, '1'
  for number in qualities:
    small, other = race.trained(
      config_of(length, max(features // 8, 8), 1, number), number, None
    )
    c = _ratio(model, params, small, other, keys, rounds)
    facts[f'draft of {number}: c'] = c, '1'
    many = jax.random.split(jax.random.key(8), 8)
    alpha = _alpha(model, small, (params, other), many)
    facts[f'draft of {number}: alpha'] = alpha, '1'
    choices = {f'g = {g}': (g, False) for g in (2, 8)}
    g, promised = best_window(alpha, c)
    facts[f'draft of {number}: g by the formula'] = g, 'proposals'
    facts[f'draft of {number}: promised'] = promised, 'x'
    choices[f'g = {g or 1} by the formula'] = g or 1, True
    g, promised = best_window(alpha, c, extra)
    facts[f'draft of {number}: g by the measured cost'] = g, 'proposals'
    facts[f'draft of {number}: promised with it'] = promised, 'x'
    if g:
      choices[f'g = {g} by the measured cost'] = g, True
    for what, (g, remedy) in choices.items():
      sampler = samplers.speculative(model, small, window=g, verify=False)
      run = race.draw_of(sampler, (params, other), keys, None)
      drawn = run()
      name = f'draft of {number} updates, {what}'
      tried = g * float(drawn.info.steps.sum())
      wasted = 1 - float(drawn.info.agreed.sum()) / tried
      facts[f'{name}: wasted'] = wasted, '1'
      different = int((np.asarray(drawn.x) != want).sum())
      facts[f'{name}: different'] = different, 'integers'
      text = f'alpha {alpha:.2f}, {100 * wasted:.0f} % wasted'
      line = '' if remedy else f'draft of {number} updates'
      at = math.nan if remedy else g
      entries.append(race.Entry(name, run, length, text, line, at, remedy))
  rows = race.race(entries, rounds)
  title = 'drafts that miss (Transformer on a Markov chain, batch 1)'
  return race.Case(
    title, 'token', 'proposals', 'proposals a round', rows, facts
  )


def _alpha(
  model: AutoregressiveModel, draft: AutoregressiveModel, pair: Any, keys: Any
) -> float:
  sampler = samplers.speculative(model, draft, window=4, verify=False)
  info = sampler(pair, keys).info
  return int(info.agreed.sum()) / int(info.tested.sum())


def _ratio(
  model: AutoregressiveModel,
  params: Any,
  draft: AutoregressiveModel,
  other: Any,
  keys: Any,
  rounds: int,
) -> float:
  """c, the draft's time of a slot over the model's."""
  draw = lambda m, p: race.draw_of(
    samplers.cached(m, verify=False), p, keys, None
  )
  programs = {'model': draw(model, params), 'draft': draw(draft, other)}
  times = timing.in_turn(programs, rounds=rounds)
  return timing.ratio(times, 'draft', 'model').median


def _further_slot(
  model: AutoregressiveModel, params: Any, rounds: int, block: int = 9
) -> float:
  """v: what a further slot of a block costs, in units of one slot alone."""
  decode = path.choose(model).decode
  times = min(8, model.num_positions // block)

  def extends(size: int) -> Any:
    @jax.jit
    def several(params: Any, x: Any) -> Any:
      def one(cache: Any, k: Any) -> Any:
        dist, cache = decode.extend(params, cache, k * size, x[:size])
        return cache, jax.tree.map(jnp.sum, dist)

      return jax.lax.scan(one, decode.init(params, None), jnp.arange(times))[1]

    x = jnp.zeros(model.num_positions, model.event.dtype)
    return functools.partial(
      lambda f: jax.block_until_ready(f(params, x)), several
    )

  programs = {'one': extends(1), 'block': extends(block)}
  measured = timing.in_turn(programs, rounds=rounds, repeats=3)
  share = timing.ratio(measured, 'block', 'one').median
  return max((share - 1) / (block - 1), 0.0)
