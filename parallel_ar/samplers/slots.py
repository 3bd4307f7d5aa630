"""Events as sequences of slots, in the order in which they are drawn."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from parallel_ar import order
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array


def in_slots(model: AutoregressiveModel, tree: Any) -> Any:
  """Leaves [*E, ...] of one example as [D, ...], slot after slot."""
  slots, lead = order.slots(model.rank), model.rank.ndim
  flat = lambda a: a.reshape(slots.size, *a.shape[lead:])[slots]
  return jax.tree.map(flat, tree)


def to_event(model: AutoregressiveModel, values: Array) -> Array:
  """Values [D, ...] of the slots of one example as its event."""
  ends = np.argsort(order.slots(model.rank))
  return values[ends].reshape(model.event.shape)


def over_batch(
  function: Callable[..., Any], axis_name: str | None = None
) -> Callable[..., Any]:
  """jax.vmap over all arguments, but for a batch of one without its axis.

  In a loop over slots XLA copies a cache with an axis of length one at every
  step, which on a CPU costs a Transformer a quarter of its time.
  """

  def mapped(*args: Any) -> Any:
    (first, *_) = jax.tree.leaves(args)
    if first.shape[0] > 1:
      return jax.vmap(function, axis_name=axis_name)(*args)
    out = function(*jax.tree.map(lambda a: a[0], args))
    return jax.tree.map(lambda a: a[None], out)

  return mapped
