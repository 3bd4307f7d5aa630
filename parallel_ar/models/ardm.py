"""Order-agnostic networks: DeepNADE, and ARDM by attention.

  log p(x) >= E_t E_order [ D / (D - t) sum_{i unknown} log p(x_i | x_known) ]

One network f(x * m, m) sees t known positions, tells the others by the mask m,
and gives the conditionals of all of them. Training draws a fresh order and a
fresh t ~ U{0..D-1} for every example and update; the bound is unbiased: it is
the mean of log p(x) over all orders, estimated from one pass.

The exact likelihood of ONE order needs another mask for every rank, so the
record's `conditionals` evaluates the network R times, in one compiled pass over
chunks of ranks; it reads only what the rank allows because nothing else is fed
in. A decode step is one evaluation for a whole group: a rank with K groups
draws a sample from K evaluations. `models.two_stream` needs one pass for any
rank.

References:
  Uria, Murray, Larochelle: A deep and tractable density estimator. ICML 2014,
  eq. 8 and 9 (DeepNADE). Hoogeboom et al.: Autoregressive diffusion models.
  ICLR 2022, eq. 4 to 6 and algorithm 1 and 2.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import model, order
from parallel_ar.decode import Decode, Groups, from_groups
from parallel_ar.head import Head
from parallel_ar.heads import discrete
from parallel_ar.layers import block, dense, embedding
from parallel_ar.models import any_order
from parallel_ar.types import Array, ArrayLike, Context, Dist, Params, PRNGKey

Network = Literal['mlp', 'attention']


class MaskedMLP(nn.Module):
  """DeepNADE: an MLP of the known one-hot symbols and the mask."""

  num_values: int
  outputs: int
  features: int
  layers: int
  num_classes: int
  dtype: Any

  @nn.compact
  def __call__(self, x_D: Array, known_D: Array, context: Context) -> Array:
    """The conditionals of all positions, float32[D, outputs]."""
    hot = jax.nn.one_hot(x_D, self.num_values) * known_D[:, None]
    y = jnp.concatenate([hot.reshape(-1), known_D.astype(jnp.float32)])
    for l in range(self.layers):
      y = nn.Dense(self.features, dtype=self.dtype, name=f'hidden_{l}')(y)
      if l == 0:
        add = embedding.AddContext(self.num_classes, self.dtype, name='context')
        y = add(y, context)
      y = dense.relu(y)
    size = x_D.size * self.outputs
    logits = nn.Dense(size, dtype=self.dtype, name='logits')(y)
    return logits.reshape(x_D.size, self.outputs).astype(jnp.float32)


class MaskedAttention(nn.Module):
  """A Transformer whose every position reads every known one."""

  num_values: int
  outputs: int
  features: int
  layers: int
  heads: int
  num_classes: int
  dtype: Any

  @nn.compact
  def __call__(self, x_D: Array, known_D: Array, context: Context) -> Array:
    """The conditionals of all positions, float32[D, outputs]."""
    width, at_D = self.features, jnp.arange(x_D.size)
    normal = nn.initializers.normal(0.02)
    embed = nn.Embed(self.num_values, width, dtype=self.dtype, name='embed')
    absent = self.param('absent', normal, (1, width), jnp.float32)
    table = self.param('positions', normal, (x_D.size, width), jnp.float32)
    shown = embed(jnp.where(known_D, x_D, 0))
    y_DN = jnp.where(known_D[:, None], shown, absent.astype(self.dtype))
    y_DN = y_DN + table.astype(self.dtype)
    add = embedding.AddContext(self.num_classes, self.dtype, name='context')
    y_DN = add(y_DN, context)
    every = jnp.ones((x_D.size, x_D.size), bool)

    def attend(parts: block.Parts) -> tuple[Array, None]:
      return block.masked_attention(*parts[:3], every), None

    for l in range(self.layers):
      layer = block.Block(self.heads, 4 * width, self.dtype, name=f'block_{l}')
      y_DN, _ = layer(y_DN, at_D, attend)
    y_DN = nn.LayerNorm(dtype=self.dtype, name='norm')(y_DN)
    logits = nn.Dense(self.outputs, dtype=self.dtype, name='logits')(y_DN)
    return logits.astype(jnp.float32)


def ardm(
  *,
  event: Sequence[int],
  num_values: int = 2,
  rank: ArrayLike | None = None,
  network: Network = 'attention',
  features: int = 128,
  layers: int = 3,
  heads: int = 4,
  num_classes: int = 0,
  context_size: int = 0,
  chunk: int = 16,
  dtype: Any = jnp.float32,
) -> model.AutoregressiveModel:
  """Builds an order-agnostic model under one rank.

  Args:
    event: event shape E.
    num_values: V; 2 gives a Bernoulli head, more a categorical one.
    rank: int[E], any order, ties too; raster by default. The params do not
      depend on it.
    network: 'mlp' (DeepNADE) or 'attention'.
    features: hidden units, or the width N of attention.
    layers: hidden layers, or blocks.
    heads: attention heads.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    chunk: ranks that a pass evaluates at once; changes speed and memory only.
    dtype: of the products; parameters are float32.

  Returns:
    The model, whose objective is the bound over all orders.

  Raises:
    ValueError: an unknown network, or sizes below 1.
  """
  if network not in get_args(Network):
    raise ValueError(f"network must be 'mlp' or 'attention'; got {network!r}.")
  if min(features, layers, heads, chunk) < 1:
    raise ValueError(
      'features, layers, heads and chunk must be at least 1; got '
      f'{(features, layers, heads, chunk)}.'
    )
  rank = order.check(order.raster(event) if rank is None else rank, event)
  head = discrete.of_values(num_values)
  outputs = discrete.num_logits(num_values)
  context = embedding.context_spec(num_classes, context_size)
  shape = jax.ShapeDtypeStruct(tuple(event), jnp.int32)
  shared = {'num_classes': num_classes, 'dtype': dtype}
  sizes = num_values, outputs, features, layers
  module: nn.Module = (
    MaskedMLP(*sizes, **shared)
    if network == 'mlp'
    else MaskedAttention(*sizes, heads, **shared)
  )

  def evaluate(params: Params, x_D: Array, known_D: Array, c: Context) -> Array:
    logits: Any = module.apply({'params': params}, x_D, known_D, c)
    return logits[:, 0] if outputs == 1 else logits

  def init(key: PRNGKey) -> Params:
    zeros = jnp.zeros(rank.size, jnp.int32)
    c = embedding.blank(context)
    return module.init(key, zeros, zeros > 0, c)['params']

  given = _given(evaluate)
  return model.AutoregressiveModel(
    event=shape,
    rank=rank,
    head=head,
    init=jax.jit(init),
    conditionals=_conditionals(evaluate, rank, chunk),
    context=context,
    decode=_decode(evaluate, shape, rank),
    objective=_objective(given, head),
    conditionals_given=given,
    name='ardm' if network == 'attention' else 'deep_nade',
  )


def _given(evaluate: Any) -> Any:
  """What a position is, given those of the first `count` slots."""

  def given(
    params: Params, x: Array, c: Context, slots_D: Array, count: Array
  ) -> Dist:
    x_D, known = x.reshape(-1), any_order.known_by(slots_D, count)
    dist = evaluate(params, x_D, known, c)
    return dist.reshape(*x.shape, *dist.shape[1:])

  return given


def _objective(given: Any, head: Head) -> Any:
  """The bound over all orders, by one order and one of its steps."""

  def objective(params: Params, x: Array, c: Context, key: PRNGKey) -> Array:
    to_order, to_step = jax.random.split(key)
    slots = any_order.draw_slots(to_order, x.size)
    t = jax.random.randint(to_step, (), 0, x.size)
    dist = given(params, x, c, slots, t)
    terms_D = head.log_prob(dist, x).reshape(-1)
    known = any_order.known_by(slots, t)
    return -jnp.where(known, 0, terms_D).sum() * (x.size / (x.size - t))

  return objective


def _conditionals(evaluate: Any, rank: np.ndarray, chunk: int) -> Any:
  """One evaluation for each rank, `chunk` of them at once."""
  flat, depth = rank.reshape(-1), order.depth(rank)
  chunk = min(chunk, depth)

  def conditionals(params: Params, x: Array, context: Context) -> Dist:
    x_D, rank_D = x.reshape(-1), jnp.asarray(flat)
    known = lambda r: evaluate(params, x_D, rank_D < r, context)

    def turn(found: Array, start: Array) -> tuple[Array, None]:
      each = jax.vmap(known)(start + jnp.arange(chunk))
      at = rank_D - start
      inside = (at >= 0) & (at < chunk)
      here = each[jnp.clip(at, 0, chunk - 1), jnp.arange(x_D.size)]
      return jnp.where(model.over_positions(inside, here), here, found), None

    shape = jax.eval_shape(known, 0)
    empty = jnp.zeros(shape.shape, shape.dtype)
    found, _ = jax.lax.scan(turn, empty, jnp.arange(0, depth, chunk))
    return found.reshape(*rank.shape, *found.shape[1:])

  return conditionals


def _decode(evaluate: Any, event: jax.ShapeDtypeStruct, rank: Any) -> Decode:
  """One evaluation for a group."""
  flat = rank.reshape(-1)

  def extend(params: Params, context: Context, level: Array, x: Array) -> Any:
    known = jnp.asarray(flat) < level
    found = evaluate(params, x.reshape(-1), known, context)
    return found.reshape(*rank.shape, *found.shape[1:]), context

  # A group reads the event alone: what is kept is the context.
  groups = Groups(lambda params, context: context, extend)
  return from_groups(groups, event, rank)
