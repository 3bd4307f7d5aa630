"""PixelCNN++: shifted convolutions at several resolutions, logistic mixtures.

  u[r, c]  knows the rows above r,   w[r, c] also the pixels left of c
  gated(y, a) = y + p sigmoid(q),   p, q = conv(f(conv(f(y)) + nin(f(a)))) + V h

with f(y) = elu([y, -y]). The streams u and w go down through resolutions halved
by strided convolutions, and up again with shortcuts from the way down; w reads
u all along. A pixel is one position, its channels a chain inside the head.

Images of any size: they are padded below and to the right, where no pixel
looks. The way up repeats pixels and convolves, where the paper transposes.

References:
  Salimans, Karpathy, Chen, Kingma: PixelCNN++: improving the PixelCNN with
  discretized logistic mixture likelihood and other modifications. ICLR 2017,
  section 2, Figure 2.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from parallel_ar import heads, model, order
from parallel_ar.heads.discretized_logistic import Logistics
from parallel_ar.layers import conv, embedding
from parallel_ar.layers import remat as remat_policies
from parallel_ar.types import Array, Context


def concat_elu(y: Array) -> Array:
  """elu([y, -y])."""
  return nn.elu(jnp.concatenate([y, -y], -1))


class Shifted(nn.Module):
  """A convolution over a rectangle that ends at the output's own place.

  Attributes:
    features: F.
    rows: rows of the kernel, the last `skip_rows` above the output's.
    columns: columns of the kernel.
    left: columns to the left of the output's.
    skip_rows: rows between the kernel and the output's row, 0 for none.
    stride: 2 keeps every other row and column.
    dtype: of the product; parameters are float32.
  """

  features: int
  rows: int
  columns: int
  left: int
  skip_rows: int = 0
  stride: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = self.rows, self.columns, x.shape[-1], self.features
    init = nn.initializers.lecun_normal()
    kernel = self.param('kernel', init, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    y = conv.conv2d(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      above=self.rows - 1 + self.skip_rows,
      left=self.left,
    )
    y = y[:: self.stride, :: self.stride]
    return y + jnp.broadcast_to(bias.astype(self.dtype), y.shape)


class Gated(nn.Module):
  """One gated block of a stream, which may read another place's features."""

  columns: int  # 3 for the stream of rows above, 2 for that of pixels left
  num_classes: int
  dtype: Any

  @nn.compact
  def __call__(self, y: Array, other: Array | None, context: Context) -> Array:
    width = y.shape[-1]
    shifted = lambda features: Shifted(
      features, 2, self.columns, 1, dtype=self.dtype
    )
    z = shifted(width)(concat_elu(y))
    if other is not None:
      z = z + nn.Dense(width, dtype=self.dtype, name='other')(concat_elu(other))
    z = shifted(2 * width)(concat_elu(z))
    z = embedding.AddContext(self.num_classes, self.dtype)(z, context)
    p, q = jnp.split(z, 2, -1)
    return y + p * nn.sigmoid(q)


class PixelCNNPP(nn.Module):
  """The network; see `pixelcnn_pp` for the attributes."""

  num_values: int
  num_mixtures: int
  features: int
  layers: int
  resolutions: int
  num_classes: int
  remat: str
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, context: Context) -> Logistics:
    height, width, channels = x.shape
    times = 2 ** (self.resolutions - 1)
    image = embedding.encode(x, self.num_values, 'scaled')
    # The border is told apart from a grey pixel.
    image = jnp.concatenate([image, jnp.ones_like(image[..., :1])], -1)
    more = (0, -height % times), (0, -width % times), (0, 0)
    w = self._stream(jnp.pad(image, more), context)[:height, :width]
    k, pairs = self.num_mixtures, channels * (channels - 1) // 2
    size = k * (1 + 2 * channels + pairs)
    out = nn.Dense(size, dtype=self.dtype, name='mixture')(concat_elu(w))
    out = out.astype(jnp.float32).reshape(height, width, -1, k)
    logits, means, scales, links = jnp.split(
      out, [1, 1 + channels, 1 + 2 * channels], 2
    )
    chain = jnp.tanh(links) if pairs else None
    return Logistics(logits[:, :, 0], means, scales, chain)

  def _stream(self, image: Array, context: Context) -> Array:
    n, dtype = self.features, self.dtype
    gated = remat_policies.remat(Gated, self.remat)
    rows = lambda y, a: gated(3, self.num_classes, dtype)(y, a, context)
    left = lambda y, a: gated(2, self.num_classes, dtype)(y, a, context)
    u = Shifted(n, 2, 3, 1, skip_rows=1, dtype=dtype)(image)
    w = Shifted(n, 1, 3, 1, skip_rows=1, dtype=dtype)(image)
    # Two rows of the column to the left.
    w = w + Shifted(n, 2, 1, 1, dtype=dtype)(image)
    kept = [(u, w)]
    for level in range(self.resolutions):
      for _ in range(self.layers):
        u = rows(u, None)
        w = left(w, u)
        kept.append((u, w))
      if level < self.resolutions - 1:
        u = Shifted(n, 2, 3, 1, stride=2, dtype=dtype)(u)
        w = Shifted(n, 2, 2, 1, stride=2, dtype=dtype)(w)
        kept.append((u, w))
    u, w = kept.pop()
    for level in range(self.resolutions):
      for _ in range(self.layers + (level > 0)):
        before_u, before_w = kept.pop()
        u = rows(u, before_u)
        w = left(w, jnp.concatenate([u, before_w], -1))
      if level < self.resolutions - 1:
        u, w = (jnp.repeat(jnp.repeat(y, 2, 0), 2, 1) for y in (u, w))
        u = Shifted(n, 2, 3, 1, dtype=dtype)(u)
        w = Shifted(n, 2, 2, 1, dtype=dtype)(w)
    return w


def pixelcnn_pp(
  *,
  event: Sequence[int],
  num_values: int = 256,
  num_mixtures: int = 10,
  features: int = 64,
  layers: int = 2,
  resolutions: int = 3,
  num_classes: int = 0,
  context_size: int = 0,
  remat: str = 'none',
  dtype: Any = jnp.float32,
) -> model.AutoregressiveModel:
  """Builds a PixelCNN++.

  Args:
    event: (height, width, channels).
    num_values: V.
    num_mixtures: K of `heads.discretized_logistic`.
    features: N of each stream.
    layers: gated blocks of a resolution, down; one more up.
    resolutions: halvings of the image, and the image itself.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    remat: policy for the blocks, see `layers.remat`.
    dtype: of the products; parameters are float32.

  Returns:
    The model, of depth H W: rank[r, c] = r W + c, channels inside a position.

  Raises:
    ValueError: an event that is no image, or no layers or resolutions.
  """
  if len(event) != 3 or layers < 1 or resolutions < 1:
    raise ValueError(
      'A PixelCNN++ takes an event (height, width, channels), and at least one '
      f'layer and resolution; got {tuple(event)}, {layers} and {resolutions}.'
    )
  module = PixelCNNPP(
    num_values,
    num_mixtures,
    features,
    layers,
    resolutions,
    num_classes,
    remat,
    dtype,
  )
  return model.from_linen(
    module,
    event=jax.ShapeDtypeStruct(tuple(event), jnp.int32),
    rank=order.raster(event[:2]),
    head=heads.discretized_logistic(num_values, event[2], num_mixtures),
    context=embedding.context_spec(num_classes, context_size),
    name='pixelcnn_pp',
  )
