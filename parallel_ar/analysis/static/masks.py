"""What is a masked score after an operation that acts entry by entry."""

import functools
from typing import Any

import numpy as np

from parallel_ar.analysis.static import sets
from parallel_ar.analysis.static.value import HUGE, Value
from parallel_ar.program import uniform

COMPARISONS = frozenset(('eq', 'ge', 'gt', 'le', 'lt', 'ne'))
EXPONENTIALS = frozenset(('exp', 'exp2', 'logistic'))
SAME = tuple('copy copy_p device_put name stop_gradient'.split())
ROUNDED = ('convert_element_type', 'reduce_precision')


def scores(
  eqn: Any, operands: list[Value], lo: Any, hi: Any
) -> tuple[Any, Any, Any, float]:
  """Entries that stay below -HUGE, and that may: scores and their masks.

  A masked score plus one that no mask has touched is masked; a score that may
  be masked leaves what it meets in doubt.

  Returns:
    `low`, `maybe`, `capped` and `scale` of the result, see `Value`.
  """
  name = eqn.primitive.name
  if not any(v.real for v in operands) or name in (
    *EXPONENTIALS,
    *COMPARISONS,
  ):
    return None, None, None, 1.0
  maybe = [uniform.thin(v.is_maybe_low) for v in operands]
  perhaps = functools.reduce(np.logical_or, maybe)
  if not perhaps.any():
    return None, None, None, 1.0
  scale = min(v.scale for v in operands)
  under = [uniform.thin(v.is_capped) for v in operands]
  capped: Any = np.False_
  low = [uniform.thin(v.is_low) for v in operands]
  sound = [
    uniform.thin(v.is_finite) | np.isneginf(v.bounds[0]) for v in operands
  ]
  result: Any = np.False_
  if name in ('add', 'add_any'):
    capped = under[0] & under[1]
    result = (low[0] & under[1] & sound[1]) | (low[1] & under[0] & sound[0])
  elif name == 'sub':
    high = operands[1].bounds[0] >= HUGE
    capped = under[0] & (~maybe[1] | high)
    result = (low[0] & ~maybe[1] & sound[1]) | (high & under[0] & sound[0])
  elif name == 'min':
    result = low[0] | low[1]
    capped = under[0] | under[1]
  elif name == 'max':
    capped = under[0] & under[1]
    result = low[0] & low[1]
    perhaps = (maybe[0] & ~low[0]) | (maybe[1] & ~low[1])
  elif name in (*ROUNDED, *SAME):
    result, capped = low[0], under[0]
  elif name in ('mul', 'div'):
    first, second = 0, 1
    likely = low if low[0].any() or low[1].any() else maybe
    if name == 'mul' and not likely[0].any():
      first, second = 1, 0
    least, most = operands[second].bounds
    with np.errstate(all='ignore'):
      least = least if name == 'mul' else np.where(least > 0, 1 / most, 0)
    keeps = least * scale >= 1e-3
    result = low[first] & keeps
    if result.any():
      scale *= min(1.0, float(np.min(np.where(keeps, least, 1.0))))
    capped = under[first] & (least >= 0)
  perhaps = perhaps & ~((lo > -HUGE) & (hi < HUGE))
  return given(result), given(perhaps | result), given(capped), scale


def larger(operands: list[Value], shape: tuple[int, ...]) -> sets.Sets:
  """What the larger of two reads: no masked score beside one that is not."""
  each = []
  for v, other in (operands, operands[::-1]):
    hidden = uniform.thin(v.is_low) & ~uniform.thin(other.is_maybe_low)
    each.append(sets.without(sets.union([v.reads], shape), hidden))
  return sets.union(each, shape)


def given(a: Any) -> np.ndarray | None:
  """Flags, or None where none is set."""
  return a if a.any() else None
