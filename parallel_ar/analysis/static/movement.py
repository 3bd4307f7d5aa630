"""Rules of operations that move entries."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parallel_ar.analysis.static import ranges, sets
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.value import Value
from parallel_ar.program import uniform


def moved(
  aval: Any, operands: Sequence[Value], move: Callable[..., Any]
) -> Value:
  """The result of an operation that only moves entries.

  Args:
    aval: of the result.
    operands: what is moved.
    move: the operation, on arrays of NumPy of any type.

  Returns:
    The Value.
  """

  def of(own: Callable[[Value], Any]) -> np.ndarray:
    each = [uniform.wide(own(v), v.shape) for v in operands]
    few = [uniform.thin(a) for a in each]
    if all(a.size == 1 for a in few) and len({a.tobytes() for a in few}) == 1:
      return uniform.wide(few[0].reshape(()), aval.shape)  # all the same
    return uniform.pressed(uniform.wide(move(*each), aval.shape))

  fields: dict[str, Any] = {}
  some = [v.reads for v in operands if v.reads is not None]
  if some:
    empty = np.zeros((), sets.items(some[0]).dtype)
    fields['reads'] = sets.of_items(
      of(lambda v: empty if v.reads is None else sets.items(v.reads))
    )
  complete = all(v.numeric for v in operands)
  if complete or any(v.known is not None for v in operands):
    fields['known'] = of(lambda v: v.is_known)
    empty = np.zeros((), aval.dtype)
    fields['value'] = of(
      lambda v: (
        empty if v.value is None else v.value.astype(aval.dtype, copy=False)
      )
    )
  for name in ('low', 'maybe', 'faint', 'capped'):
    if any(getattr(v, name) is not None for v in operands):
      fields[name] = of(operator.methodcaller('flags', name))
  ends = [v.bounds for v in operands if v.size]
  same = {tuple(b.tobytes() for b in pair) for pair in ends}
  if len(same) == 1 and all(b.ndim == 0 for b in ends[0]):
    fields['lo'], fields['hi'] = ends[0]
  else:
    fields['lo'] = of(lambda v: v.bounds[0])
    fields['hi'] = of(lambda v: v.bounds[1])
  fields['doubt'] = values.doubt_of(operands)
  fields['scale'] = min((v.scale for v in operands), default=1.0)
  fields['selects'] = any(v.selects for v in operands)
  fields['attained'] = any(v.attained for v in operands) and all(
    v.attained or v.constant for v in operands
  )
  return values.of_aval(aval, sampled=complete, exact=True, **fields)


def numbered(
  aval: Any, operands: Sequence[Value], move: Callable[..., Any]
) -> Value:
  """As `moved`, by an operation that JAX runs: on int32, entries by number."""
  ids, start = [], 0
  for v in operands:
    count = np.arange(start, start + v.size, dtype=np.int32)
    ids.append(count.reshape(v.shape))
    start += v.size
  where = np.asarray(move(*ids))
  rows = lambda *a: np.concatenate([x.reshape(-1) for x in a])[where]
  return moved(aval, operands, rows)


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
    return uniform.wide(a.reshape(expanded), shape)

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
    moved(var.aval, operands, lambda a, n=n: a.take(n, axis))
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
    moved(var.aval, operands, lambda a, n=n: np.split(a, ends, axis)[n])
    for n, var in enumerate(eqn.outvars)
  ]


def pad(eqn: Any, operands: list[Value]) -> list[Value]:
  """Padding before, behind and between; negative padding cuts off."""

  def move(a: np.ndarray, fill: np.ndarray) -> np.ndarray:
    for axis, (low, high, inner) in enumerate(eqn.params['padding_config']):
      n = a.shape[axis]
      shape = list(a.shape)
      shape[axis] = n + inner * max(n - 1, 0)
      wide = np.full(shape, fill, a.dtype)
      every = (slice(None),) * axis
      wide[(*every, slice(None, None, inner + 1))] = a
      ends = []
      for width in (low, high):
        shape[axis] = max(width, 0)
        ends.append(np.full(shape, fill, a.dtype))
      a = np.concatenate([ends[0], wide, ends[1]], axis)
      end = a.shape[axis] + min(high, 0)
      a = a[(*every, slice(max(-low, 0), end))]
    return a

  return _one(eqn, operands, move)


def select_n(eqn: Any, operands: list[Value]) -> list[Value]:
  """Entry by entry one of the cases; where the choice is known, exactly it."""
  which, *cases = operands
  aval = eqn.outvars[0].aval
  which_known = uniform.wide(which.is_known, aval.shape)
  index: Any = np.zeros((), int)
  if which.value is not None:
    index = uniform.thin(which.value).astype(int)
  index = uniform.wide(index, aval.shape)
  choose = lambda *a: functools.reduce(
    lambda chosen, n: np.where(index == n, a[n], chosen), range(len(a)), a[0]
  )
  if uniform.every(which_known):
    first = int(index.flat[0]) if index.size else 0
    same = bool((uniform.thin(index) == first).all())
    if same and cases[first].shape == aval.shape:
      return [dataclasses.replace(cases[first])]
    return _one(eqn, cases, choose)
  options = [_where(which, n, v) for n, v in enumerate(cases)]
  if all(v.reads is None for v in operands):
    # Contexts are valid: what they and parameters alone choose is no nan.
    options = [v for v in options if not _is_nan(v)] or options
  either = values.join(aval, options)
  sizes = {
    name: getattr(either, name)
    for name in ('lo', 'hi', 'low', 'maybe', 'capped', 'scale')
  }
  zero = any(uniform.some(v.is_zero) for v in cases)
  either = values.of_aval(
    aval,
    reads=sets.union([which.reads, either.reads], aval.shape),
    known=either.known,
    value=either.value,
    faint=either.faint,
    doubt=either.doubt,
    selects=either.selects or (which.reads is not None and zero),
    **sizes,
  )
  if all(v.numeric for v in operands):
    number = choose(*(v.value for v in cases))
    at = choose(*(v.is_known for v in cases))
    known = which_known & at | either.is_known
    return [
      values.of_aval(aval, known=known, value=number, sampled=True, **sizes)
    ]
  if not uniform.some(which_known):
    return [either]
  exact = moved(aval, cases, choose)
  pick = lambda a, b: uniform.over(np.where, which_known, a, b)
  return [moved(aval, [exact, either], pick)]


def _is_nan(v: Value) -> bool:
  return v.real and v.constant and bool(np.isnan(np.asarray(v.value)).all())


def _where(which: Value, case: int, v: Value) -> Value:
  """A case, with what the choice of it says about its entries."""
  if which.test is None or not any(v is w for w in which.test[1:]):
    return v
  with np.errstate(invalid='ignore'):
    lo, hi = ranges.under(which.test, bool(case), v)
  return dataclasses.replace(v, lo=lo, hi=hi, known=v.known)


def _one(eqn: Any, operands: list[Value], move: Any) -> list[Value]:
  return [moved(eqn.outvars[0].aval, operands, move)]
