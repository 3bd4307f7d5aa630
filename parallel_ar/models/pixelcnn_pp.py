"""PixelCNN++: shifted convolutions at several resolutions, logistic mixtures.

  u[r, c]  knows the rows above r,   w[r, c] also the pixels left of c
  u = gated(u, .),   w = gated(w, u)           down, see `layers.gated`
  u = gated(u, u'),  w = gated(w, [u, w'])     up, u' and w' from the way down

The streams u and w go down through resolutions halved by strided convolutions,
and up again with shortcuts from the way down; w reads u all along. A pixel is
one position, its channels a chain inside the head.

Images of any size: they are padded below and to the right, where no pixel
looks. The way up repeats pixels and convolves, where the paper transposes.

References:
  Salimans, Karpathy, Chen, Kingma: PixelCNN++: improving the PixelCNN with
  discretized logistic mixture likelihood and other modifications. ICLR 2017,
  section 2, Figure 2.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from parallel_ar import model
from parallel_ar.heads.discretized_logistic import Logistics
from parallel_ar.layers import gated, streams
from parallel_ar.models import pixelcnn_pp_decode, pixels
from parallel_ar.types import Array, Context


class PixelCNNPP(nn.Module):
  """The network; see `pixelcnn_pp` for the attributes."""

  event: tuple[int, ...]
  num_values: int
  num_mixtures: int
  features: int
  layers: int
  resolutions: int
  num_classes: int
  dropout: float
  weight_norm: bool
  remat: str
  dtype: Any

  def setup(self):
    n, own = self.features, (self.weight_norm, 1.0, self.dtype)
    self.first_u = gated.Shifted(n, 2, 3, 1, 1, *own)
    self.first_w = gated.Shifted(n, 1, 3, 1, 1, *own)
    # Two rows of the column to the left.
    self.first_left = gated.Shifted(n, 2, 1, 1, 0, *own)
    self.levels = [
      streams.Level(
        n,
        self.layers,
        l == self.resolutions - 1,
        self.num_classes,
        self.dropout,
        self.weight_norm,
        self.remat,
        self.dtype,
      )
      for l in range(self.resolutions)
    ]
    size = pixels.num_outputs(self.event[2], self.num_values, self.num_mixtures)
    self.mixture = gated.Shifted(size, 1, 1, 0, 0, *own)

  def __call__(self, x: Array, context: Context) -> Logistics:
    height, width, _ = self.event
    times = 2 ** (self.resolutions - 1)
    more = (0, -height % times), (0, -width % times), (0, 0)
    image = jnp.pad(pixels.encode(x, self.num_values), more)
    u = self.first_u(image)
    w = self.first_w(image) + self.first_left(image)

    def level(l: int, u: Array, w: Array) -> Any:
      coarser = lambda u, w: level(l + 1, u, w)
      return self.levels[l](u, w, context, coarser)

    return self.dist(level(0, u, w)[1][:height, :width])

  def dist(self, w: Array) -> Logistics:
    """The conditionals of the last features."""
    out = self.mixture(gated.concat_elu(w))
    return pixels.to_dist(
      out, self.event[2], self.num_values, self.num_mixtures
    )


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
  dropout: float = 0.0,
  weight_norm: bool = False,
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
    dropout: rate inside the gated blocks, while training.
    weight_norm: weights of a direction and a length, initialized from data.
    remat: policy for the blocks, see `layers.remat`.
    dtype: of the products; parameters are float32.

  Returns:
    The model, of depth H W: rank[r, c] = r W + c, channels inside a position.

  Raises:
    ValueError: an event that is no image, or no layers, resolutions or
      mixtures.
  """
  pixels.check('A PixelCNN++', event, num_mixtures, dropout)
  if min(layers, resolutions, num_mixtures) < 1:
    raise ValueError(
      'A PixelCNN++ has at least one layer, one resolution and one mixture; '
      f'got {layers}, {resolutions} and {num_mixtures}.'
    )
  module = PixelCNNPP(
    tuple(event),
    num_values,
    num_mixtures,
    features,
    layers,
    resolutions,
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
    decode=pixelcnn_pp_decode.decode(module),
    name='pixelcnn_pp',
  )
