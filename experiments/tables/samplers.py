"""What each sampler costs on one trained run, and whether it is exact.

  ./run.sh tables/samplers --workdir=runs/markov_transformer --count=64

Every row draws the same keys. Integers are compared with those of `ancestral`
and the different ones counted. Times are of one batch, all rows taken in turn;
the ratio is the median of T_ancestral / T over the rounds. A pass evaluates the
whole network, a step one slot or one row from a cache; an evaluation serves a
whole batch, so a batch costs its slowest sample ('batch', mean over batches).
Compile times and memory are those of the sampler as one program. Heads that
`forecaster` has trained for the run take part as 'learned'.
"""

import functools
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import entry, options
from parallel_ar import describe, samplers
from parallel_ar.analysis import timing
from parallel_ar.model import AutoregressiveModel
from parallel_ar.samplers import forecasters, learned, path
from parallel_ar.training import (
  bucket,
  configuration,
  datasets,
  results,
  run_directory,
  trained,
)

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Directory of the data files, for contexts.'
)
_COUNT = flags.DEFINE_integer(
  'count', 64, 'Samples to draw and compare.', lower_bound=1
)
_BATCH = flags.DEFINE_integer('batch', 16, 'Samples a batch.', lower_bound=1)
_ROUNDS = flags.DEFINE_integer(
  'rounds', 5, 'Timed rounds of one batch.', lower_bound=1
)
_SAMPLERS = flags.DEFINE_list(
  'samplers',
  [],
  'Only these rows beside ancestral, by their names in the table: an event of '
  'many positions takes some of them minutes. All by default.',
)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the samples.', lower_bound=0)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


class Row(NamedTuple):
  """What one sampler cost.

  Attributes:
    passes: int[batches, B], evaluations of the whole network for each sample,
      those that prove it among them.
    steps: int[batches, B], evaluations of a slot or a row from a cache.
    different: integers that differ from those of `ancestral`.
    repaired: positions that a draft had wrong, over all samples.
    seconds: of one batch.
    ratio: T_ancestral / T, by round.
    compile_seconds: of one batch's program.
    temporary_bytes: that XLA reserves for one batch's program.
  """

  passes: np.ndarray
  steps: np.ndarray
  different: int
  repaired: int
  seconds: timing.Summary
  ratio: timing.Summary
  compile_seconds: float
  temporary_bytes: int


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  if _COUNT.value % _BATCH.value:
    raise ValueError(
      f'--count={_COUNT.value} is no multiple of --batch={_BATCH.value}: every '
      'batch must be as large as the one that is timed.'
    )
  # A compilation that a cache answers would be timed as nearly nothing.
  jax.config.update('jax_enable_compilation_cache', False)
  run = trained.load(entry.require(_WORKDIR))
  model = run.models[0]
  context = None
  if model.context is not None:
    split = run.config.evaluate.split
    data = run.load_split(split, _DATA_DIR.value)
    context = datasets.contexts(model, data, _COUNT.value)
  path = run_directory.resolve(entry.require(_WORKDIR)) / 'forecaster.npz'
  heads = learned.load(bucket.readable(path), model) if path.exists() else None
  rows = measure(model, run.params, context, heads)
  print(describe(model))
  print(
    f'{run.params_name}; {_COUNT.value} samples in batches of {_BATCH.value}\n'
  )
  print(table(model, rows))
  if _OUT.value:
    results.save(
      _OUT.value,
      results.result_json(
        _numbers(rows),
        config=configuration.to_json(run.config),
        seed=_SEED.value,
        wall_seconds=time.monotonic() - started,
        details={
          'model': describe(model),
          'params': run.params_name,
          'count': _COUNT.value,
          'batch': _BATCH.value,
          'rounds': {
            name: {
              'seconds': row.seconds._asdict(),
              'ratio': row.ratio._asdict(),
            }
            for name, row in rows.items()
          },
        },
      ),
    )


def choices(
  model: AutoregressiveModel, heads: Any = None
) -> dict[str, samplers.Sampler]:
  """Every sampler that the model has, `ancestral` first."""
  draw = {'ancestral': samplers.ancestral(model)}
  for name, make in forecasters.BY_NAME.items():
    try:
      forecaster = make(model)
    except ValueError:
      continue  # it says that it does not fit the model's events
    draw[f'fixed point, {name}'] = samplers.fixed_point(model, forecaster)
  if heads is not None:
    told = learned.forecaster(model, heads)
    draw['fixed point, learned'] = samplers.fixed_point(model, told)
  decode = path.choose(model).decode
  draw['cached'] = samplers.cached(model)
  draw['cached, not proved'] = samplers.cached(model, verify=False)
  if decode.blocks is not None:
    draw['Gauss-Seidel'] = samplers.gauss_seidel(model)
  elif decode.resize is not None:
    draw['window'] = samplers.window(model)
  return draw


def measure(
  model: AutoregressiveModel, params: Any, context: Any, heads: Any = None
) -> dict[str, Row]:
  """Draws with every sampler of `choices`."""
  draw = _selected(choices(model, heads))
  keys = jax.random.split(jax.random.key(_SEED.value), _COUNT.value)
  batches = [
    slice(i, i + _BATCH.value) for i in range(0, _COUNT.value, _BATCH.value)
  ]

  def part(batch: slice) -> tuple:
    return params, keys[batch], jax.tree.map(lambda c: c[batch], context)

  programs = {}
  for name, sampler in draw.items():
    begun = time.monotonic()
    compiled = jax.jit(sampler).lower(*part(batches[0])).compile()
    memory = compiled.memory_analysis()
    programs[name] = (
      time.monotonic() - begun,
      int(memory.temp_size_in_bytes) if memory else 0,
    )
  once = lambda sampler: jax.block_until_ready(sampler(*part(batches[0])))
  rounds = timing.in_turn(
    {name: functools.partial(once, sampler) for name, sampler in draw.items()},
    rounds=_ROUNDS.value,
  )
  drawn = {
    name: [jax.device_get(sampler(*part(batch))) for batch in batches]
    for name, sampler in draw.items()
  }
  want = np.concatenate([s.x for s in drawn['ancestral']])
  rows = {}
  for name, parts in drawn.items():
    x = np.concatenate([s.x for s in parts])
    passes = np.stack([s.info.passes for s in parts])
    steps = np.stack([s.info.steps for s in parts])
    if name.startswith('fixed point'):  # its own steps are whole passes
      passes, steps = passes + steps, np.zeros_like(steps)
    rows[name] = Row(
      passes=passes,
      steps=steps,
      different=int((x != want).sum()),
      repaired=int(sum(s.info.repaired.sum() for s in parts)),
      seconds=timing.summarize(rounds.seconds[name]),
      ratio=timing.ratio(rounds, 'ancestral', name),
      compile_seconds=programs[name][0],
      temporary_bytes=programs[name][1],
    )
  return rows


def _selected(
  draw: dict[str, samplers.Sampler],
) -> dict[str, samplers.Sampler]:
  """`ancestral` and the rows of --samplers."""
  only = [name.strip() for name in _SAMPLERS.value]
  if unknown := set(only) - set(draw):
    raise ValueError(
      f'--samplers: {sorted(unknown)} are no rows of this run; it has '
      f'{"; ".join(draw)}. A name with a comma is quoted, as in '
      '--samplers=\'"fixed point, zeros",cached\'.'
    )
  return {
    name: sampler
    for name, sampler in draw.items()
    if not only or name in only or name == 'ancestral'
  }


def table(model: AutoregressiveModel, rows: dict[str, Row]) -> str:
  """The rows as Markdown."""
  lines = [
    '| sampler | steps | passes mean | batch | max | of n | seconds | ratio to '
    'ancestral | different integers | repaired | compile s | memory MB |',
    '|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|',
  ]
  for name, row in rows.items():
    mean = row.passes.mean()
    lines.append(
      f'| {name} | {row.steps.mean():.0f} | {mean:.1f} '
      f'| {row.passes.max(1).mean():.1f} | {row.passes.max()} '
      f'| {mean / model.num_positions:.1%} | {row.seconds.median:.4f} '
      f'| {row.ratio.text(digits=1)} | {row.different} | {row.repaired} '
      f'| {row.compile_seconds:.1f} | {row.temporary_bytes / 1e6:.1f} |'
    )
  return '\n'.join(lines)


def _numbers(rows: dict[str, Row]) -> dict[str, tuple[float | int, str]]:
  numbers: dict[str, tuple[float | int, str]] = {}
  for name, row in rows.items():
    numbers |= {
      f'{name}: steps mean': (float(row.steps.mean()), 'steps'),
      f'{name}: passes mean': (float(row.passes.mean()), 'passes'),
      f'{name}: passes batch': (float(row.passes.max(1).mean()), 'passes'),
      f'{name}: passes max': (int(row.passes.max()), 'passes'),
      f'{name}: seconds': (row.seconds.median, 's'),
      f'{name}: ratio': (row.ratio.median, 'x'),
      f'{name}: different': (row.different, 'integers'),
      f'{name}: repaired': (row.repaired, 'positions'),
      f'{name}: compile': (row.compile_seconds, 's'),
      f'{name}: memory': (row.temporary_bytes, 'bytes'),
    }
  return numbers


if __name__ == '__main__':
  entry.run(main)
