"""Law 9: what comes in is right, or refused."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from parallel_ar import likelihood, samplers
from parallel_ar.testing import likelihood_laws
from parallel_ar.testing.case import Case, LawBroken
from parallel_ar.types import Labels


def refusals(case: Case) -> str:
  """Law 9, doors. A wrong argument is refused, or gives nan under jit.

  Refused are events, contexts, keys and parameters of a wrong shape, kind or
  range. Inside the compiled likelihood of law 3, where a value cannot be looked
  at, what is no symbol or no label makes its own example nan, and no other. No
  examples have no likelihoods.
  """
  for what, call in _wrong(case).items():
    try:
      got = call()
    except ValueError:
      continue
    raise LawBroken(f'Law 9, doors. {case.name}: {what} gives {got}.')
  args = case.model, case.params
  good = np.asarray(likelihood_laws.log_prob(*args, case.x, case.context))
  strange = list(_strange(case))
  for what, x, context in strange:
    got = np.asarray(likelihood_laws.log_prob(*args, x, context))
    if not np.isnan(got[0]) or (got[1:] != good[1:]).any():
      raise LawBroken(
        f'Law 9, doors. {case.name}: {what} in example 0 under jit gives {got} '
        f'where good events give {good}; expected nan for that example only.'
      )
  cut = jax.tree.map(lambda a: a[:0], (case.x, case.context))
  none = jax.eval_shape(lambda: likelihood.log_prob(*args, *cut))
  if none.shape != (0,):
    raise LawBroken(
      f'Law 9, doors. {case.name}: no examples give the shape {none.shape}.'
    )
  return (
    f'{len(_wrong(case))} wrong arguments are refused, {len(strange)} strange '
    'values give nan under jit'
  )


def _wrong(case: Case) -> dict[str, Any]:
  model, params, x, context = case.model, case.params, case.x, case.context
  score = lambda x, context=context: likelihood.log_prob(
    model, params, x, context
  )
  draw: Callable[..., Any] = samplers.ancestral(model)
  given = lambda x: draw(
    params, case.keys, context, x=x, known=np.ones((len(x), *model.rank.shape))
  )
  found = {
    'an event without a batch axis': lambda: score(x[0]),
    'an event of another shape': lambda: score(np.concatenate([x, x], -1)),
    'an event of bool': lambda: score(x.astype(bool)),
    'known values without a mask of bool': lambda: given(x),
    'a seed for keys': lambda: draw(params, 0, context),
    'one key': lambda: draw(params, case.keys[0], context),
    'no keys': lambda: draw(params, case.keys[:0], context),
    'another context': lambda: score(x, np.zeros((len(x), 17, 1))),
  }
  for what, strange, labels in _strange(case):
    found[what] = functools.partial(score, strange, labels)
  if model.head.num_values is not None:
    found['an event of floats'] = lambda: score(x.astype(np.float32))
  if jax.tree.leaves(params):
    nan = jax.tree.map(lambda a: np.full(a.shape, np.nan), params)
    found['parameters of nan'] = lambda: draw(nan, case.keys, context)
  if context is not None:
    fewer = jax.tree.map(lambda c: c[1:], context)
    found['a context of fewer examples'] = lambda: score(x, fewer)
    found['no context'] = lambda: score(x, None)
  return found


def _strange(case: Case) -> Any:
  """(what, x, context) with one value in example 0 that is none."""
  num_values = case.model.head.num_values
  if num_values is not None:
    for value in (-1, num_values):
      x = case.x.copy()
      x[0].reshape(-1)[-1] = value
      if x[0].reshape(-1)[-1] == value:  # uint8 has no -1
        yield f'the value {value}', x, case.context
  spec = case.model.context
  if isinstance(spec, Labels):
    for label in (-1, spec.num_classes):
      context = np.asarray(case.context).copy()
      context[0] = label
      yield f'the label {label}', case.x, context
