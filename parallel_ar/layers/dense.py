"""Dense layers whose connections follow degrees."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar.types import Array


def relu(y: Array) -> Array:
  """max(y, 0) of float[...], of narrow numbers in float32.

  That is the same number, in the dtype of y. Where two maxima of bfloat16 share
  their zero inside one fused reduction, XLA:CPU gives garbage (seen with jaxlib
  0.11 and 0.12).
  """
  wide = jnp.promote_types(y.dtype, jnp.float32)
  return nn.relu(y.astype(wide)).astype(y.dtype)


class MaskedDense(nn.Module):
  """y = x (W * M) + b with M[i, o] = 1[in_degree[i] <= out_degree[o]].

  With degrees equal to what a unit may know, stacks of this layer keep the
  autoregressive property (Germain et al. 2015, eq. 8 to 10). The mask is
  compared inside the compiled pass and never stored; where it is all ones no
  mask is applied, where it is all zeros only the bias is left. Degrees may be
  traced arrays, as when they are drawn anew for every example.

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
    lower, upper = self.in_degree, self.out_degree
    drawn = isinstance(lower, jax.Array) or isinstance(upper, jax.Array)
    if not drawn:
      lower, upper = np.asarray(lower), np.asarray(upper)
    if x.shape[-1] != lower.size:
      raise ValueError(
        f'MaskedDense has {lower.size} input degrees, but its input has '
        f'{x.shape[-1]} features.'
      )
    kernel = self.param(
      'kernel', self.kernel_init, (lower.size, upper.size), jnp.float32
    )
    if not drawn and lower.min() > upper.max():
      # XLA 0.10.2 makes NaN of some products with a constant zero matrix.
      y = jnp.zeros((*x.shape[:-1], upper.size), self.dtype)
      return self._add_bias(y)
    if drawn or lower.max() > upper.min():
      live = jnp.asarray(lower)[:, None] <= jnp.asarray(upper)[None, :]
      kernel = jnp.where(live, kernel, 0)
    return self._add_bias(x.astype(self.dtype) @ kernel.astype(self.dtype))

  def _add_bias(self, y: Array) -> Array:
    if not self.use_bias:
      return y
    shape = y.shape[-1:]
    bias = self.param('bias', nn.initializers.zeros, shape, jnp.float32)
    return y + jnp.broadcast_to(bias.astype(self.dtype), y.shape)


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
