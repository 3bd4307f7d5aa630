"""NADE: neural autoregressive distribution estimation, in any order.

  h_k = sigmoid(c + sum_{j<k} W[i_j, x_{i_j}]),   logits of i_k = b + V[i_k] h_k

for positions i_1, i_2, ... in the order they are drawn. The sums of all k are
one cumulative sum, so all conditionals come from one pass; the decode path that
`derive_decode` finds in it adds one row of W a step.

EoNADE shares W, V, b and c over K orders: training takes them in turn, and
p(x) is the mean of the K probabilities (`likelihood.mixture_log_prob`). A mean
of logits would be another distribution, not normalised for K > 1 orders.

References:
  Larochelle, Murray: The neural autoregressive distribution estimator. AISTATS
  2011, eq. 8 to 10. Uria, Murray, Larochelle: A deep and tractable density
  estimator. ICML 2014 (EoNADE, section 4).
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import model, order
from parallel_ar.adapters import linen
from parallel_ar.heads import discrete
from parallel_ar.layers import embedding
from parallel_ar.types import Array, ArrayLike, Context


class NADE(nn.Module):
  """The network of one order; see `nade` for the attributes."""

  slots: Any  # int[D], positions in the order they are drawn
  num_values: int
  hidden: int
  num_classes: int

  @nn.compact
  def __call__(self, x: Array, context: Context) -> Array:
    """One pass: logits float[E] for V = 2, else float[E, V]."""
    slots = np.asarray(self.slots)
    num = slots.size
    outputs = discrete.num_logits(self.num_values)
    normal = nn.initializers.normal(1 / np.sqrt(num))
    shape = num, self.num_values - 1, self.hidden
    read = self.param('read', normal, shape, jnp.float32)
    shape = num, outputs, self.hidden
    small = nn.initializers.normal(self.hidden**-0.5)
    write = self.param('write', small, shape, jnp.float32)
    zeros = nn.initializers.zeros
    bias = self.param('bias', zeros, (num, outputs), jnp.float32)
    first = self.param('first', zeros, (self.hidden,), jnp.float32)
    # The first symbol adds nothing, so that no direction of W is idle.
    place = np.roll(slots, 1)
    previous_L = x.reshape(-1)[place]
    live = (np.arange(num) > 0) & (previous_L > 0)  # slot 0 reads none
    terms = jnp.where(
      live[:, None], read[place, jnp.maximum(previous_L - 1, 0)], 0
    )
    sums_LH = jnp.cumsum(terms, 0)
    add = embedding.AddContext(self.num_classes, name='context')
    h_LH = nn.sigmoid(add(first[None] + sums_LH, context))
    logits = jnp.einsum('lvh,lh->lv', write[slots], h_LH) + bias[slots]
    logits = order.to_positions(logits, slots)
    return logits.reshape(x.shape if outputs == 1 else (*x.shape, outputs))


def nade(
  *,
  event: Sequence[int],
  num_values: int = 2,
  rank: ArrayLike | None = None,
  hidden: int = 500,
  num_classes: int = 0,
  context_size: int = 0,
) -> model.AutoregressiveModel:
  """Builds a NADE.

  Args:
    event: event shape E.
    num_values: V; 2 gives a Bernoulli head, more a categorical one.
    rank: int[E], a total order; raster by default.
    hidden: H, hidden units.
    num_classes: > 0 conditions on a label in 0..num_classes-1.
    context_size: > 0 conditions on a real vector.

  Returns:
    The model. A pass keeps D H numbers an example.

  Raises:
    ValueError: no hidden units, or a rank with ties.
  """
  if hidden < 1:
    raise ValueError(f'A NADE needs at least one hidden unit; got {hidden}.')
  rank = order.check(order.raster(event) if rank is None else rank, event)
  if order.depth(rank) != rank.size:
    raise ValueError(
      f'NADE draws one position after another; the rank has ties (depth '
      f'{order.depth(rank)} for {rank.size} positions). Use MADE for ties.'
    )
  module = NADE(order.slots(rank), num_values, hidden, num_classes)

  return linen.from_linen(
    module,
    event=tuple(event),
    rank=rank,
    head=discrete.of_values(num_values),
    context=embedding.context_spec(num_classes, context_size),
    name='nade',
  )


def eonade(
  *,
  event: Sequence[int],
  num_orders: int = 1,
  orders_seed: int = 0,
  **options: Any,
) -> tuple[model.AutoregressiveModel, ...]:
  """K random orders over one params tree.

  Args:
    event: event shape E.
    num_orders: K.
    orders_seed: member k draws its order from orders_seed + k.
    **options: of `nade`, without a rank.

  Returns:
    K models for `likelihood.mixture_log_prob`.

  Raises:
    ValueError: no orders, or a rank.
  """
  if num_orders < 1:
    raise ValueError(f'num_orders must be at least 1; got {num_orders}.')
  if options.get('rank') is not None:
    raise ValueError('EoNADE draws its orders at random; give no rank.')
  return tuple(
    nade(event=event, rank=order.random(event, orders_seed + k), **options)
    for k in range(num_orders)
  )
