"""What sequence models share: a body over the slots of any total order.

  y_0[k] = embed(x at slot k - 1) + W h,   a start vector instead at k = 0
  logits[k] = W' body(y_0)[k]

where h is the context, if there is one, and row k of the body's output reads
rows <= k. A body is a Linen module, body(y_LN, context) -> y_LN, of all slots.
The decode path is derived from that pass.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import heads, model, order, partition
from parallel_ar.adapters import linen
from parallel_ar.layers import embedding
from parallel_ar.types import Array, ArrayLike, Context


class SequenceModel(nn.Module):
  """Embedding, body and logits; see `sequence_model`."""

  slots: Any  # int[D], positions in the order they are drawn
  num_values: int
  features: int
  num_classes: int
  body: Any
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, context: Context) -> Array:
    """One pass: float[E, V]."""
    slots = np.asarray(self.slots)
    previous_L = x.reshape(-1)[np.roll(slots, 1)]  # slot 0 reads none
    embed = nn.Embed(
      self.num_values, self.features, dtype=self.dtype, name='embed'
    )
    normal = nn.initializers.normal(0.02)
    start = self.param('start', normal, (self.features,), jnp.float32)
    first = start.astype(self.dtype)
    is_first = np.arange(slots.size) == 0
    y_LN = jnp.where(is_first[:, None], first, embed(previous_L))
    add = embedding.AddContext(self.num_classes, self.dtype, name='context')
    y_LN = partition.over_slots(add(y_LN, context), None)
    y_LN = self.body(y_LN, context)
    logits = nn.Dense(self.num_values, dtype=self.dtype, name='logits')(y_LN)
    logits = order.to_positions(logits.astype(jnp.float32), slots)
    return logits.reshape(*x.shape, self.num_values)


def sequence_model(
  body: Any,
  *,
  event: Sequence[int],
  num_values: int,
  rank: ArrayLike | None,
  features: int,
  num_classes: int,
  context_size: int,
  dtype: Any,
  name: str,
  causality: Literal['exact', 'rounding'] = 'exact',
) -> model.AutoregressiveModel:
  """The record of a body.

  Args:
    body: the module above.
    event: event shape E.
    num_values: V.
    rank: int[E], a total order; raster by default.
    features: N of y_0.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.
    dtype: of the products.
    name: of the family.
    causality: of the body's pass.

  Returns:
    The model, of depth D.

  Raises:
    ValueError: a rank with ties.
  """
  rank = order.check(order.raster(event) if rank is None else rank, event)
  if order.depth(rank) != rank.size:
    raise ValueError(
      f'{name} draws one position after another; the rank has ties (depth '
      f'{order.depth(rank)} for {rank.size} positions). Use a total order, or '
      'a Transformer or MADE for tied groups.'
    )
  module = SequenceModel(
    slots=order.slots(rank),
    num_values=num_values,
    features=features,
    num_classes=num_classes,
    body=body,
    dtype=dtype,
  )

  return linen.from_linen(
    module,
    event=tuple(event),
    rank=rank,
    head=heads.categorical(num_values),
    context=embedding.context_spec(num_classes, context_size),
    causality=causality,
    name=name,
  )
