"""Causal convolutions over slots, with holes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from parallel_ar.types import Array


class DilatedConv(nn.Module):
  """y[l] = b + sum_i W_i x[l - i d],  i = 0..size-1, zeros before slot 0.

  The taps are one product of matrices. While sampling, a history keeps the
  inputs of all slots, so that a rewind is free; the step reads `size` of them.

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
  def __call__(
    self, x_LN: Array, slots_L: Array, history: Array | None = None
  ) -> tuple[Array, Array | None]:
    """Maps all slots, or the next ones, whose inputs join the history[D, N]."""
    steps = [i * self.dilation for i in range(self.size)]
    if history is None:
      length = x_LN.shape[0]
      taps = [jnp.pad(x_LN, ((n, 0), (0, 0)))[:length] for n in steps]
    else:
      history = jax.lax.dynamic_update_slice_in_dim(
        history, x_LN.astype(history.dtype), slots_L[0], 0
      )
      taps = []
      for n in steps:
        seen = history[jnp.maximum(slots_L - n, 0)]
        taps.append(jnp.where((slots_L >= n)[:, None], seen, 0))
    y_LF = nn.Dense(self.features, dtype=self.dtype, name='taps')(
      jnp.concatenate(taps, -1)
    )
    return y_LF, history
