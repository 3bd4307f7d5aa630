"""Rules of matrix products and convolutions: the only long sums of a pass.

Every partial sum of an output is at most

  partial = max_out sum_in |w| max |a|

whatever the order, the L1 norm of a row of the weights times the bound of what
it meets. So it says whether a carrier can hold the sum without rounding, and
`cut`, how many parts of the summed axis float32 can hold one by one.
"""

from typing import Any

import numpy as np

from parallel_ar.exact.builder import MOST, Grid, NotWhole
from parallel_ar.exact.lowering import Lowering
from parallel_ar.exact.reference.program import FLOAT
from parallel_ar.program.trace import Op


def _activation(l: Lowering, value: Any, norm: int) -> Grid:
  """What meets weights of an L1 norm: as many bits as the sum has room for."""
  g, bits = l.grid(value), l.activation_bits
  if g.masked is not None:
    raise NotWhole('masked scores enter a product')
  while norm * (2 ** (bits - 1) - 1) > MOST and bits > 2:
    bits -= 1
  return l.builder.cleared(l.builder.fit(g, bits, l.span(g)))


def _sums(
  w: np.ndarray, axes: tuple[int, ...], a: Grid
) -> tuple[int, int, dict[str, Any]]:
  """(least, most, {partial, cut}) of products with rows of w.

  Args:
    w: the weights.
    axes: that are summed; `cut` is of the first.
    a: what they meet.
  """
  w = w.astype(np.int64)
  up = np.maximum(w, 0).sum(axes) if axes else np.maximum(w, 0)
  down = np.minimum(w, 0).sum(axes) if axes else np.minimum(w, 0)
  if not up.size:
    return 0, 0, {'partial': 0, 'cut': 1}
  high = max(int((up * a.high + down * a.low).max()), 0)
  low = min(int((up * a.low + down * a.high).min()), 0)
  partial = int((up - down).max()) * a.most
  return low, high, {'partial': partial, 'cut': _cut(np.abs(w), axes, a.most)}


def _cut(w: np.ndarray, axes: tuple[int, ...], most: int) -> int:
  """Parts of the first summed axis whose sums are below 2^24; 0 for none."""
  if not axes or w.max(initial=0) * most >= FLOAT:
    return 0
  w = np.moveaxis(w, axes, range(len(axes))) * most
  w = w.sum(tuple(range(1, len(axes))))
  size = len(w)
  count = max(1, -(-int(w.sum(0).max()) // FLOAT))
  while count <= size:
    each = -(-size // count)
    if np.add.reduceat(w, range(0, size, each)).max() < FLOAT:
      return -(-size // each)
    count += 1 + count // 8
  return 0


def dot(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  """A matrix product; weights are the side that is constant, if one is."""
  (lc, rc), (lb, rb) = op.params['dimension_numbers']
  dims = [[list(map(int, n)) for n in (lc, rc)]]
  dims.append([list(map(int, n)) for n in (lb, rb)])
  shape = op.outputs[0].shape
  fixed = [n for n in (0, 1) if isinstance(values[n], np.ndarray)]
  if fixed:
    n = fixed[0]
    bits = l.weight_bits
    w, q = l.weights(values[n], bits)
    axes = tuple((lc, rc)[n])
    norm = int(np.abs(q).sum(axes).max(initial=0))
    a = _activation(l, values[1 - n], norm)
    low, high, bound = _sums(q, axes, a)
    pair = [w, a] if n == 0 else [a, w]
  else:
    size = int(np.prod([op.inputs[0].shape[n] for n in lc], dtype=int))
    bits = l.activation_bits
    while size * (2 ** (bits - 1) - 1) ** 2 > MOST:
      bits -= 1
    pair = [l.grid(v) for v in values]
    if any(g.masked is not None for g in pair):
      raise NotWhole('masked scores enter a product')
    fit = lambda g: l.builder.fit(g, bits, l.span(g))
    pair = [l.builder.cleared(fit(g)) for g in pair]
    a, b = pair
    ends = [size * p * q for p in (a.low, a.high) for q in (b.low, b.high)]
    low, high = min(0, *ends), max(0, *ends)
    bound = {'partial': size * a.most * b.most, 'cut': 0}
    if lc:
      ones = np.full([op.inputs[0].shape[n] for n in lc], b.most, np.int64)
      bound['cut'] = _cut(ones, tuple(range(len(lc))), a.most)
  step = pair[0].step * pair[1].step
  return [
    l.builder.op(
      'dot', pair, (low, high), shape, step, dimensions=dims, **bound
    )
  ]


def conv(l: Lowering, op: Op, values: list[Any]) -> list[Any]:
  """A convolution with a constant kernel."""
  x, kernel = values
  if not isinstance(kernel, np.ndarray):
    raise NotWhole('its kernel depends on the event')
  p = op.params
  if p['batch_group_count'] != 1:
    raise NotWhole('it has groups of the batch')
  dims = p['dimension_numbers']
  w, q = l.weights(kernel, l.weight_bits)
  out, *axes = dims.rhs_spec
  norm = int(np.abs(q).sum(tuple(axes)).max(initial=0))
  a = _activation(l, x, norm)
  low, high, bound = _sums(q, tuple(axes), a)
  groups = int(p['feature_group_count'])
  if groups > 1 and bound['cut'] > 1:
    bound['cut'] = 0  # its features are not one axis
  whole = lambda values: [int(n) for n in values]
  return [
    l.builder.op(
      'conv',
      [a, w],
      (low, high),
      op.outputs[0].shape,
      a.step * w.step,
      lhs=whole(dims.lhs_spec),
      rhs=whole(dims.rhs_spec),
      out=whole(dims.out_spec),
      strides=whole(p['window_strides']),
      pad=[whole(pair) for pair in p['padding']],
      spread=whole(p['lhs_dilation']),
      dilation=whole(p['rhs_dilation']),
      groups=groups,
      **bound,
    )
  ]


RULES = {'dot_general': dot, 'conv_general_dilated': conv}
