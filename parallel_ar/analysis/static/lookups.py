"""Rules of operations that look entries up, or write them, at indices."""

from typing import Any

import jax
import numpy as np

from parallel_ar.analysis.static import movement, sets, totals
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.sets import FIRM, MAY
from parallel_ar.analysis.static.value import Value
from parallel_ar.program import uniform


def gather(eqn: Any, operands: list[Value]) -> list[Value]:
  """A look-up: exact where the indices are known.

  With unknown indices an entry may read every place along the axes that are
  looked up; firmly it reads what all of these places read, and its index.
  """
  source, index = operands
  aval, params = eqn.outvars[0].aval, dict(eqn.params)
  params['fill_value'] = 0
  fills = 'FILL' in str(params.get('mode'))
  if index.constant:
    move = _bind(eqn, params, index.value)
    if fills and (move(np.ones(source.shape, np.int32)) == 0).any():
      raise values.UnknownForm('a look-up outside, which is filled')
    return [movement.numbered(aval, [source], move)]
  axes = params['dimension_numbers'].start_index_map
  wide = _along(source, axes)
  zeros = np.zeros(index.shape, index.dtype)
  found = movement.numbered(aval, [wide], _bind(eqn, params, zeros))
  reads = _of_index(index, params['dimension_numbers'].offset_dims, aval)
  value = None
  if sampled := index.numeric and source.numeric:
    numbers = eqn.primitive.bind(source.value, index.value, **eqn.params)
    value = np.asarray(numbers)
  reads = sets.union([found.reads, reads], aval.shape)
  inside = not fills or _inside(index, params, source)
  fields = totals.bounds_of(found) if inside else {}
  return [
    values.of_aval(aval, reads=reads, value=value, sampled=sampled, **fields)
  ]


def _inside(index: Value, params: Any, source: Value) -> bool:
  """Whether every look-up is inside of the source, for sure."""
  axes = params['dimension_numbers'].start_index_map
  most = np.array([source.shape[a] - params['slice_sizes'][a] for a in axes])
  lo, hi = index.bounds
  return bool(
    np.all(lo >= 0) and np.all(np.broadcast_to(hi, index.shape) <= most)
  )


def _of_index(
  index: Value, offsets: tuple[int, ...], aval: Any
) -> np.ndarray | None:
  """What the index of each looked-up entry reads."""
  if index.reads is None:
    return None
  rows = index.reads  # the last axis holds one index
  rows = sets.gathered(rows, len(index.shape) - 1)
  shape = list(rows.shape[:2])
  lead = iter(rows.shape[2:])
  for axis in range(len(aval.shape)):
    shape.append(1 if axis in offsets else next(lead))
  return uniform.wide(rows.reshape(shape), (*rows.shape[:2], *aval.shape))


def dynamic_slice(eqn: Any, operands: list[Value]) -> list[Value]:
  """A part that begins where other values say."""
  source, *starts = operands
  sizes = eqn.params['slice_sizes']
  open_axes = [
    n
    for n, v in enumerate(starts)
    if not v.constant and sizes[n] < source.shape[n]
  ]
  where = tuple(
    slice(at, at + size)
    for at, size in zip(_starts(starts, source, sizes), sizes, strict=True)
  )
  aval = eqn.outvars[0].aval
  found = movement.moved(aval, [_along(source, open_axes)], lambda a: a[where])
  if not open_axes:
    return [found]
  extra = sets.spread([starts[n] for n in open_axes], firm=True)
  reads = sets.union(
    [found.reads, sets.everywhere(extra, aval.shape)], aval.shape
  )
  return [values.of_aval(aval, reads=reads, **totals.bounds_of(found))]


def dynamic_update_slice(eqn: Any, operands: list[Value]) -> list[Value]:
  """A part overwritten, at a place that other values say."""
  target, update, *starts = operands
  aval = eqn.outvars[0].aval
  at = _starts(starts, target, update.shape)
  if all(v.constant for v in starts):
    where = tuple(
      slice(a, a + n) for a, n in zip(at, update.shape, strict=True)
    )

    def move(a: np.ndarray, b: np.ndarray) -> np.ndarray:
      a = a.copy()
      a[where] = b
      return a

    return [movement.moved(aval, [target, update], move)]
  any_of = sets.everywhere(sets.spread([update], False), aval.shape)
  index = sets.everywhere(sets.spread(starts, True), aval.shape)
  reads = sets.union([target.reads, any_of, index], aval.shape)
  fields = totals.either(aval, [target, update])
  return [values.of_aval(aval, reads=reads, **fields)]


def scatter(eqn: Any, operands: list[Value]) -> list[Value]:
  """Entries overwritten, or added to, at indices."""
  target, index, update = operands
  aval = eqn.outvars[0].aval
  replaces = eqn.primitive.name == 'scatter'
  if index.constant and replaces:

    def move(a: np.ndarray, b: np.ndarray) -> Any:
      return eqn.primitive.bind(a, index.value, b, **eqn.params)

    return [movement.numbered(aval, [target, update], move)]
  if index.constant:
    added = None
    if update.reads is not None:
      zeros = np.zeros(target.shape, np.float32)
      at = np.asarray(index.value)
      put = lambda u: jax.lax.scatter_add(
        zeros,
        at,
        u,
        eqn.params['dimension_numbers'],
        mode=eqn.params['mode'],
      )
      bits = sets.bits(update.reads)
      flat = bits.reshape(-1, *update.shape).astype(np.float32)
      found = np.asarray(jax.vmap(put)(flat)) > 0
      added = sets.of_bits(found.reshape(*bits.shape[:2], *target.shape))
    reads = sets.union([target.reads, added], aval.shape)
    return [values.of_aval(aval, reads=reads, **_added(eqn, aval, operands))]
  any_of = sets.everywhere(sets.spread([update], False), aval.shape)
  places = sets.everywhere(sets.spread([index], False), aval.shape)
  reads = sets.union([target.reads, any_of, places], aval.shape)
  return [values.of_aval(aval, reads=reads, **_added(eqn, aval, operands))]


def _added(eqn: Any, aval: Any, operands: list[Value]) -> dict[str, Any]:
  """What is known of the size of entries that were written or added to."""
  target, _, update = operands
  fields = totals.either(aval, [target, update])
  if eqn.primitive.name in ('scatter', 'scatter-min', 'scatter-max'):
    return fields
  finite = target.finite and update.finite
  if values.kind(aval.dtype) in 'fc' and finite:
    fields['lo'], fields['hi'] = values.finite()
    return fields
  return {}


def _bind(eqn: Any, params: Any, index: Any) -> Any:
  return lambda a: np.asarray(eqn.primitive.bind(a, index, **params))


def _starts(starts: list[Value], source: Value, sizes: Any) -> list[int]:
  """Known starts as XLA clamps them; 0 where they are not known."""
  out = []
  for v, n, size in zip(starts, source.shape, sizes, strict=True):
    at = int(v.value) if v.constant and v.value is not None else 0
    out.append(min(max(at, 0), n - size))
  return out


def _along(source: Value, axes: Any) -> Value:
  """Every entry as if it stood anywhere along the axes."""
  axes = tuple(axes)
  if not axes:
    return source
  along = lambda op, a: uniform.wide(
    uniform.reduced(op, uniform.wide(a, source.shape), axes, keepdims=True),
    source.shape,
  )
  lo, hi = source.bounds
  if lo.ndim or hi.ndim:
    lo, hi = along(np.minimum, lo), along(np.maximum, hi)
  fields: dict[str, Any] = {'lo': lo, 'hi': hi}
  if source.real and source.size:
    fields['maybe'] = along(np.logical_or, source.is_maybe_low)
  if source.reads is not None:
    each = [
      uniform.reduced(op, source.reads[n], [a + 1 for a in axes], keepdims=True)
      for n, op in ((MAY, np.bitwise_or), (FIRM, np.bitwise_and))
    ]
    shape = source.reads.shape
    fields['reads'] = uniform.wide(
      np.stack(np.broadcast_arrays(*map(uniform.thin, each))), shape
    )
  return Value(source.shape, source.dtype, **fields)
