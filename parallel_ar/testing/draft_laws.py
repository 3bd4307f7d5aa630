"""Law 5 for the samplers that draft first and prove then.

A draft may come from a cache, a row, a forecaster: from another program than
the one that defines the sample. Proved, it has the integers of `ancestral` bit
for bit; unproved, it may differ by near ties, and by no more than is repaired.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from parallel_ar import samplers
from parallel_ar.decode import Decode
from parallel_ar.samplers import Sampler, forecasters, path
from parallel_ar.testing import case as cases
from parallel_ar.testing import sampling_laws
from parallel_ar.testing.case import Case, LawBroken


def cached(case: Case, decode: Decode | None = None) -> str:
  """Law 5 for `cached`, and for `gauss_seidel` where there are blocks.

  Args:
    case: the case.
    decode: the path to try; by default the one that `cached` takes.
  """
  model = case.model
  decode = path.choose(model, decode).decode
  size = model.num_positions
  draw = lambda verify: samplers.cached(model, decode, verify=verify)
  steps = size if decode.groups is None else model.depth
  lines = [_drafted(case, 'cached', draw, steps, steps)]
  if decode.blocks is not None:
    draw = lambda verify: samplers.gauss_seidel(model, decode, verify=verify)
    rows = size // decode.blocks.size
    lines.append(_drafted(case, 'gauss_seidel', draw, rows, size))
  return '; '.join(lines)


def window(case: Case) -> str:
  """Law 5 for `window`, in which lanes are retired and refilled.

  With the path that it takes by itself, windows that do not divide the event,
  fewer lanes than keys, and a forecaster, on which the draft does not depend.
  """
  model, rules = case.model, []
  lanes = max(len(case.keys) - 1, 1)
  for name, forecaster, sizes in (
    ('window', None, (2, 3)),
    ('window, last', forecasters.last(model), (3,)),
  ):
    draw = lambda verify, f=forecaster, s=sizes: samplers.window(
      model, forecaster=f, sizes=s, lanes=lanes, verify=verify
    )
    most, unproved = model.num_positions, forecaster is None
    rules.append(_drafted(case, name, draw, 1, most, unproved=unproved))
  return '; '.join(rules)


def speculative(case: Case) -> str:
  """Law 5 for `speculative`, whose draft is the model with other parameters."""
  model = case.model
  other = cases.random_params(model, seed=7)
  pair = dataclasses.replace(case, params=(case.params, other))
  draw = lambda verify: samplers.speculative(
    model, model, window=2, verify=verify
  )
  return _drafted(pair, 'speculative', draw, 1, model.num_positions, own=case)


def forecast(case: Case) -> str:
  """Law 5 for every forecaster that speaks after each pass."""
  model, lines = case.model, []
  for name, make in forecasters.BY_NAME.items():
    try:
      forecaster = make(model)
    except ValueError:
      continue  # it says that it does not fit the model's events
    if forecaster.next is None:
      continue  # the sweep itself; `same_integers` tries it
    draw = lambda verify, f=forecaster: samplers.fixed_point(model, f)
    lines.append(_drafted(case, name, draw, 1, model.depth, unproved=False))
  return '; '.join(lines)


def _drafted(
  case: Case,
  name: str,
  make: Callable[[bool], Sampler],
  least: int,
  most: int,
  unproved: bool = True,
  own: Case | None = None,
) -> str:
  """The law of one sampler.

  Args:
    case: the case.
    name: of the sampler.
    make: verify -> sampler.
    least: steps that it takes at least.
    most: steps that it takes at most.
    unproved: whether `make(False)` is the draft itself, to be tried too.
    own: the case as other samplers take it, where `case` has other params.

  Returns:
    What was measured.
  """
  model, law = case.model, f'Law 5, {name}'
  args = case.params, case.keys, case.context
  own = own or case
  holes = np.random.default_rng(2).random((len(case.keys), *model.rank.shape))
  runs: dict[str, dict[str, Any]] = {
    'drawing': {},
    'in-painting': {'x': case.x, 'known': holes < 0.5},
  }
  ties, taken = 0, 0
  for what, given in runs.items():
    want = np.asarray(
      samplers.ancestral(model)(own.params, *args[1:], **given).x
    )
    proved = make(True)(*args, **given)
    if not np.array_equal(proved.x, want):
      raise LawBroken(
        f'{law}. {case.name}: {cases.difference(what, proved.x, want)}'
      )
    sampling_laws.check_cost(case, law, what, proved)
    steps = np.asarray(proved.info.steps)
    repaired = np.asarray(proved.info.repaired)
    late = np.asarray(proved.info.passes)[repaired == 0]
    if (late != 1).any() or steps.min() < least or steps.max() > most:
      raise LawBroken(
        f'{law}. {case.name}: {what} took {proved.info.passes} passes and '
        f'{steps} steps; a right draft takes one pass after {least} to {most} '
        'steps.'
      )
    taken = max(taken, int(steps.max()))
    if given or not unproved:  # the draft is another program
      continue
    draft = make(False)(*args)
    ties = cases.agree(own, law, 'the unverified draft', want, draft.x)
    wrong = (np.asarray(draft.x) != want).reshape(*holes.shape, -1).any(-1)
    wrong = wrong.reshape(len(want), -1).sum(1)
    if (repaired != wrong).any():
      raise LawBroken(
        f'{law}. {case.name}: {what} reports {repaired} repaired positions, '
        f'but the draft differs in {wrong}.'
      )
  return f'{name} equal in at most {taken} steps{cases.count(ties)}'
