"""Samplers that are wrong on purpose; law 5 must reject each but the first.

All are the fixed-point sampler written as a host loop, with one mistake.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.model import AutoregressiveModel, position_noise
from parallel_ar.samplers import Sample, SampleInfo, Sampler
from parallel_ar.samplers.forecasters import Forecaster
from parallel_ar.types import Array, Context, Params, PRNGKey

Rekey = Callable[[PRNGKey, int, int], PRNGKey]  # (key, example, step) -> key


def right(
  model: AutoregressiveModel, forecaster: Forecaster | None = None
) -> Sampler:
  """No mistake: law 5 must accept it, so that it rejects the others rightly."""
  return _loop(model, forecaster)


def noise_by_pass(
  model: AutoregressiveModel, forecaster: Forecaster | None = None
) -> Sampler:
  """Draws fresh noise for every pass; the target moves while it is sought."""
  return _loop(model, forecaster, lambda key, b, t: jax.random.fold_in(key, t))


def noise_by_batch_row(
  model: AutoregressiveModel, forecaster: Forecaster | None = None
) -> Sampler:
  """Folds the place in the batch into the key: alone, a sample is another."""
  return _loop(model, forecaster, lambda key, b, t: jax.random.fold_in(key, b))


def noise_by_step(
  model: AutoregressiveModel, forecaster: Forecaster | None = None
) -> Sampler:
  """Ancestral, with noise keyed by the loop step instead of the position."""
  return _loop(
    model,
    None,
    lambda key, b, t: jax.random.fold_in(key, t),
    one_rank=True,
  )


def stops_early(
  model: AutoregressiveModel, forecaster: Forecaster | None = None
) -> Sampler:
  """Leaves out the last pass: the one that proves, and sometimes corrects."""
  return _loop(model, forecaster, drop=1)


def waits_for_the_slowest(
  model: AutoregressiveModel, forecaster: Forecaster | None = None
) -> Sampler:
  """Right integers; but every example is charged for the slowest."""
  inner = _loop(model, forecaster)

  def sampler(
    params: Params, keys: PRNGKey, context: Context = None, **given: Any
  ) -> Sample:
    sample = inner(params, keys, context, **given)
    passes = np.full_like(sample.info.passes, sample.info.passes.max())
    return sample._replace(info=sample.info._replace(passes=passes))

  return sampler


WRONG = (
  noise_by_pass,
  noise_by_batch_row,
  noise_by_step,
  stops_early,
  waits_for_the_slowest,
)


@functools.partial(jax.jit, static_argnums=0)
def _pass(
  model: AutoregressiveModel,
  params: Params,
  x: Array,
  keys: PRNGKey,
  context: Context,
) -> tuple[Array, Array]:
  """Picks and log p(x_i | x_<i) of them, for a batch."""

  def one(x: Array, key: PRNGKey, context: Context) -> tuple[Array, Array]:
    dist = model.conditionals(params, x, context)
    picked = model.head.pick(dist, position_noise(model, key))
    return picked, model.head.log_prob(dist, picked).sum()

  return jax.vmap(one)(x, keys, context)


def _loop(
  model: AutoregressiveModel,
  forecaster: Forecaster | None,
  rekey: Rekey = lambda key, b, t: key,
  *,
  one_rank: bool = False,
  drop: int = 0,
) -> Sampler:
  """The fixed-point sampler, one example after another on the host.

  Args:
    model: the model.
    forecaster: says the first guess; zeros without it.
    rekey: the key whose noise step t of example b uses.
    one_rank: keep the picks of one rank for each pass.
    drop: passes to leave out at the end.

  Returns:
    The sampler.
  """
  rank, depth = model.rank, model.depth

  def sampler(
    params: Params, keys: PRNGKey, context: Context = None, **known: Any
  ) -> Sample:
    if known:
      raise ValueError('The wrong samplers take no known positions.')
    batch = len(keys)
    x = np.zeros((batch, *model.event.shape), model.event.dtype)
    if forecaster is not None and forecaster.first is not None:
      x = np.array(forecaster.first(params, keys, context), model.event.dtype)
    nats, passes = np.zeros(batch), np.zeros(batch, np.int32)
    accepted = np.zeros((batch, depth), np.int32)
    frontier, history = np.zeros(batch, np.int32), [x]
    for t in range(depth):
      fresh = [rekey(keys[b], b, t) for b in range(batch)]
      picked, total = _pass(model, params, x, jnp.stack(fresh), context)
      x = x.copy()
      for b in np.flatnonzero(frontier < depth):
        y, low = np.asarray(picked[b]), int(frontier[b])
        differs = (y != x[b]).reshape(*rank.shape, -1).any(-1)
        first = max(int(rank[differs].min()) if differs.any() else depth, low)
        high = min((low if one_rank else first) + 1, depth)
        keep = (rank == low) if one_rank else np.ones_like(rank, bool)
        x[b][keep] = y[keep]
        accepted[b, t] = ((rank >= low) & (rank < high)).sum()
        frontier[b], nats[b] = high, total[b]
        passes[b] += 1
      history.append(x)
    last = np.maximum(passes - drop, 0)
    x = np.stack([history[n][b] for b, n in enumerate(last)])
    zeros = np.zeros_like(passes)
    info = SampleInfo(passes, np.asarray(passes.max()), accepted, *[zeros] * 7)
    return Sample(x, nats, info)

  return sampler
