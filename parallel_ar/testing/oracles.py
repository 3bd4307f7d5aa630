"""Slow and plain references that the library is compared with.

Nothing here shares a loop with the samplers: control flow is Python's, one
example and one position at a time, so that an error in a compiled loop cannot
hide in its own oracle.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import order
from parallel_ar.decode import Decode
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array, ArrayLike, Context, Dist, Params, PRNGKey

ENUMERABLE = 4096  # events


@functools.partial(jax.jit, static_argnums=0)
def conditionals(
  model: AutoregressiveModel, params: Params, x: Array, context: Context
) -> Dist:
  """The pass of one example, compiled once for each model."""
  return model.conditionals(params, x, context)


def row(tree: Any, index: Any) -> Any:
  """Entry `index` of every leaf; None stays None."""
  return jax.tree.map(lambda leaf: leaf[index], tree)


def flatten(model: AutoregressiveModel, tree: Any) -> Any:
  """Leaves [E, ...] as [D, ...]."""
  lead, size = model.rank.ndim, model.num_positions
  return jax.tree.map(
    lambda leaf: np.asarray(leaf).reshape(size, *leaf.shape[lead:]), tree
  )


def noise_at(model: AutoregressiveModel, key: PRNGKey, position: int) -> Any:
  """The noise of one position, as host arrays."""
  noise = model.head.noise(key, jnp.asarray(position))
  return jax.tree.map(np.asarray, noise)


def sample(
  model: AutoregressiveModel,
  params: Params,
  keys: PRNGKey,
  context: Context = None,
  *,
  x: ArrayLike | None = None,
  known: ArrayLike | None = None,
) -> np.ndarray:
  """The samples of the keys by a loop over examples, ranks and positions.

  Args:
    model: the model.
    params: its parameters.
    keys: key[B].
    context: pytree with leading axis B, or None.
    x: array[B, *event], values of known positions.
    known: bool[B, E].

  Returns:
    array[B, *event].
  """
  shape = (len(keys), *model.event.shape)
  samples = np.zeros(shape, model.event.dtype)
  rank = model.rank.reshape(-1)
  for b in range(len(keys)):
    event = flatten(model, samples[b])
    given: Any = None if x is None else flatten(model, np.asarray(x)[b])
    held = np.zeros(rank.size, bool)
    if known is not None:
      held = np.asarray(known)[b].reshape(-1)
      event[held] = given[held]
    for r in range(model.depth):
      dist = conditionals(
        model, params, event.reshape(model.event.shape), row(context, b)
      )
      dist = flatten(model, dist)
      for i in np.flatnonzero((rank == r) & ~held):
        noise = noise_at(model, keys[b], int(i))
        event[i] = model.head.pick(row(dist, i), noise)
    samples[b] = event.reshape(model.event.shape)
  return samples


def decode_sample(
  model: AutoregressiveModel,
  decode: Decode,
  params: Params,
  key: PRNGKey,
  context: Context = None,
) -> np.ndarray:
  """The sample of a key by `extend`, one slot at a time: array[*event]."""
  slots = order.slots(model.rank)
  event = flatten(model, np.zeros(model.event.shape, model.event.dtype))
  cache = decode.init(params, context)
  previous = event[:1]
  for k, position in enumerate(slots):
    dist, cache = decode.extend(params, cache, k, previous)
    noise = noise_at(model, key, int(position))
    event[position] = model.head.pick(row(dist, 0), noise)
    previous = event[position][None]
  return event.reshape(model.event.shape)


def all_events(model: AutoregressiveModel) -> np.ndarray:
  """Every event of a tiny model, array[V^D, *event].

  Raises:
    ValueError: continuous values, or too many events.
  """
  num_values, count = model.head.num_values, model.num_dims
  if num_values is None or num_values**count > ENUMERABLE:
    raise ValueError(
      f'{model.name} has too many events to enumerate: {num_values}^{count}; '
      f'at most {ENUMERABLE} are. Use a smaller event or alphabet.'
    )
  flat = np.indices((num_values,) * count).reshape(count, -1).T
  return flat.reshape(-1, *model.event.shape).astype(model.event.dtype)


def compositions(total: int) -> Iterator[tuple[int, ...]]:
  """All ways to cut `total` slots into blocks, in order: 2^(total-1)."""
  for cuts in range(1 << (total - 1)):
    sizes, size = [], 1
    for bit in range(total - 1):
      if cuts >> bit & 1:
        sizes.append(size)
        size = 0
      size += 1
    yield (*sizes, size)


def near_tie(
  model: AutoregressiveModel,
  params: Params,
  key: PRNGKey,
  context: Context,
  x: ArrayLike,
  y: ArrayLike,
  rounding: float = 1e-5,
) -> bool:
  """Whether two samples of one key differ only because a pick nearly ties.

  Programs of different shapes round differently. At the lowest rank where x
  and y differ, both read the same prefix; if changes of `dist` by `rounding`
  make the head pick each of the two values, floating point has decided, and
  not an error.

  Args:
    model: the model.
    params: its parameters.
    key: of both samples.
    context: of this example.
    x: array[*event].
    y: array[*event], another.
    rounding: relative to the largest entry of each leaf.

  Returns:
    True if every difference at that rank is a near tie.
  """
  a, b = flatten(model, x), flatten(model, y)
  differs = (a != b).reshape(len(a), -1).any(1)
  rank = model.rank.reshape(-1)
  here = np.flatnonzero(differs & (rank == rank[differs].min()))
  dist = conditionals(model, params, jnp.asarray(x), context)
  dist = flatten(model, dist)
  rng = np.random.default_rng(0)

  def jitter(leaf: np.ndarray) -> np.ndarray:
    if not np.issubdtype(leaf.dtype, np.floating):
      return leaf
    scale = rounding * np.abs(leaf).max()
    return leaf + (scale * rng.normal(size=leaf.shape)).astype(leaf.dtype)

  trials = [row(jax.tree.map(jitter, dist), here) for _ in range(64)]
  for n, i in enumerate(here):
    noise = noise_at(model, key, int(i))
    picks = [np.asarray(model.head.pick(row(t, n), noise)) for t in trials]
    if not all(any((p == v[i]).all() for p in picks) for v in (a, b)):
      return False
  return True
