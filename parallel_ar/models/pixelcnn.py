"""PixelCNN: masked convolutions in raster order.

  a 7x7 type A convolution, then residual blocks of
  1x1 (N -> N/2), 3x3 type B, 1x1 (N/2 -> N), then 1x1 layers to the logits

Pixel (r, c) reads rows above and columns to the left, but for the blind spot:
stacks of masked convolutions never see a wedge to the upper right. Gated
PixelCNN closes it.

References:
  van den Oord, Kalchbrenner, Kavukcuoglu: Pixel recurrent neural networks.
  ICML 2016, section 3.2, Figure 5, Table 1.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import model, order
from parallel_ar.adapters import linen
from parallel_ar.heads import discrete
from parallel_ar.layers import conv, dense, embedding, remat
from parallel_ar.types import Array, Context

Channels = Literal['chain', 'tied']


class ResidualBlock(nn.Module):
  """x + 1x1(relu 3x3_B(relu 1x1(relu x)))."""

  features: int
  size: int
  channels: int
  num_classes: int
  dtype: Any

  def setup(self):
    wide = dense.channel_degrees(self.features, self.channels)
    narrow = dense.channel_degrees(self.features // 2, self.channels)
    self.down = dense.MaskedDense(wide, narrow, self.dtype)
    self.context = embedding.AddContext(self.num_classes, self.dtype)
    self.conv = conv.MaskedConv(
      narrow.size, self.size, 'B', self.channels, self.dtype
    )
    self.up = dense.MaskedDense(narrow, wide, self.dtype)

  def __call__(self, x: Array, context: Context) -> Array:
    y = dense.relu(self.context(self.down(dense.relu(x)), context))
    return x + self.up(dense.relu(self.conv(y)))


class PixelCNN(nn.Module):
  """The network; see `pixelcnn` for the attributes."""

  num_values: int
  channels: int  # groups: C for a chain, 1 where channels are tied
  event_channels: int
  features: int
  layers: int
  size: int
  first_size: int
  head_features: int
  inputs: embedding.Inputs
  num_classes: int
  remat: str
  dtype: Any

  def setup(self):
    self.first = conv.MaskedConv(
      self.features, self.first_size, 'A', self.channels, self.dtype
    )
    block = remat.remat(ResidualBlock, self.remat)
    for l in range(self.layers):
      layer = block(
        self.features, self.size, self.channels, self.num_classes, self.dtype
      )
      setattr(self, f'block_{l}', layer)

  def __call__(self, x: Array, context: Context) -> Array:
    y = self.first(embedding.encode(x, self.num_values, self.inputs))
    for l in range(self.layers):
      y = getattr(self, f'block_{l}')(y, context)
    return self.to_logits(y, context)

  @nn.compact
  def to_logits(self, y: Array, context: Context) -> Array:
    """The output layers, at every pixel."""
    return to_logits(self, y, self.event_channels, context)


def to_logits(
  module: Any, y: Array, event_channels: int, context: Context
) -> Array:
  """relu, 1x1, relu, 1x1: float[H, W, C] for V = 2, else float[H, W, C, V].

  Called inside the compact method of `module`, which has the attributes
  channels, head_features, num_values, num_classes and dtype.
  """
  groups, dtype = module.channels, module.dtype
  outputs = discrete.num_logits(module.num_values)
  degree = dense.channel_degrees(y.shape[-1], groups)
  hidden = dense.channel_degrees(module.head_features, groups)
  last = dense.channel_degrees(event_channels * outputs, groups)
  y = dense.MaskedDense(degree, hidden, dtype, name='head')(dense.relu(y))
  y = embedding.AddContext(module.num_classes, dtype)(y, context)
  y = dense.MaskedDense(hidden, last, dtype, name='logits')(dense.relu(y))
  y = y.astype(jnp.float32)
  if outputs == 1:
    return y
  return y.reshape(*y.shape[:-1], event_channels, outputs)


def image_model(
  module: nn.Module,
  *,
  event: Sequence[int],
  num_values: int,
  channel_order: Channels,
  num_classes: int,
  context_size: int,
  name: str,
  context_channels: int = 0,
  features: model.Features | None = None,
) -> model.AutoregressiveModel:
  """The record of a network over images in raster order."""
  rank = order.raster(event)
  if channel_order == 'tied':
    rank = rank // np.int32(event[-1])
  return linen.from_linen(
    module,
    event=tuple(event),
    rank=rank,
    head=discrete.of_values(num_values),
    context=embedding.context_spec(
      num_classes, context_size, (*event[:2], context_channels)
    ),
    features=features,
    name=name,
  )


def channel_groups(event: Sequence[int], channel_order: Channels) -> int:
  """Groups of features: C for a chain within the pixel, 1 where it is tied."""
  if len(event) != 3:
    raise ValueError(
      f'An image event is (height, width, channels); got {tuple(event)}. Give '
      'grey images one channel: (height, width, 1).'
    )
  if channel_order not in ('chain', 'tied'):
    raise ValueError(
      "channel_order must be 'chain' (a channel reads the channels before it) "
      f"or 'tied' (they are drawn together); got {channel_order!r}."
    )
  return event[2] if channel_order == 'chain' else 1


def pixelcnn(
  *,
  event: Sequence[int],
  num_values: int = 2,
  features: int = 32,
  layers: int = 7,
  size: int = 3,
  first_size: int = 7,
  head_features: int = 32,
  channel_order: Channels = 'chain',
  inputs: embedding.Inputs = 'scaled',
  num_classes: int = 0,
  context_size: int = 0,
  remat: str = 'none',
  dtype: Any = jnp.float32,
) -> model.AutoregressiveModel:
  """Builds a PixelCNN.

  Args:
    event: (height, width, channels).
    num_values: V; 2 gives a Bernoulli head, more a categorical one.
    features: N, a multiple of 2 C for a chain of C channels.
    layers: residual blocks.
    size: kernel size of the blocks, odd.
    first_size: kernel size of the type A convolution, odd.
    head_features: width of the 1x1 layer before the logits.
    channel_order: 'chain' orders the channels of a pixel, 'tied' draws them
      together.
    inputs: 'scaled' or 'one_hot', see `layers.embedding.encode`.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    remat: policy for the blocks, see `layers.remat`.
    dtype: of the products; parameters are float32.

  Returns:
    The model, of depth H W C, or H W where channels are tied.

  Raises:
    ValueError: an event that is no image, or sizes that do not fit.
  """
  module = PixelCNN(
    num_values=num_values,
    channels=channel_groups(event, channel_order),
    event_channels=event[-1],
    features=features,
    layers=layers,
    size=size,
    first_size=first_size,
    head_features=head_features,
    inputs=inputs,
    num_classes=num_classes,
    remat=remat,
    dtype=dtype,
  )
  return image_model(
    module,
    event=event,
    num_values=num_values,
    channel_order=channel_order,
    num_classes=num_classes,
    context_size=context_size,
    name='pixelcnn',
  )
