"""Rules of reductions, running sums and what mixes whole axes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.decode import facts as known
from parallel_ar.decode.facts import NEVER, UNKNOWN, Facts
from parallel_ar.decode.rules import moves, places
from parallel_ar.decode.rules.products import masked
from parallel_ar.decode.rules.rule import NoRule, Rule, Step

REDUCTIONS = frozenset(
  'argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod '
  'reduce_sum reduce_xor'.split()
)


def _skipped(op: Any, f: Facts) -> Any:
  """Entries that a reduction does not read."""
  if op.name in ('reduce_sum', 'reduce_or'):
    return f.zero
  return f.low if op.name == 'reduce_max' else None


def _reduce_ready(op: Any, ins: list[Facts]) -> list[Facts]:
  (f,), axes = ins, tuple(op.params['axes'])
  every = lambda a: None if a is None else known.some(a.all(axes))
  zero = f.zero
  if op.name in ('reduce_sum', 'reduce_or', 'reduce_max', 'reduce_min'):
    zero = every(zero)
  elif op.name in ('reduce_prod', 'reduce_and'):
    zero = None if zero is None else known.some(zero.any(axes))
  else:
    zero = None
  low = every(f.low) if op.name == 'reduce_max' else None
  ready = f.ready
  if ready is not None:
    skip = _skipped(op, f)
    if skip is not None and op.name == 'reduce_max':
      skip = skip & ~skip.all(axes, keepdims=True)
    ready = known.unless(skip, ready, 0).max(axes, initial=0)
    ready = known.unless(zero, ready, 0)
  return [Facts(ready, zero, None, low)]


def _reduce_due(
  op: Any, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  (f,), axes = ins, tuple(op.params['axes'])
  skip = _skipped(op, f)
  if skip is not None and op.name == 'reduce_max':
    skip = skip & ~skip.all(axes, keepdims=True)
  due = known.unless(outs[0].zero, dues[0], NEVER)
  return [known.unless(skip, np.expand_dims(due, axes), NEVER)]


def _reduce_step(op: Any, cuts: list[Any], at: Any) -> Step:
  axes, shape = tuple(op.params['axes']), op.inputs[0].shape
  kept = iter(cuts[0])
  need = [None if n in axes else next(kept) for n in range(len(shape))]
  skip = _skipped(op, at.facts(op.inputs[0]))
  cut_of = {n: i for n, i in enumerate(need) if i is not None}
  for axis in axes:
    index = masked(at, skip, shape, axis, cut_of)
    if index is not None and index.run:
      need[axis] = index
  return [(op.inputs[0], tuple(need))], lambda v, k: op.bind(*v)


REDUCE = Rule(_reduce_ready, _reduce_due, _reduce_step)


# ---------------------------------------------------------------- running sums

_RUNNING = {
  'cumlogsumexp': jnp.logaddexp,
  'cummax': jnp.maximum,
  'cummin': jnp.minimum,
  'cumprod': jnp.multiply,
  'cumsum': jnp.add,
}


def goes_on(op: Any) -> bool:
  """Whether it adds to the last entry that it gave, see `_running_step`."""
  return op.name in _RUNNING and not op.params['reverse']


def _running_ready(op: Any, ins: list[Facts]) -> list[Facts]:
  (f,), axis = ins, op.params['axis']
  ready = f.ready
  if ready is not None:
    ready = _so_far(ready, axis, op.params['reverse'], np.maximum)
  return [Facts(ready)]


def _so_far(a: np.ndarray, axis: int, back: bool, join: Any) -> np.ndarray:
  a = np.flip(a, axis) if back else a
  a = join.accumulate(a, axis)
  return np.flip(a, axis) if back else a


def _running_due(
  op: Any, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  back = not op.params['reverse']
  return [_so_far(dues[0], op.params['axis'], back, np.minimum)]


def _running_step(op: Any, cuts: list[Any], at: Any) -> Step:
  axis, (cut,) = op.params['axis'], cuts
  index = cut[axis]
  if index is None:
    return [(op.inputs[0], cut)], lambda v, k: op.bind(*v)
  if op.params['reverse'] or not index.run:
    need = (*cut[:axis], None, *cut[axis + 1 :])
    return [(op.inputs[0], need)], lambda v, k: [
      jnp.take(op.bind(*v)[0], index.at(k), axis)
    ]
  last = at.of(np.maximum(index.table[:, :1] - 1, 0), op.inputs[0].shape[axis])
  before = (op.outputs[0], (*cut[:axis], last, *cut[axis + 1 :]))

  def run(values: list[Any], k: Any) -> list[Any]:
    (v,) = op.bind(values[0])
    both = _RUNNING[op.name](values[1], v)
    return [jnp.where(index.start(k) > 0, both, v)]

  return [(op.inputs[0], cut), before], run


RUNNING = Rule(_running_ready, _running_due, _running_step)


# ------------------------------------------------------------ axes that mix


def _mixed_axes(op: Any) -> tuple[int, ...]:
  rank = len(op.inputs[0].shape)
  if op.name == 'sort':
    return (op.params['dimension'],)
  if op.name == 'top_k':
    return (op.params.get('axis', -1) % rank,)
  if op.name == 'fft':
    return tuple(range(rank - len(op.params['fft_lengths']), rank))
  raise NoRule


def _mixed_ready(op: Any, ins: list[Facts]) -> list[Facts]:
  axes = _mixed_axes(op)
  ready = known.most(f.ready for f in ins)
  if ready is not None:
    if op.name == 'fft' and any(ready.shape[a] > 1 for a in axes):
      # What a transform leaves of an input is not seen from its axes.
      ready = np.full([1] * ready.ndim, UNKNOWN, np.int32)
    ready = ready.max(axes, keepdims=True)
  return [Facts(ready) for _ in op.outputs]


def _mixed_due(
  op: Any, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  due = known.least(dues).min(_mixed_axes(op), keepdims=True)
  return [due] * len(op.inputs)


def _mixed_step(op: Any, cuts: list[Any], at: Any) -> Step:
  axes = _mixed_axes(op)
  cut = next(c for c in cuts if c is not None)
  need = tuple(None if n in axes else i for n, i in enumerate(cut))

  def run(values: list[Any], k: Any) -> list[Any]:
    outs = []
    for v, own in zip(op.bind(*values), cuts, strict=True):
      for axis in axes:
        if own is not None and own[axis] is not None:
          v = jnp.take(v, own[axis].at(k), axis)
      outs.append(v)
    return outs

  return [(v, need) for v in op.inputs], run


MIXED = Rule(_mixed_ready, _mixed_due, _mixed_step)


# ------------------------------------------------------------------- look-ups


class _Lookup:
  """A gather: which axes of the result are those of the source and index."""

  def __init__(self, op: Any):
    d = op.params['dimension_numbers']
    sizes = op.params['slice_sizes']
    self.source, self.index = (v.shape for v in op.inputs)
    self.out = op.outputs[0].shape
    self.offset = list(d.offset_dims)
    self.batch = [n for n in range(len(self.out)) if n not in self.offset]
    batched = list(d.operand_batching_dims)
    dropped = [*d.collapsed_slice_dims, *batched]
    self.own: dict[int, int] = {}  # axis of the source -> of the result
    self.cut_off: list[int] = []
    kept = iter(self.offset)
    for axis in range(len(self.source)):
      if axis not in dropped:
        to = next(kept)
        if sizes[axis] == self.source[axis]:
          self.own[axis] = to
        else:
          self.cut_off.append(to)
    for axis, place in zip(batched, d.start_indices_batching_dims, strict=True):
      self.own[axis] = self.batch[place]


def _lookup_ready(op: Any, ins: list[Facts]) -> list[Facts]:
  if op.inputs[1].value is not None:
    return places.ANY.ready(op, ins)
  g, (source, index) = _Lookup(op), ins
  parts = []
  if source.ready is not None:
    a = source.ready
    others = tuple(n for n in range(a.ndim) if n not in g.own)
    a = a.max(others, initial=0) if others else a
    order = sorted(g.own, key=lambda n: g.own[n])
    kept = [n for n in range(source.ready.ndim) if n in g.own]
    a = a.transpose([kept.index(n) for n in order])
    parts.append(_place(a, [g.own[n] for n in order], len(g.out)))
  if index.ready is not None:
    parts.append(_place(index.ready.max(-1), g.batch, len(g.out)))
  return [Facts(known.most(parts))]


def _place(a: np.ndarray, axes: list[int], rank: int) -> np.ndarray:
  shape = [1] * rank
  for n, axis in zip(a.shape, axes, strict=True):
    shape[axis] = n
  return a.reshape(shape)


def _lookup_due(
  op: Any, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  if op.inputs[1].value is not None:
    return places.ANY.due(op, ins, outs, dues)
  g, (due,) = _Lookup(op), dues
  order = sorted(g.own, key=lambda n: g.own[n])
  drop = tuple(n for n in range(due.ndim) if n not in g.own.values())
  a = due.min(drop) if drop else due
  shape = [1] * len(g.source)
  kept = {axis: n for n, axis in enumerate(order)}
  a = a.transpose([kept[n] for n in sorted(g.own)])
  for n, axis in zip(a.shape, sorted(g.own), strict=True):
    shape[axis] = n
  own = a.reshape(shape)
  index = due.min(tuple(g.offset)) if g.offset else due
  return [own, index[..., None]]


def _lookup_step(op: Any, cuts: list[Any], at: Any) -> Step:
  if op.inputs[1].value is not None:
    return places.ANY.step(op, cuts, at)
  g, (cut,) = _Lookup(op), cuts
  later = [n for n in g.offset if cut[n] is not None]
  need: list[Any] = [None] * len(g.source)
  for axis, to in g.own.items():
    if to in g.batch:
      need[axis] = cut[to]
  index = tuple(cut[n] for n in g.batch)

  def run(values: list[Any], k: Any) -> list[Any]:
    (out,) = op.bind(*values)
    for axis in later:
      out = jnp.take(out, cut[axis].at(k), axis)
    return [out]

  return [(op.inputs[0], tuple(need)), (op.inputs[1], (*index, None))], run


LOOKUP = Rule(_lookup_ready, _lookup_due, _lookup_step)


def _slice_axes(op: Any) -> list[int]:
  sizes = op.params['slice_sizes']
  return [n for n, m in enumerate(op.inputs[0].shape) if sizes[n] != m]


def _sliced_ready(op: Any, ins: list[Facts]) -> list[Facts]:
  if all(v.value is not None for v in op.inputs[1:]):
    return moves.SLICE.ready(op, ins)
  axes = tuple(_slice_axes(op))
  own = ins[0].ready
  parts = [] if own is None else [own.max(axes, keepdims=True, initial=0)]
  rank = [1] * len(op.outputs[0].shape)
  parts += [f.ready.reshape(rank) for f in ins[1:] if f.ready is not None]
  return [Facts(known.most(parts))]


def _sliced_due(
  op: Any, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  if all(v.value is not None for v in op.inputs[1:]):
    return moves.SLICE.due(op, ins, outs, dues)
  due = dues[0]
  own = due.min(tuple(_slice_axes(op)), keepdims=True)
  return [own, *[np.asarray(due.min())] * (len(op.inputs) - 1)]


def _sliced_step(op: Any, cuts: list[Any], at: Any) -> Step:
  if all(v.value is not None for v in op.inputs[1:]):
    return moves.SLICE.step(op, cuts, at)
  axes, (cut,) = _slice_axes(op), cuts
  need = tuple(None if n in axes else i for n, i in enumerate(cut))
  sizes = [
    op.params['slice_sizes'][n] if n in axes or i is None else i.size
    for n, i in enumerate(cut)
  ]

  def run(values: list[Any], k: Any) -> list[Any]:
    starts = [
      s if n in axes else jnp.zeros_like(s) for n, s in enumerate(values[1:])
    ]
    out = jax.lax.dynamic_slice(values[0], starts, sizes)
    for axis in axes:
      if cut[axis] is not None:
        out = jnp.take(out, cut[axis].at(k), axis)
    return [out]

  return [(op.inputs[0], need), *((v, ()) for v in op.inputs[1:])], run


DYNAMIC_SLICE = Rule(_sliced_ready, _sliced_due, _sliced_step)

RULES = {
  'dynamic_slice': DYNAMIC_SLICE,
  'fft': MIXED,
  'gather': LOOKUP,
  'sort': MIXED,
  'top_k': MIXED,
  **dict.fromkeys(REDUCTIONS, REDUCE),
  **dict.fromkeys(_RUNNING, RUNNING),
}
