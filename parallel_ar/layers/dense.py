"""Dense layers whose connections follow degrees."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar.types import Array


class MaskedDense(nn.Module):
  """y = x (W * M) + b with M[i, o] = 1[in_degree[i] <= out_degree[o]].

  With degrees equal to what a unit may know, stacks of this layer keep the
  autoregressive property (Germain et al. 2015, eq. 8 to 10). The mask is
  compared inside the compiled pass and never stored; where it is all ones no
  mask is applied, where it is all zeros only the bias is left.

  Acts on the last axis, so it is a masked 1x1 convolution as well.

  Attributes:
    in_degree: int[N], degree of each input unit.
    out_degree: int[F], degree of each output unit.
    dtype: of the product; parameters are float32.
    use_bias: adds b.
    kernel_init: initializer of W.
  """

  in_degree: Any
  out_degree: Any
  dtype: Any = jnp.float32
  use_bias: bool = True
  kernel_init: Any = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x: Array) -> Array:
    lower, upper = np.asarray(self.in_degree), np.asarray(self.out_degree)
    if x.shape[-1] != lower.size:
      raise ValueError(
        f'MaskedDense has {lower.size} input degrees, but its input has '
        f'{x.shape[-1]} features.'
      )
    kernel = self.param(
      'kernel', self.kernel_init, (lower.size, upper.size), jnp.float32
    )
    if lower.max() > upper.min():
      live = jnp.asarray(lower)[:, None] <= jnp.asarray(upper)[None, :]
      kernel = jnp.where(live, kernel, 0)
    y = x.astype(self.dtype) @ kernel.astype(self.dtype)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, upper.shape, jnp.float32)
      y = y + jnp.broadcast_to(bias.astype(self.dtype), y.shape)
    return y


def channel_degrees(features: int, channels: int) -> np.ndarray:
  """Group of each feature when `channels` groups share them evenly: int[F].

  Raises:
    ValueError: `features` is not a multiple of `channels`.
  """
  if features % channels:
    raise ValueError(
      f'{features} features cannot be shared evenly by {channels} channel '
      f'groups; choose a width that is a multiple of {channels}.'
    )
  return np.arange(features) // (features // channels)
