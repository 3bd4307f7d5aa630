"""Rules of what moves entries, and of what joins them along an axis."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from parallel_ar.exact.builder import Grid, NotWhole
from parallel_ar.exact.lowering import Lowering
from parallel_ar.exact.reference.operations import OPS
from parallel_ar.program.trace import Op


def _whole(values: Any) -> list[int]:
  return [int(n) for n in values]


def _reshape(op: Op) -> tuple[str, dict]:
  return 'reshape', {'shape': _whole(op.outputs[0].shape)}


def _broadcast(op: Op) -> tuple[str, dict]:
  axes = op.params['broadcast_dimensions']
  return 'broadcast', {
    'shape': _whole(op.outputs[0].shape),
    'axes': _whole(axes),
  }


def _slice(op: Op) -> tuple[str, dict]:
  p = op.params
  steps = p['strides'] or (1,) * len(p['start_indices'])
  return 'slice', {
    'start': _whole(p['start_indices']),
    'stop': _whole(p['limit_indices']),
    'step': _whole(steps),
  }


_ONE: dict[str, Callable[[Op], tuple[str, dict]]] = {
  'broadcast_in_dim': _broadcast,
  'expand_dims': _reshape,
  'reshape': _reshape,
  'rev': lambda op: ('rev', {'axes': _whole(op.params['dimensions'])}),
  'slice': _slice,
  'squeeze': _reshape,
  'transpose': lambda op: (
    'transpose',
    {'axes': _whole(op.params['permutation'])},
  ),
}


def _moved(l: Lowering, g: Grid, name: str, shape: Any, params: dict) -> Grid:
  """Entries of one array in other places."""
  masked, zero = (
    flags
    if flags is None
    else OPS[name](params, np.broadcast_to(flags, g.shape))
    for flags in (g.masked, g.zero)
  )
  return l.builder.op(
    name,
    [g],
    (g.low, g.high),
    shape,
    g.step,
    g.truth,
    masked,
    params,
    zero,
  )


def _one(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  name, params = _ONE[op.name](op)
  shape, value = op.outputs[0].shape, values[0]
  if isinstance(value, np.ndarray):
    return [OPS[name](params, value)]
  g = l.grid(value)
  made = _moved(l, g, name, shape, params)
  l.keep_span(g, made)
  return [made]


def _cut(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  """A slice whose start is known."""
  value, *starts = values
  sizes = _whole(op.params['slice_sizes'])
  sides = zip(starts, sizes, op.inputs[0].shape, strict=True)
  first = [min(max(int(s), 0), side - size) for s, size, side in sides]
  params = {
    'start': first,
    'stop': [a + n for a, n in zip(first, sizes, strict=True)],
    'step': [1] * len(sizes),
  }
  if isinstance(value, np.ndarray):
    return [OPS['slice'](params, value)]
  g = l.grid(value)
  made = _moved(l, g, 'slice', op.outputs[0].shape, params)
  l.keep_span(g, made)
  return [made]


def _split(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  g, axis, made, start = l.grid(values[0]), op.params['axis'], [], 0
  for v, size in zip(op.outputs, op.params['sizes'], strict=True):
    first = [0] * len(g.shape)
    stop = _whole(g.shape)
    first[axis], stop[axis] = start, start + int(size)
    params = {'start': first, 'stop': stop, 'step': [1] * len(g.shape)}
    made.append(_moved(l, g, 'slice', v.shape, params))
    l.keep_span(g, made[-1])
    start += int(size)
  return made


def _together(l: Lowering, values: list[Any]) -> list[Grid]:
  """Arrays of any shapes on one grid."""
  grids = [
    None if isinstance(v, np.ndarray) and v.dtype != bool else l.grid(v)
    for v in values
  ]
  there = [g for g in grids if g is not None]
  if not there:
    return [l.grid(v) for v in values]
  if any(g.masked is not None for g in there):
    raise NotWhole('masked scores are joined with others')
  if all(g.truth for g in there):
    return there
  on_one = l.builder.align(there, [l.span(g) for g in there], 2**30)
  found = iter(on_one)
  like = on_one[0]
  return [
    l.on_step(v, like.step) if g is None else next(found)
    for v, g in zip(values, grids, strict=True)
  ]


def _stack(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  axis = int(op.params['axis'])
  grids = []
  for g in _together(l, values):
    shape = (*g.shape[:axis], 1, *g.shape[axis:])
    params = {'shape': list(shape)}
    grids.append(_moved(l, g, 'reshape', shape, params))
  return [_joined(l, op, grids, axis)]


def _tile(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  g = l.grid(values[0])
  for axis, times in enumerate(op.params['reps']):
    shape = [n * times if k == axis else n for k, n in enumerate(g.shape)]
    bound = g.low, g.high
    masked, zero = (
      flags
      if flags is None
      else np.concatenate([np.broadcast_to(flags, g.shape)] * times, axis)
      for flags in (g.masked, g.zero)
    )
    if times > 1:
      made = l.builder.op(
        'concatenate', [g] * times, bound, shape, g.step, g.truth, masked,
        {'axis': axis}, zero,
      )  # fmt: skip
      l.keep_span(g, made)
      g = made
  return [g]


def _argmax(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  g, (axis,) = l.grid(values[0]), op.params['axes']
  size = op.inputs[0].shape[axis]
  if op.name == 'argmin':
    g = l.builder.scale(g, -1, 0, g.step)
  axes = {'axes': [int(axis)]}
  shape = op.outputs[0].shape
  return [l.builder.op('argmax', [g], (0, size - 1), shape, 1.0, params=axes)]


def _concatenate(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  return [_joined(l, op, _together(l, values), int(op.params['dimension']))]


def _joined(l: Lowering, op: Op, grids: list[Grid], axis: int) -> Grid:
  bound = min(g.low for g in grids), max(g.high for g in grids)
  return l.builder.op(
    'concatenate',
    grids,
    bound,
    op.outputs[0].shape,
    grids[0].step,
    grids[0].truth,
    axis=axis,
  )


def _pad(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  value, filling = values
  g = l.grid(value)
  if not isinstance(filling, np.ndarray) or g.masked is not None:
    raise NotWhole('it is filled up with what is no constant, or is masked')
  fill = int(np.rint(float(filling) / g.step))
  config = [_whole(c) for c in op.params['padding_config']]
  return [
    l.builder.op(
      'pad',
      [g],
      (min(g.low, fill), max(g.high, fill)),
      op.outputs[0].shape,
      g.step,
      g.truth,
      config=config,
      value=fill,
    )
  ]


def _index(l: Lowering, value: Any) -> Grid:
  if isinstance(value, np.ndarray):
    return l.builder.constant(value.astype(np.int64))
  return l.builder.to_step(l.grid(value), 1.0)


def _gather(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  source, indices = values
  if isinstance(source, np.ndarray) and source.dtype.kind == 'f':
    g = l.grid(source)  # an embedding
  elif isinstance(source, np.ndarray):
    g = l.builder.constant(source)
  else:
    g = l.grid(source)
  if g.masked is not None:
    raise NotWhole('masked scores are looked up')
  d = op.params['dimension_numbers']
  made = l.builder.op(
    'gather',
    [g, _index(l, indices)],
    (g.low, g.high),
    op.outputs[0].shape,
    g.step,
    g.truth,
    params={
      'shape': _whole(op.outputs[0].shape),
      'sizes': _whole(op.params['slice_sizes']),
      'offset': _whole(d.offset_dims),
      'dropped': _whole(d.collapsed_slice_dims),
      'starts': _whole(d.start_index_map),
      'batched': _whole(d.operand_batching_dims),
      'index_batched': _whole(d.start_indices_batching_dims),
    },
  )
  l.keep_span(g, made)
  return [made]


def _scatter(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  source, indices, updates = values
  g, u = _together(l, [source, updates])
  d = op.params['dimension_numbers']
  bound = min(g.low, u.low), max(g.high, u.high)
  if op.name == 'scatter-add':
    if not op.params['unique_indices']:
      times = math.prod(u.shape)
    else:
      times = 1
    bound = g.low + times * min(u.low, 0), g.high + times * max(u.high, 0)
  return [
    l.builder.op(
      'scatter',
      [g, _index(l, indices), u],
      bound,
      op.outputs[0].shape,
      g.step,
      g.truth,
      window=_whole(d.update_window_dims),
      inserted=_whole(d.inserted_window_dims),
      starts=_whole(d.scatter_dims_to_operand_dims),
      batched=_whole(d.operand_batching_dims),
      index_batched=_whole(d.scatter_indices_batching_dims),
      add=op.name == 'scatter-add',
    )
  ]


# ------------------------------------------------------------------ reductions


def _size(op: Op) -> int:
  return math.prod(op.inputs[0].shape[n] for n in op.params['axes'])


def _sum(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  g, size = l.grid(values[0]), _size(op)
  if g.masked is not None:
    raise NotWhole('masked scores are summed')
  bits = 31 - size.bit_length()
  g = l.builder.cleared(l.builder.fit(g, min(bits, 31), l.span(g)))
  bound = size * g.low, size * g.high
  axes = _whole(op.params['axes'])
  return [
    l.builder.op('sum', [g], bound, op.outputs[0].shape, g.step, axes=axes)
  ]


def _most(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  g, axes = l.grid(values[0]), tuple(_whole(op.params['axes']))
  name = 'most' if op.name == 'reduce_max' else 'least'
  shape = op.outputs[0].shape
  if g.masked is not None and name == 'least':
    raise NotWhole('the least of masked scores')
  made = l.builder.op(
    name,
    [g],
    (g.low, g.high),
    shape,
    g.step,
    masked=g.masked,
    axes=list(axes),
  )
  if g.masked is not None:  # a row may have no other
    made = l.builder.clip(made, g.low, g.high)
    made = _unmasked(made)
  l.keep_span(g, made)
  return [made]


def _unmasked(g: Grid) -> Grid:
  return Grid(g.id, g.shape, g.step, g.low, g.high, g.truth)


def _truths(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  g = l.grid(values[0])
  name = {'reduce_and': 'all', 'reduce_or': 'any'}[op.name]
  if not g.truth:
    raise NotWhole('it is of bits, not of truth values')
  axes = _whole(op.params['axes'])
  return [
    l.builder.op(name, [g], (0, 1), op.outputs[0].shape, 1.0, True, axes=axes)
  ]


def _running(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  g, axis = l.grid(values[0]), int(op.params['axis'])
  if g.masked is not None:
    raise NotWhole('masked scores are summed')
  size = g.shape[axis] if op.name == 'cumsum' else 1
  bits = 31 - size.bit_length()
  g = l.builder.cleared(l.builder.fit(g, bits, l.span(g)))
  bound = min(size * g.low, g.low), max(size * g.high, g.high)
  reverse = bool(op.params['reverse'])
  return [
    l.builder.op(op.name, [g], bound, step=g.step, axis=axis, reverse=reverse)
  ]


RULES = {
  **dict.fromkeys(_ONE, _one),
  'argmax': _argmax,
  'argmin': _argmax,
  'concatenate': _concatenate,
  'cummax': _running,
  'cumsum': _running,
  'dynamic_slice': _cut,
  'gather': _gather,
  'pad': _pad,
  'reduce_and': _truths,
  'reduce_max': _most,
  'reduce_min': _most,
  'reduce_or': _truths,
  'reduce_sum': _sum,
  'scatter': _scatter,
  'scatter-add': _scatter,
  'split': _split,
  'stack': _stack,
  'tile': _tile,
}
