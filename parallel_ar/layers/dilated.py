"""Causal convolutions over slots, with holes."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from parallel_ar.types import Array


class DilatedConv(nn.Module):
  """y[l] = b + sum_i W_i x[l - i d],  i = 0..size-1, zeros before slot 0.

  The taps are one product of matrices.

  Attributes:
    features: F.
    size: taps.
    dilation: d.
    dtype: of the product; parameters are float32.

  References:
    van den Oord et al.: WaveNet: a generative model for raw audio. 2016,
    section 2.1.
  """

  features: int
  size: int
  dilation: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_LN: Array) -> Array:
    """Maps all slots."""
    steps = [i * self.dilation for i in range(self.size)]
    length = x_LN.shape[0]
    taps = [jnp.pad(x_LN, ((n, 0), (0, 0)))[:length] for n in steps]
    dense = nn.Dense(self.features, dtype=self.dtype, name='taps')
    y_LF: Array = dense(jnp.concatenate(taps, -1))
    return y_LF
