"""MADE: masked autoencoder for distribution estimation, in any order.

  h^l = g(b^l + (W^l * M^l) h^(l-1)),   h^0 = x,   g = relu or softplus
  l_i = c_i + ((V * M) h^L)_i + ((A * M^A) x)_i

Every unit has a degree: an input its rank, a hidden unit a number m, and it
reads units of degree <= m (inputs of rank <= m); output i reads hidden units
of degree < rank[i] and, directly, inputs of rank < rank[i].

References:
  Germain, Gregor, Murray, Larochelle: MADE. ICML 2015, eq. 8 to 13, Table 6.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import model, order
from parallel_ar.adapters import linen
from parallel_ar.heads import discrete
from parallel_ar.layers import dense, embedding
from parallel_ar.models import made_decode
from parallel_ar.types import Array, ArrayLike, Context, Params, PRNGKey

Degrees = Literal['even', 'random']
Activation = Literal['relu', 'softplus']
Init = Literal['lecun', 'cropped']
_PROJECTED = 64  # features of a slot


class MADE(nn.Module):
  """The network of one mask set.

  Attributes:
    rank: int[D], flat; it and the degrees may be traced.
    hidden: int[N] degrees of each hidden layer.
    num_values: V; inputs are one-hot for V > 2, and outputs V logits.
    direct: adds the connections A from inputs to outputs.
    num_classes: labels of the context, if it is a label.
    dtype: of the products; parameters are float32.
    activation: g.
    kernel_init: of W and V and A: 'lecun' or 'cropped', see `made`.
  """

  rank: Any
  hidden: Sequence[Any]
  num_values: int = 2
  direct: bool = False
  num_classes: int = 0
  dtype: Any = jnp.float32
  activation: Activation = 'relu'
  kernel_init: Init = 'lecun'

  def __call__(self, x: Array, context: Context) -> Array:
    return self.with_hidden(x, context)[0]

  @nn.compact
  def with_hidden(self, x: Array, context: Context) -> tuple[Array, Array]:
    """The logits, and the last hidden layer."""
    binary = self.num_values == 2
    features = 1 if binary else self.num_values
    known = self.rank.repeat(features)
    inputs = x.reshape(-1).astype(jnp.float32)
    if not binary:
      inputs = embedding.encode(
        x.reshape(-1, 1), self.num_values, 'one_hot'
      ).reshape(-1)
    y, degree = inputs, known
    cropped = self.kernel_init == 'cropped'
    init = _cropped if cropped else nn.initializers.lecun_normal()
    masked = functools.partial(
      dense.MaskedDense, dtype=self.dtype, kernel_init=init
    )
    for l, layer in enumerate(self.hidden):
      y = masked(degree, layer, name=f'hidden_{l}')(y)
      add = embedding.AddContext(self.num_classes, self.dtype)
      y = self.activate(add(y, context))
      degree = layer
    # An output of rank r reads degrees < r: shift by one for "<=".
    out = masked(degree + 1, known, name='out')(y)
    if self.direct:
      direct = masked(known + 1, known, use_bias=False, name='direct')
      out = out + direct(inputs)
    out = embedding.AddContext(self.num_classes, self.dtype)(out, context)
    out = out.astype(jnp.float32)
    shape = x.shape if binary else (*x.shape, self.num_values)
    return out.reshape(shape), y

  def activate(self, y: Array) -> Array:
    """g(y)."""
    return dense.relu(y) if self.activation == 'relu' else nn.softplus(y)


def _cropped(key: PRNGKey, shape: Sequence[int], dtype: Any) -> Array:
  """Normal, with the variance 1 / max(N, F) of a crop of an orthogonal one."""
  return jax.random.normal(key, shape, dtype) * max(shape) ** -0.5


def made(
  *,
  event: Sequence[int],
  num_values: int = 2,
  rank: ArrayLike | None = None,
  hidden: Sequence[int] = (500,),
  direct: bool = False,
  degrees: Degrees = 'random',
  mask_seed: int = 0,
  num_classes: int = 0,
  context_size: int = 0,
  dtype: Any = jnp.float32,
  activation: Activation = 'relu',
  kernel_init: Init = 'lecun',
) -> model.AutoregressiveModel:
  """Builds a MADE.

  Args:
    event: event shape E.
    num_values: V; 2 gives a Bernoulli head, more a categorical one.
    rank: int[E], any order, ties allowed; raster by default.
    hidden: units of each hidden layer.
    direct: adds direct connections from inputs to outputs.
    degrees: 'random' draws hidden degrees uniformly from the smallest of the
      layer below to R - 2, as the paper does; 'even' spaces them evenly over
      0..R-2, so that no rank is without a unit.
    mask_seed: of random degrees.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    dtype: of the products; parameters are float32.
    activation: g, of the hidden units: 'relu' or 'softplus'.
    kernel_init: 'lecun', of variance 1 / inputs, or 'cropped', of variance
      1 / max(inputs, outputs): that of the authors' code, which crops an
      orthogonal matrix; wide layers then start small and generalise better.

  Returns:
    The model; its depth is the number of ranks.

  Raises:
    ValueError: no hidden units, an unknown way to set degrees or kernels, an
      unknown activation, a bad rank.
  """
  if activation not in get_args(Activation):
    raise ValueError(
      f"activation must be 'relu' or 'softplus'; got {activation!r}."
    )
  if kernel_init not in get_args(Init):
    raise ValueError(
      f"kernel_init must be 'lecun' or 'cropped'; got {kernel_init!r}."
    )
  if any(n < 1 for n in hidden):
    raise ValueError(f'Hidden layers need at least one unit; got {hidden}.')
  rank = order.check(order.raster(event) if rank is None else rank, event)
  flat = rank.reshape(-1)
  module = MADE(
    rank=flat,
    hidden=hidden_degrees(flat, hidden, degrees, mask_seed),
    num_values=num_values,
    direct=direct,
    num_classes=num_classes,
    dtype=dtype,
    activation=activation,
    kernel_init=kernel_init,
  )
  return linen.from_linen(
    module,
    event=tuple(event),
    rank=rank,
    head=discrete.of_values(num_values),
    context=embedding.context_spec(num_classes, context_size),
    decode=made_decode.decode(module),
    features=_features(module) if hidden else None,
    name='made',
  )


def _features(module: MADE) -> model.Features:
  """Projections of the hidden units that are known before a slot.

  The units of degree < rank are the features of a rank. There are too many of
  them for a head of every position, so they are projected at random.
  """
  degree = np.asarray(module.hidden[-1])
  rank = np.asarray(module.rank)
  in_order = rank[order.slots(rank)]
  rng = np.random.default_rng(0)
  shape = degree.size, _PROJECTED
  project = rng.normal(size=shape).astype(np.float32) / degree.size**0.5

  def apply(params: Params, x: Array, context: Context) -> tuple[Array, Array]:
    out: Any = module.apply(
      {'params': params}, x, context, method='with_hidden'
    )
    return out

  def at(hidden: Array, slot: Any) -> Array:
    known = jnp.asarray(degree) < jnp.asarray(in_order)[slot]
    return jnp.where(known, hidden, 0).astype(jnp.float32) @ project

  return model.Features(apply, at)


def ensemble(
  *,
  event: Sequence[int],
  num_masks: int = 1,
  random_orders: bool = False,
  mask_sampling: bool = False,
  mask_seed: int = 0,
  **options: Any,
) -> tuple[model.AutoregressiveModel, ...]:
  """K mask sets over one params tree: connectivity- and order-agnostic MADE.

  Args:
    event: event shape E.
    num_masks: K.
    random_orders: every member has an order of its own, else all share `rank`.
    mask_sampling: training draws masks, and orders where they are random, for
      every example of every update, and does not take the members in turn; the
      paper draws them for every minibatch. The masked weights of an example
      are then its own: B times the memory of W, so for small networks.
    mask_seed: member k draws its degrees, and its order, from mask_seed + k.
    **options: of `made`.

  Returns:
    K models for `likelihood.mixture_log_prob`.

  Raises:
    ValueError: no masks, or both a rank and random orders.
  """
  if num_masks < 1:
    raise ValueError(f'num_masks must be at least 1; got {num_masks}.')
  if random_orders and options.get('rank') is not None:
    raise ValueError('Give a rank or random_orders=True, not both.')
  members = []
  for seed in range(mask_seed, mask_seed + num_masks):
    if random_orders:
      options['rank'] = order.random(event, seed)
    members.append(made(event=event, mask_seed=seed, **options))
  if not mask_sampling:
    return tuple(members)
  objective = _mask_sampling(members[0], random_orders, **options)
  return tuple(dataclasses.replace(m, objective=objective) for m in members)


def _mask_sampling(
  member: model.AutoregressiveModel,
  random_orders: bool,
  *,
  hidden: Sequence[int] = (500,),
  num_values: int = 2,
  direct: bool = False,
  degrees: Degrees = 'random',
  num_classes: int = 0,
  dtype: Any = jnp.float32,
  activation: Activation = 'relu',
  **unused: Any,
) -> model.Objective:
  """-log p(x) under masks, and perhaps an order, that the key draws."""
  del unused
  if degrees != 'random' and not random_orders:
    raise ValueError(
      "mask_sampling draws degrees or orders: with degrees='even' it needs "
      'random_orders=True.'
    )
  rank, depth = member.rank.reshape(-1), member.depth
  even = hidden_degrees(rank, hidden, 'even', 0)

  def objective(params: Params, x: Array, c: Context, key: PRNGKey) -> Array:
    to_order, to_degrees = jax.random.split(key)
    drawn = jnp.asarray(rank)
    if random_orders:
      drawn = jax.random.permutation(to_order, rank)
    layers: list[Any] = list(even)
    lowest: Any = 0
    redrawn = degrees == 'random' and depth > 1
    for l, layer in enumerate(even if redrawn else ()):
      to_layer = jax.random.fold_in(to_degrees, l)
      layers[l] = jax.random.randint(to_layer, layer.shape, lowest, depth - 1)
      lowest = layers[l].min()
    sizes = num_values, direct, num_classes
    module = MADE(drawn, layers, *sizes, dtype, activation)
    dist: Any = module.apply({'params': params}, x, c)
    return -member.head.log_prob(dist, x).sum()

  return objective


def hidden_degrees(
  rank: np.ndarray, units: Sequence[int], degrees: Degrees, seed: int
) -> tuple[np.ndarray, ...]:
  """Degrees of every hidden layer, each int[N]; see `made`.

  Of one rank no unit may read an input. They all have degree -1 then: they read
  the context alone, and every output reads them.
  """
  if degrees not in ('even', 'random'):
    raise ValueError(f"degrees must be 'even' or 'random'; got {degrees!r}.")
  rng = np.random.default_rng(seed)
  top = order.depth(rank) - 1
  if not top:
    return tuple(np.full(n, -1, np.int32) for n in units)
  layers, lowest = [], 0
  for n in units:
    if degrees == 'even':
      layer = np.arange(n) * top // n
    else:
      layer = rng.integers(lowest, top, n)
      lowest = int(layer.min())
    layers.append(layer.astype(np.int32))
  return tuple(layers)
