"""What one pass gains over one position after another: measured and predicted.

  ./run.sh complexity --png=runs/complexity.png
  ./run.sh complexity --families= --headline

For every family, length n and batch b: the time of the likelihood in one pass,
of n passes (or R, where ranks are tied; a few are run and scaled), and of a
loop over positions with the family's cache; work and depth counted from the
traced programs (`analysis.complexity`); temporary memory. Predicted are the
times by T = call + alpha depth + work / speed with the numbers of the machine
fitted to the OTHER families, and from them the speedups. 'loop' is a scan that
is evaluated step by step inside one pass, beside the associative one: on few
cores it is the faster.
--headline adds the Transformer of 6 x 256 at n = 1,024 and a Gated PixelCNN.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import entry, options, plots
from experiments.tables import report
from parallel_ar import likelihood, models, samplers
from parallel_ar.analysis import complexity, timing
from parallel_ar.model import AutoregressiveModel
from parallel_ar.samplers import path
from parallel_ar.testing import case as cases

_FAMILIES = flags.DEFINE_list(
  'families',
  ['attention', 'convolution', 'scan', 'loop', 'DEER', 'hierarchy'],
  'Which families, of the ones above.',
)
_LENGTHS = options.define_numbers('lengths', [64, 256, 1024], 'n.')
_BATCHES = options.define_numbers('batches', [1, 16], 'b.')
_MOST = flags.DEFINE_integer(
  'most', 16384, 'Largest n b that is run.', lower_bound=1
)
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Timed rounds.', lower_bound=1)
_PASSES = flags.DEFINE_integer(
  'passes', 4, 'Passes of the n that are run.', lower_bound=1
)
_TRIPS = flags.DEFINE_integer(
  'trips', 8, 'Newton steps that the count of DEER assumes.', lower_bound=1
)
_HEADLINE = flags.DEFINE_bool('headline', False, 'The two larger models too.')
_FULL = flags.DEFINE_bool(
  'full', False, 'n to 8,192, b to 256, and n b to 65,536.'
)
_PNG = options.define_output(
  'png', 'Draw speedups against n here.', options.PICTURES
)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


@dataclasses.dataclass
class Row:
  """One family at one n and b; seconds of a batch, costs of a batch."""

  family: str
  n: int
  b: int
  ranks: int
  one: timing.Summary
  full: float
  cached: float | None
  cost: complexity.Cost
  cached_cost: complexity.Cost | None
  bytes: int

  @property
  def name(self) -> str:
    """Of the numbers of this row."""
    return f'{self.family}, n {self.n}, b {self.b}'


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  lengths = _LENGTHS.value
  batches = _BATCHES.value
  most = _MOST.value
  if _FULL.value:
    lengths, batches = [64, 256, 1024, 4096, 8192], [1, 4, 16, 64, 256]
    most = 65536
  names = [f for f in _FAMILIES.value if f]
  for name in names:
    if name not in FAMILIES:
      raise ValueError(f'--families={name}: choose from {", ".join(FAMILIES)}.')
  print(
    '| family | n | b | one pass, ms | n passes / it | cached loop / it '
    '| depth | of the loop | operations | MB |'
  )
  print('|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|')
  rows = []
  for name in names:
    for n in lengths:
      for b in batches:
        if n * b <= most:
          rows.append(measure(name, FAMILIES[name](n), n, b))
  if _HEADLINE.value:
    for name, model in headline().items():
      rows.append(measure(name, model, model.num_positions, 1))
  numbers = record(rows)
  if len({row.family for row in rows}) > 2:  # two others to fit to
    predict(rows, numbers)
  if _PNG.value and rows:
    draw(rows, _PNG.value)
    print(f'picture: {_PNG.value}')
  config = {'lengths': lengths, 'batches': batches, 'families': names}
  report.save(_OUT.value, numbers, config, started)


def _sequence(factory: Callable, **fields: Any) -> Callable:
  return lambda n: factory(event=(n,), num_values=4, **fields)


def _image(n: int) -> AutoregressiveModel:
  height = 2 ** (int(math.log2(n)) // 2)
  return models.multiscale(event=(height, n // height, 1), layers=3)


FAMILIES: dict[str, Callable[[int], AutoregressiveModel]] = {
  'attention': _sequence(models.transformer, features=64, layers=2, heads=4),
  'convolution': _sequence(models.wavenet, features=32, layers=8),
  'scan': _sequence(models.recurrent, features=32, evaluation='associative'),
  'loop': _sequence(models.recurrent, features=32, evaluation='scan'),
  'DEER': _sequence(
    models.recurrent,
    cell='gru',
    features=32,
    evaluation='quasi_deer',
    damping=0.1,
  ),
  'hierarchy': _image,
}


def headline() -> dict[str, AutoregressiveModel]:
  """The models of the README's figures."""
  return {
    'Transformer 6 x 256': models.transformer(
      event=(1024,), num_values=256, features=256, layers=6, heads=8
    ),
    'Gated PixelCNN 64, 8 layers': models.gated_pixelcnn(
      event=(28, 28, 1), features=64, layers=8
    ),
  }


def measure(family: str, model: AutoregressiveModel, n: int, b: int) -> Row:
  """Times and counts one model, and prints its row."""
  case = cases.make_case(model, params=jax.jit(model.init)(jax.random.key(0)))
  x = np.resize(case.x, (b, *model.event.shape))
  one = lambda params, x: likelihood.log_prob(model, params, x)
  program, size = report.compile_program(one, case.params, x)
  programs: dict[str, Any] = {'one': program}
  ranks = model.depth
  few = min(_PASSES.value, ranks)
  passes = functools.partial(_passes, model, few)
  programs['full'] = report.compile_program(passes, case.params, x)[0]
  draw = None
  if path.KINDS[path.choose(model).kind] != 'recomputed':
    keys = jax.random.split(jax.random.key(1), b)
    sampler = samplers.cached(model, verify=False)
    draw = lambda params, keys: sampler(params, keys).x
    loop, _ = report.compile_program(draw, case.params, keys)
    programs['cached'] = loop
  rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
  median = lambda name: timing.summarize(rounds.seconds[name]).median
  trips = _TRIPS.value if family == 'DEER' else 1
  row = Row(
    family=family,
    n=n,
    b=b,
    ranks=ranks,
    one=timing.summarize(rounds.seconds['one']),
    full=median('full') * ranks / few,
    cached=median('cached') if draw else None,
    cost=complexity.count(one, case.params, x, trips=trips),
    cached_cost=complexity.count(draw, case.params, keys) if draw else None,
    bytes=size,
  )
  cached = '' if row.cached is None else f'{row.cached / row.one.median:.1f}'
  deep = '' if row.cached_cost is None else f'{row.cached_cost.depth:,.0f}'
  print(
    f'| {family} | {n} | {b} | {row.one.text(1e3)} '
    f'| {row.full / row.one.median:.1f} | {cached} | {row.cost.depth:,.0f} '
    f'| {deep} | {row.cost.work:.3g} | {size / 1e6:.1f} |',
    flush=True,
  )
  return row


def _passes(
  model: AutoregressiveModel, few: int, params: Any, x: jax.Array
) -> jax.Array:
  """The last `few` ranks of the sequential oracle: a pass for each."""
  rank = jnp.asarray(model.rank)

  def one(x: jax.Array) -> jax.Array:
    def body(r: Any, total: jax.Array) -> jax.Array:
      mask = (rank < r).reshape(rank.shape + (1,) * (x.ndim - rank.ndim))
      dist = model.conditionals(params, jnp.where(mask, x, 0), None)
      terms = model.head.log_prob(dist, x)
      return total + jnp.where(rank == r, terms, 0).sum(dtype=total.dtype)

    first = model.depth - few
    return jax.lax.fori_loop(first, model.depth, body, jnp.zeros(()))

  return jax.vmap(one)(x)


def record(rows: list[Row]) -> report.Numbers:
  """What was measured, as numbers."""
  numbers: report.Numbers = {}
  for row in rows:
    numbers |= {
      f'{row.name}: one pass': (1e3 * row.one.median, 'ms'),
      f'{row.name}: n passes / one': (row.full / row.one.median, 'x'),
      f'{row.name}: depth': (row.cost.depth, 'operations'),
      f'{row.name}: work': (row.cost.work, 'operations'),
      f'{row.name}: bytes': (row.bytes, 'bytes'),
      f'{row.name}: ranks': (row.ranks, 'ranks'),
    }
    if row.cached is not None and row.cached_cost is not None:
      numbers |= {
        f'{row.name}: cached / one': (row.cached / row.one.median, 'x'),
        f'{row.name}: depth of the loop': (row.cached_cost.depth, 'operations'),
      }
  return numbers


def predict(rows: list[Row], numbers: report.Numbers) -> None:
  """Prints measured beside predicted speedups, fitted without the family."""
  print(
    '\n| family | n | b | n passes / it | predicted | off | cached loop / it '
    '| predicted | off |'
  )
  print('|---|--:|--:|--:|--:|--:|--:|--:|--:|')
  off = []
  for row in rows:
    machine = _machine([r for r in rows if r.family != row.family])
    one = machine.seconds(row.cost)
    cells = []
    loops = [(row.full, _times(row.cost, row.ranks), 'n passes')]
    if row.cached is not None and row.cached_cost is not None:
      loops.append((row.cached, row.cached_cost, 'cached'))
    for seconds, cost, what in loops:
      got = seconds / row.one.median
      want = machine.seconds(cost) / one
      factor = max(got / want, want / got)
      off.append(factor)
      cells += [f'{got:.1f}', f'{want:.1f}', f'{factor:.2f}']
      numbers[f'{row.name}: {what}, predicted'] = want, 'x'
    cells += [''] * (6 - len(cells))
    print(f'| {row.family} | {row.n} | {row.b} | {" | ".join(cells)} |')
  machine = _machine(rows)
  numbers |= {
    'machine: call': (machine.call, 'seconds'),
    'machine: alpha': (machine.alpha, 'seconds'),
    'machine: speed': (machine.speed, 'operations/s'),
    'factor off, median': (float(np.median(off)), '1'),
    'factor off, largest': (float(np.max(off)), '1'),
  }
  print(
    f'\nAll rows together: {1e6 * machine.call:.0f} us for a call, '
    f'{1e6 * machine.alpha:.2f} us for a dependent operation, '
    f'{machine.speed / 1e9:.1f} G operations/s. Predicted speedups '
    f'are off by a factor of {np.median(off):.2f} in the median, '
    f'{np.max(off):.1f} at most.'
  )


def _machine(rows: list[Row]) -> complexity.Machine:
  costs = [row.cost for row in rows]
  seconds = [row.one.median for row in rows]
  for row in rows:
    if row.cached is not None and row.cached_cost is not None:
      costs.append(row.cached_cost)
      seconds.append(row.cached)
  return complexity.fit(costs, seconds)


def _times(cost: complexity.Cost, n: int) -> complexity.Cost:
  return complexity.Cost(n * cost.work, n * cost.depth)


def draw(rows: list[Row], path: str) -> None:
  """Speedups against n at the smallest batch, beside n / log n."""
  made, axes = plots.figure(2)
  left, right = axes[0]
  least = min(row.b for row in rows)
  for family in dict.fromkeys(row.family for row in rows):
    some = [r for r in rows if r.family == family and r.b == least]
    at = [r.n for r in some]
    left.loglog(at, [r.full / r.one.median for r in some], 'o-', label=family)
    loops = [r for r in some if r.cached is not None]
    right.loglog(
      [r.n for r in loops],
      [(r.cached or 0) / r.one.median for r in loops],
      'o-',
      label=family,
    )
  at = sorted({row.n for row in rows})
  left.loglog(at, at, 'k:', label='n')
  right.loglog(
    at, [n / max(math.log2(n), 1) for n in at], 'k:', label='n/log n'
  )
  left.set(title=f'n passes / one pass, batch {least}', xlabel='n')
  right.set(title=f'cached loop / one pass, batch {least}', xlabel='n')
  left.legend(fontsize=7)
  right.legend(fontsize=7)
  plots.save(made, path)


if __name__ == '__main__':
  entry.run(main)
