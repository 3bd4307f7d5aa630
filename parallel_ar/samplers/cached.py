"""Cached sampling: one slot after another, then one pass that proves it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from parallel_ar.decode import Decode, Groups
from parallel_ar.model import (
  AutoregressiveModel,
  over_positions,
  position_noise,
)
from parallel_ar.samplers import path, slots, sweep
from parallel_ar.samplers.path import Path
from parallel_ar.samplers.sweep import Sample, Sampler
from parallel_ar.types import Array, Context, Dist, Params, PRNGKey


def cached(
  model: AutoregressiveModel,
  decode: Decode | None = None,
  *,
  verify: bool = True,
) -> Sampler:
  """Draws slot after slot from a cache, and proves the result by full passes.

  Where the path goes by groups of one rank, a step draws a whole group.

    dist_k, cache = extend(cache, k, x_{k-1});   x_k = pick(dist_k, noise_k)

  A cache computes the same conditionals in another program, whose rounding can
  flip a pick that nearly ties. The draw is therefore a forecast: the passes of
  `fixed_point` verify it, and repair what was flipped, so that the sample has
  the integers of `ancestral`. One pass suffices where nothing was flipped.

  Args:
    model: the model.
    decode: incremental evaluation; by default the model's own, and without one
      the derived one, `par.derive_decode(model)`.
    verify: False returns the forecast itself, whose log_prob is that of the
      cached conditionals; `info.passes` is then 0, as it always is for a model
      in whole numbers, whose paths cannot round.

  Returns:
    A sampler, called as `ancestral`'s. `info.steps` counts the D
    extensions, or the R groups,
    `info.repaired` the positions that rounding had flipped, and `info.path`
    says which path it was.

  Raises:
    ValueError: the decode path that is given is that of another model.
  """
  how = path.choose(model, decode)
  draw = functools.partial(_draw, model, how)
  if verify and not how.proves_itself:
    return sweep.proved(model, draw)
  return sweep.sampler(model, draw)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(
  model: AutoregressiveModel,
  how: Path,
  params: Params,
  keys: PRNGKey,
  context: Context,
  given: Array,
  known: Array,
) -> Sample:
  """Draws every example by one scan: slots, rows and then slots, or groups."""
  decode, kind = how
  if decode.groups is not None:
    one = functools.partial(_by_groups, model, decode.groups, params)
    x, log_prob = jax.vmap(one)(keys, context, given, known)
    return sweep.draft(model, x, log_prob, kind, steps=model.depth)

  def pick(state: Any, dist: Dist, at: tuple) -> tuple:
    value, term = _pick(model, dist, *at)
    return state, value, (value, term)

  def draw(key, context, given, known):
    noise = position_noise(model, key)
    inputs = slots.in_slots(model, (given, known, noise))
    _, (x, terms) = path.walk(model, decode, pick, params, context, inputs)
    return slots.to_event(model, x), terms.sum()

  each = slots.over_batch if decode.blocks is None else jax.vmap
  x, log_prob = each(draw)(keys, context, given, known)
  return sweep.draft(model, x, log_prob, kind, steps=model.num_positions)


def _by_groups(
  model: AutoregressiveModel,
  groups: Groups,
  params: Params,
  key: PRNGKey,
  context: Context,
  given: Array,
  known: Array,
) -> tuple[Array, Array]:
  """The event of one example and its nats, all of a group at once."""
  noise, rank = position_noise(model, key), jnp.asarray(model.rank)

  def step(carry: tuple, level: Array) -> tuple[tuple, None]:
    cache, x, total = carry
    dist, cache = groups.extend(params, cache, level, x)
    values, terms = _pick(model, dist, given, known, noise)
    here = rank == level
    x = jnp.where(over_positions(here, x), values, x)
    return (cache, x, total + jnp.where(here, terms, 0).sum()), None

  first = groups.init(params, context), jnp.zeros_like(given), jnp.zeros(())
  levels = jnp.arange(model.depth, dtype=jnp.int32)
  (_, x, total), _ = jax.lax.scan(step, first, levels)
  return x, total


def _pick(
  model: AutoregressiveModel, dist: Dist, given: Array, known: Array, noise: Any
) -> tuple[Array, Array]:
  picked = model.head.pick(dist, noise).astype(given.dtype)
  value = jnp.where(over_positions(known, given), given, picked)
  return value, model.head.log_prob(dist, value)
