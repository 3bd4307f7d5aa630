"""Two-stream attention: any order, and any known sites, in one pass.

  content  h_k = block(h_k;  reads h_j for slots j <= k)     knows x of slot k
  query    g_k = block(g_k;  reads h_j for rank j < rank k)  knows where k is

for slots k in the order they are drawn. Both streams have the same weights. g_k
starts as a vector that knows its position alone, so that its logits may give
the conditional of x at slot k; h_k starts as the embedding of x at slot k, and
is what later slots read. Causality holds for any order by the two masks, and
the order is data: one params tree serves all of them, in one pass each.

Tied slots do not read each other: p(x_i | ranks before) is the same whether i
is drawn alone or with others, since the content stream keeps to single slots.

Training takes a fresh order for every example and update. Its objective is
-log p(x) under that order, all D terms of it, whose mean over draws is the mean
over orders.

With known sites first in the order (`order.known_first`) the terms of the
others are p(x_i | known sites before and behind, unknown ones before them), in
one pass.

References:
  Yang et al.: XLNet: Generalized autoregressive pretraining for language
  understanding. NeurIPS 2019, section 2.3.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from parallel_ar import model, order
from parallel_ar.heads import discrete
from parallel_ar.layers import block, embedding
from parallel_ar.models import any_order
from parallel_ar.types import Array, ArrayLike, Context, Params, PRNGKey


class TwoStream(nn.Module):
  """The network; see `two_stream` for the attributes."""

  num_values: int
  outputs: int
  features: int
  layers: int
  heads: int
  num_classes: int
  dtype: Any

  @nn.compact
  def __call__(
    self,
    previous_D: Array,
    slots_D: Array,
    reach_D: Array,
    context: Context,
  ) -> Array:
    """Logits slot by slot, float32[D, outputs].

    Row k of the content stream stands for slot k - 1, a start vector for slot
    -1; row k of the query stream stands for slot k.

    Args:
      previous_D: the symbols at the slots -1..D-2.
      slots_D: the position of each slot.
      reach_D: the first slot of each slot's group, the last content row that
        its query may read.
      context: label, vector or None.
    """
    width, num = self.features, slots_D.size
    rows_D = jnp.arange(num)
    normal = nn.initializers.normal(0.02)
    embed = nn.Embed(self.num_values, width, dtype=self.dtype, name='embed')
    start, query = (
      self.param(name, normal, (1, width), jnp.float32).astype(self.dtype)
      for name in ('start', 'query')
    )
    table = self.param('positions', normal, (num, width), jnp.float32)
    table = table.astype(self.dtype)
    before_D = slots_D[jnp.maximum(rows_D - 1, 0)]
    exists = (rows_D > 0)[:, None]
    h_DN = jnp.where(exists, embed(previous_D) + table[before_D], start)
    add = embedding.AddContext(self.num_classes, self.dtype, name='context')
    both = jnp.concatenate([h_DN, query + table[slots_D]])
    both = add(both, context)
    at = jnp.concatenate([before_D, slots_D])
    last = jnp.concatenate([rows_D, reach_D])  # that a row may read
    mask = jnp.arange(num)[None, :] <= last[:, None]

    def attend(parts: block.Parts) -> tuple[Array, None]:
      keys, values = parts.keys, parts.values
      return block.masked_attention(parts.queries, keys, values, mask), None

    for l in range(self.layers):
      layer = block.Block(self.heads, 4 * width, self.dtype, name=f'block_{l}')
      both, _ = layer(both, at, attend, num)
    g_DN = nn.LayerNorm(dtype=self.dtype, name='norm')(both[num:])
    logits = nn.Dense(self.outputs, dtype=self.dtype, name='logits')(g_DN)
    return logits.astype(jnp.float32)


def two_stream(
  *,
  event: Sequence[int],
  num_values: int,
  rank: ArrayLike | None = None,
  features: int = 128,
  layers: int = 4,
  heads: int = 4,
  num_classes: int = 0,
  context_size: int = 0,
  dtype: Any = jnp.float32,
) -> model.AutoregressiveModel:
  """Builds a two-stream Transformer under one rank.

  Args:
    event: event shape E.
    num_values: V; 2 gives a Bernoulli head, more a categorical one.
    rank: int[E], any order, ties of any sizes too; raster by default. The
      params do not depend on it.
    features: N.
    layers: blocks.
    heads: attention heads H.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    dtype: of the products; parameters are float32.

  Returns:
    The model. A pass takes 2 D rows and D^2 scores a head and block; a step of
    its derived path two rows, or those of a group.

  Raises:
    ValueError: sizes that do not fit.
  """
  if min(features, layers, heads) < 1:
    raise ValueError(
      'features, layers and heads must be at least 1; got '
      f'{(features, layers, heads)}.'
    )
  rank = order.check(order.raster(event) if rank is None else rank, event)
  slots, reach = order.slots(rank), any_order.first_of_group(rank)
  head = discrete.of_values(num_values)
  outputs = discrete.num_logits(num_values)
  module = TwoStream(
    num_values, outputs, features, layers, heads, num_classes, dtype
  )
  conditionals = functools.partial(_conditionals, module)

  def objective(params: Params, x: Array, c: Context, key: PRNGKey) -> Array:
    drawn = any_order.draw_slots(key, x.size)
    dist = conditionals(params, x, c, drawn, jnp.arange(x.size))
    return -head.log_prob(dist, x).sum()

  def given(
    params: Params, x: Array, c: Context, slots_D: Array, count: Array
  ) -> Array:
    reach = jnp.minimum(jnp.arange(x.size), count)
    return conditionals(params, x, c, slots_D, reach)

  context = embedding.context_spec(num_classes, context_size)
  order_data = jnp.asarray(slots), jnp.asarray(reach)

  def init(key: PRNGKey) -> Params:
    previous, c = jnp.zeros(rank.size, jnp.int32), embedding.blank(context)
    return module.init(key, previous, *order_data, c)['params']

  return model.AutoregressiveModel(
    event=jax.ShapeDtypeStruct(tuple(event), jnp.int32),
    rank=rank,
    head=head,
    init=jax.jit(init),
    conditionals=lambda params, x, c: conditionals(params, x, c, *order_data),
    context=context,
    objective=objective,
    conditionals_given=given,
    name='two_stream',
  )


def _conditionals(
  module: TwoStream,
  params: Params,
  x: Array,
  context: Context,
  slots_D: Array,
  reach_D: Array,
) -> Array:
  """By position, in one pass under any order."""
  previous = jnp.roll(x.reshape(-1)[slots_D], 1)  # slot 0 reads none
  given = previous, slots_D, reach_D, context
  logits: Any = module.apply({'params': params}, *given)
  logits = logits[:, 0] if module.outputs == 1 else logits
  logits = jnp.zeros_like(logits).at[slots_D].set(logits)
  return logits.reshape(*x.shape, *logits.shape[1:])
