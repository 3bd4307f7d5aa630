"""NADE: neural autoregressive distribution estimation, in any order.

  h_k = sigmoid(c + sum_{j<k} W[i_j, x_{i_j}]),   logits of i_k = b + V[i_k] h_k

for positions i_1, i_2, ... in the order they are drawn. The sums of all k are
one cumulative sum, so all conditionals come from one pass; a decode step adds
one row of W.

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

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import heads, model, order
from parallel_ar.adapters import linen
from parallel_ar.decode import Decode
from parallel_ar.layers import embedding
from parallel_ar.types import Array, ArrayLike, Context, Params


class NADE(nn.Module):
  """The network of one order; see `nade` for the attributes."""

  slots: Any  # int[D], positions in the order they are drawn
  num_values: int
  hidden: int
  num_classes: int

  def __call__(self, x: Array, context: Context) -> Array:
    """One pass: logits float[E] for V = 2, else float[E, V]."""
    slots = np.asarray(self.slots)
    previous = x.reshape(-1)[np.roll(slots, 1)]  # slot 0 reads none
    start = jnp.zeros(self.hidden)
    logits, _ = self.extend(previous, jnp.arange(slots.size), context, start)
    logits = logits[np.argsort(slots)]
    return logits.reshape(*x.shape, *logits.shape[1:])

  @nn.compact
  def extend(
    self, previous_L: Array, slots_L: Array, context: Context, sums_H: Array
  ) -> tuple[Array, Array]:
    """Logits of the slots, and the sums before each of them, float[L, H].

    Args:
      previous_L: the symbol one slot before each.
      slots_L: int[L].
      context: label, vector or None.
      sums_H: the sum before the slot that comes before the first.
    """
    num = len(self.slots)
    outputs = 1 if self.num_values == 2 else self.num_values
    normal = nn.initializers.normal(1 / np.sqrt(num))
    shape = num, self.num_values - 1, self.hidden
    read = self.param('read', normal, shape, jnp.float32)
    shape = num, outputs, self.hidden
    small = nn.initializers.normal(self.hidden**-0.5)
    write = self.param('write', small, shape, jnp.float32)
    zeros = nn.initializers.zeros
    bias = self.param('bias', zeros, (num, outputs), jnp.float32)
    first = self.param('first', zeros, (self.hidden,), jnp.float32)
    slots = jnp.asarray(self.slots)
    # The first symbol adds nothing, so that no direction of W is idle.
    place = slots[jnp.maximum(slots_L - 1, 0)]
    symbol = jnp.maximum(previous_L - 1, 0)
    live = (slots_L > 0) & (previous_L > 0)
    terms = jnp.where(live[:, None], read[place, symbol], 0)
    sums_LH = sums_H[None] + jnp.cumsum(terms, 0)
    add = embedding.AddContext(self.num_classes, name='context')
    h_LH = nn.sigmoid(add(first[None] + sums_LH, context))
    here = slots[slots_L]
    logits = jnp.einsum('lvh,lh->lv', write[here], h_LH) + bias[here]
    return logits[:, 0] if outputs == 1 else logits, sums_LH


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

  def init(params: Params, context: Context) -> Any:
    del params
    return jnp.zeros((rank.size, hidden)), context

  def extend(params: Params, cache: Any, k: Any, previous: Any) -> Any:
    sums, context = cache
    before = jnp.where(k > 0, sums[jnp.maximum(k - 1, 0)], 0)
    slots = k + jnp.arange(previous.shape[0])
    args = previous, slots, context, before
    out: Any = module.apply({'params': params}, *args, method='extend')
    logits, new = out
    sums = jax.lax.dynamic_update_slice_in_dim(sums, new, k, 0)
    return logits, (sums, context)

  return linen.from_linen(
    module,
    event=tuple(event),
    rank=rank,
    head=heads.bernoulli()
    if num_values == 2
    else heads.categorical(num_values),
    context=embedding.context_spec(num_classes, context_size),
    # What stands beyond slot k is written again before it is read.
    decode=Decode(init, extend, lambda cache, k: cache),
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
