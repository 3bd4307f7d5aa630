"""Masked convolutions, cropped to their live taps.

The field multiplies a k x k kernel by a 0/1 mask, and so spends half of its
work on zeros. Here a kernel holds only the taps that are alive: the rows above
and the columns to the left are small rectangles of their own. The functions
computed are the same, with about half of the parameters and of the work.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar.layers.dense import channel_degrees
from parallel_ar.types import Array

Kind = Literal['A', 'B']  # A leaves the output's own place out, B keeps it


def conv2d(
  x: Array,
  kernel: Array,
  *,
  above: int,
  left: int,
  below: int | None = None,
  right: int | None = None,
) -> Array:
  """y[r, c] = sum_ij kernel[i, j] . x[r - above + i, c - left + j].

  Args:
    x: float[H, W, N], zeros outside.
    kernel: float[h, w, N, F].
    above: rows between the kernel's first row and the output's row.
    left: columns between the kernel's first column and the output's column.
    below: rows of zeros below x; as many as keep H by default.
    right: columns of zeros to its right; as many as keep W by default.

  Returns:
    float[H, W, F].
  """
  height, width = kernel.shape[:2]
  below = height - 1 - above if below is None else below
  right = width - 1 - left if right is None else right
  # What no output reads is cut off first, and a shift beyond the kernel is made
  # of zeros: where a padding is negative, here or in the gradient, XLA's CPU
  # kernels may read beyond x (jaxlib 0.10) or what was cut off (0.12).
  x = x[: x.shape[0] + min(below, 0), : x.shape[1] + min(right, 0)]
  down, aside = max(above - height + 1, 0), max(left - width + 1, 0)
  if down or aside:
    x = jnp.pad(x, ((down, 0), (aside, 0), (0, 0)))
  padding = (above - down, max(below, 0)), (left - aside, max(right, 0))
  return jax.lax.conv_general_dilated(
    x[None],
    kernel,
    (1, 1),
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )[0]


class RowsAbove(nn.Module):
  """The vertical stack's convolution: rows up to the output's, all columns.

  Attributes:
    features: F.
    size: k, odd.
    kind: 'A' reads rows r - k//2 .. r - 1, 'B' also row r. (Below a type A
      layer row r of the vertical stack knows nothing of row r of the image.)
    dtype: of the product; parameters are float32.
    use_bias: adds a bias.
  """

  features: int
  size: int
  kind: Kind
  dtype: Any = jnp.float32
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps float[H, W, N]."""
    above = check_size(self.size) // 2
    rows = above + (self.kind == 'B')
    if not rows:
      raise ValueError(
        'A type A convolution of the rows above of size 1 reads nothing; use a '
        'size of at least 3.'
      )
    shape = (rows, self.size, x.shape[-1], self.features)
    kernel = self.param(
      'kernel', nn.initializers.lecun_normal(), shape, jnp.float32
    )
    kernel, x = kernel.astype(self.dtype), x.astype(self.dtype)
    y = conv2d(x, kernel, above=above, left=above)
    return _add_bias(self, y) if self.use_bias else y


class RowLeft(nn.Module):
  """The horizontal stack's convolution: the output's row, up to its place.

  Attributes:
    features: F, the channel groups in turn, repeated `repeats` times.
    size: k, odd.
    kind: at the output's own pixel, 'A' lets channel group g read groups < g,
      'B' groups <= g. With one group A leaves the pixel out and B keeps it.
    channels: number of channel groups that features are shared by.
    repeats: 2 where the features are two halves of a gate, each with all
      groups in it.
    dtype: of the product; parameters are float32.
  """

  features: int
  size: int
  kind: Kind
  channels: int = 1
  repeats: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps float[H, W, N]."""
    left = check_size(self.size) // 2
    live = center_mask(
      x.shape[-1], self.features, self.kind, self.channels, self.repeats
    )
    width = left + bool(live.any())
    if not width:
      raise ValueError(
        'A type A row convolution of size 1 with one channel group reads '
        'nothing; use a size of at least 3.'
      )
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(),
      (1, width, x.shape[-1], self.features),
      jnp.float32,
    )
    if live.any() and not live.all():
      mask = np.ones((1, width, *live.shape), bool)
      mask[0, -1] = live
      kernel = jnp.where(mask, kernel, 0)
    kernel, x = kernel.astype(self.dtype), x.astype(self.dtype)
    return _add_bias(self, conv2d(x, kernel, above=0, left=left))


class MaskedConv(nn.Module):
  """The masked k x k convolution of PixelCNN: rows above plus row left.

  The two parts have kernels of their own and share one bias. Stacks of it have
  the blind spot of van den Oord et al. 2016a: a wedge to the upper right is
  never read.

  Attributes:
    features: F.
    size: k, odd.
    kind: as in `RowLeft`.
    channels: number of channel groups.
    dtype: of the product; parameters are float32.

  References:
    van den Oord, Kalchbrenner, Kavukcuoglu: Pixel recurrent neural networks.
    ICML 2016, section 3.4.
  """

  features: int
  size: int
  kind: Kind
  channels: int = 1
  dtype: Any = jnp.float32

  def setup(self):
    self.left = RowLeft(
      self.features, self.size, self.kind, self.channels, dtype=self.dtype
    )
    self.above = RowsAbove(
      self.features, self.size, 'A', self.dtype, use_bias=False
    )

  def __call__(self, x: Array) -> Array:
    """Maps float[H, W, N]."""
    y = self.left(x)
    return y + self.above(x) if self.size > 1 else y


def center_mask(
  inputs: int, features: int, kind: Kind, channels: int, repeats: int = 1
) -> np.ndarray:
  """Which inputs an output may read at its own pixel: bool[inputs, F]."""
  if kind not in ('A', 'B'):
    raise ValueError(f"A masked convolution is of kind 'A' or 'B'; got {kind}.")
  source = channel_degrees(inputs, channels)[:, None]
  target = np.tile(channel_degrees(features // repeats, channels), repeats)
  return source < target if kind == 'A' else source <= target


def check_size(size: int) -> int:
  """Refuses a kernel without a centre."""
  if size < 1 or size % 2 == 0:
    raise ValueError(
      f'A masked convolution needs an odd kernel size; got {size}.'
    )
  return size


def _add_bias(module: nn.Module, y: Array) -> Array:
  bias = module.param(
    'bias', nn.initializers.zeros, (y.shape[-1],), jnp.float32
  )
  return y + jnp.broadcast_to(bias.astype(y.dtype), y.shape)
