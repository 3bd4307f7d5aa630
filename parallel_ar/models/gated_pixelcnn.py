"""Gated PixelCNN: two stacks, no blind spot.

  v' = gate(W_v * v),            reads all rows above
  h' = h + W_o gate(W_h * h + W_vh (W_v * v) + W_c context)
  gate(a, b) = tanh(a) sigmoid(b)

The context is a label or a vector, the same everywhere, or an image of the
event's size, which two convolutions turn into a context of each pixel.
The vertical stack v of row r holds the rows above r at every column; the
horizontal stack h adds the pixels to the left. In the first layer both are
type A and there is no residual.

References:
  van den Oord et al.: Conditional image generation with PixelCNN decoders.
  NIPS 2016, sections 2.2 and 2.3, eq. 2, 4 and 5, Figure 2.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from parallel_ar import model
from parallel_ar.layers import conv, dense, embedding
from parallel_ar.layers import remat as remat_policies
from parallel_ar.models import pixelcnn
from parallel_ar.types import Array, Context, Params

_ABOVE = 4  # pixels of the row above that are features of a pixel


def gate(y: Array) -> Array:
  """tanh(a) sigmoid(b) for the halves a, b of the last axis."""
  a, b = jnp.split(y, 2, -1)
  return jnp.tanh(a) * jax.nn.sigmoid(b)


class GatedLayer(nn.Module):
  """One layer of both stacks.

  Attributes:
    features: N of each stack.
    size: kernel size, odd.
    kind: 'A' for the first layer, which has no residual, else 'B'.
    channels: number of channel groups of the horizontal stack.
    num_classes: labels of the context, if it is a label.
    dtype: of the products; parameters are float32.
  """

  features: int
  size: int
  kind: conv.Kind
  channels: int
  num_classes: int
  dtype: Any

  def setup(self):
    both, dtype = 2 * self.features, self.dtype
    degree = dense.channel_degrees(self.features, self.channels)
    self.vertical = conv.RowsAbove(both, self.size, self.kind, dtype)
    self.link = nn.Dense(both, use_bias=False, dtype=dtype)
    self.horizontal = conv.RowLeft(
      both, self.size, self.kind, self.channels, 2, dtype
    )
    self.context = embedding.AddContext(self.num_classes, dtype)
    self.out = dense.MaskedDense(degree, degree, dtype)

  def __call__(
    self, v: Array, h: Array, context: Context
  ) -> tuple[Array, Array]:
    """Maps (v, h) to (v', h'), both float[H, W, N]."""
    v = self.vertical(v)
    y = self.context(self.horizontal(h) + self.link(v), context)
    y = self.out(gate(y))
    return gate(v), y if self.kind == 'A' else h + y


class GatedPixelCNN(nn.Module):
  """The network; see `gated_pixelcnn` for the attributes."""

  num_values: int
  channels: int
  event_channels: int
  features: int
  layers: int
  size: int
  first_size: int
  head_features: int
  inputs: embedding.Inputs
  num_classes: int
  context_channels: int
  remat: str
  dtype: Any

  def setup(self):
    if self.context_channels:
      look = functools.partial(nn.Conv, self.features, (3, 3))
      self.look_0, self.look_1 = (look(dtype=self.dtype) for _ in range(2))
    layer = remat_policies.remat(GatedLayer, self.remat)
    for l in range(self.layers):
      size, kind = (self.size, 'B') if l else (self.first_size, 'A')
      block = layer(
        self.features,
        size,
        kind,
        self.channels,
        self.num_classes,
        self.dtype,
      )
      setattr(self, f'layer_{l}', block)

  def __call__(self, x: Array, context: Context) -> Array:
    return self.with_features(x, context)[0]

  def with_features(self, x: Array, context: Context) -> tuple[Array, Array]:
    """The logits, and the horizontal stack that they are made from."""
    v = h = embedding.encode(x, self.num_values, self.inputs)
    if self.context_channels:
      context = self.look_1(dense.relu(self.look_0(context)))
    for l in range(self.layers):
      v, h = getattr(self, f'layer_{l}')(v, h, context)
    return self.to_logits(h, context), h

  @nn.compact
  def to_logits(self, h: Array, context: Context) -> Array:
    """The output layers, at every pixel."""
    return pixelcnn.to_logits(self, h, self.event_channels, context)


def gated_pixelcnn(
  *,
  event: Sequence[int],
  num_values: int = 2,
  features: int = 32,
  layers: int = 8,
  size: int = 3,
  first_size: int = 7,
  head_features: int = 32,
  channel_order: pixelcnn.Channels = 'chain',
  inputs: embedding.Inputs = 'scaled',
  num_classes: int = 0,
  context_size: int = 0,
  context_channels: int = 0,
  remat: str = 'none',
  dtype: Any = jnp.float32,
) -> model.AutoregressiveModel:
  """Builds a Gated PixelCNN.

  Args:
    event: (height, width, channels).
    num_values: V; 2 gives a Bernoulli head, more a categorical one.
    features: N of each stack, a multiple of C for a chain of C channels.
    layers: gated layers, the type A layer among them.
    size: kernel size, odd.
    first_size: kernel size of the type A layer, odd.
    head_features: width of the 1x1 layer before the logits.
    channel_order: 'chain' orders the channels of a pixel, 'tied' draws them
      together.
    inputs: 'scaled' or 'one_hot', see `layers.embedding.encode`.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    context_channels: > 0 conditions on a real image of the event's height and
      width.
    remat: policy for the layers, see `layers.remat`.
    dtype: of the products; parameters are float32.

  Returns:
    The model, of depth H W C, or H W where channels are tied.

  Raises:
    ValueError: an event that is no image, or sizes that do not fit.
  """
  if layers < 1:
    raise ValueError(
      f'A Gated PixelCNN needs at least one layer; got {layers}.'
    )
  module = GatedPixelCNN(
    num_values=num_values,
    channels=pixelcnn.channel_groups(event, channel_order),
    event_channels=event[-1],
    features=features,
    layers=layers,
    size=size,
    first_size=first_size,
    head_features=head_features,
    inputs=inputs,
    num_classes=num_classes,
    context_channels=context_channels,
    remat=remat,
    dtype=dtype,
  )
  return pixelcnn.image_model(
    module,
    event=event,
    num_values=num_values,
    channel_order=channel_order,
    num_classes=num_classes,
    context_size=context_size,
    context_channels=context_channels,
    features=_features(module, event) if event[-1] == 1 else None,
    name='gated_pixelcnn',
  )


def _features(module: GatedPixelCNN, event: Sequence[int]) -> model.Features:
  """The horizontal stack at a pixel, and at those above the pixels to come."""
  _, width, _ = event

  def apply(params: Params, x: Array, context: Context) -> tuple[Array, Array]:
    out: Any = module.apply(
      {'params': params}, x, context, method='with_features'
    )
    return out

  def at(h: Array, slot: Any) -> Array:
    # Above slot + n stands slot + n - width, which reads less than slot does.
    near = range(1, min(_ABOVE, width - 1) + 1)
    place = jnp.array([0] + [n - width for n in near])
    known = h.reshape(-1, h.shape[-1])[jnp.maximum(slot + place, 0)]
    return known.reshape(-1).astype(jnp.float32)

  return model.Features(apply, at)
