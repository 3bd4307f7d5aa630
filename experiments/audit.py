"""Audits which inputs each output reads, of a model of the house or your own.

  ./run.sh audit --model=examples.my_model:model --png=runs/audit.png
  ./run.sh audit --config=configs/digits_made.py --events=4
  ./run.sh audit --gallery

--model names a record of `parallel_ar.from_function`, or a function without
arguments that makes one; --config a model of the house, in the file's size, or
with --workdir the trained one. Two audits are printed: by perturbation (bit for
bit, on these parameters) and static (a proof from the traced program, for every
input, which names the operation of a leak). Exit code 1 where there is a leak.
--gallery trains models that are wrong on purpose and prints the likelihood that
each reports beside the true one.
"""

import sys
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import entry, options, plots
from experiments.tables import report
from parallel_ar import describe, likelihood, models, resolve
from parallel_ar.analysis import causality, receptive, static
from parallel_ar.data import synthetic
from parallel_ar.model import AutoregressiveModel
from parallel_ar.testing import case as cases
from parallel_ar.testing import entropy_laws, leaks
from parallel_ar.training import trained

_MODEL = flags.DEFINE_string('model', None, 'my.module:name, see above.')
_CONFIG = options.define_config(
  'config', None, 'Config file; --config.model.field=value overrides it.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of a trained run.')
_GALLERY = flags.DEFINE_bool('gallery', False, 'The planted leaks instead.')
_LEAKS = flags.DEFINE_list(
  'leaks', [], 'Only these planted leaks, by name; all by default.'
)
_STEPS = flags.DEFINE_integer(
  'steps', 300, 'Training steps of a planted leak.', lower_bound=1
)
_FULL = flags.DEFINE_bool(
  'full', False, 'Ten times the steps and test events of --gallery.'
)
_EVENTS = flags.DEFINE_integer(
  'events', 2, 'Random events that are perturbed.', lower_bound=1
)
_VALUES = flags.DEFINE_integer(
  'values', 3, 'Values tried at each position.', lower_bound=1
)
_STATIC = flags.DEFINE_bool('static', True, 'Also the static audit.')
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Seed of all that is random.', lower_bound=0
)
_PNG = options.define_output(
  'png', 'Draw the matrix and the fields here.', options.PICTURES
)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  if _GALLERY.value:
    gallery()
    return
  started = time.monotonic()
  model, params, context = subject()
  print(describe(model))
  measured = causality.audit(
    model,
    params,
    jax.random.key(_SEED.value),
    context,
    num_events=_EVENTS.value,
    num_values=_VALUES.value,
  )
  print(f'\nby perturbation: {measured.describe()}')
  numbers: report.Numbers = {
    'allowed pairs': (int(causality.predecessors(model.rank).sum()), 'pairs'),
    'read': (int(measured.matrix.sum()), 'pairs'),
    'leaks': (len(measured.leaks), 'pairs'),
    'perturbations': (measured.comparisons, 'events'),
  }
  details: dict[str, Any] = {'model': describe(model)}
  details['by perturbation'] = measured.describe()
  leaking = bool(measured.leaks)
  if _STATIC.value:
    proof = static.check(model)
    print(f'\nstatic, {proof.seconds:.1f} s: {proof.describe()}')
    for finding in proof.findings:
      print(
        f'\nthe way of input {finding.pair[1]} to output {finding.pair[0]}:'
      )
      for place in finding.path:
        print(f'  {place}{f", +{place.joined} more" if place.joined else ""}')
    numbers |= {
      'static: leaks': (len(proof.leaks), 'pairs'),
      'static: undecided': (len(proof.undecided), 'pairs'),
      'static: may be read': (int(proof.may.sum()), 'pairs'),
      'static: read and not seen': (
        int((measured.matrix & ~proof.may).sum()),
        'pairs',
      ),
    }
    details['static'] = proof.describe()
    leaking = leaking or bool(proof.leaks)
  found = receptive.fields(measured.matrix, model.rank)
  print(f'\n{receptive.describe(found, model.rank.shape)}')
  if _PNG.value:
    draw(model, found, _PNG.value)
    print(f'picture: {_PNG.value}')
  report.save(_OUT.value, numbers, {}, started, **details)
  if leaking:
    sys.exit(1)


def subject() -> tuple[AutoregressiveModel, Any, Any]:
  """The model, its parameters and the context of one example."""
  if _WORKDIR.value is not None:
    run = trained.load(_WORKDIR.value)
    case = cases.make_case(run.models[0], params=run.params)
  elif _CONFIG.value is not None:
    case = cases.make_case(
      models.build(_CONFIG.value.model)[0], seed=_SEED.value
    )
  else:
    case = cases.make_case(_load(entry.require(_MODEL)), seed=_SEED.value)
  context = jax.tree.map(lambda leaf: leaf[0], case.context)
  return case.model, case.params, context


def _load(name: str) -> AutoregressiveModel:
  """The model that 'my.module:name' stands for."""
  if not resolve.is_own(name):
    raise ValueError(
      f'--model={name}: name a module and what it holds, as in '
      'my.module:model, where my/module.py is found from here; or a model of '
      'the house by --config.'
    )
  return models.build({'name': name})[0]


def draw(
  model: AutoregressiveModel, found: receptive.Fields, path: str
) -> None:
  """The matrix in generation order, and the receptive field by offset."""
  from matplotlib import colors

  made, axes = plots.figure(2, size=4.6)
  names = ['neither', 'reads and may not: leak', 'may and does not', 'reads']
  shades = ['#f2f2f2', '#d62728', '#ffdd71', '#1f77b4']
  left, right = axes[0]
  left.imshow(
    found.kinds,
    cmap=colors.ListedColormap(shades),
    vmin=-0.5,
    vmax=3.5,
    interpolation='nearest',
  )
  left.set(
    title=f'{model.name}: who reads whom, in generation order',
    xlabel='input',
    ylabel='output',
  )
  for name, shade in zip(names, shades, strict=True):
    left.plot([], [], 's', color=shade, label=name)
  left.legend(loc='upper right', fontsize=7)
  share = found.share
  while share.ndim > 2:  # over channels; nan where none is allowed
    count = np.isfinite(share).sum(-1)
    share = np.nansum(share, -1) / np.where(count, count, np.nan)
  title = 'share of allowed pairs that are read'
  if share.ndim == 1:
    middle = len(share) // 2
    right.plot(np.arange(len(share)) - middle, share, '.')
    right.set(xlabel='input - output', title=title, ylim=(-0.05, 1.05))
  else:
    h, w = (n // 2 for n in share.shape)
    image = right.imshow(
      share,
      vmin=0,
      vmax=1,
      extent=(-w - 0.5, w + 0.5, h + 0.5, -h - 0.5),
      interpolation='nearest',
    )
    right.set(xlabel='columns', ylabel='rows: input - output', title=title)
    made.colorbar(image, ax=right)
  plots.save(made, path)


def gallery() -> None:
  """The planted leaks: what they report, what is true, who catches them."""
  started = time.monotonic()
  numbers: report.Numbers = {}
  planted = _planted()
  source = synthetic.MarkovChain.random(2, 6, seed=_SEED.value)
  steps, count = _STEPS.value, 20_000
  if _FULL.value:
    steps, count = 10 * steps, 10 * count
  x = source.sample(count, _SEED.value + 1)
  exact = source.log_prob(x)
  print(
    f'Trained on a Markov chain of {source.entropy:.4f} nats, '
    f'{steps} steps; {len(x)} test events.\n'
  )
  print(
    '| leak | reports, nats | true | pairs | proved | doubted | operation |'
  )
  print('|---|--:|--:|--:|--:|--:|---|')
  caught, proved, named = 0, 0, {}
  for leak in planted:
    model = leak.build()
    params = entropy_laws.fit(model, source, steps, 256, 1e-2, 0)
    events = x.reshape(-1, *model.event.shape).astype(np.int32)

    false = source.entropy + _above(
      likelihood.log_prob, model, params, events, exact
    )
    true = source.entropy + _above(
      likelihood.sequential_log_prob, model, params, events, exact
    )
    measured, proof, agree = _both_audits(leak, model)
    caught += agree
    proved += bool(proof.leaks)
    suspect = proof.findings[0].suspect if proof.findings else None
    named[leak.name] = str(suspect)
    print(
      f'| {leak.name} | {false:.4f} | {true:.4f} | {len(measured.leaks)} '
      f'| {len(proof.leaks)} | {len(proof.undecided)} | {suspect} |'
    )
    numbers |= {
      f'{leak.name}: reports': (false, 'nats'),
      f'{leak.name}: true': (true, 'nats'),
      f'{leak.name}: pairs': (len(measured.leaks), 'pairs'),
      f'{leak.name}: proved': (len(proof.leaks), 'pairs'),
      f'{leak.name}: doubted': (len(proof.undecided), 'pairs'),
    }
  print(
    f'\nBoth audits catch {caught} of {len(planted)}: {proved} are proved to '
    f'leak, {len(planted) - proved} cannot be decided.'
  )
  numbers['entropy'] = source.entropy, 'nats'
  numbers['planted'] = len(planted), 'leaks'
  numbers['caught by both'] = caught, 'leaks'
  numbers['proved to leak'] = proved, 'leaks'
  if _PNG.value:
    names = [leak.name for leak in planted]
    draw_gallery(numbers, names, source.entropy, _PNG.value)
  config = {'steps': steps}
  report.save(_OUT.value, numbers, config, started, operations=named)


def _planted() -> list[leaks.Leak]:
  """The planted leaks that --leaks names."""
  known = {leak.name: leak for leak in leaks.GALLERY}
  if unknown := set(_LEAKS.value) - set(known):
    raise ValueError(
      f'--leaks={",".join(sorted(unknown))}: the planted leaks are '
      f'{", ".join(known)}.'
    )
  return [known[name] for name in _LEAKS.value or known]


def _both_audits(
  leak: leaks.Leak, model: AutoregressiveModel
) -> tuple[causality.Audit, static.Static, bool]:
  """What each audit finds, and whether both find what there is."""
  params = cases.make_case(model).params
  measured = causality.audit(model, params, jax.random.key(_SEED.value))
  proof = static.check(model)
  told = proof.leaks if leak.certain else proof.undecided
  agree = {leak.pair, *measured.leaks} <= set(told)
  return measured, proof, agree and leak.pair in measured.leaks


def draw_gallery(
  numbers: report.Numbers, names: list[str], entropy: float, path: str
) -> None:
  """What every leak reports and what is true, beside the entropy."""
  made, axes = plots.figure(1, size=7.0)
  axis = axes[0, 0]
  at = np.arange(len(names))
  for shift, what in ((-0.2, 'reports'), (0.2, 'true')):
    nats = [numbers[f'{name}: {what}'][0] for name in names]
    axis.barh(at + shift, nats, 0.4, label=what)
  axis.axvline(entropy, color='black', label='entropy, the best possible')
  axis.set_yticks(at, [name.replace('_', ' ') for name in names])
  axis.invert_yaxis()
  axis.set_xlabel('nats')
  made.legend(loc='outside upper center', ncols=3)
  plots.save(made, path)


def _above(
  function: Any, model: Any, params: Any, events: np.ndarray, exact: np.ndarray
) -> float:
  """Mean of -log q(x) + log p(x), nats."""
  program = jax.jit(lambda x: function(model, params, x))
  return float((exact - np.asarray(program(events), np.float64)).mean())


if __name__ == '__main__':
  entry.run(main)
