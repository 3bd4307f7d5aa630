"""The domain of the audit: a walk over what is known of the arrays.

See `program.walk`; the rules stand in the modules beside this one.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parallel_ar.analysis.static import (
  elementwise,
  frames,
  lookups,
  mixing,
  movement,
  products,
  sets,
  spectral,
)
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.value import Value
from parallel_ar.program import equations, uniform, walk

_STEPS = 20_000  # operations of a loop that is laid out step by step

RULES: dict[str, walk.Rule[Value]] = {
  'broadcast_in_dim': movement.broadcast_in_dim,
  'concatenate': movement.concatenate,
  'conv_general_dilated': products.convolve,
  'dot_general': products.dot_general,
  'dynamic_slice': lookups.dynamic_slice,
  'dynamic_update_slice': lookups.dynamic_update_slice,
  'expand_dims': movement.reshape,
  'fft': spectral.transform,
  'gather': lookups.gather,
  'pad': movement.pad,
  'reshape': movement.reshape,
  'rev': movement.rev,
  'select_n': movement.select_n,
  'slice': movement.slice_,
  'sort': mixing.sort,
  'split': movement.split,
  'squeeze': movement.reshape,
  'stack': movement.stack,
  'top_k': mixing.top_k,
  'tile': movement.tile,
  'transpose': movement.transpose,
  'unstack': movement.unstack,
  **dict.fromkeys(elementwise.NAMES, elementwise.rule),
  **dict.fromkeys(mixing.REDUCTIONS, mixing.reduce),
  **dict.fromkeys(mixing.CUMULATIVE, mixing.cumulate),
  **dict.fromkeys(
    ('scatter', 'scatter-add', 'scatter-mul', 'scatter-min', 'scatter-max'),
    lookups.scatter,
  ),
  **dict.fromkeys(
    ('reduce_window_sum', 'reduce_window_max', 'reduce_window_min'),
    mixing.window,
  ),
  **dict.fromkeys(
    (
      'random_bits',
      'random_fold_in',
      'random_seed',
      'random_split',
      'random_unwrap',
      'random_wrap',
      'random_clone',
      'platform_index',
    ),
    mixing.of_keys,
  ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
  """One operation that was run, and the call of JAX's own that it is in."""

  eqn: Any
  operands: list[Value]
  results: list[Value]
  outer: Any = None


class Reads(walk.Domain[Value]):
  """What may be read; keeps the steps if asked, and what it had no rule for."""

  rules = RULES
  laid_out = _STEPS

  def __init__(self, keep: bool = False):
    super().__init__()
    self.steps: list[Step] | None = [] if keep else None
    self.without_rule: set[str] = set()
    self.operations = 0
    self.told: sets.Sets = None  # what operations with effects have read

  def constant(self, number: Any) -> Value:
    """A known array, or a random key, of which nothing is known."""
    if values.kind(getattr(number, 'dtype', None)) == 'k':
      return Value(tuple(number.shape), number.dtype)
    return values.of_constant(number)

  def operation(self, eqn: Any, operands: list[Value]) -> list[Value]:
    """The rule of an operation, or the coarse one where there is none."""
    results = apply(eqn, operands, self.without_rule)
    if eqn.effects:  # it may have been written by one, and read by another
      told = sets.spread(operands, False)
      self.told = sets.union([self.told, told], ())
      results = [
        dataclasses.replace(
          v,
          reads=sets.union(
            [v.reads, sets.everywhere(self.told, v.shape)], v.shape
          ),
        )
        for v in results
      ]
    return self._recorded(eqn, operands, results)

  def number(self, v: Value) -> int | None:
    """What is known of a predicate."""
    return int(v.value) if v.constant and v.value is not None else None

  def join(
    self,
    eqn: Any,
    operands: list[Value],
    branches: Sequence[Callable[[], list[Value]]],
  ) -> list[Value]:
    """Any of the branches, and what chooses between them."""
    which, results = operands[0], []
    each = [branch() for branch in branches]
    for var, *options in zip(eqn.outvars, *each, strict=True):
      out = values.join(var.aval, options)
      extra = sets.everywhere(sets.spread([which], True), out.shape)
      reads = sets.union([out.reads, extra], out.shape)
      reads = sets.without(reads, out.is_known)  # which no branch changes
      results.append(dataclasses.replace(out, reads=reads))
    return self._recorded(eqn, [which, *(v for e in each for v in e)], results)

  def item(self, eqn: Any, series: Value, n: int) -> Value:
    """Item n."""
    row = Value(series.shape[1:], series.dtype)
    item = movement.moved(row, [series], lambda a: a[n])
    return self._recorded(eqn, [series], [item])[0]

  def stack(self, eqn: Any, var: Any, items: list[Value]) -> Value:
    """The items, one after another."""
    if items:
      whole = movement.moved(var.aval, items, lambda *x: np.stack(x))
    else:
      whole = values.of_aval(var.aval)
    return self._recorded(eqn, items, [whole])[0]

  def settle(self, loop: walk.Loop[Value]) -> list[Value]:
    """A loop run until its carry rests, of items that may be any."""
    keep, self.steps, count = self.steps, None, self.operations
    items = [_any_item(v) for v in loop.series]
    carry, rest = walk.fixed_point(loop, items, _wider)
    self.steps, self.operations = keep, count
    length = loop.length
    if length is None:
      results = [_unless(v, rest[0]) for v in carry]
      return self._recorded(loop.eqn, [*carry, *rest], results)
    series = [
      movement.moved(
        var.aval, [v], lambda a: np.broadcast_to(a, (length, *a.shape))
      )
      for var, v in zip(loop.eqn.outvars[len(carry) :], rest, strict=True)
    ]
    return self._recorded(loop.eqn, loop.operands, [*carry, *series])

  def _recorded(
    self, eqn: Any, operands: list[Value], results: list[Value]
  ) -> list[Value]:
    """The results, after keeping the step.

    JAX traces its own functions once, so the lines inside them are those of
    their first caller: what counts is the line of the call.
    """
    self.operations += 1
    derived = values.derived_of(operands)
    if derived is not None:
      results = [
        v if v.derived is not None else dataclasses.replace(v, derived=derived)
        for v in results
      ]
    if self.steps is not None:
      outer = next(filter(_of_framework, self.calls), None)
      self.steps.append(Step(eqn, list(operands), list(results), outer))
    return results


def _of_framework(call: Any) -> bool:
  body = equations.opened(equations.called(call))
  source = str(getattr(body.debug_info, 'func_src_info', None))
  return frames.of_framework(source.rpartition(' at ')[2].rpartition(':')[0])


def apply(
  eqn: Any, operands: list[Value], without_rule: set[str]
) -> list[Value]:
  """The rule of an operation, or the coarse one where there is none."""
  rule = RULES.get(eqn.primitive.name)
  if rule is not None:
    try:
      if any(v.linear is not None for v in operands):
        if (found := spectral.affine(eqn, operands)) is not None:
          return found
      return rule(eqn, operands)
    except Exception:  # UnknownForm, or a bug of the rule: stay sound
      pass
  results = mixing.unknown(eqn, operands)
  if not all(v.constant for v in results):
    without_rule.add(eqn.primitive.name)
  return results


def _any_item(v: Value) -> Value:
  """One item of a series, whichever it is."""
  reads = None if v.reads is None else sets.gathered(v.reads, 0)
  fields: dict[str, Any] = {}
  if v.shape[0]:
    along = lambda op, a: uniform.reduced(op, uniform.wide(a, v.shape), 0)
    fields['lo'] = along(np.minimum, v.bounds[0])
    fields['hi'] = along(np.maximum, v.bounds[1])
    if v.real:
      fields['maybe'] = along(np.logical_or, v.is_maybe_low)
  fields |= {'derived': v.derived, 'selects': v.selects}
  return Value(v.shape[1:], v.dtype, reads=reads, **fields)


def _alike(a: Any, b: Any) -> bool:
  return bool(np.all((a == b) | (np.isnan(a) & np.isnan(b))))


def _wider(before: Value, after: Value) -> tuple[Value, bool]:
  """What holds of both; bounds that still move are dropped, to come to rest."""
  joined = values.join(before, [before, after])
  pairs = zip(before.bounds, joined.bounds, strict=True)
  if not all(_alike(a, b) for a, b in pairs):
    joined = dataclasses.replace(joined, lo=None, hi=None)
  if joined.scale < before.scale < 1:  # a mask that each turn makes smaller
    joined = dataclasses.replace(joined, low=None, capped=None)
  return joined, _equal(before, joined)


def _unless(v: Value, again: Value) -> Value:
  """What a loop ends with, whose end depends on a test."""
  extra = sets.everywhere(sets.spread([again], False), v.shape)
  reads = sets.union([v.reads, extra], v.shape)
  return dataclasses.replace(v, reads=reads, linear=None)


def _equal(a: Value, b: Value) -> bool:
  same = lambda x, y: (
    (x is None) == (y is None) and (x is None or np.array_equal(x, y))
  )
  bounds = all(_alike(x, y) for x, y in zip(a.bounds, b.bounds, strict=True))
  names = 'reads known low maybe faint capped derived scale selects'.split()
  return bounds and all(
    same(getattr(a, name), getattr(b, name)) for name in names
  )
