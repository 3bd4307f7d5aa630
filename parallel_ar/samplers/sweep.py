"""The one compiled loop under the pass-only samplers.

A sample is the solution of x = pick(conditionals(x), noise), a triangular
system in the ranks. Every sampler here sweeps that equation; they differ only
in how much of a pass they keep:

  ancestral     keeps the picks of one rank
  fixed point   keeps all picks

Two XLA programs may round the same network differently and so flip a pick
whose two best values nearly tie. The rule is therefore an argument of ONE
compiled program: both samplers run the same instructions, and since a strictly
causal pass does not let unfinished inputs touch finished outputs, they return
the same integers by construction and not only most of the time.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import doors, partition
from parallel_ar.model import (
  AutoregressiveModel,
  over_positions,
  position_noise,
)
from parallel_ar.samplers import frontier
from parallel_ar.types import Array, ArrayLike, Context, Params, PRNGKey


class SampleInfo(NamedTuple):
  """What a sample cost.

  Attributes:
    passes: int32[B], network passes until the example was final.
    evaluations: int32[], passes that ran for the whole batch: the maximum.
    accepted: int32[B, R], positions that became final in each pass.
    steps: int32[B], evaluations that guess, before the passes that prove:
      slots, rows or rounds of a cache, passes of a forecaster's own program.
    tested: int32[B], proposals of a draft that were compared with the model.
    agreed: int32[B], those that the model accepted.
    repaired: int32[B], positions that a draft or a forecast had wrong; 0 where
      nobody guessed.
    changed: int32[B], positions that were final and whose pick changed in a
      later pass. Of a causal model none does, so that one proves that the
      conditionals read what they must not, by rounding only if the model says
      causality='rounding'; 0 proves nothing, an audit does.
    not_finite: int32[B], positions whose final value is not finite.
    path: int32[], the incremental evaluation that guessed, a place in
      `path.KINDS`: 0 none, 1 the model's own, 2 the derived one, 3 one that
      was given, 4 a full pass for each block, where none could be derived, 5
      that of a model in whole numbers (`par.exact`): it cannot round, so that
      no pass proves the sample and `passes` is 0.
  """

  passes: ArrayLike
  evaluations: ArrayLike
  accepted: ArrayLike
  steps: ArrayLike
  tested: ArrayLike
  agreed: ArrayLike
  repaired: ArrayLike
  changed: ArrayLike
  not_finite: ArrayLike
  path: ArrayLike


class Sample(NamedTuple):
  """Samples with their exact likelihood.

  Attributes:
    x: array[B, *event].
    log_prob: float[B], nats, of the whole event under the model.
    info: what it cost.
  """

  x: ArrayLike
  log_prob: ArrayLike
  info: SampleInfo


class Sampler(Protocol):
  """Draws samples of one model; what `fixed_point` and the others return."""

  def __call__(
    self,
    params: Params,
    keys: PRNGKey,
    context: Context = None,
    *,
    x: ArrayLike | None = None,
    known: ArrayLike | None = None,
  ) -> Sample:
    """Draws one sample for each key.

    Args:
      params: parameters of the model; of `speculative` and `rejection` the pair
        (params, draft_params).
      keys: key[B], as `jax.random.split(key, B)` makes them; one key, one
        sample, whatever its neighbours are.
      context: leaves with leading axis B, or None for an unconditional model.
      x: array[B, *event], values of the known positions.
      known: bool[B, *positions], which keep their value from `x`; every other
        is drawn given its predecessors (completion, in-painting).

    Returns:
      A Sample: x[B, *event], log_prob float[B] in nats, and what it cost.

    Raises:
      ValueError: what does not fit the model; params that are not finite.
    """
    ...


# draw(params, keys, context, given, known) -> Sample
Draw = Callable[[Params, PRNGKey, Context, Array, Array], Sample]


def sampler(model: AutoregressiveModel, draw: Draw) -> Sampler:
  """The sampler that draws with `draw` after checking its arguments."""
  doors.check_model(model)

  def sample(
    params: Params,
    keys: PRNGKey,
    context: Context = None,
    *,
    x: ArrayLike | None = None,
    known: ArrayLike | None = None,
  ) -> Sample:
    keys, context, given, known = prepare(
      model, params, keys, context, x, known
    )
    return draw(params, keys, context, given, known)

  sample.__doc__ = Sampler.__call__.__doc__
  return sample


def proved(model: AutoregressiveModel, draft: Draw) -> Sampler:
  """The sampler that takes a draft for a forecast, and proves or repairs it."""

  def draw(
    params: Params, keys: PRNGKey, context: Context, given: Array, known: Array
  ) -> Sample:
    guess = draft(params, keys, context, given, known)
    return prove(model, params, keys, context, guess, given, known)

  return sampler(model, draw)


def unguessed(
  model: AutoregressiveModel,
  params: Params,
  keys: PRNGKey,
  context: Context,
  given: Array,
  known: Array,
  one_rank: bool,
) -> Sample:
  """The sample of the keys from zeros, which nobody has guessed."""
  args = jnp.zeros_like(given), given, known, jnp.array(one_rank)
  sample = sweep(model, params, keys, context, *args)
  none = jnp.zeros_like(sample.info.passes)
  return sample._replace(info=sample.info._replace(repaired=none))


def prove(
  model: AutoregressiveModel,
  params: Params,
  keys: PRNGKey,
  context: Context,
  guess: Sample,
  given: Array,
  known: Array,
) -> Sample:
  """The sample of the keys, from a guess, whose cost is added.

  Whatever the guess, the passes that follow are those of `fixed_point`, so the
  sample has the integers of `ancestral`. A right guess takes one pass.
  """
  sample = sweep(
    model, params, keys, context, guess.x, given, known, jnp.array(False)
  )
  cost = guess.info
  info = sample.info._replace(
    steps=cost.steps, tested=cost.tested, agreed=cost.agreed, path=cost.path
  )
  return sample._replace(info=info)


def draft(
  model: AutoregressiveModel,
  x: Array,
  log_prob: Array,
  path: int = 0,
  **cost: Any,
) -> Sample:
  """A Sample that no pass has proved; `cost` are fields of its info."""
  zeros = jnp.zeros(x.shape[0], jnp.int32)
  info = SampleInfo(
    passes=zeros,
    evaluations=jnp.zeros((), jnp.int32),
    accepted=jnp.zeros((x.shape[0], model.depth), jnp.int32),
    steps=zeros,
    tested=zeros,
    agreed=zeros,
    repaired=zeros,
    changed=zeros,
    not_finite=_not_finite(model, x),
    path=jnp.int32(path),
  )
  spread = {
    k: jnp.broadcast_to(jnp.asarray(v), zeros.shape) for k, v in cost.items()
  }
  return Sample(x, log_prob, info._replace(**spread))


def _not_finite(model: AutoregressiveModel, x: Array) -> Array:
  wrong = ~jnp.isfinite(x).reshape(*x.shape[: 1 + model.rank.ndim], -1)
  return wrong.any(-1).reshape(len(x), -1).sum(1, dtype=jnp.int32)


def prepare(
  model: AutoregressiveModel,
  params: Params,
  keys: PRNGKey,
  context: Context,
  x: ArrayLike | None,
  known: ArrayLike | None,
) -> tuple[PRNGKey, Context, Array, Array]:
  """Checks a sampler's arguments; fills in that nothing is known.

  Returns:
    The keys, the context, the given events array[B, *event] and bool[B, E],
    where they are known.

  Raises:
    ValueError: parameters that are not finite, keys that are not key[B], a
      context or known values that do not fit the model's (see `doors`), or x
      and known that are not given together in matching shapes.
  """
  keys = doors.check_keys(keys)
  batch = keys.shape[0]
  context = doors.check_context(model, context, batch)
  doors.check_params(model, params)
  shapes = (batch, *model.event.shape), (batch, *model.rank.shape)
  if x is None and known is None:
    none = jnp.zeros(shapes[0], model.event.dtype), jnp.zeros(shapes[1], bool)
    return keys, context, *none
  if x is None or known is None:
    raise ValueError(
      'x and known go together: x holds the given values and known says at '
      f'which positions. Only {"known" if x is None else "x"} was given.'
    )
  if (np.shape(x), np.shape(known)) != shapes:
    raise ValueError(
      f'{model.name}: x and known have shapes {np.shape(x)} and '
      f'{np.shape(known)}; expected {shapes[0]} and {shapes[1]} for {batch} '
      'keys.'
    )
  known = doors.check_known(known)
  x = doors.check_events(model, x, known)
  return keys, context, jnp.asarray(x), jnp.asarray(known)


class _State(NamedTuple):
  x: Array  # [B, *event]
  log_prob: Array  # [B]
  frontier: Array  # [B], ranks below it are final
  passes: Array  # [B]
  accepted: Array  # [B, R]
  changed: Array  # [B, E], final values that a later pass contradicts
  evaluations: Array  # []


@functools.partial(jax.jit, static_argnums=0)
def sweep(
  model: AutoregressiveModel,
  params: Params,
  keys: PRNGKey,
  context: Context,
  start: Array,
  given: Array,
  known: Array,
  one_rank: Array,
) -> Sample:
  """Sweeps until every example is final.

  `solve` with the noise of the keys. Where the caller compiles a sampler into
  a program of its own, the rule is a constant there; behind the barrier both
  programs are the same but for its value.
  """
  one_rank = jax.lax.optimization_barrier(one_rank)
  noise = jax.vmap(functools.partial(position_noise, model))(keys)
  return solve(model, params, noise, context, start, given, known, one_rank)


def solve(
  model: AutoregressiveModel,
  params: Params,
  noise: Any,
  context: Context,
  start: Array,
  given: Array,
  known: Array,
  one_rank: Array,
) -> Sample:
  """Solves x = pick(conditionals(x), noise) for every example.

  An example needs at most R passes from any start, one more whenever guesses of
  continuous values overflow, and one pass from the sample itself; see
  `frontier`.

  Args:
    model: the model.
    params: its parameters.
    noise: of every position, leaves that lead with [B, E].
    context: pytree with leading axis B, or None.
    start: array[B, *event], the first guess.
    given: array[B, *event], values of the known positions.
    known: bool[B, E].
    one_rank: bool[]; keep the picks of one rank a pass (ancestral) or all.

  Returns:
    The samples.
  """
  rank = jnp.asarray(model.rank)
  batch, axes = start.shape[0], tuple(range(1, rank.ndim + 1))
  held = over_positions(known, start)
  start = jnp.where(held, given, frontier.finite(start))
  conditionals = partition.vmap(model.conditionals, (None, 0, 0), batch)
  advance = jax.vmap(
    functools.partial(
      frontier.advance, rank=rank, end=model.depth, one_rank=one_rank
    )
  )

  def body(state: _State) -> _State:
    dist = conditionals(params, state.x, context)
    picked = jax.vmap(model.head.pick)(dist, noise).astype(start.dtype)
    y = jnp.where(held, given, picked)
    step = advance(state.x, y, dist, known, state.frontier)
    total = jax.vmap(model.head.log_prob)(dist, step.x).sum(axes)
    running = state.frontier < model.depth
    at = jnp.minimum(state.evaluations, model.depth - 1)
    before = jnp.where(state.passes > 0, state.frontier, 0)
    now = jax.vmap(lambda low, high: (rank >= low) & (rank < high))
    accepted = now(before, step.frontier).sum(axes, dtype=jnp.int32)
    return _State(
      x=step.x,
      log_prob=jnp.where(running, total, state.log_prob),
      frontier=step.frontier,
      passes=state.passes + running,
      accepted=state.accepted.at[:, at].add(jnp.where(running, accepted, 0)),
      changed=state.changed | (step.changed & over_positions(running, known)),
      evaluations=state.evaluations + 1,
    )

  zeros = jnp.zeros(batch, jnp.int32)
  first = jax.vmap(lambda known: frontier.start(known, rank, model.depth))
  end = jax.lax.while_loop(
    lambda state: (state.frontier < model.depth).any(),
    body,
    _State(
      x=start,
      log_prob=jnp.zeros(batch),
      frontier=first(known),
      passes=zeros,
      accepted=jnp.zeros((batch, model.depth), jnp.int32),
      changed=jnp.zeros_like(known),
      evaluations=jnp.zeros((), jnp.int32),
    ),
  )
  return _sample(model, end, start)


def _sample(model: AutoregressiveModel, end: _State, start: Array) -> Sample:
  """What the sweeps from `start` ended with, and what they cost."""
  axes = tuple(range(1, model.rank.ndim + 1))
  count = functools.partial(jnp.sum, axis=axes, dtype=jnp.int32)
  repaired = (end.x != start).reshape(*end.changed.shape, -1).any(-1)
  sample = draft(model, end.x, end.log_prob, changed=count(end.changed))
  info = sample.info._replace(
    passes=end.passes,
    evaluations=end.evaluations,
    accepted=end.accepted,
    repaired=count(repaired),
  )
  return sample._replace(info=info)
