"""Gauss-Seidel over blocks, Jacobi inside: a row of an image at a time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from parallel_ar.decode import Blocks, Decode
from parallel_ar.model import (
  AutoregressiveModel,
  over_positions,
  position_noise,
)
from parallel_ar.samplers import frontier, path, slots, sweep
from parallel_ar.samplers.sweep import Sample, Sampler
from parallel_ar.types import Array, Context, Params, PRNGKey


def gauss_seidel(
  model: AutoregressiveModel,
  decode: Decode | None = None,
  *,
  verify: bool = True,
) -> Sampler:
  """Draws block after block, each by fixed-point passes over the block alone.

    given, cache = begin(cache, b, x_{b-1})
    x_b <- pick(conditionals_b(given, x_b), noise_b)   until x_b is final

  Blocks before b are final and cached, so a pass costs one block, not the whole
  event. The first guess of a block is the block before it, for an image the row
  above. As in `fixed_point` a block of n slots needs at most n passes, and is
  proved final by the pass that changes its last slot only, or nothing.

  Args:
    model: the model.
    decode: incremental evaluation with `blocks`; by default the model's own,
      and without one the derived one.
    verify: False returns the draw itself, whose log_prob is that of the cached
      conditionals; `info.passes` is then 0.

  Returns:
    A sampler, called as `ancestral`'s, with its integers. `info.steps` counts
    the passes over blocks.

  Raises:
    ValueError: there is no decode path by blocks.

  References:
    Song, Meng, Liao, Ermon: Accelerating feedforward computation via parallel
    nonlinear equation solving. ICML 2021, section 3.3 (GS-Jacobi).
  """
  how = path.choose(model, decode)
  if how.decode.blocks is None:
    raise ValueError(
      f'{model.name} has no decode path by blocks, such as the rows of an '
      'image. Use cached, which draws slot after slot, or fixed_point.'
    )
  draw = functools.partial(_draw, model, how.decode.blocks, how.kind)
  if verify and not how.proves_itself:
    return sweep.proved(model, draw)
  return sweep.sampler(model, draw)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _draw(
  model: AutoregressiveModel,
  blocks: Blocks,
  kind: int,
  params: Params,
  keys: PRNGKey,
  context: Context,
  given: Array,
  known: Array,
) -> Sample:
  """Draws the batch by one scan over the blocks."""
  count = model.num_positions // blocks.size

  def rows(key: PRNGKey, given: Array, known: Array) -> Any:
    inputs = slots.in_slots(model, (given, known, position_noise(model, key)))
    split = lambda a: a.reshape(count, blocks.size, *a.shape[1:])
    return jax.tree.map(split, inputs)

  inputs = jax.vmap(rows, out_axes=1)(keys, given, known)
  begin = jax.vmap(blocks.begin, (None, 0, None, 0))

  def block(carry: tuple, at: tuple) -> tuple[tuple, tuple[Array, Array]]:
    cache, last, steps = carry
    b, row = at
    cache, shared = begin(params, cache, b, last)
    x, terms, passes = _jacobi(model, blocks, params, shared, last, row)
    return (cache, x, steps + passes), (x, terms)

  init = lambda c: blocks.init(params, c)
  cache = jax.vmap(init, axis_size=keys.shape[0])(context)
  first = cache, jnp.zeros_like(inputs[0][0]), jnp.zeros(len(keys), jnp.int32)
  carry, (x, terms) = jax.lax.scan(
    block, first, (jnp.arange(count, dtype=jnp.int32), inputs)
  )
  steps = carry[2]
  x = jnp.moveaxis(x, 1, 0).reshape(len(keys), -1, *x.shape[3:])
  x = jax.vmap(functools.partial(slots.to_event, model))(x)
  return sweep.draft(model, x, terms.sum(0), kind, steps=steps)


def _jacobi(
  model: AutoregressiveModel,
  blocks: Blocks,
  params: Params,
  shared: Any,
  start: Array,
  row: tuple,
) -> tuple[Array, Array, Array]:
  """Fixed-point passes over one block of every example.

  Args:
    model: the model.
    blocks: its path by blocks.
    params: its parameters.
    shared: what the block of each example is conditioned on.
    start: array[B, size, ...], the first guess.
    row: given values, where they are known, and noise, leaves [B, size, ...].

  Returns:
    The values, their nats[B], and int32[B], the passes of each example.
  """
  given, known, noise = row
  held = over_positions(known, given)
  conditionals = jax.vmap(blocks.conditionals, (None, 0, 0))
  size, place = blocks.size, jnp.arange(blocks.size, dtype=jnp.int32)
  advance = jax.vmap(functools.partial(frontier.advance, rank=place, end=size))

  def body(state: tuple) -> tuple:
    x, terms, low, passes = state
    dist = conditionals(params, shared, x)
    picked = jax.vmap(model.head.pick)(dist, noise).astype(x.dtype)
    step = advance(x, jnp.where(held, given, picked), dist, known, low)
    total = jax.vmap(model.head.log_prob)(dist, step.x).sum(1)
    running = low < size
    terms = jnp.where(running, total, terms)
    return step.x, terms, step.frontier, passes + running

  batch = len(start)
  first = jax.vmap(lambda known: frontier.start(known, place, size))(known)
  start = jnp.where(held, given, frontier.finite(start))
  state = start, jnp.zeros(batch), first, jnp.zeros(batch, jnp.int32)
  end = jax.lax.while_loop(lambda s: (s[2] < size).any(), body, state)
  return end[0], end[1], end[3]
