"""Next-scale prediction: an image coarse to fine, block-causal attention.

  p(x) = prod_l prod_{i in I_l} p(x_i | x_{I_<l})

I_l is what the grid of stride s_l adds to that of stride s_{l-1}. The token of
a pixel of I_l embeds the pixels around it in the grid before,

  y_0[i] = W [e(x_a), e(x_b), e(x_c), e(x_d)] + row[i] + column[i] + level[l]

with a..d the corners of the cell of stride s_{l-1} that holds i (a start vector
instead at l = 0). Attention lets a token read those of its own level and of all
levels before, so the pixels of a level are drawn at once and the depth is the
number of levels, O(log n) where strides are halved. A Transformer with tied
groups (`transformer`) shifts its inputs by one group and needs groups of one
size; here a level is several times the size of the one before, and what it is
shown is interpolated instead of shifted.

Tian et al. predict the tokens of a quantizer at every resolution; here there is
none: scales are those of the image itself, every pixel is drawn once, and the
likelihood is exact. Where they send the interpolated image of the levels
before, this sends its four nearest pixels.

References:
  Tian et al.: Visual autoregressive modeling: scalable image generation via
  next-scale prediction. NeurIPS 2024, section 3.2, Figure 4.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import model, order
from parallel_ar.adapters import linen
from parallel_ar.heads import discrete
from parallel_ar.layers import embedding
from parallel_ar.layers import remat as remat_policies
from parallel_ar.models.transformer_block import Block
from parallel_ar.types import Array, Context


class NextScale(nn.Module):
  """The network; see `next_scale` for the attributes."""

  event: Sequence[int]
  strides: Sequence[int]
  num_values: int
  features: int
  layers: int
  heads: int
  mlp_features: int
  num_classes: int
  chunk: int
  remat: str
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, context: Context) -> Array:
    """One pass: float32[E] or float32[E, V]."""
    height, width, channels = self.event
    rank = order.scales((height, width), self.strides)
    slots, levels = order.slots(rank), np.sort(rank, axis=None)
    y_LN = self._inputs(x, slots, levels)
    add = embedding.AddContext(self.num_classes, self.dtype, name='context')
    y_LN = add(y_LN, context)
    block = remat_policies.remat(Block, self.remat)
    for l in range(self.layers):
      y_LN, _ = block(
        heads=self.heads,
        mlp_features=self.mlp_features,
        group=levels,
        rotary=False,
        chunk=self.chunk,
        pattern='full',
        window=1,
        kernel='loops',
        dtype=self.dtype,
        name=f'block_{l}',
      )(y_LN, jnp.arange(slots.size), None)
    y_LN = nn.LayerNorm(dtype=self.dtype, name='norm')(y_LN)
    outputs = discrete.num_logits(self.num_values)
    last = nn.Dense(channels * outputs, dtype=self.dtype, name='logits')
    # Slot k is pixel slots[k]: send the logits back to their places.
    logits = last(y_LN)[np.argsort(slots)].astype(jnp.float32)
    shape = tuple(self.event)
    return logits.reshape(shape if outputs == 1 else (*shape, outputs))

  def _inputs(self, x: Array, slots: np.ndarray, levels: np.ndarray) -> Array:
    """The tokens, level after level: float[L, N]."""
    height, width, channels = self.event
    normal = nn.initializers.normal(0.02)

    def table(name: str, size: int) -> Array:
      shape = size, self.features
      return self.param(name, normal, shape, jnp.float32).astype(self.dtype)

    row, column = np.divmod(slots, width)
    near = corners((height, width), self.strides)[slots]
    seen = (
      x.reshape(height * width, channels)[near]
      + self.num_values * (np.arange(channels)[None, None])
    )
    embed = nn.Embed(
      self.num_values * channels,
      self.features,
      dtype=self.dtype,
      name='embed',
    )
    seen = embed(seen).sum(2).reshape(slots.size, -1)
    seen = nn.Dense(self.features, dtype=self.dtype, name='cell')(seen)
    y_LN = jnp.where((levels == 0)[:, None], table('start', 1), seen)
    return (
      y_LN
      + table('row', height)[row]
      + table('column', width)[column]
      + table('level', len(self.strides))[levels]
    )


def corners(shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
  """The pixels of the level before around each pixel.

  Args:
    shape: (height, width).
    strides: of the levels.

  Returns:
    int[H W, 4], row-major pixels of the four corners of the cell; at a border
    the nearest, and in the first level the pixel itself, which nothing reads.
  """
  rank = order.scales(shape, strides)
  step = np.asarray([1, *strides[:-1]])[rank]
  ends = []
  for place, size in zip(np.indices(shape), shape, strict=True):
    low = place // step * step
    ends.append(
      (low, np.where(low + step < size, -(-place // step) * step, low))
    )
  near = [row * shape[1] + column for row in ends[0] for column in ends[1]]
  return np.stack([n.reshape(-1) for n in near], -1)


def next_scale(
  *,
  event: Sequence[int],
  num_values: int = 2,
  strides: Sequence[int] = (),
  features: int = 64,
  layers: int = 4,
  heads: int = 4,
  mlp_features: int = 0,
  num_classes: int = 0,
  context_size: int = 0,
  chunk: int = 0,
  remat: str = 'none',
  dtype: Any = jnp.float32,
) -> model.AutoregressiveModel:
  """Builds a next-scale model.

  Args:
    event: (height, width, channels); channels of a pixel are tied.
    num_values: V; 2 gives a Bernoulli head, more a categorical one.
    strides: of the levels' grids, each a divisor of the one before, the last
      1; by default powers of two, the first with one pixel.
    features: N.
    layers: blocks.
    heads: attention heads H, a divisor of N.
    mlp_features: width of the MLP; 0 means 4 N.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    chunk: queries that attention takes at once; changes speed and memory only.
    remat: policy for the blocks, see `layers.remat`.
    dtype: of the products; parameters are float32.

  Returns:
    The model, whose depth is the number of strides that add a pixel.

  Raises:
    ValueError: an event that is no image, or strides that do not nest.
  """
  if len(event) != 3:
    raise ValueError(
      f'An image event is (height, width, channels); got {tuple(event)}.'
    )
  strides = tuple(strides) or order.halvings(event)
  rank = order.scales(event, strides)
  module = NextScale(
    event=tuple(event),
    strides=strides,
    num_values=num_values,
    features=features,
    layers=layers,
    heads=heads,
    mlp_features=mlp_features or 4 * features,
    num_classes=num_classes,
    chunk=chunk,
    remat=remat,
    dtype=dtype,
  )
  return linen.from_linen(
    module,
    event=tuple(event),
    rank=rank,
    head=discrete.of_values(num_values),
    context=embedding.context_spec(num_classes, context_size),
    name='next_scale',
  )
