"""Work and depth of a program, counted from what is traced.

  work   floating-point operations, all together
  depth  operations that must wait for one another: the longest chain, with a
         sum of k terms counted as a tree of ceil(log2 k) additions

so that a loop over n steps has depth O(n), an associative scan O(log n), a
masked network O(1) in n but for the sums in its attention, O(log n). With unit
time for an operation and as many processors as there are operations the time is
the depth; with p of them it lies between work / p and work / p + depth (Brent
1974). What a machine adds is the cost of a call, of starting an operation,
alpha, and its speed, F operations/s:

  T = call + alpha depth + work / F

(`fit`). Moving and reading bytes is not counted: where a program is bound by
bandwidth, it is slower than this says.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from parallel_ar.analysis import equations

_FREE = frozenset(
  'bitcast_convert_type broadcast_in_dim concatenate convert_element_type copy '
  'dynamic_slice dynamic_update_slice expand_dims gather iota pad reshape rev '
  'slice split squeeze stack stop_gradient tile '
  'transpose unstack'.split()
)
_TREES = frozenset(
  'argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce_and '
  'reduce_max reduce_min reduce_or reduce_prod reduce_sum'.split()
)
_CALLS = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')


class Cost(NamedTuple):
  """Work and depth.

  Attributes:
    work: floating-point operations; one of a matrix product is a
      multiplication or an addition.
    depth: of the longest chain of dependent operations.
  """

  work: float
  depth: float


class Machine(NamedTuple):
  """T = call + alpha depth + work / speed, fitted.

  Attributes:
    call: seconds that a program costs whatever it does.
    alpha: seconds that a dependent operation costs.
    speed: operations/s.
    error: median of |measured / predicted - 1|.
  """

  call: float
  alpha: float
  speed: float
  error: float

  def seconds(self, cost: Cost) -> float:
    """Predicted seconds of a program."""
    return self.call + self.alpha * cost.depth + cost.work / self.speed


def count(function: Callable, *args: Any, trips: int = 1) -> Cost:
  """The cost of one call.

  Args:
    function: what JAX can trace.
    *args: arrays, or their shapes and dtypes.
    trips: passes of a loop whose end depends on data (`while`).

  Returns:
    The cost.
  """
  closed = jax.make_jaxpr(function)(*args)
  return _program(closed.jaxpr, [0.0] * len(closed.jaxpr.invars), trips)[0]


def fit(costs: Sequence[Cost], seconds: Sequence[float]) -> Machine:
  """The machine that explains measured times best, in relative error.

  Args:
    costs: of K >= 3 programs.
    seconds: that they took.

  Returns:
    The machine.

  Raises:
    ValueError: fewer than three programs.
  """
  if len(costs) < 3:
    raise ValueError(
      'A machine has three numbers: fit it to as many programs or more.'
    )
  t = np.asarray(seconds, np.float64)
  rows = np.array([[1.0, c.depth, c.work] for c in costs]) / t[:, None]
  scale = rows.max(0)
  best = np.inf, np.zeros(3)
  # Nonnegative least squares of three columns: the best of all subsets.
  for size in (1, 2, 3):
    for columns in itertools.combinations(range(3), size):
      part = (rows / scale)[:, columns]
      x = np.linalg.lstsq(part, np.ones(len(t)), rcond=None)[0]
      left = float(((part @ x - 1) ** 2).sum())
      if (x >= 0).all() and left < best[0]:
        full = np.zeros(3)
        full[list(columns)] = x
        best = left, full / scale
  call, alpha, inverse = (float(x) for x in best[1])
  off = np.abs(1 / (rows @ best[1]) - 1)
  speed = 1 / inverse if inverse > 0 else math.inf
  return Machine(call, alpha, speed, float(np.median(off)))


def _program(
  jaxpr: Any, starts: Sequence[float], trips: int
) -> tuple[Cost, list[float]]:
  """Cost, and the depth of each result given those of the arguments."""
  depth: dict[Any, float] = dict.fromkeys(jaxpr.constvars, 0.0)
  depth.update(zip(jaxpr.invars, starts, strict=True))
  of = lambda v: 0.0 if isinstance(v, core.Literal) else depth[v]
  work, deepest = 0.0, 0.0
  for eqn in jaxpr.eqns:
    inputs = [of(v) for v in eqn.invars]
    cost, outputs = _operation(eqn, inputs, trips)
    work += cost
    depth.update(zip(eqn.outvars, outputs, strict=True))
    deepest = max(deepest, *outputs) if outputs else deepest
  return Cost(work, deepest), [of(v) for v in jaxpr.outvars]


def _operation(
  eqn: Any, inputs: list[float], trips: int
) -> tuple[float, list[float]]:
  """Work, and the depths of the results."""
  name, p = eqn.primitive.name, eqn.params
  start = max(inputs, default=0.0)
  same = lambda steps: [start + steps] * len(eqn.outvars)
  if name in ('scan', 'while'):
    return _loop(eqn, inputs, trips)
  if name == 'cond':
    each = [
      _program(equations.opened(b), inputs[1:], trips)
      for b in equations.branches(eqn)
    ]
    depths = [max(d) + 1 for d in zip(*(d for _, d in each), strict=True)]
    return max(c.work for c, _ in each), depths
  for call in _CALLS:
    if call in p:
      inner = equations.opened(p[call])
      cost, depths = _program(inner, inputs[-len(inner.invars) :], trips)
      return cost.work, depths
  size = max((math.prod(v.aval.shape) for v in eqn.outvars), default=0)
  into = max((math.prod(v.aval.shape) for v in eqn.invars), default=0)
  if name in _FREE:
    return 0.0, same(0)
  if name == 'dot_general':
    (axes, _), _ = p['dimension_numbers']
    terms = math.prod(eqn.invars[0].aval.shape[a] for a in axes)
    return 2.0 * size * terms, same(1 + _log(terms))
  if name == 'conv_general_dilated':
    kernel = eqn.invars[1].aval.shape
    outputs = kernel[p['dimension_numbers'].rhs_spec[0]]
    terms = math.prod(kernel) // outputs
    return 2.0 * size * terms, same(1 + _log(terms))
  if name in _TREES:
    terms = (
      into // max(size, 1)
      if name.startswith(('reduce', 'arg'))
      else (eqn.invars[0].aval.shape[p['axis']])
    )
    return float(into), same(_log(terms))
  if name in ('sort', 'top_k', 'fft'):
    terms = eqn.invars[0].aval.shape[p.get('dimension', -1)]
    rounds = _log(terms) ** (1 if name == 'fft' else 2)
    return float(into * rounds), same(rounds)
  return float(size), same(1)


def _loop(
  eqn: Any, inputs: list[float], trips: int
) -> tuple[float, list[float]]:
  """A loop: the chain through what it carries, as often as it goes round."""
  start = max(inputs, default=0.0)
  if eqn.primitive.name == 'scan':
    turn = equations.scan(eqn)
    body, length = equations.opened(turn.body), turn.length
    first, carried = turn.fixed, turn.carried
    extra = 0.0
  else:
    again = equations.loop(eqn)
    body, length = equations.opened(again.body), trips
    first, carried = again.of_body, len(eqn.outvars)
    test = equations.opened(again.test)
    extra = _program(test, [0.0] * len(test.invars), trips)[0].depth
  # Depth from the carry alone is what every further round adds.
  only = [-math.inf] * len(body.invars)
  only[first : first + carried] = [0.0] * carried
  cost, through = _program(body, only, trips)
  _, once = _program(body, [0.0] * len(body.invars), trips)
  chain = max((d for d in through[:carried]), default=0.0)
  chain = max(chain, 0.0) + extra
  whole = max((d for d in once), default=0.0)
  last = start + max(length - 1, 0) * chain + max(whole, 0.0)
  return length * cost.work, [last] * len(eqn.outvars)


def _log(n: float) -> int:
  """Depth of a tree over n terms."""
  return math.ceil(math.log2(n)) if n > 1 else 0
