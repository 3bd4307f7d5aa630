"""Running a causal network on one row of an image, or on one pixel.

Networks of `layers.gated` are written once, over a way to run a convolution.
Here are two more ways than the whole image: a row, where what the rows above
say is known from `links`, one for each convolution; and a pixel, where also
the inputs of the pixels to its left are known, from `buffers`.

A network visits its convolutions in one order, so both are plain tuples.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from parallel_ar.layers.gated import Shifted
from parallel_ar.types import Array


class Line:
  """The stream that reads pixels to the left, on one row or one pixel.

  Attributes:
    inputs: float[1, W, N], or [1, 1, N] of a pixel, in the order of the visits.
    halves: pixels to the left that each visit reads beside its own.
  """

  def __init__(
    self, links: Sequence[Array], buffers: Sequence[Array] | None = None
  ):
    """Takes both in the order of the visits; without buffers it is a row."""
    self.inputs: list[Array] = []
    self.halves: list[int] = []
    self._convolutions: list[tuple[Shifted, Array]] = []
    self._links = iter(links)
    self._buffers = None if buffers is None else iter(buffers)

  def __call__(self, convolution: Shifted, y: Array) -> Array:
    """Runs a convolution; a way to run for `layers.gated`."""
    self._convolutions.append((convolution, y))
    seen = self.seen(y, convolution.left)
    is_row = self._buffers is None
    z = convolution.beside(seen) if is_row else convolution.at(seen)
    return z + next(self._links)

  def seen(self, y: Array, half: int) -> Array:
    """y and, at a pixel, the `half` pixels before it."""
    self.inputs.append(y)
    self.halves.append(half)
    if self._buffers is None:
      return y
    return jnp.concatenate([next(self._buffers).astype(y.dtype), y], 1)

  def before(self, y: Array) -> Array:
    """What y is one pixel to the left."""
    seen = self.seen(y, 1)
    return left_of(seen) if self._buffers is None else seen[:, :1]

  def below(self, exists: Array) -> tuple[Array, ...]:
    """The links of the row below; zeros stand above where no row exists."""
    return tuple(
      convolution.above(jnp.where(exists, y, 0))
      for convolution, y in self._convolutions
    )

  def empty(self) -> tuple[Array, ...]:
    """Buffers at the left border of a row, for the visits there were."""
    return tuple(
      jnp.zeros((1, half, y.shape[-1]), y.dtype)
      for half, y in zip(self.halves, self.inputs, strict=True)
    )

  def pushed(self, buffers: Sequence[Array]) -> tuple[Array, ...]:
    """The buffers with the inputs of this pixel, the oldest forgotten."""
    return tuple(
      jnp.concatenate([b, y.astype(b.dtype)], 1)[:, 1:] if b.shape[1] else b
      for b, y in zip(buffers, self.inputs, strict=True)
    )


def left_of(row: Array) -> Array:
  """What stands one pixel to the left in a row float[1, W, N]."""
  return jnp.pad(row, ((0, 0), (1, 0), (0, 0)))[:, :-1]


def at_column(links: Any, column: Any) -> Any:
  """Links of one pixel, of those of its row."""
  cut = jax.lax.dynamic_slice_in_dim
  return jax.tree.map(lambda link: cut(link, column, 1, 1), links)
