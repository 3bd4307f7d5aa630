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

_SEGMENT = 64  # slots by which a cache grows


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
  by = _by_slots if decode.blocks is None else _by_blocks

  def draw(key, context, given, known):
    noise = position_noise(model, key)
    inputs = slots.in_slots(model, (given, known, noise))
    x, terms = by(model, decode, params, context, inputs)
    return slots.to_event(model, x), terms.sum()

  each = slots.over_batch if decode.blocks is None else jax.vmap
  x, log_prob = each(draw)(keys, context, given, known)
  return sweep.draft(model, x, log_prob, kind, steps=model.num_positions)


def _by_slots(
  model: AutoregressiveModel,
  decode: Decode,
  params: Params,
  context: Context,
  inputs: tuple,
) -> tuple[Array, Array]:
  """Values and log-probabilities of all slots of one example."""

  def step(carry, at):
    cache, previous = carry
    k, given, known, noise = at
    dist, cache = decode.extend(params, cache, k, previous[None])
    dist = jax.tree.map(lambda d: d[0], dist)
    value, term = _pick(model, dist, given, known, noise)
    return (cache, value), (value, term)

  carry = decode.init(params, context), jnp.zeros_like(inputs[0][0])
  num, parts = model.num_positions, []
  # Room for all slots from the start would make the first as dear as the last.
  segment = _SEGMENT if decode.resize else num
  for start in range(0, num, segment):
    end = min(start + segment, num)
    if decode.resize:
      carry = decode.resize(carry[0], end), carry[1]
    part = jax.tree.map(lambda a, s=start, e=end: a[s:e], inputs)
    carry, out = jax.lax.scan(
      step, carry, (jnp.arange(start, end, dtype=jnp.int32), *part)
    )
    parts.append(out)
  return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)


def _by_blocks(
  model: AutoregressiveModel,
  decode: Decode,
  params: Params,
  context: Context,
  inputs: tuple,
) -> tuple[Array, Array]:
  """As `_by_slots`, block after block and slot after slot inside."""
  blocks = decode.blocks
  assert blocks is not None
  size = blocks.size
  rows = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), inputs)

  def block(carry, at):
    cache, last = carry
    b, row = at
    cache, shared = blocks.begin(params, cache, b, last)

    def step(carry, at):
      inner, previous = carry
      j, given, known, noise = at
      dist, inner = blocks.extend(params, shared, inner, j, previous)
      value, term = _pick(model, dist, given, known, noise)
      return (inner, value), (value, term)

    first = blocks.start(params, shared), jnp.zeros_like(last[0])
    _, (x, terms) = jax.lax.scan(
      step, first, (jnp.arange(size, dtype=jnp.int32), *row)
    )
    return (cache, x), (x, terms)

  first = blocks.init(params, context), jnp.zeros_like(rows[0][0])
  count = model.num_positions // size
  _, out = jax.lax.scan(
    block, first, (jnp.arange(count, dtype=jnp.int32), rows)
  )
  return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)


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
