"""Memory against parallelism: what each way to evaluate a model needs.

  ./run.sh memory --png=runs/memory.png
  ./run.sh memory --config=configs/digits_gated_pixelcnn.py --batch=64
  ./run.sh memory --config=configs/long_transformer.py --lengths=1024,8192

The likelihood of a batch in one pass, and the gradient of its mean, by programs
of the same mathematics that keep less and less at once: checkpoints in every
block (`layers.remat`), attention by chunks of queries or by blocks that keep no
scores, a recurrence by a tree, by trees of chunks or by a loop, the likelihood
block by block with a carried state, and the batch in parts. Time (in turn, as a
ratio to the first program) and the bytes that XLA sets aside beside arguments
and results, at every length; and at the largest, with --peak, the peak resident
memory of a process that computes nothing but this gradient. '*' marks programs
that no other beats in both time and bytes.

Without --config four networks of the house are measured; with it the config's
own model, at its own event unless --lengths are given (events of one axis).
"""

import math
import time
from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments import alone, entry, options, plots
from experiments.limits import ways as ways_lib
from experiments.tables import report
from parallel_ar import describe
from parallel_ar.analysis import timing
from parallel_ar.training import configuration

_CONFIG = options.define_config()
_LENGTHS = options.define_numbers(
  'lengths', None, 'Slots; 128,512,2048 by default, or the event of --config.'
)
_NETWORKS = flags.DEFINE_list(
  'networks',
  ['transformer', 'recurrent', 'transformer_xl', 'gated_pixelcnn'],
  'Which networks, where there is no --config.',
)
_BATCH = flags.DEFINE_integer(
  'batch', 0, 'Examples; 0: those of the config, or 4.', lower_bound=0
)
_FEATURES = flags.DEFINE_integer(
  'features', 64, 'Width, where there is no --config.', lower_bound=4
)
_LAYERS = flags.DEFINE_integer(
  'layers', 4, 'Blocks, where there is no --config.', lower_bound=1
)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed rounds.', lower_bound=1)
_PEAK = flags.DEFINE_bool(
  'peak', False, 'Also gradients in processes of their own, for their peak.'
)
_FULL = flags.DEFINE_bool('full', False, 'Lengths to 8,192, and --peak.')
_PNG = options.define_output(
  'png', 'Draw bytes and the trade-off here.', options.PICTURES
)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  config = _CONFIG.value
  sections, lengths, batch = _what(config)
  numbers: report.Numbers = {}
  print(
    '| network | slots | program | way | ms | of the first | MB '
    '| of the first |'
  )
  print('|---|--:|---|---|--:|--:|--:|--:|')
  found: dict[tuple[str, int, str], dict[str, ways_lib.Point]] = {}
  for name, section in sections.items():
    for length in lengths or [0]:
      sized = ways_lib.resize(section, length)
      size = math.prod(sized['event'])
      for what in ('pass', 'gradient'):
        points = measure(sized, batch, what)
        found[name, size, what] = points
        record(f'{name}, {size} slots, {what}', points, numbers)
  if _PEAK.value or _FULL.value:
    print('\n| network | slots | way | peak of its process, MB |')
    print('|---|--:|---|--:|')
    for name, section in sections.items():
      peaks(
        name, ways_lib.resize(section, max(lengths, default=0)), batch, numbers
      )
  if _PNG.value:
    draw(found, _PNG.value)
    print(f'picture: {_PNG.value}')
  base = configuration.to_json(config) if config else {}
  report.save(
    _OUT.value,
    numbers,
    base | {'lengths': lengths},
    started,
    batch=batch,
    models=[describe(ways_lib.build(s)) for s in sections.values()],
  )


def _what(config: Any) -> tuple[dict[str, ways_lib.Section], list[int], int]:
  """ways_lib.Sections of models, lengths and the batch, from the flags."""
  lengths = _LENGTHS.value or []
  if config is not None:
    section = config.model.to_dict()
    size = config.train.batch_size // config.train.accumulate
    return {section['name']: section}, lengths, _BATCH.value or size
  for name in _NETWORKS.value:
    if name not in _HOUSE:
      raise ValueError(f'--networks={name}: choose from {", ".join(_HOUSE)}.')
  if not lengths:
    lengths = [128, 512, 2048] + ([8192] if _FULL.value else [])
  shared = {'features': _FEATURES.value, 'layers': _LAYERS.value}
  sections: dict[str, ways_lib.Section] = {
    name: {'name': name, 'event': (1,), **shared, **_HOUSE[name]}
    for name in _NETWORKS.value
  }
  return sections, lengths, _BATCH.value or 4


_HOUSE: dict[str, dict[str, Any]] = {
  'transformer': {'num_values': 64, 'heads': 4},
  'recurrent': {'num_values': 64},
  'transformer_xl': {'num_values': 64, 'heads': 4},
  'gated_pixelcnn': {'event': (1, 1, 1)},
}


def measure(
  section: ways_lib.Section, batch: int, what: str
) -> dict[str, ways_lib.Point]:
  """Times every way, in turn."""
  programs: dict[str, Any] = {}
  memory: dict[str, int] = {}
  for name, way in ways_lib.ways(section, batch, what).items():
    programs[name], memory[name] = ways_lib.program(section, batch, what, way)
  rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
  first = next(iter(programs))
  return {
    name: ways_lib.Point(
      timing.summarize(rounds.seconds[name]),
      timing.ratio(rounds, name, first),
      memory[name],
    )
    for name in programs
  }


def record(
  name: str, points: Mapping[str, ways_lib.Point], numbers: report.Numbers
) -> None:
  """Prints rows, and keeps their numbers."""
  first, best = next(iter(points.values())), ways_lib.front(points)
  network, slots, what = name.split(', ')
  for way, point in points.items():
    room = point.bytes / max(first.bytes, 1)
    star = '*' if way in best else ''
    print(
      f'| {network} | {slots.split()[0]} | {what} | {way}{star} '
      f'| {point.seconds.text(1e3, 1)} | {point.share.text(digits=2)} '
      f'| {point.bytes / 1e6:.2f} | {room:.3f} |',
      flush=True,
    )
    label = f'{name}, {way}'
    numbers[f'{label}: ms'] = 1e3 * point.seconds.median, 'ms'
    numbers[f'{label}: of the first'] = point.share.median, '1'
    numbers[f'{label}: bytes'] = point.bytes, 'bytes'
    numbers[f'{label}: bytes of the first'] = room, '1'


def peaks(
  network: str, section: ways_lib.Section, batch: int, numbers: report.Numbers
) -> None:
  """Prints the peak resident memory of every way's gradient."""
  slots = math.prod(section['event'])
  for name, way in ways_lib.ways(section, batch, 'gradient').items():
    what = f'{network}, {name}'
    peak = alone.run(what, _peak, section, batch, way)
    print(f'| {network} | {slots} | {name} | {peak / 1e6:.0f} |', flush=True)
    numbers[f'{network}, {slots} slots, {name}: peak'] = peak, 'bytes'


def _peak(section: ways_lib.Section, batch: int, way: ways_lib.Way) -> int:
  run, _ = ways_lib.program(section, batch, 'gradient', way)
  run()
  return alone.peak()


def draw(
  found: Mapping[tuple[str, int, str], Mapping[str, ways_lib.Point]], path: str
) -> None:
  """Bytes of the gradient against length; time against bytes at the largest."""
  names = list(dict.fromkeys(name for name, _, _ in found))
  made, axes = plots.figure(len(names), 2)
  for column, name in enumerate(names):
    upper, lower = axes[0, column], axes[1, column]
    sizes = [n for m, n, what in found if m == name and what == 'gradient']
    last = found[name, max(sizes), 'gradient']
    best = ways_lib.front(last)
    for number, way in enumerate(last):
      color = f'C{number}'
      at = [found[name, n, 'gradient'][way].bytes / 1e6 for n in sizes]
      upper.loglog(sizes, at, 'o-', color=color, label=way)
      share, size = last[way].share.median, last[way].bytes / 1e6
      face = color if way in best else 'none'
      lower.plot(size, share, 'o', color=color, markerfacecolor=face)
    line = sorted((last[w].bytes / 1e6, last[w].share.median) for w in best)
    lower.plot(*zip(*line, strict=True), 'k:', linewidth=1)
    lower.set(xscale='log', xlabel='MB', title=f'{max(sizes)} slots')
    upper.set(title=f'{name}, gradient', xlabel='slots')
    upper.legend(fontsize=6)
    for place in (upper, lower):
      place.tick_params(which='minor', labelbottom=False, labelleft=False)
  axes[0, 0].set_ylabel('MB')
  axes[1, 0].set_ylabel('time / that of the first way')
  plots.save(made, path)


if __name__ == '__main__':
  entry.run(main)
