"""One walk over a traced program, for whatever is to be known of its arrays.

`run` goes through the operations of a program (a jaxpr) in order. What an array
is on the way, a set of positions, a depth or a number on a grid, and what an
operation makes of it, says a `Domain`: a table of rules, one a primitive, and a
few hooks. Calls, branches, loops, constants and barriers are walked here, once
for all domains; docs/design/0020-one-walker.md says how a domain is written.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from jax.extend import core

from parallel_ar.program import equations

V = TypeVar('V')
Rule = Callable[[Any, list[V]], list[V]]
Turn = Callable[
  [Sequence[V], Sequence[V], Sequence[V]], tuple[list[V], list[V]]
]


@dataclasses.dataclass(frozen=True, eq=False)
class Loop(Generic[V]):
  """A loop that is not laid out step by step.

  Attributes:
    eqn: the operation, a `scan` or a `while`.
    turn: one turn, (fixed, carry, items) -> (carry, rest). The rest is what a
      step of a scan adds to each series of results, or whether a `while` would
      take a turn from the carry that came in.
    fixed: operands that are the same at every turn.
    carry: operands that are handed on.
    series: operands of which each turn takes one item.
    length: turns; None where nobody knows.
  """

  eqn: Any
  turn: 'Turn[V]'
  fixed: list[V]
  carry: list[V]
  series: list[V]
  length: int | None

  @property
  def operands(self) -> list[V]:
    """Of the operation."""
    return [*self.fixed, *self.carry, *self.series]


class Domain(Generic[V]):
  """What arrays are on a walk. A subclass has a table of rules, and hooks.

  Attributes:
    rules: primitive -> (eqn, operands) -> results.
    laid_out: operations of the longest loop that is laid out step by step; by
      itself none is.
    calls: on a walk, the calls that the operation is in, outermost first.
  """

  rules: 'Mapping[str, Rule[V]]' = {}
  laid_out = 0

  def __init__(self) -> None:
    self.calls: list[Any] = []

  def constant(self, number: Any) -> V:
    """A known array, or a random key, of the program itself."""
    raise NotImplementedError

  def operation(self, eqn: Any, operands: list[V]) -> list[V]:
    """The results of an operation that is not control flow."""
    rule = self.rules.get(eqn.primitive.name, self.unknown)
    return rule(eqn, operands)

  def unknown(self, eqn: Any, operands: list[V]) -> list[V]:
    """The results of an operation without a rule."""
    raise NotImplementedError(
      f'{type(self).__name__} has no rule for {eqn.primitive.name}.'
    )

  def number(self, v: V) -> int | None:
    """Which branch a predicate takes for sure; None where that is open."""
    return None

  def join(
    self,
    eqn: Any,
    operands: list[V],
    branches: Sequence[Callable[[], list[V]]],
  ) -> list[V]:
    """The results of a `cond` that is open, by its first operand.

    Each of the branches is a call that walks it and returns its results.
    """
    raise NotImplementedError

  def item(self, eqn: Any, series: V, n: int) -> V:
    """Item n of a series, of a loop that is laid out."""
    raise NotImplementedError

  def stack(self, eqn: Any, var: Any, items: list[V]) -> V:
    """The series `var` of the items of a loop that is laid out."""
    raise NotImplementedError

  def settle(self, loop: Loop[V]) -> list[V]:
    """The results of a loop that is not laid out."""
    raise NotImplementedError


def run(program: Any, domain: Domain[V], arguments: Sequence[V]) -> list[V]:
  """Walks over a program.

  Args:
    program: a jaxpr, closed or without constants.
    domain: what arrays are.
    arguments: of the program.

  Returns:
    Its results.
  """
  jaxpr = equations.opened(program)
  constants = map(domain.constant, getattr(program, 'consts', ()))
  known: dict[Any, V] = dict(zip(jaxpr.constvars, constants, strict=True))
  known.update(zip(jaxpr.invars, arguments, strict=True))

  def read(var: Any) -> V:
    if isinstance(var, core.Literal):
      dtype = getattr(var.aval, 'dtype', None)
      return domain.constant(np.asarray(var.val, dtype))
    return known[var]

  last = {v: n for n, eqn in enumerate(jaxpr.eqns) for v in _variables(eqn)}
  kept = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
  for n, eqn in enumerate(jaxpr.eqns):
    results = _operation(eqn, domain, [read(v) for v in eqn.invars])
    known.update(zip(eqn.outvars, results, strict=True))
    for var in _variables(eqn):  # what nothing reads any more is freed
      if last[var] == n and var not in kept:
        del known[var]
  return [read(v) for v in jaxpr.outvars]


def _variables(eqn: Any) -> set[Any]:
  """What an equation reads and makes."""
  each = [*eqn.invars, *eqn.outvars]
  return {v for v in each if not isinstance(v, core.Literal)}


def fixed_point(
  loop: Loop[V], items: list[V], wider: Callable[[V, V], tuple[V, bool]]
) -> tuple[list[V], list[V]]:
  """The least carry that one more turn leaves as it is.

  Args:
    loop: the loop.
    items: one of each series, whichever it is.
    wider: (before, after) -> (what holds of both, whether that is `before`).
      It must come to rest.

  Returns:
    The carry, and the rest of a turn from it.
  """
  carry, moves = loop.carry, True
  while moves:
    out, rest = loop.turn(loop.fixed, carry, items)
    pairs = [wider(v, w) for v, w in zip(carry, out, strict=True)]
    carry, moves = [v for v, _ in pairs], not all(same for _, same in pairs)
  return carry, rest


def _operation(eqn: Any, domain: Domain[V], operands: list[V]) -> list[V]:
  walk = _CONTROL.get(eqn.primitive.name)
  if walk is not None:
    return walk(eqn, domain, operands)
  body = equations.called(eqn)
  if body is None:
    return domain.operation(eqn, operands)
  count = len(equations.opened(body).invars)
  domain.calls.append(eqn)
  results = run(body, domain, operands[len(operands) - count :])
  domain.calls.pop()
  return results


def _iota(eqn: Any, domain: Domain[V], operands: list[V]) -> list[V]:
  shape, axis = eqn.params['shape'], eqn.params['dimension']
  count = np.arange(shape[axis]).astype(eqn.params['dtype'])
  ones = (1,) * (len(shape) - axis - 1)
  return [domain.constant(np.broadcast_to(count.reshape(-1, *ones), shape))]


def _cond(eqn: Any, domain: Domain[V], operands: list[V]) -> list[V]:
  which, *arguments = operands
  branches = equations.branches(eqn)
  n = domain.number(which)
  if n is not None:
    n = min(max(n, 0), len(branches) - 1)
    return run(branches[n], domain, arguments)
  each = [lambda b=b: run(b, domain, arguments) for b in branches]
  return domain.join(eqn, operands, each)


def _scan(eqn: Any, domain: Domain[V], operands: list[V]) -> list[V]:
  loop = equations.scan(eqn)
  first, carried, length = loop.fixed, loop.carried, loop.length
  fixed, rest = operands[:first], operands[first:]
  carry, series = rest[:carried], rest[carried:]

  def turn(
    fixed: Sequence[V], carry: Sequence[V], items: Sequence[V]
  ) -> tuple[list[V], list[V]]:
    out = run(loop.body, domain, [*fixed, *carry, *items])
    return out[:carried], out[carried:]

  size = max(len(equations.opened(loop.body).eqns), 1)
  if max(length, 1) * size > domain.laid_out:
    return domain.settle(Loop(eqn, turn, fixed, carry, series, length))
  rows: dict[int, list[V]] = {}
  for n in range(length)[:: -1 if loop.reverse else 1]:
    items = [domain.item(eqn, v, n) for v in series]
    carry, rows[n] = turn(fixed, carry, items)
  results = [
    domain.stack(eqn, var, [rows[n][k] for n in range(length)])
    for k, var in enumerate(eqn.outvars[carried:])
  ]
  return [*carry, *results]


def _while(eqn: Any, domain: Domain[V], operands: list[V]) -> list[V]:
  loop = equations.loop(eqn)
  first = loop.of_test + loop.of_body
  fixed, carry = operands[:first], operands[first:]
  test = lambda fixed, carry: run(
    loop.test, domain, [*fixed[: loop.of_test], *carry]
  )
  body = lambda fixed, carry: run(
    loop.body, domain, [*fixed[loop.of_test :], *carry]
  )
  turns = domain.laid_out // max(len(equations.opened(loop.body).eqns), 1)
  for _ in range(turns):
    (again,) = test(fixed, carry)
    goes_on = domain.number(again)
    if goes_on is None:
      break
    if not goes_on:
      return carry
    carry = body(fixed, carry)
  turn = lambda fixed, carry, _: (body(fixed, carry), test(fixed, carry))
  return domain.settle(Loop(eqn, turn, fixed, carry, [], None))


_CONTROL: dict[str, Callable[..., list[Any]]] = {
  'cond': _cond,
  'iota': _iota,
  'optimization_barrier': lambda eqn, domain, operands: operands,
  'scan': _scan,
  'while': _while,
}
