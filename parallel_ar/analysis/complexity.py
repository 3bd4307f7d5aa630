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

from parallel_ar.program import equations, walk

_FREE = frozenset(
  'bitcast_convert_type broadcast_in_dim concatenate convert_element_type copy '
  'dynamic_slice dynamic_update_slice expand_dims gather iota pad reshape rev '
  'sharding_constraint slice split squeeze stack stop_gradient tile '
  'transpose unstack'.split()
)
_TREES = frozenset(
  'argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce_and '
  'reduce_max reduce_min reduce_or reduce_prod reduce_sum'.split()
)


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
  domain = _Count(trips)
  depths = walk.run(closed, domain, [0.0] * len(closed.jaxpr.invars))
  return Cost(domain.work, max(depths, default=0.0))


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


class _Count(walk.Domain[float]):
  """The depth of each array; the work of what was walked adds up beside it."""

  def __init__(self, trips: int):
    super().__init__()
    self.trips, self.work = trips, 0.0

  def constant(self, number: Any) -> float:
    """Nothing waits for it."""
    return 0.0

  def operation(self, eqn: Any, operands: list[float]) -> list[float]:
    """The results wait for all operands, and for the operation's own chain."""
    start = max(operands, default=0.0)
    body = equations.body(eqn)
    if body is not None:  # of a kernel, or of one device
      inputs = [start] * len(equations.opened(body).invars)
      end = max([start, *walk.run(body, self, inputs)])
      return [end] * len(eqn.outvars)
    work, steps = _operation(eqn)
    self.work += work
    return [start + steps] * len(eqn.outvars)

  def join(
    self,
    eqn: Any,
    operands: list[float],
    branches: Sequence[Callable[[], list[float]]],
  ) -> list[float]:
    """The dearest branch, behind the choice."""
    before, works, depths = self.work, [], []
    for branch in branches:
      self.work = 0.0
      depths.append(branch())
      works.append(self.work)
    self.work = before + max(works)
    return [max(operands[0], *each) + 1 for each in zip(*depths, strict=True)]

  def settle(self, loop: walk.Loop[float]) -> list[float]:
    """A loop: the chain through what it carries, as often as it goes round."""
    length = self.trips if loop.length is None else loop.length
    operands = [loop.fixed, loop.carry, loop.series]
    start = max([d for each in operands for d in each], default=0.0)
    before = self.work
    parts = [[0.0] * len(each) for each in operands]
    once = loop.turn(*parts)
    self.work = before + length * (self.work - before)
    total = self.work
    # Depth from the carry alone is what every further round adds.
    never = [[-math.inf] * len(each) for each in operands]
    carry, rest = loop.turn(never[0], parts[1], never[2])
    self.work = total
    if loop.length is None:  # the test comes before each turn
      carry = [d + max(rest[0], 0.0) for d in carry]
    chain = max([0.0, *carry])
    whole = max([0.0, *once[0], *once[1]])
    last = start + max(length - 1, 0) * chain + whole
    return [last] * len(loop.eqn.outvars)


def _operation(eqn: Any) -> tuple[float, float]:
  """Work and depth of one operation."""
  name, p = eqn.primitive.name, eqn.params
  size = max((math.prod(v.aval.shape) for v in eqn.outvars), default=0)
  into = max((math.prod(v.aval.shape) for v in eqn.invars), default=0)
  if name in _FREE:
    return 0.0, 0
  if name == 'dot_general':
    (axes, _), _ = p['dimension_numbers']
    terms = math.prod(eqn.invars[0].aval.shape[a] for a in axes)
    return 2.0 * size * terms, 1 + _log(terms)
  if name == 'conv_general_dilated':
    kernel = eqn.invars[1].aval.shape
    outputs = kernel[p['dimension_numbers'].rhs_spec[0]]
    terms = math.prod(kernel) // outputs
    return 2.0 * size * terms, 1 + _log(terms)
  if name in _TREES:
    terms = (
      into // max(size, 1)
      if name.startswith(('reduce', 'arg'))
      else (eqn.invars[0].aval.shape[p['axis']])
    )
    return float(into), _log(terms)
  if name in ('sort', 'top_k', 'fft'):
    terms = eqn.invars[0].aval.shape[p.get('dimension', -1)]
    rounds = _log(terms) ** (1 if name == 'fft' else 2)
    return float(into * rounds), rounds
  return float(size), 1


def _log(n: float) -> int:
  """Depth of a tree over n terms."""
  return math.ceil(math.log2(n)) if n > 1 else 0
