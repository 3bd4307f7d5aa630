"""A window of guesses at the frontier, evaluated from a cache."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar import order
from parallel_ar.decode import Decode
from parallel_ar.model import (
  AutoregressiveModel,
  over_positions,
  position_noise,
)
from parallel_ar.samplers import forecasters, frontier, path, slots, sweep
from parallel_ar.samplers.forecasters import Forecaster, Progress
from parallel_ar.samplers.path import Path
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
    decode: incremental evaluation; by default the model's own, and without one
      the derived one. It pays where `extend` evaluates a block of slots at
      once, as attention does. With `recompute_decode` and sizes=(D,) this is
      `fixed_point` with lanes.
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
  how = path.choose(model, decode)
  forecaster = forecasters.check(model, forecaster)
  if forecaster.conditionals is not None:
    raise ValueError(
      f'The forecaster {forecaster.name} brings conditionals of its own, for '
      'whole passes; a window takes those of the cache. Use fixed_point.'
    )
  most = model.num_positions
  sizes = tuple(sorted({min(size, most) for size in sizes}))
  later = forecaster._replace(first=None)  # spoken before; do not compile it

  def draw(
    params: Params, keys: PRNGKey, context: Context, given: Array, known: Array
  ) -> Sample:
    start = forecasters.first_guess(forecaster, params, keys, context, given)
    rule = _Rule(how, later, min(lanes or len(keys), len(keys)))
    args = params, keys, context, start, given, known
    return _draw(model, rule, sizes, *args)

  if verify and not how.proves_itself:
    return sweep.proved(model, draw)
  return sweep.sampler(model, draw)


class _Rule(NamedTuple):
  path: Path
  forecaster: Forecaster
  lanes: int


class _Batch(NamedTuple):
  """All examples, slot after slot."""

  keys: PRNGKey  # [N]
  context: Context  # [N, ...]
  start: Array  # [N, D, ...], first guesses
  given: Array  # [N, D, ...]
  known: Array  # [N, D]


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


class _State(NamedTuple):
  lane: _Lane  # of all lanes
  job: _Job  # of all lanes
  done: _Done
  upcoming: Array  # int32[], the next key
  gain: Array  # float32[], slots that a round has gained lately
  evaluations: Array  # int32[]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _draw(
  model: AutoregressiveModel,
  rule: _Rule,
  sizes: tuple[int, ...],
  params: Params,
  keys: PRNGKey,
  context: Context,
  start: Array,
  given: Array,
  known: Array,
) -> Sample:
  """Draws the batch by rounds of all lanes, until no key is left."""
  num = len(keys)
  in_slots = jax.vmap(functools.partial(slots.in_slots, model))
  start, given, known = in_slots((start, given, known))
  start = frontier.finite(start)
  start = jnp.where(over_positions(known, given), given, start)
  batch = _Batch(keys, context, start, given, known)
  advances = [jax.vmap(_advance(model, rule, params, size)) for size in sizes]

  def body(state: _State) -> _State:
    choice = jnp.asarray(sizes[:-1], jnp.float32) < 2 * state.gain
    choice = choice.sum(dtype=jnp.int32)
    lane = jax.lax.switch(choice, advances, state.lane, state.job)
    active = lane.number < num
    gained = jnp.where(active, lane.k - state.lane.k, 0).astype(jnp.float32)
    gained = gained.sum() / active.sum(dtype=jnp.float32)
    ready = active & (lane.k >= model.num_positions)
    done = _collect(state.done, lane, ready)
    lane, job, upcoming = _refill(
      model, rule, params, batch, lane, state.job, ready, state.upcoming
    )
    gain = _MEMORY * state.gain + (1 - _MEMORY) * gained
    return _State(lane, job, done, upcoming, gain, state.evaluations + 1)

  end = jax.lax.while_loop(
    lambda state: (state.lane.number < num).any(),
    body,
    _begin(model, rule, sizes, params, batch),
  )
  done = jax.tree.map(lambda a: a[:num], end.done)
  x = jax.vmap(functools.partial(slots.to_event, model))(done.x)
  sample = sweep.draft(
    model, x, done.log_prob, rule.path.kind, steps=done.rounds
  )
  return sample._replace(info=sample.info._replace(evaluations=end.evaluations))


def _begin(
  model: AutoregressiveModel,
  rule: _Rule,
  sizes: tuple[int, ...],
  params: Params,
  batch: _Batch,
) -> _State:
  """Every lane at the beginning of its first key."""
  num, lanes = len(batch.keys), rule.lanes
  number, zeros = (
    jnp.arange(lanes, dtype=jnp.int32),
    jnp.zeros(lanes, jnp.int32),
  )
  job = _jobs(model, batch, number)
  terms = jnp.zeros((lanes, model.num_positions))
  cache = _caches(rule, params, job.context)
  spare = num + 1
  done = _Done(
    jnp.zeros((spare, *batch.start.shape[1:]), batch.start.dtype),
    jnp.zeros(spare),
    jnp.zeros(spare, jnp.int32),
  )
  return _State(
    _Lane(number, zeros, batch.start[:lanes], terms, zeros, cache),
    job,
    done,
    jnp.int32(lanes),
    jnp.float32(sizes[0] / 2),
    jnp.int32(0),
  )


def _jobs(model: AutoregressiveModel, batch: _Batch, number: Array) -> _Job:
  """What the lanes with these keys work on."""
  row = jnp.minimum(number, len(batch.keys) - 1)

  def noise(key: PRNGKey) -> Any:
    return slots.in_slots(model, position_noise(model, key))

  here = jax.tree.map(lambda c: c[row], batch.context)
  drawn = jax.vmap(noise)(batch.keys[row])
  return _Job(here, batch.given[row], batch.known[row], drawn)


def _caches(rule: _Rule, params: Params, context: Context) -> Any:
  init = functools.partial(rule.path.decode.init, params)
  return jax.vmap(init, axis_size=rule.lanes)(context)


def _collect(done: _Done, lane: _Lane, ready: Array) -> _Done:
  """Puts away the examples of the lanes that are ready."""
  row = jnp.where(ready, lane.number, len(done.rounds) - 1)
  return _Done(
    done.x.at[row].set(lane.x),
    done.log_prob.at[row].set(lane.terms.sum(1)),
    done.rounds.at[row].set(lane.rounds),
  )


def _refill(
  model: AutoregressiveModel,
  rule: _Rule,
  params: Params,
  batch: _Batch,
  lane: _Lane,
  job: _Job,
  ready: Array,
  upcoming: Array,
) -> tuple[_Lane, _Job, Array]:
  """Gives the next keys to the lanes that are ready."""
  num = len(batch.keys)
  turn = upcoming + jnp.cumsum(ready, dtype=jnp.int32) - 1
  number = jnp.where(ready, jnp.minimum(turn, num), lane.number)
  fresh = batch.start[jnp.minimum(number, num - 1)]
  lane = lane._replace(
    number=number,
    k=jnp.where(ready & (number < num), 0, lane.k),
    x=jnp.where(over_positions(ready, fresh), fresh, lane.x),
    rounds=jnp.where(ready, 0, lane.rounds),
  )
  if rule.lanes < num:  # noise is drawn again only when a lane has a new key

    def renew() -> tuple[_Job, Any]:
      job = _jobs(model, batch, number)
      fresh = _caches(rule, params, job.context)
      pick = lambda a, b: jnp.where(over_positions(ready, a), a, b)
      return job, jax.tree.map(pick, fresh, lane.cache)

    keep = lambda: (job, lane.cache)
    job, cache = jax.lax.cond(ready.any(), renew, keep)
    lane = lane._replace(cache=cache)
  return lane, job, upcoming + ready.sum(dtype=jnp.int32)


def _advance(
  model: AutoregressiveModel, rule: _Rule, params: Params, size: int
) -> Callable[[_Lane, _Job], _Lane]:
  """One round of one lane with a window of `size` slots."""
  rank = jnp.asarray(model.rank).reshape(-1)[order.slots(model.rank)]
  last = model.num_positions - size
  event = functools.partial(slots.to_event, model)
  # The nats of a known slot come from a round too: none is passed over.
  none = jnp.zeros(size, bool)

  def advance(lane: _Lane, job: _Job) -> _Lane:
    # At the end the window starts early: final slots are evaluated again.
    at = jnp.minimum(lane.k, last)
    cut = lambda a: jax.lax.dynamic_slice_in_dim(a, at, size)
    previous = cut(jnp.concatenate([lane.x[:1], lane.x]))
    cache = rule.path.decode.rewind(lane.cache, at)
    dist, cache = rule.path.decode.extend(params, cache, at, previous)
    given, known, noise = jax.tree.map(cut, (job.given, job.known, job.noise))
    place, guess = at + jnp.arange(size, dtype=jnp.int32), cut(lane.x)
    picked = model.head.pick(dist, noise).astype(guess.dtype)
    y = jnp.where(over_positions(known, given), given, picked)
    step = frontier.advance(guess, y, dist, none, lane.k, place, at + size)
    # Other sizes round otherwise, so that what is final may seem to change.
    terms = model.head.log_prob(dist, step.x).astype(lane.terms.dtype)
    terms = jnp.where(place < lane.k, cut(lane.terms), terms)
    write = lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, at, 0)
    x, k = write(lane.x, step.x), step.frontier
    if rule.forecaster.next is not None:
      low = rank[jnp.minimum(k, rank.size - 1)]
      progress = Progress(event(x), low, None)
      guess = forecasters.next_guess(rule.forecaster, progress)
      said = slots.in_slots(model, guess)
      said = frontier.finite(said.astype(x.dtype))
      # A frontier that stays asks for zeros.
      ahead = (jnp.arange(rank.size) >= k) & ~job.known & (k > lane.k)
      x = jnp.where(over_positions(ahead, x), said, x)
    rounds = lane.rounds + (lane.k < rank.size)
    return _Lane(lane.number, k, x, write(lane.terms, terms), rounds, cache)

  return advance
