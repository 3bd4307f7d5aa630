"""The two streams of a PixelCNN++ at one resolution.

The stream u knows the rows above; w also knows the pixels to the left, and
reads u all along.

References:
  Salimans, Karpathy, Chen, Kingma: PixelCNN++. ICLR 2017, section 2.3, 2.4,
  Figure 2.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from parallel_ar.layers import gated
from parallel_ar.layers import remat as remat_policies
from parallel_ar.types import Array, Context

Streams = tuple[Array, ...]


class Level(nn.Module):
  """One resolution, down and up; see `pixelcnn_pp` for the attributes.

  The streams are methods of their own, each run on an image, a row or (w) a
  pixel: `run` is how. Between the way down and the way up stands the coarser
  level, whose output is `inner`, None for the coarsest.
  """

  features: int
  layers: int
  coarsest: bool
  num_classes: int
  dropout: float
  weight_norm: bool
  remat: str
  dtype: Any

  def setup(self):
    n, own = self.features, (self.weight_norm, 1.0, self.dtype)
    block = remat_policies.remat(gated.Gated, self.remat)
    of = lambda columns, count: [
      block(
        n,
        2,
        columns,
        self.num_classes,
        self.dropout,
        self.weight_norm,
        self.dtype,
      )
      for _ in range(count)
    ]
    self.down_u, self.down_w = of(3, self.layers), of(2, self.layers)
    ups = self.layers + (not self.coarsest)
    self.up_u, self.up_w = of(3, ups), of(2, ups)
    if not self.coarsest:
      self.shrink_u = gated.Shifted(n, 2, 3, 1, 0, *own)
      self.shrink_w = gated.Shifted(n, 2, 2, 1, 0, *own)
      self.grow_u = gated.Shifted(n, 2, 3, 1, 0, *own)
      self.grow_w = gated.Shifted(n, 2, 2, 1, 0, *own)

  def u_down(
    self, u: Array, context: Context, run: gated.Run
  ) -> tuple[Streams, Array]:
    """u before and after every block, and the last, to be made coarser."""
    kept = [u]
    for layer in self.down_u:
      kept.append(_block(layer, run, kept[-1], None, context))
    last = kept[-1]
    return tuple(kept), last if self.coarsest else run(self.shrink_u, last)

  def u_up(
    self, kept: Streams, inner: Array | None, context: Context, run: gated.Run
  ) -> Streams:
    """u after every block, the last one for the finer level."""
    u, kept = self._start(kept, inner, run, 'grow_u')
    out = []
    for layer, before in zip(self.up_u, reversed(kept), strict=True):
      u = _block(layer, run, u, before, context)
      out.append(u)
    return tuple(out)

  def w_down(
    self, w: Array, us: Streams, context: Context, run: gated.Run
  ) -> tuple[Streams, Array]:
    """As `u_down`, reading what that returned."""
    kept = [w]
    for layer, u in zip(self.down_w, us[1:], strict=True):
      kept.append(_block(layer, run, kept[-1], u, context))
    last = kept[-1]
    return tuple(kept), last if self.coarsest else run(self.shrink_w, last)

  def w_up(
    self,
    kept: Streams,
    inner: Array | None,
    us: Streams,
    context: Context,
    run: gated.Run,
  ) -> Array:
    """w for the finer level, reading what `u_up` returned."""
    w, kept = self._start(kept, inner, run, 'grow_w')
    for layer, u, before in zip(self.up_w, us, reversed(kept), strict=True):
      w = _block(layer, run, w, jnp.concatenate([u, before], -1), context)
    return w

  def _start(
    self, kept: Streams, inner: Array | None, run: gated.Run, grow: str
  ) -> tuple[Array, Streams]:
    """What the way up begins with, and the shortcuts that are left for it."""
    if inner is None:
      return kept[-1], kept[:-1]
    return run(getattr(self, grow), inner), kept

  def __call__(self, u: Array, w: Array, context: Context, coarser: Any) -> Any:
    """Both streams of an image; `coarser` runs the levels between."""
    run = gated.whole
    kept_u, small_u = self.u_down(u, context, run)
    kept_w, small_w = self.w_down(w, kept_u, context, run)
    inner_u = inner_w = None
    if not self.coarsest:
      inner_u, inner_w = coarser(small_u[::2, ::2], small_w[::2, ::2])
      inner_u, inner_w = (
        jnp.repeat(jnp.repeat(y, 2, 0), 2, 1) for y in (inner_u, inner_w)
      )
    us = self.u_up(kept_u, inner_u, context, run)
    return us[-1], self.w_up(kept_w, inner_w, us, context, run)


def _block(
  layer: Any, run: gated.Run, y: Array, other: Array | None, context: Context
) -> Array:
  # A call is what rematerialization wraps.
  if run is gated.whole:
    return layer(y, other, context)
  return layer.run(y, other, context, run)
