"""What families share whose one params tree serves every order.

Trained on a fresh order for every example and update, such a network knows
p(x_i | any set of others). A record is that network under one rank: give the
factory another rank and the same params fit. Rank is data of the network and a
constant of the record, so that samplers, laws and `jax.jit` see one order.

References:
  Uria, Murray, Larochelle: A deep and tractable density estimator. ICML 2014
  (order-agnostic training, ensembles of orders).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import order
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array, PRNGKey


def draw_slots(key: PRNGKey, num: int) -> Array:
  """A uniform order: int[D], the position of each slot."""
  return jax.random.permutation(key, num)


def first_of_group(rank: np.ndarray) -> np.ndarray:
  """The first slot of each slot's group, int32[D]: slots below it are known."""
  ranks = np.sort(rank.reshape(-1))
  return np.searchsorted(ranks, ranks).astype(np.int32)


def ensemble(
  factory: Callable[..., AutoregressiveModel],
  *,
  event: Sequence[int],
  num_orders: int = 1,
  orders_seed: int = 0,
  **options: Any,
) -> tuple[AutoregressiveModel, ...]:
  """K random orders over one params tree, trained by one objective.

    p(x) = (1/K) sum_k p_k(x)                     likelihood.mixture_log_prob

  Probabilities are averaged. A mean of logits over orders would let a position
  read its own future, and its probabilities do not sum to 1.

  Args:
    factory: of a family of this module.
    event: event shape E.
    num_orders: K.
    orders_seed: member k draws its order from orders_seed + k.
    **options: of the factory, without a rank.

  Returns:
    K models with the objective of the first.

  Raises:
    ValueError: no orders, or a rank.
  """
  if num_orders < 1:
    raise ValueError(f'num_orders must be at least 1; got {num_orders}.')
  if options.get('rank') is not None:
    raise ValueError('An ensemble draws its orders at random; give no rank.')
  first, *others = (
    factory(event=event, rank=order.random(event, orders_seed + k), **options)
    for k in range(num_orders)
  )
  share = lambda model: dataclasses.replace(model, objective=first.objective)
  return first, *map(share, others)


def known_by(slots: Array, count: Array) -> Array:
  """bool[D] over positions: those of the first `count` slots."""
  known = jnp.arange(slots.size) < count
  return jnp.zeros(slots.size, bool).at[slots].set(known)
