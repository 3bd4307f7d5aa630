"""Rules of operations that move entries, and of those that look them up."""

import dataclasses
from typing import Any

import jax
import numpy as np

from parallel_ar.analysis.static import ranges, sets, totals
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.sets import FIRM, MAY
from parallel_ar.analysis.static.value import Value


def reshape(eqn: Any, operands: list[Value]) -> list[Value]:
  """Row-major order is kept."""
  shape = eqn.outvars[0].aval.shape
  if eqn.primitive.name == 'reshape' and eqn.params['dimensions'] is not None:
    raise values.UnknownForm('a reshape that transposes')
  (out,) = _one(eqn, operands[:1], lambda a: a.reshape(shape))
  return [_keep_over(operands[0], out, None)]


def transpose(eqn: Any, operands: list[Value]) -> list[Value]:
  """Axes are exchanged."""
  axes = eqn.params['permutation']
  return _one(eqn, operands, lambda a: a.transpose(axes))


def broadcast_in_dim(eqn: Any, operands: list[Value]) -> list[Value]:
  """Axes are added, or made longer."""
  shape = eqn.params['shape']
  axes = eqn.params['broadcast_dimensions']

  def move(a: np.ndarray) -> np.ndarray:
    expanded = [1] * len(shape)
    for n, axis in zip(a.shape, axes, strict=True):
      expanded[axis] = n
    return np.broadcast_to(a.reshape(expanded), shape)

  (out,) = _one(eqn, operands[:1], move)
  return [_keep_over(operands[0], out, tuple(axes))]


def _keep_over(
  before: Value, after: Value, axes: tuple[int, ...] | None
) -> Value:
  """Which arrays are nowhere larger, if axes were only added or made longer.

  Args:
    before: the array.
    after: the same, reshaped or broadcast.
    axes: of `after` that those of `before` are; None after a reshape.
  """
  kept = []
  for o in before.over:
    whole = tuple(1 if a in o.axes else n for a, n in enumerate(o.array.shape))
    same = tuple(range(len(whole)))
    rest = tuple(a for a in same if a not in o.axes)
    if o.aligned:
      fits = before.shape == after.shape if axes is None else axes == same
    else:
      fits = after.shape == whole if axes is None else axes == rest
    if fits and len(after.shape) == len(whole):
      kept.append(dataclasses.replace(o, aligned=True))
  return dataclasses.replace(after, over=tuple(kept)) if kept else after


def slice_(eqn: Any, operands: list[Value]) -> list[Value]:
  """A part with known bounds."""
  p = eqn.params
  strides = p['strides'] or (1,) * len(p['start_indices'])
  bounds = zip(p['start_indices'], p['limit_indices'], strides, strict=True)
  where = tuple(slice(*b) for b in bounds)
  return _one(eqn, operands, lambda a: a[where])


def rev(eqn: Any, operands: list[Value]) -> list[Value]:
  """Axes are turned round."""
  axes = eqn.params['dimensions']
  return _one(eqn, operands, lambda a: np.flip(a, axes))


def concatenate(eqn: Any, operands: list[Value]) -> list[Value]:
  """Arrays one after another."""
  axis = eqn.params['dimension']
  return _one(eqn, operands, lambda *a: np.concatenate(a, axis))


def stack(eqn: Any, operands: list[Value]) -> list[Value]:
  """Arrays on a new axis."""
  axis = eqn.params.get('axis', 0)
  return _one(eqn, operands, lambda *a: np.stack(a, axis))


def unstack(eqn: Any, operands: list[Value]) -> list[Value]:
  """The parts of an axis, each without it."""
  axis = eqn.params.get('axis', 0)
  return [
    values.moved(var.aval, operands, lambda a, n=n: a.take(n, axis))
    for n, var in enumerate(eqn.outvars)
  ]


def tile(eqn: Any, operands: list[Value]) -> list[Value]:
  """An array repeated along its axes."""
  reps = eqn.params['reps']
  return _one(eqn, operands, lambda a: np.tile(a, reps))


def split(eqn: Any, operands: list[Value]) -> list[Value]:
  """An array cut in parts."""
  axis, ends = eqn.params['axis'], np.cumsum(eqn.params['sizes'])[:-1]
  return [
    values.moved(var.aval, operands, lambda a, n=n: np.split(a, ends, axis)[n])
    for n, var in enumerate(eqn.outvars)
  ]


def pad(eqn: Any, operands: list[Value]) -> list[Value]:
  """Padding before, behind and between; negative padding cuts off."""

  def move(a: np.ndarray, fill: np.ndarray) -> np.ndarray:
    for axis, (low, high, inner) in enumerate(eqn.params['padding_config']):
      n = a.shape[axis]
      shape = list(a.shape)
      shape[axis] = n + inner * max(n - 1, 0)
      wide = np.full(shape, fill)
      every = (slice(None),) * axis
      wide[(*every, slice(None, None, inner + 1))] = a
      width = [(0, 0)] * a.ndim
      width[axis] = max(low, 0), max(high, 0)
      a = np.pad(wide, width, constant_values=fill)
      end = a.shape[axis] + min(high, 0)
      a = a[(*every, slice(max(-low, 0), end))]
    return a

  return _one(eqn, operands, move)


def select_n(eqn: Any, operands: list[Value]) -> list[Value]:
  """Entry by entry one of the cases; where the choice is known, exactly it."""
  which, *cases = operands
  aval = eqn.outvars[0].aval
  which_known = np.broadcast_to(which.is_known(), aval.shape)
  if which.value is None:
    index = np.zeros(aval.shape, int)
  else:
    index = np.broadcast_to(np.asarray(which.value).astype(int), aval.shape)
  if which_known.all():
    first = int(index.flat[0]) if index.size else 0
    if (index == first).all() and cases[first].shape == aval.shape:
      return [dataclasses.replace(cases[first])]
    return _one(eqn, cases, lambda *a: np.choose(index, a))
  options = [_where(which, n, v) for n, v in enumerate(cases)]
  if all(v.reads is None for v in operands):
    # Contexts are valid: what they and parameters alone choose is no nan.
    options = [v for v in options if not _is_nan(v)] or options
  either = values.join(aval, options)
  reads = sets.union([which.reads, either.reads], aval.shape)
  either = values.of_aval(
    aval,
    reads=reads,
    known=either.known,
    value=either.value,
    lo=either.lo,
    hi=either.hi,
    low=either.low,
    maybe=either.maybe,
    faint=either.faint,
    doubt=either.doubt,
  )
  if all(v.numeric for v in operands):
    number = np.choose(index, [v.value for v in cases])
    at = np.choose(index, [v.is_known() for v in cases])
    known = which_known & at | either.is_known()
    return [
      values.of_aval(
        aval,
        known=known,
        value=number,
        sampled=True,
        lo=either.lo,
        hi=either.hi,
        low=either.low,
        maybe=either.maybe,
      )
    ]
  if not which_known.any():
    return [either]
  exact = values.moved(aval, cases, lambda *a: np.choose(index, a))
  where = np.arange(1, exact.size + 1).reshape(aval.shape)
  where = np.where(which_known, where, where + exact.size)
  return [values.picked(aval, [exact, either], where)]


def _is_nan(v: Value) -> bool:
  return v.real and v.constant and bool(np.isnan(np.asarray(v.value)).all())


def _where(which: Value, case: int, v: Value) -> Value:
  """A case, with what the choice of it says about its entries."""
  if which.test is None or not any(v is w for w in which.test[1:]):
    return v
  with np.errstate(invalid='ignore'):
    lo, hi = ranges.under(which.test, bool(case), v)
  return dataclasses.replace(v, lo=lo, hi=hi, known=v.known)


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
    return _one(eqn, [source], move)
  axes = params['dimension_numbers'].start_index_map
  wide = _along(source, axes)
  zeros = np.zeros(index.shape, index.dtype)
  found = values.moved(aval, [wide], _bind(eqn, params, zeros))
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
  lo, hi = index.bounds()
  return bool(
    np.all(lo >= 0) and np.all(np.broadcast_to(hi, index.shape) <= most)
  )


def _of_index(
  index: Value, offsets: tuple[int, ...], aval: Any
) -> np.ndarray | None:
  """What the index of each looked-up entry reads."""
  if index.reads is None:
    return None
  rows = index.reads.any(-1)  # the last axis holds one index
  shape = list(rows.shape[:2])
  lead = iter(rows.shape[2:])
  for axis in range(len(aval.shape)):
    shape.append(1 if axis in offsets else next(lead))
  return np.broadcast_to(rows.reshape(shape), (*rows.shape[:2], *aval.shape))


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
  found = values.moved(aval, [_along(source, open_axes)], lambda a: a[where])
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

    return _one(eqn, [target, update], move)
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

    return _one(eqn, [target, update], move)
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
      flat = update.reads.reshape(-1, *update.shape).astype(np.float32)
      found = np.asarray(jax.vmap(put)(flat)) > 0
      added = found.reshape(*update.reads.shape[:2], *target.shape)
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
  finite = np.all(target.is_finite()) and np.all(update.is_finite())
  if values.kind(aval.dtype) in 'fc' and finite:
    fields['lo'], fields['hi'] = values.finite()
    return fields
  return {}


def _one(eqn: Any, operands: list[Value], move: Any) -> list[Value]:
  return [values.moved(eqn.outvars[0].aval, operands, move)]


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
  lo, hi = source.bounds()
  if lo.ndim or hi.ndim:
    lo, hi = (np.broadcast_to(b, source.shape) for b in (lo, hi))
    lo, hi = lo.min(axes, keepdims=True), hi.max(axes, keepdims=True)
  fields: dict[str, Any] = {'lo': lo, 'hi': hi, 'reads': source.reads}
  if source.real and source.size:
    maybe = source.is_maybe_low().any(axes, keepdims=True)
    fields['maybe'] = np.broadcast_to(maybe, source.shape)
  if source.reads is None:
    return Value(source.shape, source.dtype, **fields)
  at = tuple(a + 1 for a in axes)
  may = source.reads[MAY].any(at, keepdims=True)
  firm = source.reads[FIRM].all(at, keepdims=True)
  shape = source.reads.shape[1:]
  fields['reads'] = np.stack([np.broadcast_to(s, shape) for s in (may, firm)])
  return Value(source.shape, source.dtype, **fields)
