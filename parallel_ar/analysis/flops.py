"""Floating-point operations of a function, counted from its jaxpr.

Matrix products and convolutions count 2 operations for each multiplication,
every other operation 1 for each number it returns. XLA's own count takes the
body of a loop once; here a scan counts as often as it runs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

from parallel_ar.analysis import equations

_MOVES = {
  'broadcast_in_dim',
  'concatenate',
  'convert_element_type',
  'copy',
  'dynamic_slice',
  'dynamic_update_slice',
  'gather',
  'iota',
  'pad',
  'reshape',
  'rev',
  'sharding_constraint',
  'slice',
  'split',
  'squeeze',
  'stop_gradient',
  'transpose',
}


def count(fn: Callable, *args: Any) -> float:
  """Operations of one call.

  Args:
    fn: any function that JAX traces.
    *args: its arguments, or their shapes.

  Returns:
    Operations; of a conditional those of the larger branch, and of a while
    loop, whose length nobody knows, one turn.
  """
  return _jaxpr(jax.make_jaxpr(fn)(*args).jaxpr)


def _jaxpr(jaxpr: Any) -> float:
  return sum(_equation(eqn) for eqn in jaxpr.eqns)


def _equation(eqn: Any) -> float:
  name, params = eqn.primitive.name, eqn.params
  size = sum(math.prod(v.aval.shape) for v in eqn.outvars)
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    shape = eqn.invars[0].aval.shape
    return 2.0 * size * math.prod(shape[axis] for axis in contracted)
  if name == 'conv_general_dilated':
    numbers = params['dimension_numbers']
    kernel = eqn.invars[1].aval.shape
    taps = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    return 2.0 * size * taps
  if name == 'scan':
    turn = equations.scan(eqn)
    return turn.length * _jaxpr(equations.opened(turn.body))
  if name == 'cond':
    return max(
      _jaxpr(equations.opened(branch)) for branch in equations.branches(eqn)
    )
  inner = [_inner(value) for value in params.values()]
  if any(j is not None for j in inner):
    return sum(_jaxpr(j) for j in inner if j is not None)
  return 0.0 if name in _MOVES else float(size)


def _inner(value: Any) -> Any:
  value = equations.opened(value)
  return value if hasattr(value, 'eqns') else None
