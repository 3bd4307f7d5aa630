"""MAF: masked autoregressive flow, a chain of Gaussian MADEs.

  x = x^L,   x^(l-1)_i = (x^l_i - m_i(x^l_<i)) exp(-s_i(x^l_<i))
  x^0 ~ N(0, I),   log p(x) = log N(x^0; 0, I) - sum_l sum_i s_i

A layer is an autoregressive model of real values: its noise is the layer below.
Its inverse, x_i = m_i(x_<i) + exp(s_i(x_<i)) u_i, is the triangular system that
samplers solve, so the fixed point gives the values of the slow inverse in a
fraction of its passes. Layers take turns in reading forward and backward, so
the flow as a whole has no order, while each layer has one.

References:
  Papamakarios, Pavlakou, Murray: Masked autoregressive flow for density
  estimation. NeurIPS 2017, section 3. Song et al.: Accelerating feedforward
  computation via parallel nonlinear equation solving. ICML 2021.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import heads, model, order
from parallel_ar.adapters import linen
from parallel_ar.layers import dense, embedding
from parallel_ar.models.made import Degrees, hidden_degrees
from parallel_ar.samplers import sweep
from parallel_ar.samplers.sweep import Sample
from parallel_ar.types import Array, ArrayLike, Context, Params


class GaussianMADE(nn.Module):
  """The network of one layer; see `gaussian_made`."""

  rank: Any
  hidden: Sequence[Any]
  num_components: int
  num_classes: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, context: Context) -> tuple[Array, Array, Array]:
    y, degree = x.reshape(-1).astype(jnp.float32), self.rank
    for l, layer in enumerate(self.hidden):
      y = dense.MaskedDense(degree, layer, self.dtype, name=f'hidden_{l}')(y)
      y = embedding.AddContext(self.num_classes, self.dtype)(y, context)
      y, degree = dense.relu(y), layer
    known = np.repeat(self.rank, 3 * self.num_components)
    out = dense.MaskedDense(degree + 1, known, self.dtype, name='out')(y)
    out = embedding.AddContext(self.num_classes, self.dtype)(out, context)
    out = out.astype(jnp.float32).reshape(*x.shape, 3, self.num_components)
    logits, means, scales = (out[..., n, :] for n in range(3))
    # Bounded, so that no step of an inverse overflows.
    return logits, means, 5.0 * jnp.tanh(scales / 5.0)


def gaussian_made(
  *,
  event: Sequence[int],
  rank: ArrayLike | None = None,
  num_components: int = 1,
  hidden: Sequence[int] = (500,),
  degrees: Degrees = 'even',
  mask_seed: int = 0,
  num_classes: int = 0,
  context_size: int = 0,
  dtype: Any = jnp.float32,
) -> model.AutoregressiveModel:
  """Builds a MADE of real values: one layer of MAF, or MADE MoG.

  Args:
    event: event shape E.
    rank: int[E], any order, ties allowed; raster by default.
    num_components: K of `heads.gaussian_mixture`.
    hidden: units of each hidden layer.
    degrees: as in `made`.
    mask_seed: of random degrees.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    dtype: of the products; parameters are float32.

  Returns:
    The model, of a float32 event.

  Raises:
    ValueError: as `made`.
  """
  if any(n < 1 for n in hidden):
    raise ValueError(f'Hidden layers need at least one unit; got {hidden}.')
  rank = order.check(order.raster(event) if rank is None else rank, event)
  flat = rank.reshape(-1)
  module = GaussianMADE(
    flat,
    hidden_degrees(flat, hidden, degrees, mask_seed),
    num_components,
    num_classes,
    dtype,
  )
  return linen.from_linen(
    module,
    event=jax.ShapeDtypeStruct(tuple(event), jnp.float32),
    rank=rank,
    head=heads.gaussian_mixture(num_components),
    context=embedding.context_spec(num_classes, context_size),
    name='gaussian_made',
  )


def maf(
  *, event: Sequence[int], layers: int = 5, **options: Any
) -> tuple[model.AutoregressiveModel, ...]:
  """Builds the layers of a flow, which read forward and backward in turn.

  Args:
    event: event shape E.
    layers: L.
    **options: of `gaussian_made`; `rank` is that of the layer next to the data.

  Returns:
    The layers, that of the data first.

  Raises:
    ValueError: layers < 1, or a mixture: its pick has no unique inverse.
  """
  if layers < 1:
    raise ValueError(f'A flow needs at least one layer; got {layers}.')
  if options.get('num_components', 1) != 1:
    raise ValueError('A layer of a flow is one Gaussian; set num_components=1.')
  first = options.pop('rank', None)
  first = order.check(order.raster(event) if first is None else first, event)
  ranks = first, order.reverse(first)
  return tuple(
    gaussian_made(event=event, rank=ranks[l % 2], **options)
    for l in range(layers)
  )


@functools.partial(jax.jit, static_argnums=0)
def flow_log_prob(
  layers: tuple[model.AutoregressiveModel, ...],
  params: Sequence[Params],
  x: Array,
  context: Context = None,
) -> tuple[Array, Array]:
  """log p(x), and the values x^0 that the flow maps x to: one pass a layer.

  Args:
    layers: of `maf`.
    params: of each layer.
    x: float[B, *event].
    context: pytree with leading axis B, or None.

  Returns:
    float[B], nats, and float[B, *event].
  """
  axes = tuple(range(1, x.ndim))
  total = jnp.zeros(x.shape[0])
  for layer, own in zip(layers, params, strict=True):
    dist = jax.vmap(layer.conditionals, (None, 0, 0))(own, x, context)
    _, mean, scale = (d[..., 0] for d in dist)
    x = (x - mean) * jnp.exp(-scale)
    total = total - scale.sum(axes)
  return total + jax.scipy.stats.norm.logpdf(x).sum(axes), x


@functools.partial(jax.jit, static_argnums=0)
def flow_inverse(
  layers: tuple[model.AutoregressiveModel, ...],
  params: Sequence[Params],
  u: Array,
  context: Context = None,
  one_rank: ArrayLike | bool = False,
) -> tuple[Array, Array]:
  """The event that the flow maps to u; x^0 = u ~ N(0, I) makes it a sample.

  Args:
    layers: of `maf`.
    params: of each layer.
    u: float[B, *event].
    context: pytree with leading axis B, or None.
    one_rank: bool[]; True computes rank after rank, the slow inverse.

  Returns:
    float[B, *event], the same bits either way, and int32[L, B], the passes of
    each layer, that of the data first.
  """
  passes = []
  for layer, own in zip(layers[::-1], params[::-1], strict=True):
    done: Sample = sweep.solve(
      layer,
      own,
      (jnp.zeros((*u.shape, 1)), u),
      context,
      jnp.zeros_like(u),
      jnp.zeros_like(u),
      jnp.zeros(u.shape, bool),
      jnp.asarray(one_rank),
    )
    u = jnp.asarray(done.x)
    passes.append(done.info.passes)
  return u, jnp.stack(passes[::-1])
