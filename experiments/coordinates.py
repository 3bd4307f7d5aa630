"""The coordinate check of mu-P: whether activations grow with the width.

  ./run.sh coordinates --config=configs/digits_transformer.py --steps=4 \
      --config.optimizer.mup_base.features=32 \
      --config.optimizer.mup_base.heads=2 --factors=1,2,4

Trains models whose widths are --factors times those of `optimizer.mup_base`,
with mu-P and without, for a few updates of one rate, and prints for each layer
the exponent p of its mean absolute value, width^p: 0 is flat, and what grows
has a best rate that moves with the width. --png draws them. Take a constant
schedule without warm-up, and the rate of the run.
"""

import time

from absl import flags

from experiments import entry, options, plots
from experiments.tables import report
from parallel_ar.analysis import coordinates
from parallel_ar.data import pipeline
from parallel_ar.training import configuration, datasets

_CONFIG = options.define_config()
_FACTORS = options.define_numbers(
  'factors', [1, 2, 4, 8], 'Widths, in those of the base: at least two.'
)
_STEPS = flags.DEFINE_integer('steps', 4, 'Updates.', lower_bound=1)
_EXAMPLES = flags.DEFINE_integer(
  'examples', 2, 'Examples whose activations are taken.', lower_bound=1
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Directory of the data files; ./data without it.'
)
_OUT = options.define_output('out', 'Write the result here, as JSON.')
_PNG = options.define_output('png', 'Draw the plot here.', options.PICTURES)


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  config = entry.require(_CONFIG)
  configuration.validate(config)
  if len(set(_FACTORS.value)) < 2:
    raise ValueError(
      f'--factors={",".join(map(str, _FACTORS.value))}: a trend needs at least '
      'two widths.'
    )
  split = config.data.train_split
  data = datasets.load_split(config, split, _DATA_DIR.value)
  batches = pipeline.batches(data, config.train.batch_size, config.seed)
  steps = sorted({0, 1, _STEPS.value})
  rows = coordinates.check(
    config, _FACTORS.value, steps, batches, _EXAMPLES.value
  )
  numbers = _table(rows)
  if _PNG.value:
    _draw(rows, steps, _PNG.value)
  kept = configuration.to_json(config)
  told = [row._asdict() for row in rows]
  report.save(_OUT.value, numbers, kept, started, rows=told)


def _table(rows: list[coordinates.Row]) -> report.Numbers:
  """Prints sizes of both at the smallest and largest width, and exponents."""
  last = max(row.step for row in rows)
  factors = sorted({row.factor for row in rows})
  ends = factors[0], factors[-1]
  powers = {w: coordinates.exponents(rows, w, last) for w in (False, True)}
  size = {(r.by_width, r.factor): r.sizes for r in rows if r.step == last}
  print(f'After {last} updates; mean |value| at {ends[0]} and {ends[1]} times')
  print('the base, and the exponent of the width.\n')
  print('| layer | standard | | p | mu-P | | p |')
  print('|---|--:|--:|--:|--:|--:|--:|')
  for name in powers[True]:
    cells = [
      f'{size[w, ends[0]][name]:.4g} | {size[w, ends[1]][name]:.4g} | '
      f'{powers[w][name]:+.2f}'
      for w in (False, True)
    ]
    print(f'| {name} | {" | ".join(cells)} |')
  names = {False: 'standard', True: 'mu-P'}
  most = {w: max(powers[w].items(), key=lambda item: item[1]) for w in names}
  print()
  for w, (name, power) in most.items():
    print(f'{names[w]}: grows most, {name}: width^{power:.2f}')
  return {
    **{f'largest exponent, {names[w]}': (most[w][1], '') for w in names},
    **{f'exponent of dist, {names[w]}': (powers[w]['dist'], '') for w in names},
  }


def _draw(rows: list[coordinates.Row], steps: list[int], path: str) -> None:
  """A row of plots for each parametrization, a column for each step."""
  figure, axes = plots.figure(len(steps), 2, 3.2)
  for line, by_width in enumerate((False, True)):
    for column, at in enumerate(steps):
      mine = [r for r in rows if (r.by_width, r.step) == (by_width, at)]
      ax = axes[line, column]
      widths = [row.factor for row in mine]
      for name in mine[0].sizes:
        style = {'color': 'black', 'lw': 2} if name == 'dist' else {'lw': 0.9}
        ax.loglog(widths, [row.sizes[name] for row in mine], '.-', **style)
      ax.set_xticks(widths, [str(n) for n in widths])
      ax.minorticks_off()
      kind = 'mu-P' if by_width else 'standard'
      ax.set_title(f'{kind}, {at} updates', fontsize=9)
      ax.set_xlabel('width / base', fontsize=8)
      ax.set_ylabel('mean |value|', fontsize=8)
  # One scale, so that a slope is seen as one.
  low = min(ax.get_ylim()[0] for ax in axes.flat)
  high = max(ax.get_ylim()[1] for ax in axes.flat)
  for ax in axes.flat:
    ax.set_ylim(low, high)
  plots.save(figure, path)


if __name__ == '__main__':
  entry.run(main)
