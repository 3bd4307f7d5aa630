"""Transformer-XL: memory across segments, in one pass or segment by segment.

  slot l of segment s reads the slots max(0, s S - M) .. l of the layer below

for segments of S slots and a memory of M. All that a layer reads of earlier
segments is the output of the layer below, so one pass serves all segments: each
meets M + S keys, O(D (M + S)) instead of O(D^2). No gradient enters the states
of earlier segments (stop_gradient), as if they had been cached.

The same network goes segment by segment: `decode.blocks` carries the keys and
values of M slots a layer, whatever the length, so that an event of any length
is evaluated (`likelihood.blockwise_log_prob`) or drawn (`cached`) in the memory
of one segment. Positions are rotary, which makes scores depend on differences
alone, the purpose of the relative positions of the paper.

References:
  Dai et al.: Transformer-XL: Attentive language models beyond a fixed-length
  context. ACL 2019, section 3.2. Su et al.: RoFormer. 2021.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import heads as heads_lib
from parallel_ar import model, order
from parallel_ar.decode import Blocks, Decode
from parallel_ar.layers import block, embedding
from parallel_ar.types import Array, ArrayLike, Context, Params


class TransformerXL(nn.Module):
  """The network; see `transformer_xl` for the attributes."""

  num_values: int
  segment: int
  memory: int
  features: int
  layers: int
  heads: int
  num_classes: int
  dtype: Any

  @nn.compact
  def __call__(
    self, previous_L: Array, k: Any, context: Context, cache: Any, origin: Any
  ) -> tuple[Array, Any]:
    """Logits of the slots k..k+L-1.

    Args:
      previous_L: the symbols at the slots k-1..k+L-2; slot -1 is ignored.
      k: the first slot.
      context: label, vector or None.
      cache: keys and values of each layer, float[layers, 2, S', H, K]; None
        where these are all slots.
      origin: the slot of the cache's first row; may be negative.

    Returns:
      float32[L, V], and the cache with the new slots.
    """
    slots_L = k + jnp.arange(previous_L.size)
    normal = nn.initializers.normal(0.02)
    embed = nn.Embed(
      self.num_values, self.features, dtype=self.dtype, name='embed'
    )
    start = self.param('start', normal, (1, self.features), jnp.float32)
    first = (slots_L == 0)[:, None]
    y_LN = jnp.where(first, start.astype(self.dtype), embed(previous_L))
    add = embedding.AddContext(self.num_classes, self.dtype, name='context')
    y_LN = add(y_LN, context)

    def whole(parts: block.Parts) -> tuple[Array, None]:
      return segment_attention(parts, self.segment, self.memory), None

    def extended(kept: Array, parts: block.Parts) -> tuple[Array, Array]:
      new = jnp.stack([parts.keys, parts.values]).astype(kept.dtype)
      kept = jax.lax.dynamic_update_slice_in_dim(kept, new, k - origin, 1)
      at_S = origin + jnp.arange(kept.shape[1])
      oldest_L = slots_L // self.segment * self.segment - self.memory
      mask = (at_S[None] <= slots_L[:, None]) & (at_S[None] >= 0)
      mask &= at_S[None] >= oldest_L[:, None]
      read = block.masked_attention(parts.queries, kept[0], kept[1], mask)
      return read, kept

    caches = []
    for l in range(self.layers):
      layer = block.Block(
        self.heads, 4 * self.features, self.dtype, name=f'block_{l}'
      )
      read = whole if cache is None else functools.partial(extended, cache[l])
      y_LN, kept = layer(y_LN, slots_L, read)
      caches.append(kept)
    y_LN = nn.LayerNorm(dtype=self.dtype, name='norm')(y_LN)
    logits = nn.Dense(self.num_values, dtype=self.dtype, name='logits')(y_LN)
    cache = None if cache is None else jnp.stack(caches)
    return logits.astype(jnp.float32), cache


def segment_attention(parts: block.Parts, segment: int, memory: int) -> Array:
  """Attention to one's own segment so far, and to M slots before it.

  Segment after segment: O(D (M + S)) work and the memory of one segment, whose
  scores the backward pass computes again. Keys and values of earlier segments
  are the old ones, which let no gradient into their states.

  Args:
    parts: of all D slots.
    segment: S.
    memory: M.

  Returns:
    float[D, H, K].
  """
  length = parts.queries.shape[0]
  size = min(segment, length)
  seen = min(memory, length)
  count = -(-length // size)
  after = count * size - length
  pad = lambda a, front: jnp.pad(a, ((front, after), (0, 0), (0, 0)))
  queries, keys, values = (pad(a, 0) for a in parts[:3])
  old_keys, old_values = (pad(a, seen) for a in parts[3:])
  query, key = np.arange(size)[:, None], np.arange(seen + size)[None] - seen
  cut = jax.lax.dynamic_slice_in_dim

  @jax.checkpoint
  def attend(s: Array) -> Array:
    both = [
      jnp.concatenate([cut(old, s * size, seen), cut(new, s * size, size)])
      for old, new in ((old_keys, keys), (old_values, values))
    ]
    mask = (jnp.asarray(key) + s * size >= 0) & (key <= query)
    own = cut(queries, s * size, size)
    return block.masked_attention(own, both[0], both[1], mask)

  out = jax.lax.map(attend, jnp.arange(count))
  return out.reshape(count * size, *out.shape[2:])[:length]


def transformer_xl(
  *,
  event: Sequence[int],
  num_values: int,
  rank: ArrayLike | None = None,
  segment: int = 64,
  memory: int = 64,
  features: int = 128,
  layers: int = 4,
  heads: int = 4,
  num_classes: int = 0,
  context_size: int = 0,
  dtype: Any = jnp.float32,
) -> model.AutoregressiveModel:
  """Builds a Transformer with memory across segments.

  Args:
    event: event shape E.
    num_values: V.
    rank: int[E], a total order; raster by default.
    segment: S, a divisor of D; all slots where it is larger than D.
    memory: M; 0 keeps nothing.
    features: N.
    layers: blocks.
    heads: attention heads H.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    dtype: of the products; parameters are float32.

  Returns:
    The model. Through its layers slot D reaches back layers * M slots and more.

  Raises:
    ValueError: a rank with ties, or sizes that do not fit.
  """
  rank = order.check(order.raster(event) if rank is None else rank, event)
  if order.depth(rank) != rank.size:
    raise ValueError(
      'Transformer-XL draws one position after another; the rank has ties '
      f'(depth {order.depth(rank)} for {rank.size} positions). Use a '
      'Transformer or two_stream for ties.'
    )
  segment = min(segment, rank.size)
  if segment < 1 or memory < 0 or rank.size % segment:
    raise ValueError(
      f'segment must divide the {rank.size} positions, and memory must be at '
      f'least 0; got segment={segment} and memory={memory}.'
    )
  module = TransformerXL(
    num_values, segment, memory, features, layers, heads, num_classes, dtype
  )
  slots = order.slots(rank)

  def call(params: Params, *args: Any) -> Any:
    return module.apply({'params': params}, *args)

  def conditionals(params: Params, x: Array, context: Context) -> Array:
    previous = jnp.roll(x.reshape(-1)[slots], 1)
    logits, _ = call(params, previous, 0, context, None, 0)
    return logits[np.argsort(slots)].reshape(*x.shape, num_values)

  context = embedding.context_spec(num_classes, context_size)

  def init(key: Any) -> Params:
    previous, c = jnp.zeros(rank.size, jnp.int32), embedding.blank(context)
    return module.init(key, previous, 0, c, None, 0)['params']

  empty = lambda rows: jnp.zeros(
    (layers, 2, rows, heads, features // heads), dtype
  )
  return model.AutoregressiveModel(
    event=jax.ShapeDtypeStruct(tuple(event), jnp.int32),
    rank=rank,
    head=heads_lib.categorical(num_values),
    init=jax.jit(init),
    conditionals=conditionals,
    context=context,
    decode=_decode(call, empty, rank.size, segment, memory),
    name='transformer_xl',
  )


def _decode(
  call: Any, empty: Any, num: int, segment: int, memory: int
) -> Decode:
  """By slots with all states kept, so that rewinds are free, and by segments.

  A segment carries what its memory needs: M rows a layer, and the last symbol
  of the segment before it, which its first slot reads.
  """

  def init(params: Params, context: Context) -> Any:
    del params
    return empty(num), context

  def extend(params: Params, cache: Any, k: Any, previous: Any) -> Any:
    kept, context = cache
    logits, kept = call(params, previous, k, context, kept, 0)
    return logits, (kept, context)

  def first(params: Params, context: Context) -> Any:
    del params
    return empty(memory), jnp.zeros(1, jnp.int32), context

  def shifted(last: Array, x: Array) -> Array:
    return jnp.concatenate([last.astype(x.dtype), x[:-1]])

  def begin(params: Params, cache: Any, b: Any, previous: Any) -> Any:
    old, last, context = cache
    # The states of segment b - 1, now that its symbols are final. At b = 0 all
    # its rows stand before slot 0, where none reads them.
    k = (b - 1) * segment
    room = jnp.concatenate([old, empty(segment)], 2)
    inputs = shifted(last, previous)
    _, room = call(params, inputs, k, context, room, k - memory)
    kept = room[:, :, segment:]
    cache = kept, previous[-1:].astype(jnp.int32), context
    return cache, (*cache, b)

  def conditionals(params: Params, given: Any, x: Any) -> Array:
    kept, last, context, b = given
    room, k = jnp.concatenate([kept, empty(segment)], 2), b * segment
    logits, _ = call(params, shifted(last, x), k, context, room, k - memory)
    return logits

  def start(params: Params, given: Any) -> Any:
    del params
    return jnp.concatenate([given[0], empty(segment)], 2)

  def next_slot(
    params: Params, given: Any, inner: Any, j: Any, previous: Any
  ) -> Any:
    _, last, context, b = given
    k = b * segment
    value = jnp.where(j > 0, previous, last[0].astype(previous.dtype))[None]
    logits, inner = call(params, value, k + j, context, inner, k - memory)
    return logits[0], inner

  blocks = Blocks(segment, first, begin, conditionals, start, next_slot)
  return Decode(init, extend, lambda cache, k: cache, blocks=blocks)
