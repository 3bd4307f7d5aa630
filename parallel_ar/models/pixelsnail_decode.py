"""Decoding a PixelSNAIL row by row, pixel by pixel.

What the rows above say to a convolution is computed once a row, as its link; a
pixel then costs one window of two pixels in every convolution, and one query
against the keys of all pixels before. A key needs the value of its own pixel,
so it is made one pixel later.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar.decode import Blocks, Decode, from_blocks
from parallel_ar.layers import attention
from parallel_ar.models import pixels
from parallel_ar.models.lines import Line, at_column, left_of
from parallel_ar.types import Array, Context, Dist, Params


class State(NamedTuple):
  """What the rows above have to say to a row.

  Attributes:
    links: to the convolutions, float[1, W, F] each.
    entries: keys and values of each block, float[H W + 1, K + F]: entry i of
      pixel i - 1. Those of the row itself and of later ones are not read.
  """

  links: tuple[Array, ...]
  entries: tuple[Array, ...]


def decode(module: Any) -> Decode:
  """The decode path of a `PixelSNAIL`; slot k is pixel k.

  Args:
    module: the network.

  Returns:
    The path.
  """
  height, width, channels = module.event
  columns = jnp.arange(width)

  def call(function: Any, params: Params, *args: Any) -> Any:
    return module.apply({'params': params}, *args, method=function)

  def encode(x: Array) -> Array:
    return pixels.encode(x.reshape(1, -1, channels), module.num_values)

  def in_slots(dist: Dist) -> Dist:
    flat = lambda d: d[0] if module.num_mixtures else d[0, :, 0]
    return jax.tree.map(flat, dist)

  def init(params: Params, context: Context) -> Any:
    return _no_rows(module), context

  def begin(params: Params, cache: Any, b: Any, previous: Any) -> Any:
    state, context = cache
    last = jnp.where(b > 0, encode(previous), 0)
    state = call(_next_row, params, state, b, last, context)
    return (state, context), (state, b, context)

  def row(params: Params, given: Any, image: Array) -> tuple[Dist, Line]:
    return call(_line, params, *given, columns, left_of(image))[:2]

  def conditionals(params: Params, given: Any, x: Any) -> Dist:
    return in_slots(row(params, given, encode(x))[0])

  def start(params: Params, given: Any) -> Any:
    return row(params, given, jnp.zeros((1, width, channels + 1)))[1].empty()

  def extend(
    params: Params, given: Any, inner: Any, j: Any, previous: Any
  ) -> Any:
    state, b, context = given
    state = state._replace(links=at_column(state.links, j))
    before = jnp.where(j > 0, encode(previous), 0)
    at = jnp.asarray(j)[None]
    dist, line, _ = call(_line, params, state, b, context, at, before, inner)
    return jax.tree.map(lambda d: d[0], in_slots(dist)), line.pushed(inner)

  blocks = Blocks(width, init, begin, conditionals, start, extend)
  value = pixels.value(module.event, module.num_mixtures)
  return from_blocks(blocks, value, height * width)


def _no_rows(net: Any) -> State:
  """What is known before the first row; the links are not read."""
  height, width, _ = net.event
  n, size = net.features, net.key_features + net.value_features
  links = [n] + [n, 2 * n] * (net.residuals * net.blocks)
  entries = jnp.zeros((height * width + 1, size), net.dtype)
  return State(
    tuple(jnp.zeros((1, width, n), net.dtype) for n in links),
    (entries,) * net.blocks,
  )


def _next_row(
  net: Any, state: State, row: Array, last: Array, context: Context
) -> State:
  """What a row is told, from the one above and what that was told.

  Args:
    net: the bound network.
    state: of the row above.
    row: int32[], the number of the row.
    last: the row above, float[1, W, N]; zeros where there is none.
    context: label, vector or None.
  """
  width = net.event[1]
  columns = jnp.arange(width)
  _, line, made = _line(net, state, row - 1, context, columns, left_of(last))
  links = net.above.over(last) + net.left.above(last)
  place, entries = net.place(row - 1, columns[None]), []
  # Above the first row is none: its entries are written again by the next.
  start = jnp.maximum(row - 1, 0) * width + 1
  for layer, own, h in zip(net.layers, state.entries, made, strict=True):
    new = layer.entries(h, last, place)[0].astype(own.dtype)
    entries.append(jax.lax.dynamic_update_slice_in_dim(own, new, start, 0))
  return State((links, *line.below(row > 0)), tuple(entries))


def _line(
  net: Any,
  state: State,
  row: Array,
  context: Context,
  columns: Array,
  before: Array,
  buffers: Sequence[Array] | None = None,
) -> tuple[Dist, Line, list[Array]]:
  """One row, or with buffers one pixel.

  Args:
    net: the bound network.
    state: what the row is told, the links cut to the columns.
    row: int32[].
    context: label, vector or None.
    columns: int32[L], all or one.
    before: the image one pixel to the left, float[1, L, N].
    buffers: inputs of the pixels to the left.

  Returns:
    The conditionals, how they were run, and what the keys are made of.
  """
  links, columns = state.links, columns[None]
  line = Line(links[1:], buffers)
  here, left = net.place(row, columns), net.place(row, columns - 1)
  beside = before, left, (columns > 0)[..., None]
  above = jnp.arange(state.entries[0].shape[0]) <= row * net.event[1]
  h, made = links[0] + net.left.at(before), []
  for layer, own in zip(net.layers, state.entries, strict=True):
    for residual in layer.convs:
      h = residual.run(h, None, context, line)
    made.append(h)
    query = layer.query(h, here)[0]
    mixed = _attend(layer, line, query, h, beside, (own, above))
    h = layer.out(h, mixed, context)
  return net.dist(h), line, made


def _attend(
  layer: Any,
  line: Line,
  query: Array,
  h: Array,
  beside: tuple[Array, Array, Array],
  above: tuple[Array, Array],
) -> Array:
  """Attention to the rows above and to the pixels to the left.

  Args:
    layer: the bound block.
    line: runs it.
    query: float[L, K].
    h: what the keys are made of, float[1, L, N].
    beside: the image, its place, and whether there is a pixel, all one pixel to
      the left.
    above: entries of all rows float[H W + 1, K + F], and which stand above.

  Returns:
    float[1, L, F].
  """
  image, left, exists = beside
  own = layer.entries(line.before(h), image, left)
  own = jnp.concatenate([own, exists.astype(own.dtype)], -1)
  own = line.seen(own, layer.width - 1)[0]
  count, seen = query.shape[0], own.shape[0]
  near = jnp.tri(count, seen, seen - count, dtype=bool)
  split = layer.key_features
  mixed = attention.two_part_attention(
    query,
    (above[0][:, :split], own[:, :split]),
    (above[0][:, split:], own[:, split:-1]),
    (above[1][None], near & (own[:, -1] > 0)[None]),
  )
  return mixed[None]
