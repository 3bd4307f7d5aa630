"""What the derived cache gains, and what it costs to derive.

  ./run.sh derived_cache
  ./run.sh derived_cache --full --out=results/derived_cache.json
  ./run.sh derived_cache --parts=families --only=ardm,two_stream

Four parts, the programs of each row timed in turn in one process:

  own         three functions in plain `jnp` with no cache of their own: cached
              against ancestral, and the integers of many samples compared
  public      kinds of public models: derived, fixed point and ancestral
  families    those of the house: the derived path against the one that is
              written by hand, where there is one, without the pass that proves
  derivation  seconds from a record to its path, and of what program

A ratio above 1 says that the derived path is faster. Parameters are random:
passes of a fixed point say nothing of trained models. 'compile' and 'MB' are of
the sampler as one program. --full has the sizes of docs/derived_cache.md.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from examples import plain as public
from examples import scans
from experiments import entry, options, plain, plots
from experiments.limits import race
from experiments.tables import report
from parallel_ar import models, order, samplers
from parallel_ar.analysis import timing
from parallel_ar.decode import derive_decode
from parallel_ar.model import AutoregressiveModel
from parallel_ar.samplers import path
from parallel_ar.testing import case as cases

PARTS = ('own', 'public', 'families', 'derivation')
_TOGETHER = 8  # samples of a batch that is compared

_PARTS = flags.DEFINE_list('parts', [], f'Of {", ".join(PARTS)}; all.')
_ONLY = flags.DEFINE_list('only', [], 'Only rows whose names begin so.')
_LENGTH = flags.DEFINE_integer('length', 64, 'Slots of a sequence.', 8)
_SIDE = flags.DEFINE_integer('side', 8, 'Of a large image.', lower_bound=3)
_WIDTH = flags.DEFINE_integer('width', 32, 'Features of GPT.', lower_bound=8)
_LAYERS = flags.DEFINE_integer('layers', 2, 'Of GPT, and deep.', lower_bound=1)
_BATCHES = options.define_numbers('batches', [1], 'Samples at once.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Timed rounds.', lower_bound=1)
_SAMPLES = flags.DEFINE_integer(
  'samples', 32, 'Of the own functions, compared.', lower_bound=1
)
_BUDGET = flags.DEFINE_float(
  'budget', 20.0, 'Seconds for samples of ancestral, at least a batch.', 0.0
)
_FULL = flags.DEFINE_bool(
  'full', False, '512 slots, 28 x 28, width 256, 6 layers, 1,000 samples.'
)
_PNG = options.define_output('png', 'Draw the ratios here.', options.PICTURES)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


class Sizes(NamedTuple):
  """How large everything is."""

  length: int
  side: int
  width: int
  layers: int
  samples: int
  batches: list[int]
  budget: float


class Row(NamedTuple):
  """One model at one batch.

  Attributes:
    kind: of the path that ran, see `path.KINDS`.
    derive: seconds of the derivation.
    seconds: of each sampler, a batch.
    gain: of each other sampler's time over that of 'derived'.
    compiled: seconds, and temporary bytes, of each sampler's program.
    facts: further numbers.
  """

  part: str
  name: str
  batch: int
  kind: str
  derive: float
  seconds: dict[str, timing.Summary]
  gain: dict[str, timing.Summary]
  compiled: dict[str, tuple[float, int]]
  facts: dict[str, tuple[float, str]]


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  if unknown := sorted(set(_PARTS.value) - set(PARTS)):
    raise ValueError(f'--parts={unknown[0]}: choose from {", ".join(PARTS)}.')
  # A compilation that a cache answers would be timed as nearly nothing.
  jax.config.update('jax_enable_compilation_cache', False)
  sizes = _sizes()
  rows: list[Row] = []
  for part in PARTS:
    if part in (_PARTS.value or PARTS):
      print(f'\n**{part}**\n')
      rows += show(part, SUBJECTS[part](sizes))
  if not rows:
    raise ValueError(f'--only={",".join(_ONLY.value)} names no row.')
  if _PNG.value:
    draw(rows, _PNG.value)
    print(f'\npicture: {_PNG.value}')
  numbers: report.Numbers = {}
  for row in rows:
    numbers |= numbers_of(row)
  report.save(_OUT.value, numbers, sizes._asdict(), started)


def _sizes() -> Sizes:
  if _FULL.value:
    return Sizes(512, 28, 256, 6, 1000, [1, 16], 600.0)
  of = _LENGTH, _SIDE, _WIDTH, _LAYERS, _SAMPLES, _BATCHES, _BUDGET
  return Sizes(*(flag.value for flag in of))  # type: ignore[arg-type]


def _wanted(
  makes: Mapping[str, Callable[[], Any]],
) -> Iterator[tuple[str, Any]]:
  for name, make in makes.items():
    if not _ONLY.value or name.startswith(tuple(_ONLY.value)):
      yield name, make()


def _own(sizes: Sizes) -> Iterator[Row]:
  makes = {
    'decayed sum': lambda: plain.decayed_sum(sizes.length),
    'GPT': lambda: plain.gpt(
      sizes.length, width=sizes.width, layers=sizes.layers
    ),
    'two convolutions': lambda: plain.convolutions(sizes.side),
  }
  for name, model in _wanted(makes):
    params = model.init(jax.random.key(0))
    row = measure('own', name, model, params, 1, slow=True)
    yield row._replace(facts=row.facts | _compared(model, params, row, sizes))


def _public(sizes: Sizes) -> Iterator[Row]:
  length, side = max(sizes.length // 2, 8), max(sizes.side // 2, 3)
  wide: dict[str, Any] = {'pixelcnn': {'side': side}}
  makes = {
    make.__name__: functools.partial(
      make, **wide.get(make.__name__, {'length': length})
    )
    for make in public.MODELS + scans.MODELS
  }
  for name, model in _wanted(makes):
    params = model.init(jax.random.key(0))
    yield measure('public', name, model, params, 1, slow=True)


def _families(sizes: Sizes) -> Iterator[Row]:
  for name, model in _wanted(families(sizes.length, sizes.side)):
    params = cases.random_params(model, gain=1.0)
    for batch in sizes.batches:
      yield measure('families', name, model, params, batch, slow=False)


def families(
  length: int, side: int
) -> dict[str, Callable[[], AutoregressiveModel]]:
  """Every family: images, small images, text."""
  text: dict[str, Any] = {'event': (length,), 'num_values': 16}
  large, small = (side, side, 1), (min(side, 8), min(side, 8), 1)
  make = functools.partial
  return {
    'made': make(models.made, event=large, hidden=(256, 256)),
    'nade': make(models.nade, event=large),
    'pixelcnn': make(models.pixelcnn, event=large),
    'gated_pixelcnn': make(models.gated_pixelcnn, event=large),
    'pixelcnn_pp': make(models.pixelcnn_pp, event=small, num_values=17),
    'pixelsnail': make(models.pixelsnail, event=small, num_values=17),
    'multiscale': make(models.multiscale, event=large),
    'ardm': make(models.ardm, event=small),
    'ardm, tied': make(
      models.ardm,
      event=small,
      rank=order.tie(order.random(small, 0), [small[0]] * small[1]),
    ),
    'next_scale': make(models.next_scale, event=large),
    'transformer': make(models.transformer, **text),
    'transformer_xl': make(
      models.transformer_xl, **text, segment=max(length // 8, 2)
    ),
    'two_stream': make(models.two_stream, **text),
    'wavenet': make(models.wavenet, **text),
    'gru': make(models.recurrent, **text, cell='gru'),
    'min_gru': make(models.recurrent, **text),
  }


def _derivation(sizes: Sizes) -> Iterator[Row]:
  slots = 2 * sizes.length
  makes = {
    f'Gated PixelCNN {sizes.side} x {sizes.side}': lambda: (
      models.gated_pixelcnn(event=(sizes.side, sizes.side, 1), layers=7)
    ),
    f'Transformer {slots}': lambda: models.transformer(
      event=(slots,), num_values=256, layers=sizes.layers
    ),
  }
  for name, model in _wanted(makes):
    model, seconds = derived(model)
    yield Row('derivation', name, 1, _kind(model), seconds, {}, {}, {}, {})


def derived(
  model: AutoregressiveModel,
) -> tuple[AutoregressiveModel, float]:
  """The record without a path of its own, and the seconds to derive one."""
  bare = dataclasses.replace(model, decode=None)
  begun = time.monotonic()
  derive_decode(bare)
  return bare, time.monotonic() - begun


def _kind(model: AutoregressiveModel) -> str:
  return path.KINDS[path.choose(model).kind]


def measure(
  part: str,
  name: str,
  model: AutoregressiveModel,
  params: Any,
  batch: int,
  slow: bool,
) -> Row:
  """Times every sampler in turn.

  With `slow` also ancestral and fixed point; else cached loops without proof.
  """
  bare, seconds = derived(model)
  kinds: dict[str, samplers.Sampler] = {
    'derived': samplers.cached(bare, verify=slow)
  }
  if model.decode is not None:
    kinds['by hand'] = samplers.cached(model, verify=slow)
  if slow:
    kinds['fixed point'] = samplers.fixed_point(bare)
    kinds['ancestral'] = samplers.ancestral(bare)
  keys = jax.random.split(jax.random.key(1), batch)
  args = params, keys, race.context_of(model, batch)
  programs: dict[str, Callable[[], None]] = {}
  compiled: dict[str, tuple[float, int]] = {}
  drawn: dict[str, Any] = {}

  def keep(kind: str, run: Callable) -> None:
    drawn[kind] = run()

  for kind, sampler in kinds.items():
    begun = time.monotonic()
    run, size = report.compile_program(sampler, *args)
    programs[kind] = functools.partial(keep, kind, run)
    compiled[kind] = time.monotonic() - begun, size
  rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
  want = drawn[list(kinds)[-1]].x
  facts: dict[str, tuple[float, str]] = {
    f'{kind}: different': (int((sample.x != want).sum()), 'integers')
    for kind, sample in drawn.items()
  }
  return Row(
    part,
    name,
    batch,
    _kind(bare),
    seconds,
    {k: timing.summarize(s) for k, s in rounds.seconds.items()},
    {k: timing.ratio(rounds, k, 'derived') for k in kinds if k != 'derived'},
    compiled,
    facts,
  )


def _compared(
  model: AutoregressiveModel, params: Any, row: Row, sizes: Sizes
) -> dict[str, tuple[float, str]]:
  """Many samples of `cached` against those of other samplers."""
  batch = min(sizes.samples, _TOGETHER)  # another size rounds otherwise
  every = sizes.samples // batch * batch
  some = int(sizes.budget / row.seconds['ancestral'].median) // batch * batch
  keys = jax.random.split(jax.random.key(2), every)
  have = _drawn(samplers.cached(model), params, keys, batch)
  facts: dict[str, tuple[float, str]] = {}
  for name, make, count in (
    ('fixed point', samplers.fixed_point, every),
    ('ancestral', samplers.ancestral, min(max(some, batch), every)),
  ):
    want = _drawn(make(model), params, keys[:count], batch)
    different = int((have[:count] != want).sum())
    facts[f'cached and {name}: samples'] = count, 'samples'
    facts[f'cached and {name}: integers'] = want.size, 'integers'
    facts[f'cached and {name}: different'] = different, 'integers'
  return facts


def _drawn(
  sampler: samplers.Sampler, params: Any, keys: Any, batch: int
) -> np.ndarray:
  """Samples of the keys, in whole batches."""
  starts = range(0, len(keys) - batch + 1, batch)
  return np.concatenate(
    [np.asarray(sampler(params, keys[i : i + batch]).x) for i in starts]
  )


SUBJECTS: dict[str, Callable[[Sizes], Iterator[Row]]] = {
  'own': _own,
  'public': _public,
  'families': _families,
  'derivation': _derivation,
}
_HEADS = {
  'own': ('ancestral', 'fixed point'),
  'public': ('ancestral', 'fixed point'),
  'families': ('by hand',),
  'derivation': (),
}


def show(part: str, rows: Iterator[Row]) -> list[Row]:
  """Prints the rows as they come."""
  others, found = _HEADS[part], []
  names = ['model', 'batch', 'path', 'derivation s']
  if others:
    names += ['derived ms', *(f'{n} / it' for n in others)]
    kinds = ('derived', 'by hand') if part == 'families' else ('derived',)
    names += [f'compile s, {k}' for k in kinds] + [f'MB, {k}' for k in kinds]
    names += ['different integers']
  print(f'| {" | ".join(names)} |\n|---|{"--:|" * (len(names) - 1)}')
  for row in rows:
    cells = [row.name, str(row.batch), row.kind, f'{row.derive:.2f}']
    if others:
      cells.append(row.seconds['derived'].text(1e3))
      cells += [row.gain[n].text() if n in row.gain else '' for n in others]
      made = [row.compiled.get(k) for k in kinds]
      cells += [f'{m[0]:.1f}' if m else '' for m in made]
      cells += [f'{m[1] / 1e6:.2f}' if m else '' for m in made]
      wrong = [n for k, (n, _) in row.facts.items() if 'different' in k]
      cells.append(f'{int(sum(wrong))}')
    print(f'| {" | ".join(cells)} |', flush=True)
    for key, (value, unit) in row.facts.items():
      if key.startswith('cached and'):
        print(f'  {key}: {value:,.0f} {unit}')
    found.append(row)
  return found


def numbers_of(row: Row) -> report.Numbers:
  """The row as named numbers."""
  label = f'{row.part}, {row.name}, batch {row.batch}'
  numbers: report.Numbers = {f'{label}: derivation': (row.derive, 's')}
  for kind, seconds in row.seconds.items():
    numbers[f'{label}, {kind}: ms'] = 1e3 * seconds.median, 'ms'
    spent, size = row.compiled[kind]
    numbers[f'{label}, {kind}: compile'] = spent, 's'
    numbers[f'{label}, {kind}: memory'] = size, 'bytes'
  for kind, gain in row.gain.items():
    numbers[f'{label}, {kind} / derived'] = gain.median, 'x'
  return numbers | {f'{label}, {k}': v for k, v in row.facts.items()}


def draw(rows: list[Row], file: str) -> None:
  """How many times as fast the derived path is, a panel for each part."""
  parts = [p for p in PARTS if any(r.part == p and r.gain for r in rows)]
  made, axes = plots.figure(max(len(parts), 1))
  for place, part in zip(axes[0], parts, strict=False):
    some = [row for row in rows if row.part == part]
    names = [f'{row.name}, {row.batch}' for row in some]
    height = np.arange(len(some))
    for n, kind in enumerate(_HEADS[part]):
      gain = [r.gain[kind].median if kind in r.gain else np.nan for r in some]
      place.plot(gain, height + 0.15 * n, 'o', label=f'{kind} / derived')
    place.axvline(1, color='0.6', linewidth=1)
    place.set_yticks(height, names, fontsize=6)
    place.set(title=part, xscale='log', xlabel='times as fast')
    place.set_ylim(-1, len(some) + 2)  # room for the legend
    place.legend(fontsize=6, loc='upper left')
  plots.save(made, file)


if __name__ == '__main__':
  entry.run(main)
