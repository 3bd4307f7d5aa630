"""Decoding a Gated PixelCNN pixel by pixel, without repeating any work.

The vertical stack of row r depends on finished rows only: it is computed once,
as a whole row, when the row begins. A pixel then costs one tap window of the
horizontal stack in every layer. Both are independent of the image's height, and
a pixel's share of its row's vertical work does not grow with the width.

Every activation has its own place in the cache, so that nothing needs undoing:
after a rewind the slots that follow are written again before they are read.

References:
  Ramachandran et al.: Fast generation for convolutional autoregressive models.
  ICLR workshop 2017.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar.decode import Decode
from parallel_ar.layers import embedding
from parallel_ar.types import Array, Context, Params


class Maps(NamedTuple):
  """Activations so far, a tuple over layers each; k // 2 zeros come first.

  Attributes:
    above: inputs of the vertical stack, float[k // 2 + H, W, N].
    left: inputs of the horizontal stack, float[H, k // 2 + W, N].
    link: what the vertical stack adds to the horizontal, float[H, W, 2 N].
  """

  above: tuple[Array, ...]
  left: tuple[Array, ...]
  link: tuple[Array, ...]


def decode(module: Any, event: Sequence[int]) -> Decode:
  """The decode path of a `GatedPixelCNN` over images of one channel.

  Args:
    module: the network.
    event: (height, width, 1).

  Returns:
    The path; slot k is pixel (k // width, k % width).
  """
  height, width, _ = event
  halves = [module.first_size // 2] + [module.size // 2] * (module.layers - 1)

  def encode(x: Array) -> Array:
    return embedding.encode(x, module.num_values, module.inputs)

  def init(params: Params, context: Context) -> Any:
    del params
    inputs = jax.eval_shape(encode, jax.ShapeDtypeStruct((1, 1, 1), jnp.int32))
    sizes = [inputs.shape[-1]] + [module.features] * (module.layers - 1)
    dtypes = [inputs.dtype] + [module.dtype] * (module.layers - 1)
    parts = list(zip(halves, sizes, dtypes, strict=True))
    return Maps(
      above=tuple(jnp.zeros((p + height, width, n), t) for p, n, t in parts),
      left=tuple(jnp.zeros((height, p + width, n), t) for p, n, t in parts),
      link=tuple(
        jnp.zeros((height, width, 2 * module.features), module.dtype)
        for _ in parts
      ),
    ), context

  def extend(params: Params, cache: Any, k: Any, previous: Any) -> Any:
    maps, context = cache

    def call(method: str, *args: Any) -> Any:
      return module.apply({'params': params}, *args, method=method)

    def step(carry, value):
      maps, k = carry
      maps = _write_pixel(maps, encode(value.reshape(1, 1, 1)), k - 1)
      maps = _write_row(maps, k)
      logits, maps = _pixel(maps, k)
      return (maps, k + 1), logits[0, 0, 0]

    def _write_pixel(maps: Maps, y: Array, k: Any) -> Maps:
      # Slot -1 writes pixel 0, which is written again before it is read.
      row, column = jnp.divmod(jnp.maximum(k, 0), width)
      above = _put(maps.above[0], y, halves[0] + row, column)
      left = _put(maps.left[0], y, row, halves[0] + column)
      return maps._replace(
        above=(above, *maps.above[1:]), left=(left, *maps.left[1:])
      )

    def _write_row(maps: Maps, k: Any) -> Maps:
      row, column = jnp.divmod(k, width)

      def compute(maps):
        rows, links, y = [], [], None
        for l, half in enumerate(halves):
          seen = _rows(maps.above[l], row, half)
          seen = seen if y is None else jnp.concatenate([seen, y])
          y, link = call('above', l, seen)
          rows.append(y)
          links.append(link)
        return rows[:-1], links

      def keep(maps):
        pairs = zip(maps.above[1:], halves[1:], strict=True)
        rows = [_rows(a, half + row, 1) for a, half in pairs]
        return rows, [_rows(a, row, 1) for a in maps.link]

      # Only rows go through the branch: whole maps would be copied by it.
      rows, links = jax.lax.cond(column == 0, compute, keep, maps)
      above = [
        _put(a, y, half + row, 0)
        for a, y, half in zip(maps.above[1:], rows, halves[1:], strict=True)
      ]
      link = [_put(a, y, row, 0) for a, y in zip(maps.link, links, strict=True)]
      return maps._replace(above=(maps.above[0], *above), link=tuple(link))

    def _pixel(maps: Maps, k: Any) -> tuple[Array, Maps]:
      row, column = jnp.divmod(k, width)
      left, y = list(maps.left), None
      for l, half in enumerate(halves):
        seen = _window(left[l], row, column, half)
        if y is not None:
          left[l] = _put(left[l], y, row, half + column)
          seen = jnp.concatenate([seen, y], 1)
        link = _window(maps.link[l], row, column, 1)
        y = call('left', l, seen, link, context)
      return call('to_logits', y, context), maps._replace(left=tuple(left))

    (maps, _), dist = jax.lax.scan(step, (maps, jnp.asarray(k)), previous)
    return dist, (maps, context)

  return Decode(init, extend, rewind=lambda cache, k: cache)


def _put(map_HWN: Array, y: Array, row: Any, column: Any) -> Array:
  start = row, column, jnp.zeros_like(row)
  return jax.lax.dynamic_update_slice(map_HWN, y.astype(map_HWN.dtype), start)


def _rows(map_HWN: Array, row: Any, count: int) -> Array:
  return jax.lax.dynamic_slice_in_dim(map_HWN, row, count, 0)


def _window(map_HWN: Array, row: Any, column: Any, count: int) -> Array:
  start = row, column, jnp.zeros_like(row)
  return jax.lax.dynamic_slice(map_HWN, start, (1, count, map_HWN.shape[-1]))
