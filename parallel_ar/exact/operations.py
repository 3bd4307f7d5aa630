"""What a whole-number program does beside its products, in JAX.

`reference/operations` has the same in NumPy; `carriers` runs both kinds.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _scale(p: dict, a: Any) -> Any:
  times, shift = p['times'], p['shift']
  if times != 1:
    a = a * np.int32(times)
  if not shift:
    return a
  return jax.lax.shift_right_arithmetic(
    a + np.int32((1 << shift) >> 1), like(shift, a)
  )


def like(number: int, a: Any) -> Any:
  """The number, int32, in the shape of an array."""
  return jnp.full(a.shape, number, jnp.int32)


def _quotient(p: dict, a: Any, b: Any) -> Any:
  """Division of integers rounds to zero; of numbers below 0 it must not."""
  n = a * np.int32(1 << p['shift'])
  if p['nearest']:
    n = n + jax.lax.shift_right_arithmetic(b, like(1, b))
  q = jax.lax.div(n, b)
  return q - (n < q * b).astype(jnp.int32)


def _root(p: dict, a: Any) -> Any:
  """Bit after bit; r r is below 2^32."""
  a = a.astype(jnp.uint32)
  r = jnp.zeros_like(a)
  for bit in range(15, -1, -1):
    t = r | np.uint32(1 << bit)
    r = jnp.where(t * t <= a, t, r)
  return r.astype(jnp.int32)


def _select(p: dict, which: Any, *cases: Any) -> Any:
  return jax.lax.select_n(which, *cases)


def _broadcast(p: dict, a: Any) -> Any:
  return jax.lax.broadcast_in_dim(a, p['shape'], p['axes'])


def _gather(p: dict, a: Any, indices: Any) -> Any:
  dims = jax.lax.GatherDimensionNumbers(
    p['offset'],
    p['dropped'],
    p['starts'],
    p['batched'],
    p['index_batched'],
  )
  return jax.lax.gather(a, indices, dims, p['sizes'], mode='clip')


def _scatter(p: dict, a: Any, indices: Any, updates: Any) -> Any:
  dims = jax.lax.ScatterDimensionNumbers(
    p['window'],
    p['inserted'],
    p['starts'],
    p['batched'],
    p['index_batched'],
  )
  write = jax.lax.scatter_add if p['add'] else jax.lax.scatter
  return write(a, indices, updates, dims, mode='drop')


def _table(p: dict, a: Any, t: Any) -> Any:
  at = a - np.int32(p['low'])
  return jnp.take(t, at, mode='clip').astype(jnp.int32)


def _each(function: Callable) -> Callable:
  return lambda p, *arrays: function(*arrays)


def wide(a: Any) -> Any:
  """int32, or truth values."""
  return a if a.dtype == bool else a.astype(jnp.int32)


def _over(function: Callable) -> Callable:
  return lambda p, a: function(a, axis=p['axes'])


OPS: dict[str, Callable[..., Any]] = {
  'add': _each(jnp.add),
  'all': _over(jnp.all),
  'and': _each(jnp.logical_and),
  'any': _over(jnp.any),
  'argmax': lambda p, a: jax.lax.argmax(a, p['axes'][0], np.int32),
  'broadcast': _broadcast,
  'clip': lambda p, a: jnp.clip(a, np.int32(p['low']), np.int32(p['high'])),
  'concatenate': lambda p, *a: jnp.concatenate(a, p['axis']),
  'cummax': lambda p, a: jax.lax.cummax(a, p['axis'], p['reverse']),
  'cumsum': lambda p, a: jax.lax.cumsum(a, p['axis'], p['reverse']),
  'eq': _each(jnp.equal),
  'gather': _gather,
  'ge': _each(jnp.greater_equal),
  'gt': _each(jnp.greater),
  'le': _each(jnp.less_equal),
  'least': _over(jnp.min),
  'lt': _each(jnp.less),
  'max': _each(jnp.maximum),
  'min': _each(jnp.minimum),
  'most': _over(jnp.max),
  'mul': _each(jnp.multiply),
  'ne': _each(jnp.not_equal),
  'not': _each(jnp.logical_not),
  'number': lambda p, a: a.astype(jnp.int32),
  'or': _each(jnp.logical_or),
  'pad': lambda p, a: jax.lax.pad(
    a, np.asarray(p['value'], a.dtype), p['config']
  ),
  'quotient': _quotient,
  'reshape': lambda p, a: jnp.reshape(a, p['shape']),
  'rev': lambda p, a: jax.lax.rev(a, p['axes']),
  'root': _root,
  'scale': _scale,
  'scatter': _scatter,
  'select': _select,
  'slice': lambda p, a: jax.lax.slice(a, p['start'], p['stop'], p['step']),
  'sub': _each(jnp.subtract),
  'sum': lambda p, a: jnp.sum(a, axis=p['axes'], dtype=jnp.int32),
  'table': _table,
  'transpose': lambda p, a: jnp.transpose(a, p['axes']),
}
