"""PixelSNAIL: gated causal convolutions, and attention over all pixels before.

  h_0 = conv of the row above + conv of two rows of the column to the left
  h   = gated(h), `residuals` times, with 2 x 2 convolutions that end here
  k_j, v_j = W gated_1x1([x_j, h_j, place_j])
  q_i = W gated_1x1([h_i, place_i])
  h_i = gated_1x1(h_i, sum_{j < i} softmax_j(q_i . k_j / sqrt(K)) v_j)

in every block. Keys know their own pixel, so that a query reads strictly
earlier ones; a zero key with a zero value stands before the first, so that
pixel 0 too has something to read. `place` is row and column. A pixel is one
position, its channels a chain inside the head.

References:
  Chen, Mishra, Rohaninejad, Abbeel: PixelSNAIL: an improved autoregressive
  generative model. ICML 2018, section 2, Figure 3 and 4.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from parallel_ar import model
from parallel_ar.layers import attention, gated
from parallel_ar.layers import remat as remat_policies
from parallel_ar.models import pixels, pixelsnail_decode
from parallel_ar.types import Array, Context, Dist


class Block(nn.Module):
  """Residual blocks and attention; see `pixelsnail` for the attributes."""

  features: int
  residuals: int
  key_features: int
  value_features: int
  channels: int  # of the image as it is encoded
  width: int  # of the image
  num_classes: int
  dropout: float
  weight_norm: bool
  dtype: Any

  def setup(self):
    own = self.num_classes, self.dropout, self.weight_norm, self.dtype
    n, keys = self.features, self.key_features
    self.convs = [gated.Gated(n, 2, 2, *own) for _ in range(self.residuals)]
    linear = lambda size: gated.Shifted(
      size, weight_norm=self.weight_norm, dtype=self.dtype
    )
    self.see_key = gated.Gated(n + self.channels + 2, 1, 1, *own)
    self.to_key = linear(keys + self.value_features)
    self.see_query = gated.Gated(n + 2, 1, 1, *own)
    self.to_query = linear(keys)
    self.out = gated.Gated(n, 1, 1, *own)

  def __call__(
    self, h: Array, image: Array, place: Array, context: Context
  ) -> Array:
    """Maps float[H, W, N] and the image to float[H, W, N]."""
    for layer in self.convs:
      h = layer(h, None, context)
    own = self.entries(h, image, place)
    own = own.reshape(-1, 1, own.shape[-1])
    # Entry i is that of pixel i - 1.
    own = jnp.pad(own, ((1, 0), (0, 0), (0, 0)))[:-1]
    keys, values = jnp.split(own, [self.key_features], -1)
    query = self.query(h, place).reshape(-1, 1, self.key_features)
    mixed = attention.block_causal_attention(query, keys, values)
    return self.out(h, mixed.reshape(*h.shape[:2], -1), context)

  def entries(self, h: Array, image: Array, place: Array) -> Array:
    """Keys and values, float[H, W, K + F]."""
    see = jnp.concatenate([image, h, place], -1).astype(self.dtype)
    return self.to_key(self.see_key(see, None, None))

  def query(self, h: Array, place: Array) -> Array:
    """Queries, float[H, W, K]."""
    see = jnp.concatenate([h, place], -1).astype(self.dtype)
    return self.to_query(self.see_query(see, None, None))


class PixelSNAIL(nn.Module):
  """The network; see `pixelsnail` for the attributes."""

  event: tuple[int, ...]
  num_values: int
  num_mixtures: int
  features: int
  blocks: int
  residuals: int
  key_features: int
  value_features: int
  num_classes: int
  dropout: float
  weight_norm: bool
  remat: str
  dtype: Any

  def setup(self):
    n, own = self.features, (self.weight_norm, 1.0, self.dtype)
    channels = self.event[2]
    self.above = gated.Shifted(n, 1, 3, 1, 1, *own)
    self.left = gated.Shifted(n, 2, 1, 1, 0, *own)
    self.layers = [
      remat_policies.remat(Block, self.remat)(
        n,
        self.residuals,
        self.key_features,
        self.value_features,
        channels + 1,
        self.event[1],
        self.num_classes,
        self.dropout,
        self.weight_norm,
        self.dtype,
      )
      for _ in range(self.blocks)
    ]
    size = pixels.num_outputs(channels, self.num_values, self.num_mixtures)
    self.last = gated.Shifted(size, 1, 1, 0, 0, *own)

  def __call__(self, x: Array, context: Context) -> Dist:
    image = pixels.encode(x, self.num_values)
    place = self.place(*jnp.indices(x.shape[:2]))
    h = self.above(image) + self.left(image)
    for layer in self.layers:
      h = layer(h, image, place, context)
    return self.dist(h)

  def dist(self, h: Array) -> Dist:
    """The conditionals of the last features."""
    out = self.last(nn.elu(h))
    channels = self.event[2]
    return pixels.to_dist(out, channels, self.num_values, self.num_mixtures)

  def place(self, row: Any, column: Any) -> Array:
    """Row and column within -1/2..1/2, float32[H, W, 2]."""
    height, width, _ = self.event
    both = jnp.broadcast_arrays(row / height - 0.5, column / width - 0.5)
    return jnp.stack(both, -1).astype(jnp.float32)


def pixelsnail(
  *,
  event: Sequence[int],
  num_values: int = 2,
  num_mixtures: int = 0,
  features: int = 32,
  blocks: int = 2,
  residuals: int = 2,
  key_features: int = 16,
  value_features: int = 32,
  num_classes: int = 0,
  context_size: int = 0,
  dropout: float = 0.0,
  weight_norm: bool = False,
  remat: str = 'none',
  dtype: Any = jnp.float32,
) -> model.AutoregressiveModel:
  """Builds a PixelSNAIL.

  Args:
    event: (height, width, channels).
    num_values: V.
    num_mixtures: K of `heads.discretized_logistic`; 0 for a Bernoulli head
      (V = 2) or a categorical one, of images with one channel.
    features: N.
    blocks: each of residual blocks and one attention.
    residuals: residual blocks of a block.
    key_features: K of keys and queries.
    value_features: F of values.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    dropout: rate inside the gated blocks, while training.
    weight_norm: weights of a direction and a length, initialized from data.
    remat: policy for the blocks, see `layers.remat`.
    dtype: of the products; parameters are float32.

  Returns:
    The model, of depth H W.

  Raises:
    ValueError: an event that is no image, several channels without a mixture,
      or sizes that do not fit.
  """
  pixels.check('A PixelSNAIL', event, num_mixtures, dropout)
  if min(blocks, residuals, key_features, value_features) < 1:
    raise ValueError(
      'A PixelSNAIL has at least one block, one residual block in it, and keys '
      f'and values of at least one feature; got {blocks}, {residuals}, '
      f'{key_features} and {value_features}.'
    )
  module = PixelSNAIL(
    tuple(event),
    num_values,
    num_mixtures,
    features,
    blocks,
    residuals,
    key_features,
    value_features,
    num_classes,
    dropout,
    weight_norm,
    remat,
    dtype,
  )
  return pixels.record(
    module,
    event=event,
    num_values=num_values,
    num_mixtures=num_mixtures,
    num_classes=num_classes,
    context_size=context_size,
    decode=pixelsnail_decode.decode(module),
    name='pixelsnail',
  )
