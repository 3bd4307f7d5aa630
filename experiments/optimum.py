"""How far a model is from the optimum, on sources whose law is known.

  ./run.sh optimum --png=runs/optimum.png
  ./run.sh optimum --configs=my_config.py --field=features --sizes=16,64

For every config, whose data must be a source of known log-probability (markov,
lattice, mixture), trains its model on N examples at every size, chooses the
best step by N / 4 more, and measures KL(source || model): by enumeration of all
events where there are few, else as the mean of log p_source(x) - log p_model(x)
over --test samples. Fits KL(N) = floor + scale N^-exponent for every size. On a
Markov chain the counts of pairs, an efficient estimator of d parameters, and
its law d / (2 N) stand beside it. Then encodes --coded test samples with the
largest model of the most examples, and says where every bit of the file is:
entropy, KL, and what the codec adds.
"""

import dataclasses
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments import entry, fitting, options, plots
from experiments.tables import report
from parallel_ar import coding
from parallel_ar.analysis import optimum
from parallel_ar.data import dataset, exact, synthetic
from parallel_ar.training import configuration, datasets

_CONFIGS = flags.DEFINE_list(
  'configs',
  [
    'configs/markov_transformer.py',
    'configs/lattice_gated_pixelcnn.py',
    'configs/mixture_transformer.py',
  ],
  'Config files, each with a source of known log-probability.',
)
_COUNTS = options.define_numbers(
  'counts', [64, 256, 1024, 4096, 16384], 'Training examples N.'
)
_FIELD = flags.DEFINE_string(
  'field', 'features', 'Field of config.model that sets the size.'
)
_SIZES = options.define_numbers('sizes', [4, 8, 16], 'Values of that field.')
_STEPS = flags.DEFINE_integer('steps', 600, 'Updates a run.', lower_bound=1)
_EVERY = flags.DEFINE_integer(
  'every', 50, 'Updates between validations.', lower_bound=1
)
_TEST = flags.DEFINE_integer(
  'test',
  10_000,
  'Test samples, where events are not enumerated.',
  lower_bound=2,
)
_CODED = flags.DEFINE_integer(
  'coded', 1000, 'Test samples in the file.', lower_bound=2
)
_DRAWS = flags.DEFINE_integer(
  'draws', 50, 'Sets of N sequences for the counted chain.', lower_bound=2
)
_FULL = flags.DEFINE_bool(
  'full', False, 'N to 65,536, size 32 too, and 3,000 updates.'
)
_PNG = options.define_output('png', 'Draw the curves here.', options.PICTURES)
_OUT = options.define_output('out', 'Write the result here, as JSON.')

_BITS = 1 / np.log(2)
_ENUMERATED = 1 << 16  # events at most whose KL is a sum over all


class Point(NamedTuple):
  """What N examples at one size reached."""

  parameters: int
  kl: optimum.Divergence
  model: Any
  params: Any


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  counts = _COUNTS.value
  sizes = _SIZES.value
  steps = _STEPS.value
  if _FULL.value:
    counts, sizes, steps = [*counts, 65_536], [*sizes, 32], 3000
  numbers: report.Numbers = {}
  configs, curves, accounts = {}, {}, {}
  for path in _CONFIGS.value:
    name = pathlib.Path(path).stem
    config = configs[name] = fitting.read(path)
    law = law_of(config)
    curves[name] = curve(config, law, counts, sizes, steps)
    tell_curve(name, law, curves[name], numbers)
    tell_fits(name, curves[name], numbers)
    if isinstance(law, synthetic.MarkovChain):
      tell_counted(name, law, counts, numbers)
    best = curves[name][max(sizes), max(counts)]
    accounts[name] = tell_account(name, config, law, best, numbers)
  if _PNG.value:
    draw(curves, accounts, numbers, _PNG.value)
    print(f'\npicture: {_PNG.value}')
  report.save(
    _OUT.value,
    numbers,
    {name: configuration.to_json(c) for name, c in configs.items()},
    started,
    steps=steps,
    counts=counts,
    field=_FIELD.value,
    sizes=sizes,
  )


def law_of(config: ConfigDict) -> exact.Law:
  """The law of a config's source."""
  options = dict(config.data)
  for field in ('train_split', 'valid_split'):
    options.pop(field)
  return exact.law(**options)


def split(config: ConfigDict, name: str, count: int) -> dataset.Dataset:
  """`count` examples of a split."""
  config = config.copy_and_resolve_references()
  config.data.num_examples = count
  return datasets.load_split(config, name)


def entropy_of(law: exact.Law) -> tuple[float, str]:
  """H in nats, and where it is from."""
  try:
    return law.entropy, 'exact'
  except ValueError:  # a mixture of too many events to sum over
    return -float(law.log_prob(law.sample(_TEST.value, 0)).mean()), 'sampled'


def curve(
  config: ConfigDict,
  law: exact.Law,
  counts: list[int],
  sizes: list[int],
  steps: int,
) -> dict[tuple[int, int], Point]:
  """KL by size and number of examples."""
  found = {}
  test = split(config, 'test', _TEST.value)
  flat = test.num_values ** int(np.prod(test.event))
  whole = flat <= _ENUMERATED
  if whole:
    events = synthetic.enumerate_events(test.num_values, test.event)
    test = dataclasses.replace(test, x=events)
  log_p = law.log_prob(test.x)
  for size in sizes:
    sized = config.copy_and_resolve_references()
    sized.model[_FIELD.value] = size
    fit = fitting.Fit(sized, steps)
    for n in counts:
      valid = split(config, 'valid', -(-n // 4))
      params = fit.train(split(config, 'train', n), valid, _EVERY.value)
      log_q = -fit.nats(params, test)
      kl = (optimum.enumerated if whole else optimum.paired)(log_p, log_q)
      found[size, n] = Point(fit.parameters, kl, fit.model, params)
  return found


def tell_curve(
  name: str,
  law: exact.Law,
  found: dict[tuple[int, int], Point],
  numbers: report.Numbers,
) -> None:
  """Prints KL."""
  how = next(iter(found.values())).kl.how
  entropy, source = entropy_of(law)
  print(f'\n{name}: entropy {entropy:.4f} nats ({source}), KL by {how}\n')
  print('| size | parameters | N | KL, nats | error | unpaired |')
  print('|--:|--:|--:|--:|--:|--:|')
  numbers[f'{name}: entropy'] = entropy, 'nats'
  for (size, n), point in found.items():
    kl = point.kl
    exactly = kl.how == 'enumeration'
    errors = '| | |'
    if not exactly:
      errors = f'| {kl.standard_error:.4f} | {kl.unpaired_error:.4f} |'
    print(f'| {size} | {point.parameters:,} | {n:,} | {kl.nats:.4f} {errors}')
    numbers |= {
      f'{name}, size {size}, N {n}: KL': (kl.nats, 'nats'),
      f'{name}, size {size}, N {n}: error': (kl.standard_error, 'nats'),
      f'{name}, size {size}: parameters': (point.parameters, 'parameters'),
    }
    if not exactly:
      numbers[f'{name}, size {size}, N {n}: unpaired error'] = (
        kl.unpaired_error,
        'nats',
      )


def tell_fits(
  name: str, found: dict[tuple[int, int], Point], numbers: report.Numbers
) -> None:
  """Prints the power laws."""
  print('\n| size | floor | estimation at the most N | exponent | fit off by |')
  print('|--:|--:|--:|--:|--:|')
  for size in dict.fromkeys(size for size, _ in found):
    n = np.array([n for s, n in found if s == size])
    kl = np.array([found[size, int(k)].kl.nats for k in n])
    if len(n) < 3 or kl.min() <= 0:
      continue
    fit = optimum.fit_power_law(n, kl)
    last = float(fit.estimation(n.max()))
    off = float(np.exp(fit.error))
    print(
      f'| {size} | {fit.floor:.4f} | {last:.4f} | {fit.exponent:.2f} '
      f'| {off:.2f} |'
    )
    numbers |= {
      f'{name}, size {size}: floor': (fit.floor, 'nats'),
      f'{name}, size {size}: scale': (fit.scale, 'nats'),
      f'{name}, size {size}: exponent': (fit.exponent, '1'),
      f'{name}, size {size}: fit off by': (off, '1'),
    }


def tell_counted(
  name: str,
  law: synthetic.MarkovChain,
  counts: list[int],
  numbers: report.Numbers,
) -> None:
  """Prints the efficient estimator beside its law."""
  values = len(law.transition)
  d = values * (values - 1)
  print(f'\nCounts of pairs, d = {d}, mean of {_DRAWS.value} draws:\n')
  print('| N | KL, nats | error | d / (2 N) | ratio |')
  print('|--:|--:|--:|--:|--:|')
  for n in counts:
    each = np.array(
      [
        optimum.chain_divergence(
          law, optimum.counted_chain(law.sample(n, 1000 + k), values)
        )
        for k in range(_DRAWS.value)
      ]
    )
    mean, expected = float(each.mean()), float(optimum.efficient(d, n))
    error = float(each.std(ddof=1) / np.sqrt(len(each)))
    print(
      f'| {n:,} | {mean:.5f} | {error:.5f} | {expected:.5f} '
      f'| {mean / expected:.2f} |'
    )
    numbers |= {
      f'{name}, counted, N {n}: KL': (mean, 'nats'),
      f'{name}, counted, N {n}: error': (error, 'nats'),
      f'{name}, counted, N {n}: d / (2 N)': (expected, 'nats'),
    }


def tell_account(
  name: str,
  config: ConfigDict,
  law: exact.Law,
  best: Point,
  numbers: report.Numbers,
) -> dict[str, float]:
  """Encodes test samples, and prints where the bits of an example are."""
  x = split(config, 'test', _CODED.value).x
  pair = coding.codec(best.model, method='lanes', batch=1, verify=False)
  data = pair.encode(best.params, x)
  decoded = pair.decode(best.params, data)
  different = int((decoded.x != x).sum())
  bill = coding.account(best.model, best.params, data, x)
  own = -float(law.log_prob(x).sum()) * _BITS
  entropy = entropy_of(law)[0] * _BITS * len(x)
  parts = {
    'entropy of the source': entropy,
    'these samples, -log2 p less the entropy': own - entropy,
    'KL on these samples, log2 p/q': bill.model - own,
    'whole frequencies': bill.frequencies,
    'header': bill.header,
    'ends of the lanes': bill.ends,
    'arithmetic of the coder': bill.coder,
  }
  parts = {part: bits / len(x) for part, bits in parts.items()}
  total = bill.total / len(x)
  print(
    f'\n{len(x)} test samples in a file of {len(data):,} bytes; {different} '
    'integers differ when it is decoded.\n'
  )
  print('| part | bits an example |\n|---|--:|')
  for part, bits in parts.items():
    print(f'| {part} | {bits:.4f} |')
    numbers[f'{name}, file: {part}'] = bits, 'bits'
  print(f'| sum | {sum(parts.values()):.4f} |\n| the file | {total:.4f} |')
  print(f'\nKL over the test: {best.kl.nats * _BITS:.4f} bits an example.')
  numbers |= {
    f'{name}, file: size': (total, 'bits'),
    f'{name}, file: KL over the test': (best.kl.nats * _BITS, 'bits'),
    f'{name}, file: different': (different, 'integers'),
  }
  return parts


def draw(
  curves: dict[str, dict[tuple[int, int], Point]],
  accounts: dict[str, dict[str, float]],
  numbers: report.Numbers,
  path: str,
) -> None:
  """KL against N for each source, and the file beside."""
  made, axes = plots.figure(len(curves) + 1)
  of = lambda key: numbers[key][0]
  for ax, (name, found) in zip(axes[0], curves.items(), strict=False):
    for size in dict.fromkeys(size for size, _ in found):
      n = np.array([n for s, n in found if s == size])
      kl = np.array([found[size, int(k)].kl.nats for k in n])
      count = found[size, int(n[0])].parameters
      (line,) = ax.loglog(n, kl, 'o', label=f'{count:,} parameters')
      key = f'{name}, size {size}'
      if f'{key}: floor' in numbers:
        fine = np.geomspace(n.min(), n.max())
        fit = of(f'{key}: scale') * fine ** -of(f'{key}: exponent')
        ax.loglog(fine, of(f'{key}: floor') + fit, color=line.get_color())
    counted = f'{name}, counted, N {n[0]}: KL'
    if counted in numbers:
      for what, style in (('KL', 'ks'), ('d / (2 N)', 'k--')):
        each = [of(f'{name}, counted, N {k}: {what}') for k in n]
        label = 'counts of pairs' if what == 'KL' else what
        ax.loglog(n, each, style, label=label)
    ax.set(xlabel='training examples N', ylabel='KL, nats', title=name)
    ax.legend(fontsize='small')
  last = axes[0, -1]
  base = dict.fromkeys(accounts, 0.0)
  for part in list(next(iter(accounts.values())))[2:]:  # beyond -log2 p
    bits = [accounts[name][part] for name in accounts]
    last.bar(list(accounts), bits, bottom=list(base.values()), label=part)
    base = {
      name: base[name] + b for name, b in zip(accounts, bits, strict=True)
    }
  last.set(ylabel='bits an example', title='the file, beyond the source')
  last.tick_params('x', labelrotation=20)
  last.legend(fontsize='x-small')
  plots.save(made, path)


if __name__ == '__main__':
  entry.run(main)
