"""Too wide, too often, too little at once: three limits of drawing samples."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.limits import race
from parallel_ar import models, quantize, samplers
from parallel_ar.model import AutoregressiveModel, position_noise
from parallel_ar.samplers import path, slots
from parallel_ar.testing import case as cases


def windows(
  model: AutoregressiveModel, params: Any, batch: int, rounds: int
) -> race.Case:
  """Passes over more and more slots beyond the frontier.

  Args:
    model: any.
    params: trained ones, or nothing is predictable.
    batch: samples.
    rounds: timed.

  Returns:
    The case: windows of 1, 2, 4, ... slots; remedies are a window that follows
    what rounds gain, rows one after another (where there are rows), and the
    cached loop.
  """
  keys = jax.random.split(jax.random.key(0), batch)
  context, most = race.context_of(model, batch), model.num_positions
  widths = sorted({min(2**k, most) for k in range(1 + math.ceil(_log(most)))})
  kinds: dict[str, tuple[Any, float, bool]] = {}
  for width in widths:
    sampler = samplers.window(model, sizes=(width,))
    kinds[f'window {width}'] = sampler, width, False
  kinds['window that follows'] = samplers.window(model), math.nan, True
  if path.choose(model).decode.blocks is not None:
    kinds['rows in turn'] = samplers.gauss_seidel(model), math.nan, True
  kinds['fixed point'] = samplers.fixed_point(model), math.nan, False
  kinds['cached loop'] = samplers.cached(model), math.nan, True
  entries, facts, want = [], {}, None
  for name, (sampler, width, remedy) in kinds.items():
    run = race.draw_of(sampler, params, keys, context)
    drawn = run()
    want = drawn.x if want is None else want
    different = int((np.asarray(drawn.x) != np.asarray(want)).sum())
    steps = float(drawn.info.steps.mean())
    if name == 'fixed point':
      steps, width = float(drawn.info.passes.mean()), most
    counted = f'{steps:.1f} steps'
    if math.isfinite(width):
      counted = f'{steps:.1f} rounds, {steps * width / most:.1f} D slots'
      facts[f'{name}: slots evaluated'] = steps * width, 'slots'
    facts[f'{name}: rounds'] = steps, 'rounds'
    facts[f'{name}: different'] = different, 'integers'
    line = 'windows' if name.startswith('window ') and not remedy else ''
    at = width if line else math.nan
    entries.append(race.Entry(name, run, batch, counted, line, at, remedy))
  rows = race.race(entries, rounds)
  title = f'windows too wide ({model.name}, D = {most})'
  return race.Case(title, 'sample', 'work', 'slots of a window', rows, facts)


def dispatch(model: AutoregressiveModel, params: Any, rounds: int) -> race.Case:
  """A call of a compiled step for every slot, against one compiled loop."""
  decode, key = path.choose(model).decode, jax.random.key(0)
  context = jax.tree.map(lambda a: a[0], race.context_of(model, 1))
  noise = slots.in_slots(model, position_noise(model, key))

  @functools.partial(jax.jit, donate_argnums=1)
  def one(params: Any, cache: Any, k: Any, previous: Any) -> Any:
    dist, cache = decode.extend(params, cache, k, previous[None])
    dist = jax.tree.map(lambda d: d[0], dist)
    value = model.head.pick(dist, jax.tree.map(lambda n: n[k], noise))
    return value.astype(model.event.dtype), cache

  start = jax.jit(decode.init)
  shape = model.event.shape[model.rank.ndim :]
  first, most = jnp.zeros(shape, model.event.dtype), model.num_positions

  def loop(wait: bool) -> Any:
    value, cache, drawn = first, start(params, context), []
    for k in range(most):
      value, cache = one(params, cache, k, value)
      drawn.append(np.asarray(value) if wait else value)
    return jax.block_until_ready(drawn)

  cached = samplers.cached(model, verify=False)
  compiled = race.draw_of(cached, params, key[None], race.context_of(model, 1))
  got = slots.to_event(model, jnp.asarray(loop(True)))
  flipped = int((got != np.asarray(compiled().x[0])).sum())
  entries = [
    race.Entry(
      'a call a slot, waited for',
      functools.partial(loop, True),
      most,
      f'{most} calls',
    ),
    race.Entry(
      'a call a slot', functools.partial(loop, False), most, f'{most} calls'
    ),
    race.Entry('one compiled loop', compiled, most, '1 call', remedy=True),
  ]
  rows = race.race(entries, rounds)
  title = f'bound by dispatch ({model.name}, batch 1)'
  facts = {'flipped by rounding': (float(flipped), 'integers')}
  return race.Case(title, 'slot', 'calls', '', rows, facts)


def bandwidth(
  section: dict[str, Any], batches: list[int], rounds: int
) -> race.Case:
  """Cached decoding at growing batches, and with fewer bytes of weights.

  Args:
    section: `model` of a config.
    batches: samples at once, from 1.
    rounds: timed.

  Returns:
    The case; a step of the loop reads every weight once, however large the
    batch is.
  """
  model = models.build(section)[0]
  params = cases.random_params(model, gain=1.0)
  most = model.num_positions
  half = models.build({**section, 'dtype': 'bfloat16'})[0]
  kinds: dict[str, tuple[Any, Any, int, bool]] = {
    f'batch {b}': (model, params, b, b > 1) for b in batches
  }
  narrow = lambda p: p.astype(jnp.bfloat16) if p.ndim > 1 else p
  kinds['bfloat16, batch 1'] = half, jax.tree.map(narrow, params), 1, True
  kinds['int8, batch 1'] = *quantize.weights(model, params), 1, True
  entries, sizes = [], {}
  for name, (net, values, batch, remedy) in kinds.items():
    keys = jax.random.split(jax.random.key(0), batch)
    sampler = samplers.cached(net, verify=False)
    run = race.draw_of(sampler, values, keys, race.context_of(net, batch))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(values))
    sizes[name] = size
    counted = f'{size / 1e6:.1f} MB of weights'
    line = 'cached loop' if name.startswith('batch') else ''
    at = batch if line else math.nan
    units = batch * most
    entries.append(race.Entry(name, run, units, counted, line, at, remedy))
  rows = race.race(entries, rounds)
  facts = {
    f'{row.name}: weights read': (
      sizes[row.name] / (row.seconds.median * kinds[row.name][2]),
      'bytes/s',
    )
    for row in rows
  }
  title = f'bound by bandwidth ({model.name})'
  return race.Case(title, 'token', 'weights', 'samples at once', rows, facts)


def _log(n: int) -> float:
  return math.log2(n)
