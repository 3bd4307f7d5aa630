"""Multiscale: groups of pixels, each drawn at once from all groups before it.

  p(x) = prod_l prod_{i in I_l} p(x_i | x_{I_<l})

One residual network predicts every group: its input is the image with all
groups from l on blanked out, and a map of what is known, both on the coarsest
grid that holds I_<=l. The likelihood of all L groups is L evaluations of the
network, independent of each other and so one compiled pass; with g groups an
octave they cost as much as 4 g / 3 on the whole image, and L = O(log n) for the
default order. A sample takes L passes at most, and from the decode path L
evaluations, those of one pass, and a pass that proves it. What the independence
inside a group costs in nats is printed by `tables/hierarchy`.

References:
  Reed et al.: Parallel multiscale autoregressive density estimation. ICML 2017.
  Hoogeboom et al.: Autoregressive diffusion models. ICLR 2022 (a network that
  sees what is known, and the map of it).
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import model, order
from parallel_ar.decode import Groups, from_groups
from parallel_ar.heads import discrete
from parallel_ar.layers import dense, embedding
from parallel_ar.layers import remat as remat_policies
from parallel_ar.types import Array, ArrayLike, Context


class Block(nn.Module):
  """y + conv(relu(conv(relu y) + W h)), every other block with holes."""

  size: int
  dilation: int
  num_classes: int
  dtype: Any

  @nn.compact
  def __call__(self, y: Array, context: Context) -> Array:
    width, kernel = y.shape[-1], (self.size, self.size)
    holes = (self.dilation, self.dilation)
    z = nn.Conv(width, kernel, kernel_dilation=holes, dtype=self.dtype)(
      dense.relu(y)
    )
    z = embedding.AddContext(self.num_classes, self.dtype)(z, context)
    # Identity at first: the group is predicted from near pixels, then more.
    out = nn.Conv(
      width, (1, 1), dtype=self.dtype, kernel_init=nn.initializers.zeros
    )
    return y + out(dense.relu(z))


class Multiscale(nn.Module):
  """The network of one group; see `multiscale` for the attributes."""

  num_values: int
  scales: int
  features: int
  layers: int
  size: int
  head_features: int
  inputs: embedding.Inputs
  num_classes: int
  remat: str
  dtype: Any

  @nn.compact
  def __call__(
    self, x: Array, known: Array, scale: int, context: Context
  ) -> Array:
    """Logits of every pixel, given the known ones: float[H, W, C(, V)].

    Args:
      x: the image on its grid, zeros where it is not known.
      known: bool, as x.
      scale: which of the grids it is.
      context: label, vector, image on the grid, or None.
    """
    outputs = discrete.num_logits(self.num_values)
    seen = embedding.encode(x, self.num_values, self.inputs)
    wide = seen.shape[-1] // x.shape[-1]
    mask = known.astype(jnp.float32)
    y = jnp.concatenate([seen * jnp.repeat(mask, wide, -1), mask], -1)
    if context is not None and context.ndim == 3:
      y, context = jnp.concatenate([y, context], -1), None
    kernel = (self.size, self.size)
    y = nn.Conv(self.features, kernel, dtype=self.dtype, name='first')(y)
    shape, normal = (self.scales, self.features), nn.initializers.normal(0.02)
    y = y + self.param('scale', normal, shape, jnp.float32)[None, None, scale]
    y = y.astype(self.dtype)
    block = remat_policies.remat(Block, self.remat)
    for l in range(self.layers):
      y = block(
        self.size,
        (1, 2, 4)[l % 3],
        self.num_classes,
        self.dtype,
        name=f'block_{l}',
      )(y, context)
    head = nn.Dense(self.head_features, dtype=self.dtype, name='head')
    y = head(dense.relu(y))
    y = embedding.AddContext(self.num_classes, self.dtype, name='add')(
      y, context
    )
    last = nn.Dense(x.shape[-1] * outputs, dtype=self.dtype, name='logits')
    y = last(dense.relu(y)).astype(jnp.float32)
    return y if outputs == 1 else y.reshape(*x.shape, outputs)


def grids(rank: np.ndarray) -> tuple[int, ...]:
  """For each rank the stride of the coarsest grid with all pixels up to it."""
  height, width = rank.shape[:2]
  strides = []
  for level in range(order.depth(rank)):
    places = np.argwhere(rank <= level)[:, :2]
    strides.append(int(np.gcd.reduce(places.ravel())) or max(height, width))
  return tuple(strides)


def _groups(module: Multiscale, rank: np.ndarray) -> tuple[Any, Groups]:
  """All groups in one pass, and one after another."""
  strides = grids(rank)
  scales = sorted(set(strides), reverse=True)
  many = module.num_values > 2
  shape = (*rank.shape, module.num_values) if many else rank.shape

  def on_grid(
    scale: int, params: Any, context: Context, x: Array, level: Array
  ) -> Array:
    stride = scales[scale]
    known = jnp.asarray(rank[::stride, ::stride]) < level
    seen, given = jnp.where(known, x[::stride, ::stride], 0), context
    if context is not None and context.ndim == 3:
      given = context[::stride, ::stride]
    out: Any = module.apply({'params': params}, seen, known, scale, given)
    return out

  def conditionals(params: Any, x: Array, context: Context) -> Array:
    logits = jnp.zeros(shape, jnp.float32)
    for scale, stride in enumerate(scales):
      here = np.flatnonzero(np.equal(strides, stride))
      of = functools.partial(on_grid, scale, params, context, x)
      levels = jax.vmap(of)(jnp.asarray(here))
      ranks = rank[::stride, ::stride]
      at = np.clip(ranks - here[0], 0, here.size - 1)
      new = np.isin(ranks, here)
      if many:
        at, new = at[..., None], new[..., None]
      found = jnp.take_along_axis(levels, jnp.asarray(at)[None], 0)[0]
      old = logits[::stride, ::stride]
      logits = logits.at[::stride, ::stride].set(jnp.where(new, found, old))
    return logits

  def extend(params: Any, context: Context, level: Array, x: Array) -> Any:
    def branch(scale: int) -> Array:
      found = on_grid(scale, params, context, x, level)
      stride = scales[scale]
      return jnp.zeros(shape, jnp.float32).at[::stride, ::stride].set(found)

    each = [functools.partial(branch, scale) for scale in range(len(scales))]
    which = jnp.asarray([scales.index(s) for s in strides])[level]
    return jax.lax.switch(which, each), context

  # A group reads the event alone: what is kept is the context.
  return conditionals, Groups(lambda params, context: context, extend)


def multiscale(
  *,
  event: Sequence[int],
  num_values: int = 2,
  rank: ArrayLike | None = None,
  features: int = 32,
  layers: int = 6,
  size: int = 3,
  head_features: int = 32,
  inputs: embedding.Inputs = 'scaled',
  num_classes: int = 0,
  context_size: int = 0,
  context_channels: int = 0,
  remat: str = 'none',
  dtype: Any = jnp.float32,
) -> model.AutoregressiveModel:
  """Builds a multiscale model.

  Args:
    event: (height, width, channels).
    num_values: V; 2 gives a Bernoulli head, more a categorical one.
    rank: int[E], any order, ties allowed; `order.multiscale` by default. The
      likelihood costs one evaluation of the network a rank.
    features: N.
    layers: residual blocks, of dilations 1, 2, 4 in turn.
    size: kernel size, odd.
    head_features: width of the 1x1 layer before the logits.
    inputs: 'scaled' or 'one_hot', see `layers.embedding.encode`.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    context_channels: > 0 conditions on a real image of the event's height and
      width.
    remat: policy for the blocks, see `layers.remat`.
    dtype: of the products; parameters are float32.

  Returns:
    The model; its depth is the number of ranks.

  Raises:
    ValueError: an event that is no image, or a bad rank.
  """
  if len(event) != 3:
    raise ValueError(
      f'An image event is (height, width, channels); got {tuple(event)}.'
    )
  rank = order.check(order.multiscale(event) if rank is None else rank, event)
  module = Multiscale(
    num_values,
    len(set(grids(rank))),
    features,
    layers,
    size,
    head_features,
    inputs,
    num_classes,
    remat,
    dtype,
  )
  context = embedding.context_spec(
    num_classes, context_size, (*event[:2], context_channels)
  )

  def init(key: Array) -> Any:
    x = jnp.zeros(event, jnp.int32)
    c = embedding.blank(context)
    return module.init(key, x, jnp.zeros(event, bool), 0, c)['params']

  conditionals, groups = _groups(module, rank)
  shape = jax.ShapeDtypeStruct(tuple(event), jnp.int32)
  return model.AutoregressiveModel(
    event=shape,
    rank=np.asarray(rank),
    head=discrete.of_values(num_values),
    init=jax.jit(init),
    conditionals=conditionals,
    context=context,
    decode=from_groups(groups, shape, rank),
    name='multiscale',
  )
