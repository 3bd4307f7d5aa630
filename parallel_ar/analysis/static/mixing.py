"""Rules of operations that combine entries: products, sums, sorting."""

import math
from typing import Any

import jax
import numpy as np

from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.value import Value

_SUMS = {
  'reduce_and': np.logical_and,
  'reduce_max': np.maximum,
  'reduce_min': np.minimum,
  'reduce_or': np.logical_or,
  'reduce_prod': np.multiply,
  'reduce_sum': np.add,
}
REDUCTIONS = frozenset((*_SUMS, 'reduce_xor', 'argmax', 'argmin'))
CUMULATIVE = frozenset(
  ('cumsum', 'cumprod', 'cummax', 'cummin', 'cumlogsumexp')
)


def reduce(eqn: Any, operands: list[Value]) -> list[Value]:
  """An entry reads all that is reduced, but what is masked in a maximum."""
  (v,) = operands
  name, axes = eqn.primitive.name, tuple(eqn.params['axes'])
  aval = eqn.outvars[0].aval
  reads: Any = v.reads
  if reads is not None:
    low = v.is_low() if name == 'reduce_max' else None
    if low is not None and low.any():
      reads = reads & ~(low & (~low).any(axes, keepdims=True))
    reads = reads.any(tuple(a + 2 for a in axes))
  known = None if v.known is None else v.known.all(axes)
  value = None
  if v.numeric or (known is not None and known.any()):
    if name in _SUMS:
      value = _SUMS[name].reduce(np.asarray(v.value), axes)
    else:
      value = eqn.primitive.bind(v.value, **eqn.params)
    value = np.asarray(value).astype(aval.dtype)
  return [
    values.of_aval(
      aval, reads=reads, known=known, value=value, sampled=v.numeric
    )
  ]


def cumulate(eqn: Any, operands: list[Value]) -> list[Value]:
  """An entry reads itself and what stands before it, or behind it."""
  (v,) = operands
  axis, back = eqn.params['axis'], eqn.params['reverse']

  def all_so_far(a: np.ndarray, axis: int, op: np.ufunc) -> np.ndarray:
    a = np.flip(a, axis) if back else a
    a = op.accumulate(a, axis)
    return np.flip(a, axis) if back else a

  reads, known, value = v.reads, v.known, None
  if reads is not None:
    reads = all_so_far(reads, axis + 2, np.logical_or)
  if known is not None:
    known = all_so_far(known, axis, np.logical_and)
  if v.numeric or (known is not None and known.any()):
    value = np.asarray(eqn.primitive.bind(v.value, **eqn.params))
  aval = eqn.outvars[0].aval
  return [
    values.of_aval(
      aval, reads=reads, known=known, value=value, sampled=v.numeric
    )
  ]


def dot_general(eqn: Any, operands: list[Value]) -> list[Value]:
  """An entry reads the products that have no factor known to be zero."""
  left, right = operands
  aval = eqn.outvars[0].aval
  (left_axes, right_axes), (left_batch, right_batch) = eqn.params[
    'dimension_numbers'
  ]

  def matrix(
    a: np.ndarray, rank: int, axes: Any, batch: Any, last: bool
  ) -> np.ndarray:
    """[..., *batch, rows, contracted], or the two exchanged."""
    lead = a.ndim - rank
    rows = [n for n in range(rank) if n not in (*axes, *batch)]
    order = [*batch, *rows, *axes] if last else [*batch, *axes, *rows]
    a = a.transpose(*range(lead), *(lead + n for n in order))
    sizes = a.shape[lead : lead + len(batch)]
    inner = a.shape[lead + len(batch) :]
    first = len(rows) if last else len(axes)
    return a.reshape(
      *a.shape[:lead],
      *sizes,
      math.prod(inner[:first]),
      math.prod(inner[first:]),
    )

  of_left = lambda a: matrix(a, len(left.shape), left_axes, left_batch, True)
  of_right = lambda a: matrix(
    a, len(right.shape), right_axes, right_batch, False
  )
  reads = None
  for v, turn, other in (
    (left, of_left, of_right(right.nonzero())),
    (right, of_right, of_left(left.nonzero())),
  ):
    if v.reads is None:
      continue
    sets = turn(v.reads.astype(np.float32))
    found = sets @ other if v is left else other @ sets
    found = (found > 0).reshape(*v.reads.shape[:2], *aval.shape)
    reads = found if reads is None else reads | found
  return [_product(eqn, operands, reads)]


def convolve(eqn: Any, operands: list[Value]) -> list[Value]:
  """As `dot_general`, over the taps that are not known to be zero."""
  left, right = operands
  reads = None
  params = dict(eqn.params) | {'preferred_element_type': None}
  weights = [v.nonzero() for v in operands]
  for v, n in ((left, 0), (right, 1)):
    if v.reads is None:
      continue

    def apply(a: jax.Array, n: int = n) -> jax.Array:
      both: list[Any] = list(weights)
      both[n] = a
      return eqn.primitive.bind(*both, **params)

    flat = v.reads.reshape(-1, *v.shape).astype(np.float32)
    found = np.asarray(jax.jit(jax.vmap(apply))(flat)) > 0.5
    found = found.reshape(*v.reads.shape[:2], *found.shape[1:])
    reads = found if reads is None else reads | found
  return [_product(eqn, operands, reads)]


def _product(
  eqn: Any, operands: list[Value], reads: np.ndarray | None
) -> Value:
  """Sampled, if the factors are; zero for sure where no product remains."""
  aval = eqn.outvars[0].aval
  value, known = None, None
  if all(v.numeric for v in operands):
    value = eqn.primitive.bind(*(v.value for v in operands), **eqn.params)
    known = np.full(aval.shape, all(v.constant for v in operands))
  return values.of_aval(
    aval,
    reads=reads,
    known=known,
    value=None if value is None else np.asarray(value),
    sampled=value is not None,
  )


def window(eqn: Any, operands: list[Value]) -> list[Value]:
  """Sums and maxima over windows: an entry reads its window."""
  (v,) = operands
  p = eqn.params
  reads = None
  if v.reads is not None:
    sum_of = lambda a: jax.lax.reduce_window(
      a,
      0.0,
      jax.lax.add,
      p['window_dimensions'],
      p['window_strides'],
      p['padding'],
      p.get('base_dilation'),
      p.get('window_dilation'),
    )
    flat = v.reads.reshape(-1, *v.shape).astype(np.float32)
    found = np.asarray(jax.jit(jax.vmap(sum_of))(flat)) > 0.5
    reads = found.reshape(*v.reads.shape[:2], *found.shape[1:])
  return [values.of_aval(eqn.outvars[0].aval, reads=reads)]


def sort(eqn: Any, operands: list[Value]) -> list[Value]:
  """Every place along the axis reads all of it; known keys only move."""
  axis, keys = eqn.params['dimension'], eqn.params['num_keys']
  if all(v.constant for v in operands[:keys]):
    shape = operands[0].shape
    index = np.broadcast_to(
      np.arange(shape[axis]).reshape(
        [-1 if n == axis else 1 for n in range(len(shape))]
      ),
      shape,
    ).astype(np.int32)
    params = {'dimension': axis, 'num_keys': keys, 'is_stable': True}
    heads = [v.value for v in operands[:keys]]
    *_, order = eqn.primitive.bind(*heads, index, **params)
    order = np.asarray(order)
    return [
      values.moved(var.aval, [v], lambda a: np.take_along_axis(a, order, axis))
      for var, v in zip(eqn.outvars, operands, strict=True)
    ]
  keyed = values.union([v.reads for v in operands[:keys]], operands[0].shape)
  out = []
  for var, v in zip(eqn.outvars, operands, strict=True):
    reads = values.union([keyed, v.reads], v.shape)
    out.append(_over(var.aval, reads, axis, v.shape[axis]))
  return out


def top_k(eqn: Any, operands: list[Value]) -> list[Value]:
  """The largest entries of an axis and their places read all of it."""
  (v,) = operands
  axis = eqn.params.get('axis', -1) % len(v.shape)
  return [
    _over(var.aval, v.reads, axis, var.aval.shape[axis]) for var in eqn.outvars
  ]


def _over(aval: Any, reads: np.ndarray | None, axis: int, count: int) -> Value:
  if reads is None:
    return values.of_aval(aval)
  whole = reads.any(axis + 2, keepdims=True)
  return values.of_aval(aval, reads=np.repeat(whole, count, axis + 2))


def of_keys(eqn: Any, operands: list[Value]) -> list[Value]:
  """Random bits and keys read what their key reads; many keys, perhaps."""
  one = all(len(v.shape) < 2 for v in operands)
  out = []
  for var in eqn.outvars:
    reads = values.everywhere(values.spread(operands, one), var.aval.shape)
    out.append(values.of_aval(var.aval, reads=reads))
  return out


def unknown(eqn: Any, operands: list[Value]) -> list[Value]:
  """An operation without a rule: every result may read every operand."""
  out = []
  for var in eqn.outvars:
    reads = values.everywhere(values.spread(operands, False), var.aval.shape)
    out.append(values.of_aval(var.aval, reads=reads))
  return out
