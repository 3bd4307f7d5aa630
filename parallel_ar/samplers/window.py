"""A window of guesses at the frontier, evaluated from a cache."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar import order
from parallel_ar.decode import Decode, recompute_decode
from parallel_ar.model import (
  AutoregressiveModel,
  over_positions,
  position_noise,
)
from parallel_ar.samplers import slots, sweep
from parallel_ar.samplers.forecasters import Forecaster, Progress
from parallel_ar.samplers.sweep import Sample, Sampler
from parallel_ar.types import Array, Context, Params, PRNGKey

_MEMORY = 0.8  # of the running mean of slots gained in a round


def window(
  model: AutoregressiveModel,
  decode: Decode | None = None,
  forecaster: Forecaster | None = None,
  *,
  sizes: Sequence[int] = (4, 8, 16, 32),
  lanes: int = 0,
  verify: bool = True,
) -> Sampler:
  """Fixed-point passes over the next W slots only, from a cache of the others.

    dist, cache = extend(cache, k, x_{k-1}, ..., x_{k+W-2})
    y_j = pick(dist_j, noise_j),   k <- 1 + the first j at which y_j != x_j

  Picks are kept as the next guesses, as in `fixed_point`; a forecaster may
  replace what is not final. A round costs W slots instead of all D and gains
  at least one. W is the smallest of `sizes` that holds twice the slots that
  rounds have gained lately, so that it follows the data as it runs.

  Lanes. With `lanes` fewer than the keys, a lane whose example is complete
  takes the next key: the time of a batch follows the mean of its examples, and
  not its slowest.

  Args:
    model: the model.
    decode: incremental evaluation; the model's own, else `recompute_decode`,
      with which sizes=(D,) is `fixed_point` with lanes. It pays where `extend`
      evaluates a block of slots at once, as attention does.
    forecaster: guesses; by default the picks of the last round, from zeros.
    sizes: window sizes, each compiled; those above D are cut to D.
    lanes: examples that are worked on at once; 0 means all keys.
    verify: False returns the draw itself, whose log_prob is that of the cached
      conditionals; `info.passes` is then 0 and `info.evaluations` the rounds.

  Returns:
    A sampler, called as `ancestral`'s, with its integers. `info.steps` counts
    the rounds of each example.

  Raises:
    ValueError: no sizes, sizes or lanes below 1, or a forecaster that needs
      conditionals of its own.
  """
  if not sizes or min(sizes) < 1 or lanes < 0:
    raise ValueError(
      f'window needs sizes of at least 1 and lanes >= 0; got sizes={sizes}, '
      f'lanes={lanes}.'
    )
  forecaster = forecaster or Forecaster('previous')
  if forecaster.conditionals is not None:
    raise ValueError(
      f'The forecaster {forecaster.name} brings conditionals of its own, for '
      'whole passes; a window takes those of the cache. Use fixed_point.'
    )
  most = model.num_positions
  sizes = tuple(sorted({min(size, most) for size in sizes}))
  rule = _Rule(decode or model.decode or recompute_decode(model), forecaster)

  def draw(
    params: Params, keys: PRNGKey, context: Context, given: Array, known: Array
  ) -> Sample:
    start = jnp.zeros_like(given)
    if rule.forecaster.first is not None:
      first = rule.forecaster.first(params, keys, context)
      start = jnp.asarray(first, given.dtype).reshape(given.shape)
    count = min(lanes or len(keys), len(keys))
    args = params, keys, context, start, given, known
    return _draw(model, rule, sizes, count, *args)

  return sweep.proved(model, draw) if verify else sweep.sampler(model, draw)


class _Rule(NamedTuple):
  decode: Decode
  forecaster: Forecaster


class _Job(NamedTuple):
  """What a lane works on."""

  context: Context
  given: Array  # [D, ...], slots
  known: Array  # [D]
  noise: Any  # [D, ...]


class _Lane(NamedTuple):
  """One example on its way."""

  number: Array  # of its key; N for none
  k: Array  # slots before it are final
  x: Array  # [D, ...], slots
  terms: Array  # [D], nats
  rounds: Array
  cache: Any


class _Done(NamedTuple):
  """What is complete; row N takes what nobody wants."""

  x: Array  # [N + 1, D, ...]
  log_prob: Array
  rounds: Array


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _draw(
  model: AutoregressiveModel,
  rule: _Rule,
  sizes: tuple[int, ...],
  lanes: int,
  params: Params,
  keys: PRNGKey,
  context: Context,
  start: Array,
  given: Array,
  known: Array,
) -> Sample:
  num, depth = len(keys), model.num_positions
  in_slots = jax.vmap(functools.partial(slots.in_slots, model))
  start, given, known = in_slots((start, given, known))
  start = jnp.where(over_positions(known, given), given, start)

  def jobs(number: Array) -> _Job:
    row = jnp.minimum(number, num - 1)
    noise = jax.vmap(functools.partial(position_noise, model))(keys[row])
    here = jax.tree.map(lambda c: c[row], context)
    return _Job(here, given[row], known[row], in_slots(noise))

  def caches(context: Context) -> Any:
    init = functools.partial(rule.decode.init, params)
    return jax.vmap(init, axis_size=lanes)(context)

  advances = [jax.vmap(_advance(model, rule, params, size)) for size in sizes]

  def body(state: tuple) -> tuple:
    lane, job, done, upcoming, gain, evaluations = state
    choice = (jnp.asarray(sizes[:-1], jnp.float32) < 2 * gain).sum()
    before, active = lane.k, lane.number < num
    lane = jax.lax.switch(choice, advances, lane, job)
    gained = jnp.where(active, lane.k - before, 0).sum() / active.sum()
    gain = _MEMORY * gain + (1 - _MEMORY) * gained

    ready = active & (lane.k >= depth)
    row = jnp.where(ready, lane.number, num)
    done = _Done(
      done.x.at[row].set(lane.x),
      done.log_prob.at[row].set(lane.terms.sum(1)),
      done.rounds.at[row].set(lane.rounds),
    )
    turn = upcoming + jnp.cumsum(ready) - 1
    number = jnp.where(ready, jnp.minimum(turn, num), lane.number)
    fresh = start[jnp.minimum(number, num - 1)]
    lane = lane._replace(
      number=number,
      k=jnp.where(ready & (number < num), 0, lane.k),
      x=jnp.where(over_positions(ready, fresh), fresh, lane.x),
      rounds=jnp.where(ready, 0, lane.rounds),
    )
    if lanes < num:  # noise is drawn again only when a lane has a new key

      def renew() -> tuple[_Job, Any]:
        job = jobs(number)
        pick = lambda a, b: jnp.where(over_positions(ready, a), a, b)
        return job, jax.tree.map(pick, caches(job.context), lane.cache)

      keep = lambda: (job, lane.cache)
      job, cache = jax.lax.cond(ready.any(), renew, keep)
      lane = lane._replace(cache=cache)
    return (lane, job, done, upcoming + ready.sum(), gain, evaluations + 1)

  number = jnp.arange(lanes)
  job = jobs(number)
  zeros = jnp.zeros(lanes, jnp.int32)
  lane = _Lane(
    number,
    zeros,
    start[:lanes],
    jnp.zeros((lanes, depth)),
    zeros,
    caches(job.context),
  )
  done = _Done(
    jnp.zeros((num + 1, *start.shape[1:]), start.dtype),
    jnp.zeros(num + 1),
    jnp.zeros(num + 1, jnp.int32),
  )
  gain = jnp.asarray(sizes[0], jnp.float32) / 2
  state = lane, job, done, jnp.asarray(lanes), gain, jnp.zeros((), jnp.int32)
  end = jax.lax.while_loop(lambda s: (s[0].number < num).any(), body, state)
  done = jax.tree.map(lambda a: a[:num], end[2])
  x = jax.vmap(functools.partial(slots.to_event, model))(done.x)
  sample = sweep.draft(model, x, done.log_prob, steps=done.rounds)
  return sample._replace(info=sample.info._replace(evaluations=end[5]))


def _advance(
  model: AutoregressiveModel, rule: _Rule, params: Params, size: int
) -> Callable[[_Lane, _Job], _Lane]:
  """One round of one lane with a window of `size` slots."""
  rank = jnp.asarray(model.rank).reshape(-1)[order.slots(model.rank)]
  last = model.num_positions - size
  event = functools.partial(slots.to_event, model)

  def advance(lane: _Lane, job: _Job) -> _Lane:
    # At the end the window starts early: final slots are evaluated again.
    at = jnp.minimum(lane.k, last)
    cut = lambda a: jax.lax.dynamic_slice_in_dim(a, at, size)
    previous = cut(jnp.concatenate([lane.x[:1], lane.x]))
    cache = rule.decode.rewind(lane.cache, at)
    dist, cache = rule.decode.extend(params, cache, at, previous)
    given, known, noise = jax.tree.map(cut, (job.given, job.known, job.noise))
    place, guess = at + jnp.arange(size), cut(lane.x)
    picked = model.head.pick(dist, noise).astype(guess.dtype)
    y = jnp.where(over_positions(known, given), given, picked)
    y = jnp.where(over_positions(place < lane.k, y), guess, y)
    terms = model.head.log_prob(dist, y)
    terms = jnp.where(place < lane.k, cut(lane.terms), terms)
    differs = (y != guess).reshape(size, -1).any(-1)
    first = jnp.where(differs, place, at + size).min()
    # A NaN differs from itself; the frontier still moves.
    k = jnp.minimum(jnp.maximum(first, lane.k) + 1, at + size)
    k = jnp.maximum(k, lane.k)
    write = lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, at, 0)
    x = write(lane.x, y)
    if rule.forecaster.next is not None:
      frontier = rank[jnp.minimum(k, rank.size - 1)]
      progress = Progress(event(x), frontier, None)
      said = slots.in_slots(model, rule.forecaster.next(progress))
      ahead = (jnp.arange(rank.size) >= k) & ~job.known
      x = jnp.where(over_positions(ahead, x), said.astype(x.dtype), x)
    return _Lane(
      lane.number,
      k,
      x,
      write(lane.terms, terms),
      lane.rounds + (lane.k < rank.size),
      cache,
    )

  return advance
