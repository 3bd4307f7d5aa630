"""Runs a traced program on what is known of its arrays."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend import core

from parallel_ar.analysis import equations
from parallel_ar.analysis.static import (
  elementwise,
  frames,
  mixing,
  movement,
  sets,
  spectral,
)
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.value import Value

Rule = Callable[[Any, list[Value]], list[Value]]
_STEPS = 20_000  # operations of a loop that is laid out step by step
_BODY = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')
# What is run as it stands; others with a body (a kernel, a sharded program)
# see their operands in parts, and may read everything.
_CALLS = frozenset(
  'checkpoint closed_call core_call custom_jvp_call custom_vjp_call '
  'custom_vjp_call_jaxpr jit pjit remat remat2'.split()
)

RULES: dict[str, Rule] = {
  'broadcast_in_dim': movement.broadcast_in_dim,
  'concatenate': movement.concatenate,
  'conv_general_dilated': mixing.convolve,
  'dot_general': mixing.dot_general,
  'dynamic_slice': movement.dynamic_slice,
  'dynamic_update_slice': movement.dynamic_update_slice,
  'expand_dims': movement.reshape,
  'fft': spectral.transform,
  'gather': movement.gather,
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
    movement.scatter,
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


class Interpreter:
  """Runs programs; keeps the steps if asked, and what it had no rule for."""

  def __init__(self, keep: bool = False):
    self.steps: list[Step] | None = [] if keep else None
    self.without_rule: set[str] = set()
    self._outer: Any = None

  def run(
    self, jaxpr: Any, constants: Sequence[Value], arguments: Sequence[Value]
  ) -> list[Value]:
    """The results of a program."""
    known: dict[Any, Value] = {}

    def read(var: Any) -> Value:
      if isinstance(var, core.Literal):
        return values.of_constant(
          np.asarray(var.val, getattr(var.aval, 'dtype', None))
        )
      return known[var]

    known.update(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))
    for eqn in jaxpr.eqns:
      operands = [read(v) for v in eqn.invars]
      known.update(zip(eqn.outvars, self.operation(eqn, operands), strict=True))
    return [read(v) for v in jaxpr.outvars]

  def closed(self, jaxpr: Any, arguments: Sequence[Value]) -> list[Value]:
    """The results of a program with its constants, or without any."""
    if isinstance(jaxpr, core.ClosedJaxpr):
      constants = [_constant(c) for c in jaxpr.consts]
      return self.run(jaxpr.jaxpr, constants, arguments)
    return self.run(jaxpr, [], arguments)

  def operation(self, eqn: Any, operands: list[Value]) -> list[Value]:
    """The results of one operation."""
    name = eqn.primitive.name
    if name == 'scan':
      return self._scan(eqn, operands)
    if name == 'while':
      return self._while(eqn, operands)
    if name == 'cond':
      return self._cond(eqn, operands)
    if name == 'optimization_barrier':
      return operands
    if name == 'iota':
      numbers = np.asarray(eqn.primitive.bind(**eqn.params))
      return [values.of_constant(numbers)]
    inner = [eqn.params[p] for p in _BODY if p in eqn.params]
    if name in _CALLS and inner:
      return self._call(eqn, inner[0], operands)
    results = apply(eqn, operands, self.without_rule)
    self._record(eqn, operands, results)
    return results

  def _record(self, eqn: Any, operands: Any, results: Any) -> None:
    if self.steps is not None:
      step = Step(eqn, list(operands), list(results), self._outer)
      self.steps.append(step)

  def _call(self, eqn: Any, jaxpr: Any, operands: list[Value]) -> list[Value]:
    """A program within the program.

    JAX traces its own functions once, so the lines inside them are those of
    their first caller: what counts is the line of this call.
    """
    before = self._outer
    source = getattr(equations.opened(jaxpr).debug_info, 'func_src_info', None)
    place = str(source).rpartition(' at ')[2].rpartition(':')[0]
    if self._outer is None and frames.of_framework(place):
      self._outer = eqn
    count = len(equations.opened(jaxpr).invars)
    results = self.closed(jaxpr, operands[len(operands) - count :])
    self._outer = before
    return results

  def _cond(self, eqn: Any, operands: list[Value]) -> list[Value]:
    which, *arguments = operands
    branches = equations.branches(eqn)
    if which.constant and which.value is not None:
      n = min(max(int(which.value), 0), len(branches) - 1)
      return self.closed(branches[n], arguments)
    each = [self.closed(b, arguments) for b in branches]
    results = []
    for var, *options in zip(eqn.outvars, *each, strict=True):
      out = values.join(var.aval, options)
      extra = sets.everywhere(sets.spread([which], True), out.shape)
      reads = sets.union([out.reads, extra], out.shape)
      if reads is not None:  # an entry that no branch changes reads nothing
        reads = reads & ~out.is_known()
      results.append(dataclasses.replace(out, reads=reads))
    self._record(eqn, [which, *(v for e in each for v in e)], results)
    return results

  def _scan(self, eqn: Any, operands: list[Value]) -> list[Value]:
    body, length, first, carried, reverse = equations.scan(eqn)
    fixed, rest = operands[:first], operands[first:]
    carry, series = rest[:carried], rest[carried:]
    steps = range(length)[::-1] if reverse else range(length)
    if length * len(equations.opened(body).eqns) > _STEPS:
      items = [_any_item(v) for v in series]
      carry, out = self._settle(
        lambda c: self.closed(body, [*fixed, *c, *items]), carry, carried
      )
      out = [
        values.moved(
          var.aval, [v], lambda x: np.broadcast_to(x, (length, *x.shape))
        )
        for var, v in zip(eqn.outvars[carried:], out, strict=True)
      ]
      self._record(eqn, operands, [*carry, *out])
      return [*carry, *out]
    rows: dict[int, list[Value]] = {}
    for n in steps:
      items = [self._cut(eqn, v, n) for v in series]
      out = self.closed(body, [*fixed, *carry, *items])
      carry, rows[n] = out[:carried], out[carried:]
    results = []
    for k, var in enumerate(eqn.outvars[carried:]):
      each = [rows[n][k] for n in range(length)]
      if each:
        whole = values.moved(var.aval, each, lambda *x: np.stack(x))
      else:
        whole = values.of_aval(var.aval)
      self._record(eqn, each, [whole])
      results.append(whole)
    return [*carry, *results]

  def _cut(self, eqn: Any, v: Value, n: int) -> Value:
    item = _item(v, n)
    self._record(eqn, [v], [item])
    return item

  def _while(self, eqn: Any, operands: list[Value]) -> list[Value]:
    again = equations.loop(eqn)
    of_test, rest = operands[: again.of_test], operands[again.of_test :]
    of_body, state = rest[: again.of_body], rest[again.of_body :]
    body = lambda c: self.closed(again.body, [*of_body, *c])
    budget = _STEPS // max(len(equations.opened(again.body).eqns), 1)
    for _ in range(budget):
      (go_on,) = self.closed(again.test, [*of_test, *state])
      if not go_on.constant:
        break
      if not go_on.value:
        return list(state)
      state = body(state)
    state, _ = self._settle(body, state, len(state))
    (go_on,) = self.closed(again.test, [*of_test, *state])
    results = []
    test = sets.spread([go_on], False)
    for v in state:
      extra = sets.everywhere(test, v.shape)
      reads = sets.union([v.reads, extra], v.shape)
      results.append(dataclasses.replace(v, reads=reads, linear=None))
    self._record(eqn, [*state, go_on], results)
    return results

  def _settle(
    self, body: Callable, carry: Sequence[Value], count: int
  ) -> tuple[list[Value], list[Value]]:
    """The least carry that one more step leaves as it is, and the rest."""
    carry = list(carry)
    keep, self.steps = self.steps, None
    while True:
      out = body(carry)
      new = [
        _wider(v, values.join(v, [v, w]))
        for v, w in zip(carry, out[:count], strict=True)
      ]
      same = all(map(_equal, carry, new))
      carry = new
      if same:
        break
    self.steps = keep
    return carry, out[count:]


def apply(
  eqn: Any, operands: list[Value], without_rule: set[str]
) -> list[Value]:
  """The rule of an operation, or the coarse one where there is none."""
  rule = RULES.get(eqn.primitive.name)
  if any(v.linear is not None for v in operands):
    if (found := spectral.affine(eqn, operands)) is not None:
      return found
  if rule is not None:
    try:
      return rule(eqn, operands)
    except Exception:  # UnknownForm, or a bug of the rule: stay sound
      pass
  results = mixing.unknown(eqn, operands)
  if not all(v.constant for v in results):
    without_rule.add(eqn.primitive.name)
  return results


def _constant(c: Any) -> Value:
  if hasattr(c, 'dtype') and not isinstance(c.dtype, np.dtype):
    return Value(tuple(c.shape), c.dtype)  # a random key
  return values.of_constant(c)


def _row(v: Value) -> Value:
  return Value(v.shape[1:], v.dtype)


def _item(v: Value, n: int) -> Value:
  return values.moved(_row(v), [v], lambda a: a[n])


def _any_item(v: Value) -> Value:
  """One item of a series, whichever it is."""
  reads = None if v.reads is None else np.asarray(v.reads.any(2))
  lo, hi = (np.broadcast_to(b, v.shape) for b in v.bounds())
  fields: dict[str, Any] = {}
  if v.shape[0]:
    fields = {'lo': lo.min(0), 'hi': hi.max(0)}
    fields['maybe'] = v.is_maybe_low().any(0) if v.real else None
  return Value(v.shape[1:], v.dtype, reads=reads, **fields)


def _alike(a: Any, b: Any) -> bool:
  return bool(np.all((a == b) | (np.isnan(a) & np.isnan(b))))


def _wider(before: Value, after: Value) -> Value:
  """Drops bounds that still move, so that a loop comes to rest."""
  same = all(
    _alike(a, b) for a, b in zip(before.bounds(), after.bounds(), strict=True)
  )
  if same:
    return after
  return dataclasses.replace(after, lo=None, hi=None)


def _equal(a: Value, b: Value) -> bool:
  same = lambda x, y: (
    (x is None) == (y is None) and (x is None or np.array_equal(x, y))
  )
  bounds = all(
    _alike(x, y) for x, y in zip(a.bounds(), b.bounds(), strict=True)
  )
  return bounds and all(
    same(getattr(a, name), getattr(b, name))
    for name in ('reads', 'known', 'low', 'maybe', 'faint')
  )
