"""Shifted convolutions and the gated residual blocks made of them.

  gated(y, a) = y + p sigmoid(q),  p, q = conv(d f(conv(f(y)) + W f(a))) + V h

with f(y) = elu([y, -y]), d the mask of dropout while training, and h the
context.

References:
  Salimans, Karpathy, Chen, Kingma: PixelCNN++. ICLR 2017, section 2.4, 2.5.
  Salimans, Kingma: Weight normalization. NeurIPS 2016, section 2 and 3.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from parallel_ar.layers import conv, embedding
from parallel_ar.types import Array, Context

EXAMPLES = 'examples'  # the axis that data-dependent statistics run over
_LEAST_DEVIATION = 1e-6


def concat_elu(y: Array) -> Array:
  """elu([y, -y])."""
  return nn.elu(jnp.concatenate([y, -y], -1))


class Shifted(nn.Module):
  """A convolution over a rectangle that ends at the output's own place.

  Weight norm makes W of a direction and a length, W = g V / |V| for each
  output. Where the collection 'params' is mutable in `apply`, g and b are set
  from the data, so that outputs have mean 0 and deviation `gain` over places
  and over the mapped axis `EXAMPLES`.

  A row of an image, or a pixel, is computed in two parts: what the rows above
  say (`above`), once a row, and the output's own row (`beside` or `at`).

  Attributes:
    features: F.
    rows: rows of the kernel, the last `skip_rows` above the output's.
    columns: columns of the kernel.
    left: columns to the left of the output's.
    skip_rows: rows between the kernel and the output's row, 0 for none.
    weight_norm: whether W has a length of its own.
    gain: deviation of the outputs after an initialization from data.
    dtype: of the product; parameters are float32.
  """

  features: int
  rows: int = 1
  columns: int = 1
  left: int = 0
  skip_rows: int = 0
  weight_norm: bool = False
  gain: float = 1.0
  dtype: Any = jnp.float32

  def __call__(self, x: Array) -> Array:
    """Maps float[H, W, N], zeros outside."""
    kernel, bias = self.weights(x.shape[-1])
    above = self.rows - 1 + self.skip_rows
    y = self._conv(x, kernel, above)
    if self.weight_norm and not self.is_initializing():
      if self.is_mutable_collection('params'):
        bias, change = self._from_data(y)
        y = y * change[None, None]
    return self._add(bias, y)

  def over(self, x: Array) -> Array:
    """One row of outputs, float[1, W, F], of exactly the rows it reads."""
    kernel, bias = self.weights(x.shape[-1])
    return self._add(bias, self._conv(x, kernel, 0, 0))

  def above(self, x: Array) -> Array:
    """What the rows above add to one row of outputs, and the bias."""
    kernel, bias = self.weights(x.shape[-1])
    return self._add(bias, self._conv(x, kernel[:-1], 0, 0))

  def beside(self, x: Array) -> Array:
    """What the output's own row float[1, W, N] adds."""
    return self._conv(x, self.weights(x.shape[-1])[0][-1:], 0, 0)

  def at(self, x: Array) -> Array:
    """What its own row adds to one output, of the float[1, columns, N] read."""
    kernel = self.weights(x.shape[-1])[0][-1].reshape(-1, self.features)
    # One product of a matrix: a convolution of one pixel costs far more.
    seen = x.astype(self.dtype).reshape(1, -1, kernel.shape[0])
    return seen @ kernel.astype(self.dtype)

  @nn.compact
  def weights(self, inputs: int) -> tuple[Array, Array]:
    """The kernel float[rows, columns, N, F] and the bias float[F]."""
    shape = self.rows, self.columns, inputs, self.features
    init = nn.initializers.lecun_normal()
    kernel = self.param('kernel', init, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    if self.weight_norm:
      ones = nn.initializers.ones
      length = self.param('length', ones, (self.features,), jnp.float32)
      squares = (kernel**2).sum((0, 1, 2), keepdims=True)
      some = squares > 0  # a feature of zeros has no direction, and stays 0
      unit = jnp.where(some, jax.lax.rsqrt(jnp.where(some, squares, 1)), 0)
      kernel = kernel * unit * length[None, None, None]
    return kernel, bias

  def _conv(
    self, x: Array, kernel: Array, above: int, below: int | None = None
  ) -> Array:
    """Without the bias."""
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if kernel.shape[:2] == (1, 1) and above == self.left == 0:
      return x @ kernel[0, 0]
    return conv.conv2d(x, kernel, above=above, below=below, left=self.left)

  def _add(self, bias: Array, y: Array) -> Array:
    return y + jnp.broadcast_to(bias.astype(self.dtype), y.shape)

  def _from_data(self, y: Array) -> tuple[Array, Array]:
    """Sets bias and length from outputs without bias: bias, change."""
    y = y.astype(jnp.float32)
    mean = jax.lax.pmean(y.mean((0, 1)), EXAMPLES)
    square = ((y - mean[None, None]) ** 2).mean((0, 1))
    square = jax.lax.pmean(square, EXAMPLES)
    change = self.gain / jnp.maximum(jnp.sqrt(square), _LEAST_DEVIATION)
    bias = -mean * change
    length = self.get_variable('params', 'length') * change
    self.put_variable('params', 'bias', bias)
    self.put_variable('params', 'length', length)
    return bias, change.astype(self.dtype)


# (convolution, its input) -> its output: on an image, a row or a pixel
Run = Callable[[Shifted, Array], Array]


def whole(convolution: Shifted, y: Array) -> Array:
  """Runs a convolution on a whole image."""
  return convolution(y)


class Gated(nn.Module):
  """One gated residual block, which may read another place's features.

  Attributes:
    features: N.
    rows: of both kernels.
    columns: of both kernels; all but one, or two of three, are to the left.
    num_classes: labels of the context, if it is a label.
    dropout: rate, where `apply` has an rng named 'dropout'.
    weight_norm: see `Shifted`.
    dtype: of the products; parameters are float32.
  """

  features: int
  rows: int
  columns: int
  num_classes: int = 0
  dropout: float = 0.0
  weight_norm: bool = False
  dtype: Any = jnp.float32

  def setup(self):
    left = min(self.columns - 1, 1)
    shape = self.rows, self.columns, left, 0, self.weight_norm
    self.first = Shifted(self.features, *shape, dtype=self.dtype)
    self.other = Shifted(
      self.features, weight_norm=self.weight_norm, dtype=self.dtype
    )
    # Small at first: a new block is close to the identity.
    self.second = Shifted(2 * self.features, *shape, gain=0.1, dtype=self.dtype)
    self.context = embedding.AddContext(self.num_classes, self.dtype)
    self.drop = nn.Dropout(self.dropout)

  def __call__(self, y: Array, other: Array | None, context: Context) -> Array:
    """Maps float[H, W, N]."""
    return self.run(y, other, context, whole)

  def run(
    self, y: Array, other: Array | None, context: Context, run: Run
  ) -> Array:
    """As a call, with a way of its own to run the two convolutions."""
    z = run(self.first, concat_elu(y))
    if other is not None:
      z = z + self.other(concat_elu(other))
    z = self.drop(concat_elu(z), deterministic=not self.has_rng('dropout'))
    z = self.context(run(self.second, z), context)
    p, q = jnp.split(z, 2, -1)
    return y + p * nn.sigmoid(q)
