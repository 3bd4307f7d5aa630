"""From a budget of steps to the groups that spend it best.

  cost(s_1 = 0 < s_2 < ... < s_K) = sum_k (s_{k+1} - s_k) L[s_k],  s_{K+1} = D

L[s] is the mean of -log p(x_i | s known positions) over orders, unknown i and
data: what a position costs when s others are known. A group that starts when s
are known pays L[s] for each of its positions, since they do not see each other.
The cheapest K groups come from a dynamic program, for all K at once:

  C[1, t] = t L[0],   C[k, t] = min_{s < t} C[k - 1, s] + (t - s) L[s]

The cost is that of a model whose conditionals depend on the set that is known,
and not on what is drawn together, in the mean over random orders: exact for
ardm, near for two_stream, which also sees in which order the known ones came.

References:
  Watson, Ho, Norouzi, Chan: Learning to efficiently sample from diffusion
  probabilistic models. 2021 (the dynamic program). Hoogeboom et al.:
  Autoregressive diffusion models. ICLR 2022, section 3.3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import doors, order
from parallel_ar.keys import of_its_own
from parallel_ar.model import AutoregressiveModel
from parallel_ar.models import any_order
from parallel_ar.types import Array, ArrayLike, Context, Params, PRNGKey


class Schedules(NamedTuple):
  """The best groups for every budget.

  Attributes:
    nats: float[D], expected nats of an example with K = 1..D groups.
    before: int[D, D + 1]; before[k - 1, t] is where the last of k groups starts
      that cover the first t slots.
  """

  nats: np.ndarray
  before: np.ndarray

  def sizes(self, budget: int) -> np.ndarray:
    """Slots of each group under a budget of K groups, int[K].

    Raises:
      ValueError: no budget from 1 to D.
    """
    if not 1 <= budget <= len(self.nats):
      raise ValueError(
        f'A budget is a number of groups, 1..{len(self.nats)}; got {budget}.'
      )
    ends = [len(self.nats)]
    for k in range(budget, 0, -1):
      ends.append(int(self.before[k - 1, ends[-1]]))
    return np.diff(ends[::-1])


def schedules(losses: ArrayLike) -> Schedules:
  """The dynamic program, O(D^3) numbers, vectorised over D^2.

  Args:
    losses: float[D], L; noise in it is spent as if it were signal, see
      `monotone`.

  Returns:
    The best groups for every budget K = 1..D.

  Raises:
    ValueError: not a vector of finite numbers.
  """
  losses = np.asarray(losses, np.float64)
  if losses.ndim != 1 or not losses.size or not np.isfinite(losses).all():
    raise ValueError(
      'losses holds one finite number for each count of known positions, '
      f'float[D]; got shape {losses.shape}.'
    )
  num = losses.size
  start, end = np.arange(num)[:, None], np.arange(num + 1)[None]
  group = np.where(end > start, (end - start) * losses[:, None], np.inf)
  cost = np.where(np.arange(num + 1) > 0, np.inf, 0.0)  # no groups, no slots
  nats, before = np.empty(num), np.zeros((num, num + 1), np.int32)
  for k in range(num):
    through = cost[:num, None] + group
    before[k] = through.argmin(0)
    cost = np.take_along_axis(through, before[k][None], 0)[0]
    nats[k] = cost[num]
  return Schedules(nats, before)


def expected_nats(losses: ArrayLike, sizes: Sequence[int]) -> float:
  """Expected nats of an example under any groups.

  Args:
    losses: float[D], L.
    sizes: slots of each group; they sum to D.

  Returns:
    sum_k sizes[k] L[slots before group k].

  Raises:
    ValueError: the sizes are not positive, or do not sum to D.
  """
  losses, groups = np.asarray(losses, np.float64), np.asarray(sizes)
  order.tie(order.raster(losses.size), groups.tolist())  # checks them
  return float((groups * losses[np.cumsum(groups) - groups]).sum())


def even_sizes(num: int, budget: int) -> np.ndarray:
  """K groups as equal as can be, int[K]: what the program is compared with."""
  return np.diff(np.linspace(0, num, budget + 1).round().astype(int))


def monotone(losses: ArrayLike) -> np.ndarray:
  """The nearest curve that never rises, by least squares (pool adjacent).

  More known positions cannot cost more under the true distribution and random
  orders, so what rises is noise of the estimate or of training.

  Args:
    losses: float[D], nats, by the number of known positions.

  Returns:
    float64[D], nats.
  """
  values: list[float] = []
  weights: list[int] = []
  for loss in np.asarray(losses, np.float64):
    value, weight = float(loss), 1
    while values and values[-1] < value:
      total = weight + weights[-1]
      value = (value * weight + values.pop() * weights.pop()) / total
      weight = total
    values.append(value)
    weights.append(weight)
  return np.repeat(values, weights)


def known_losses(
  model: AutoregressiveModel,
  params: Params,
  x: Array,
  context: Context,
  key: PRNGKey,
) -> Array:
  """An unbiased estimate of L, with a fresh order for each example and count.

  Every unknown position counts, so its noise is that of the examples and not of
  a few orders.

  Args:
    model: one of any order; its own rank is not read.
    params: its parameters.
    x: array[B, *event].
    context: pytree with leading axis B, or None.
    key: PRNG key of the orders.

  Returns:
    float[D], nats; one evaluation for each example and count.

  Raises:
    ValueError: the model has one order.
  """
  if model.conditionals_given is None:
    raise ValueError(
      f'{model.name} has one order. Policies need a model of any order: ardm '
      'or two_stream.'
    )
  x, context = doors.check_batch(model, x, context)
  num, key = model.num_positions, of_its_own(key)

  def one(x: Array, context: Context, key: PRNGKey, count: Array) -> Array:
    slots = any_order.draw_slots(key, num)
    terms = model.given(params, x, context, slots, count).reshape(-1)
    known = any_order.known_by(slots, count)
    return -jnp.where(known, 0, terms).sum() / (num - count)

  def at(count: Array) -> Array:
    keys = jax.random.split(jax.random.fold_in(key, count), len(x))
    return jax.vmap(one, (0, 0, 0, None))(x, context, keys, count).mean()

  return jax.lax.map(at, jnp.arange(num))
