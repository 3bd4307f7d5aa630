"""WaveNet: dilated causal convolutions, gated, with skips.

  z   = tanh(W_f *_d y + V_f h) sigmoid(W_g *_d y + V_g h)
  y'  = y + W_o z,    skip = sum over layers of W_s z
  out = relu(W relu(skip))

With dilations 1, 2, 4, ..., 2^(L-1) a stack of kernel size 2 reads 2^L slots.
Sound is quantized by the mu-law of `data.audio`; any sequence of symbols will
do. A step of the derived decode path costs one slot of every layer, at any
length.

References:
  van den Oord et al.: WaveNet: a generative model for raw audio. 2016, eq. 1 to
  3, Figures 3 and 4. Paine et al.: Fast Wavenet generation algorithm. 2016.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from parallel_ar import model
from parallel_ar.layers import dense, dilated, embedding
from parallel_ar.layers import remat as remat_policies
from parallel_ar.models.gated_pixelcnn import gate
from parallel_ar.models.sequence import sequence_model
from parallel_ar.types import Array, ArrayLike, Context


class Layer(nn.Module):
  """One gated layer: (y', its share of the skips)."""

  features: int
  skip_features: int
  size: int
  dilation: int
  num_classes: int
  last: bool
  dtype: Any

  @nn.compact
  def __call__(self, y_LN: Array, context: Context) -> tuple[Array, Array]:
    conv = dilated.DilatedConv(
      2 * self.features, self.size, self.dilation, self.dtype, name='conv'
    )
    add = embedding.AddContext(self.num_classes, self.dtype, name='context')
    z_LN = gate(add(conv(y_LN), context))
    skip = nn.Dense(self.skip_features, dtype=self.dtype, name='skip')(z_LN)
    if not self.last:  # after the last layer only the skips are read
      y_LN = y_LN + nn.Dense(self.features, dtype=self.dtype, name='out')(z_LN)
    return y_LN, skip


class WaveNet(nn.Module):
  """The body; see `wavenet` for the attributes."""

  features: int
  skip_features: int
  layers: int
  stacks: int
  size: int
  num_classes: int
  remat: str
  dtype: Any

  @nn.compact
  def __call__(self, y_LN: Array, context: Context) -> Array:
    layer = remat_policies.remat(Layer, self.remat)
    count = self.layers * self.stacks
    total = jnp.zeros((), self.dtype)
    for l in range(count):
      y_LN, skip = layer(
        self.features,
        self.skip_features,
        self.size,
        self.size ** (l % self.layers),
        self.num_classes,
        l == count - 1,
        self.dtype,
        name=f'layer_{l}',
      )(y_LN, context)
      total = total + skip
    out = nn.Dense(self.skip_features, dtype=self.dtype, name='head')
    return dense.relu(out(dense.relu(total)))


def wavenet(
  *,
  event: Sequence[int],
  num_values: int,
  rank: ArrayLike | None = None,
  features: int = 32,
  skip_features: int = 128,
  layers: int = 8,
  stacks: int = 1,
  size: int = 2,
  num_classes: int = 0,
  context_size: int = 0,
  remat: str = 'none',
  dtype: Any = jnp.float32,
) -> model.AutoregressiveModel:
  """Builds a WaveNet.

  Args:
    event: event shape E.
    num_values: V.
    rank: int[E], a total order; raster by default.
    features: N, residual channels.
    skip_features: channels of the skips.
    layers: layers of a stack, of dilations 1, k, k^2, ...
    stacks: stacks one after another.
    size: k, taps of a convolution, at least 2.
    num_classes: > 0 conditions every layer on a label in 0..num_classes-1.
    context_size: > 0 conditions every layer on a real vector.
    remat: policy for the layers, see `layers.remat`.
    dtype: of the products; parameters are float32.

  Returns:
    The model. It reads the last stacks * (k^layers - 1) + 1 slots.

  Raises:
    ValueError: no layers, size < 2, or a rank with ties.
  """
  if layers < 1 or stacks < 1 or size < 2:
    raise ValueError(
      'A WaveNet needs a layer, a stack and kernels of at least 2 taps; got '
      f'layers={layers}, stacks={stacks}, size={size}.'
    )
  body = WaveNet(
    features, skip_features, layers, stacks, size, num_classes, remat, dtype
  )
  return sequence_model(
    body,
    event=event,
    num_values=num_values,
    rank=rank,
    features=features,
    num_classes=num_classes,
    context_size=context_size,
    dtype=dtype,
    name='wavenet',
  )
