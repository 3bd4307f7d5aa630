"""Laws 1 to 3: causality, normalisation, one pass equals the oracle."""

import jax
import numpy as np

from parallel_ar import likelihood
from parallel_ar.analysis import causality as audits
from parallel_ar.analysis import static
from parallel_ar.testing import oracles
from parallel_ar.testing.case import Case, LawBroken

log_prob = jax.jit(likelihood.log_prob, static_argnums=0)
sequential = jax.jit(likelihood.sequential_log_prob, static_argnums=0)


def causality(case: Case) -> str:
  """Law 1. No output reads a forbidden input, and what it should read it does.

  The audit changes every position of several events by large finite steps and
  compares bits; see `analysis.causality`.
  """
  audit = audits.audit(
    case.model,
    case.params,
    case.keys[0],
    oracles.row(case.context, 0),
    expected=case.reads,
    num_events=8,
  )
  if audit.leaks or audit.missing or audit.unread:
    raise LawBroken(f'Law 1, causality. {case.name}: {audit.describe()}')
  if case.reads is not None and (audit.matrix != np.asarray(case.reads)).any():
    i, j = np.argwhere(audit.matrix & ~np.asarray(case.reads))[0]
    raise LawBroken(
      f'Law 1, causality. {case.name}: position {i} reads position {j}, which '
      'is allowed by the rank but not expected of this model.'
    )
  return (
    f'{int(audit.matrix.sum())} of {audit.matrix.size} pairs are read, none '
    f'forbidden, in {audit.comparisons} perturbations'
  )


def static_causality(case: Case) -> str:
  """Law 1 again, for every input and all parameters, from the traced program.

  What the static audit cannot decide is no leak; it is counted in the line.
  """
  found = static.check(case.model)
  if found.leaks:
    raise LawBroken(f'Law 1, static. {case.name}: {found.describe()}')
  if case.reads is not None and (np.asarray(case.reads) & ~found.may).any():
    raise LawBroken(
      f'Law 1, static. {case.name}: the static audit has lost pairs that are '
      'read; a rule of `analysis.static` is wrong.'
    )
  return (
    f'{len(found.undecided)} forbidden pairs are undecided, the others are '
    f'proved never to be read ({found.operations} operations)'
  )


def normalisation(case: Case) -> str:
  """Law 2. sum_x p(x) = 1 over all V^D <= 4096 events.

  Each log p(x) carries the rounding of the model's own precision, hence the
  tolerance of the case; they are summed in float64.
  """
  events = oracles.all_events(case.model)
  context = jax.tree.map(
    lambda c: np.repeat(c[:1], len(events), 0), case.context
  )
  nats = np.asarray(log_prob(case.model, case.params, events, context))
  total = float(np.exp(nats.astype(np.float64)).sum())
  if not abs(total - 1) <= case.tolerance:
    raise LawBroken(
      f'Law 2, normalisation. {case.name}: the probabilities of all '
      f'{len(events)} events sum to {total:.8f}, not 1. Either a conditional '
      'is not normalised (check the head), or one reads its own future.'
    )
  return f'{len(events)} events sum to 1 {total - 1:+.1e}'


def one_pass(case: Case) -> str:
  """Law 3. One pass equals the oracle that is fed one rank after another."""
  args = case.model, case.params, case.x, case.context
  one = np.asarray(log_prob(*args), np.float64)
  many = np.asarray(sequential(*args), np.float64)
  scale = np.abs(many).max() + case.model.num_positions
  worst = float(np.abs(one - many).max())
  if not worst <= case.tolerance * scale:
    b = int(np.abs(one - many).argmax())
    raise LawBroken(
      f'Law 3, one pass. {case.name}: example {b} has {one[b]:.6f} nats in one '
      f'pass, but {many[b]:.6f} when ranks are fed one after another. The '
      'difference is what it learns from its own future.'
    )
  return f'{worst:.1e} nats apart from the sequential oracle'
