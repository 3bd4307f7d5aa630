"""Decoding images row by row, without repeating any work.

A masked convolution reads rows above and pixels to the left. What a row reads
from the rows above is final when the row begins: it is computed once, for the
whole row, as the `links` that each layer adds. Given its links, a row is a
small autoregressive model of its own, and a pixel of it costs one window of
k // 2 + 1 pixels in every layer. Neither depends on the image's height, and a
pixel's share of its row does not grow with the width.

A network joins by three methods, in which `rows` is a state of its own:

  no_rows(width) -> rows            before the first row
  begin(rows, last, exists, context) -> (rows, links)
                                    `last` is the encoded row above, float[1, W,
                                    N], all zeros where it does not exist
  row(x, links, context, buffers) -> (logits, inputs)
                                    a whole row x float[1, W, N] where buffers
                                    is None, else one pixel float[1, 1, N] with
                                    the k // 2 pixels before it in each layer;
                                    `inputs` are those of each layer

References:
  Ramachandran et al.: Fast generation for convolutional autoregressive models.
  ICLR workshop 2017.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from parallel_ar.decode import Blocks, Decode, from_blocks
from parallel_ar.layers import embedding
from parallel_ar.types import Array, Context, Dist, Params


def decode(module: Any, event: Sequence[int]) -> Decode:
  """The decode path of a masked convolutional network.

  Args:
    module: the network, with the methods above and the attributes num_values,
      inputs and `halves`, int[layers], k // 2 of each layer.
    event: (height, width, channels); channels in a chain, or tied.

  Returns:
    The path; slot k is (row, column, channel) in row-major order.
  """
  height, width, channels = event
  size = width * channels

  def call(params: Params, method: str, *args: Any) -> Any:
    return module.apply({'params': params}, *args, method=method)

  def encode(x: Array) -> Array:
    x = x.reshape(1, -1, channels)
    return embedding.encode(x, module.num_values, module.inputs)

  def init(params: Params, context: Context) -> Any:
    del params
    return module.no_rows(width), context

  def begin(params: Params, cache: Any, b: Any, previous: Any) -> Any:
    rows, context = cache
    last = jnp.where(b > 0, encode(previous), 0)
    rows, links = call(params, 'begin', rows, last, b > 0, context)
    return (rows, context), (links, context)

  def conditionals(params: Params, given: Any, x: Any) -> Dist:
    logits, _ = call(params, 'row', encode(x), *given, None)
    return logits.reshape(size, *logits.shape[3:])

  def start(params: Params, given: Any) -> Any:
    # At the left border every layer reads zeros.
    x = jnp.zeros(size, jnp.int32)
    _, inputs = jax.eval_shape(
      lambda p, g: call(p, 'row', encode(x), *g, None), params, given
    )
    pairs = zip(module.halves, inputs, strict=True)
    buffers = tuple(jnp.zeros((1, n, y.shape[-1]), y.dtype) for n, y in pairs)
    return x[:channels], buffers

  def extend(
    params: Params, given: Any, inner: Any, j: Any, previous: Any
  ) -> Any:
    links, context = given
    pixel, buffers = inner
    column, channel = jnp.divmod(j, channels)
    pixel = pixel.at[(j - 1) % channels].set(previous)
    # A new pixel: the encoding of the last one is complete.
    whole = jnp.where(j > 0, encode(pixel), 0)
    first = _push(buffers[0], whole, channels == 1 or channel == 0)
    here = tuple(
      jax.lax.dynamic_slice_in_dim(link, column, 1, 1) for link in links
    )
    logits, inputs = call(
      params, 'row', encode(pixel), here, context, (first, *buffers[1:])
    )
    # No layer reads the last channel of its own pixel: inputs are final here.
    final = channels == 1 or channel == channels - 1
    rest = tuple(
      _push(b, y, final) for b, y in zip(buffers[1:], inputs[1:], strict=True)
    )
    return logits[0, 0, channel], (pixel, (first, *rest))

  blocks = Blocks(size, init, begin, conditionals, start, extend)
  value = jax.ShapeDtypeStruct((), jnp.int32)
  return from_blocks(blocks, value, height * size)


def _push(buffer: Array, y: Array, when: Any) -> Array:
  """The buffer with y as its newest pixel, its oldest forgotten."""
  pushed = jnp.concatenate([buffer, y.astype(buffer.dtype)], 1)[:, 1:]
  return pushed if when is True else jnp.where(when, pushed, buffer)
