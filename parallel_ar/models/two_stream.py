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
from parallel_ar.decode import Decode
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
    previous_L: Array,
    k: Any,
    slots_D: Array,
    reach_D: Array,
    context: Context,
    cache: tuple[tuple[Array, Array], ...] | None,
  ) -> tuple[Array, tuple[tuple[Array, Array], ...]]:
    """Logits of the slots k..k+L-1.

    Row l of the content stream stands for slot k + l - 1, a start vector for
    slot -1; row l of the query stream stands for slot k + l.

    Args:
      previous_L: the symbols at the slots k-1..k+L-2.
      k: the first slot.
      slots_D: the position of each slot.
      reach_D: the first slot of each slot's group, the last content row that
        its query may read.
      context: label, vector or None.
      cache: keys and values, float[D, H, K], of each block; None for L = D.

    Returns:
      float32[L, outputs] and the cache of each block.
    """
    width, length, num = self.features, previous_L.size, slots_D.size
    rows_L = k + jnp.arange(length)
    normal = nn.initializers.normal(0.02)
    embed = nn.Embed(self.num_values, width, dtype=self.dtype, name='embed')
    start, query = (
      self.param(name, normal, (1, width), jnp.float32).astype(self.dtype)
      for name in ('start', 'query')
    )
    table = self.param('positions', normal, (num, width), jnp.float32)
    table = table.astype(self.dtype)
    here_L = slots_D[rows_L]
    before_L = slots_D[jnp.maximum(rows_L - 1, 0)]
    exists = (rows_L > 0)[:, None]
    h_LN = jnp.where(exists, embed(previous_L) + table[before_L], start)
    add = embedding.AddContext(self.num_classes, self.dtype, name='context')
    both = jnp.concatenate([h_LN, query + table[here_L]])
    both = add(both, context)
    at = jnp.concatenate([before_L, here_L])
    last = jnp.concatenate([rows_L, reach_D[rows_L]])  # that a row may read
    mask = jnp.arange(num)[None, :] <= last[:, None]

    def attend(l: int, parts: block.Parts) -> tuple[Array, Any]:
      keys, values = parts.keys, parts.values
      if cache is not None:
        put = jax.lax.dynamic_update_slice_in_dim
        keys, values = (
          put(old, new, k, 0)
          for old, new in zip(cache[l], (keys, values), strict=True)
        )
      read = block.masked_attention(parts.queries, keys, values, mask)
      return read, (keys, values)

    caches = []
    for l in range(self.layers):
      layer = block.Block(self.heads, 4 * width, self.dtype, name=f'block_{l}')
      both, kept = layer(both, at, functools.partial(attend, l), length)
      caches.append(kept)
    g_LN = nn.LayerNorm(dtype=self.dtype, name='norm')(both[length:])
    logits = nn.Dense(self.outputs, dtype=self.dtype, name='logits')(g_LN)
    return logits.astype(jnp.float32), tuple(caches)


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
    The model. A pass takes 2 D rows and D^2 scores a head and block; a decode
    step two rows.

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
  head, outputs = any_order.head_of(num_values), max(num_values, 2)
  outputs = 1 if outputs == 2 else outputs
  module = TwoStream(
    num_values, outputs, features, layers, heads, num_classes, dtype
  )

  def call(params: Params, *args: Any) -> tuple[Array, Any]:
    logits, cache = module.apply({'params': params}, *args)
    return (logits[:, 0] if outputs == 1 else logits), cache

  def conditionals(
    params: Params, x: Array, context: Context, slots_D: Array, reach_D: Array
  ) -> Array:
    """By position, in one pass under any order."""
    previous = jnp.roll(x.reshape(-1)[slots_D], 1)  # slot 0 reads none
    logits, _ = call(params, previous, 0, slots_D, reach_D, context, None)
    logits = jnp.zeros_like(logits).at[slots_D].set(logits)
    return logits.reshape(*x.shape, *logits.shape[1:])

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
    c = None if context is None else jnp.zeros(context.shape, context.dtype)
    previous = jnp.zeros(rank.size, jnp.int32)
    return module.init(key, previous, 0, *order_data, c, None)['params']

  def begin(params: Params, context: Context) -> Any:
    del params
    empty = jnp.zeros((rank.size, heads, features // heads), dtype)
    return ((empty, empty),) * layers, context

  def extend(params: Params, cache: Any, k: Any, previous: Any) -> Any:
    kept, context = cache
    logits, kept = call(params, previous, k, *order_data, context, kept)
    return logits, (kept, context)

  return model.AutoregressiveModel(
    event=jax.ShapeDtypeStruct(tuple(event), jnp.int32),
    rank=rank,
    head=head,
    init=jax.jit(init),
    conditionals=lambda params, x, c: conditionals(params, x, c, *order_data),
    context=context,
    # What stands beyond slot k is masked, then overwritten.
    decode=Decode(begin, extend, lambda cache, k: cache),
    objective=objective,
    conditionals_given=given,
    name='two_stream',
  )
