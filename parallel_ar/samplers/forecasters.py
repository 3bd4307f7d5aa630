"""Forecasters: guesses of what is not final yet.

A forecaster can only change the cost of a sample, never the sample: whatever
it says is compared with the model's own picks. It may be wrong, random or
not a probability at all.

References:
  Wiggers, Hoogeboom: Predictive sampling with forecasting autoregressive
  models. ICML 2020, section 3.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar import doors, order
from parallel_ar.memo import once
from parallel_ar.model import AutoregressiveModel, over_positions
from parallel_ar.types import Array, Context, Dist, Params, PRNGKey


class Progress(NamedTuple):
  """What a forecaster sees of one example after a pass.

  Attributes:
    picks: array[*event], the picks of the pass; final at ranks < frontier.
    frontier: int[].
    noise: of every position, leaves lead with E.
    extra: what `Forecaster.conditionals` returned beside the dist, or None.
  """

  picks: Array
  frontier: Array
  noise: Any
  extra: Any = None


class Forecaster(NamedTuple):
  """A rule for guesses.

  Attributes:
    name: shown in tables.
    first: (params, keys, context) -> array[B, *event], guesses before the first
      pass; None for zeros.
    next: (progress) -> array[*event], guesses for one example after a pass;
      only those of rank >= frontier are used. None keeps the picks of the pass:
      the fixed-point iteration.
    conditionals: (params, x, context) -> (dist, extra), to be used instead of
      the model's where `next` needs more than picks; None for the model's.
  """

  name: str
  first: Callable[[Params, PRNGKey, Context], Any] | None = None
  next: Callable[[Progress], Array] | None = None
  conditionals: Callable[[Params, Array, Context], tuple[Dist, Any]] | None = (
    None
  )


def check(model: AutoregressiveModel, forecaster: Any) -> Forecaster:
  """The forecaster, by default `previous`, of a sampler of this model.

  Raises:
    ValueError: no model, or no forecaster.
  """
  doors.check_model(model)
  example = 'par.forecasters.last(model)'
  doors.check_part('forecaster', forecaster, Forecaster, example)
  return Forecaster('previous') if forecaster is None else forecaster


def first_guess(
  forecaster: Forecaster,
  params: Params,
  keys: PRNGKey,
  context: Context,
  given: Array,
) -> Array:
  """What a forecaster says before the first pass, array[B, *event].

  Raises:
    ValueError: not one event for each key.
  """
  if forecaster.first is None:
    return jnp.zeros_like(given)
  first = jnp.asarray(forecaster.first(params, keys, context), given.dtype)
  return _fits(forecaster, first, given, 'one event for each key')


def next_guess(forecaster: Forecaster, at: Progress) -> Array:
  """What a forecaster says of one example after a pass, array[*event].

  Raises:
    ValueError: not an event of the model that is sampled.
  """
  assert forecaster.next is not None
  try:
    said = jnp.asarray(forecaster.next(at))
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'The forecaster {forecaster.name} could not guess an event of shape '
      f'{at.picks.shape}; was it made of another model? {error}'
    ) from error
  return _fits(forecaster, said, at.picks, 'an event of the model')


def _fits(
  forecaster: Forecaster, guess: Array, like: Array, what: str
) -> Array:
  if guess.shape != like.shape:
    raise ValueError(
      f'The forecaster {forecaster.name} guessed the shape {guess.shape}; '
      f'expected {like.shape}, {what}.'
    )
  return guess


def previous() -> Forecaster:
  """The picks of the last pass, also where they may be wrong: Jacobi."""
  return Forecaster('previous')


def guess(
  first: Callable[[Params, PRNGKey, Context], Any], name: str = 'guess'
) -> Forecaster:
  """A first guess of one's own, then the picks of the last pass."""
  return Forecaster(name, first=first)


def zeros() -> Forecaster:
  """Zeros at everything that is not final."""
  return Forecaster('zeros', next=_zeros)


def _zeros(at: Progress) -> Array:
  return jnp.zeros_like(at.picks)


def _made_once(make: Callable[..., Forecaster]) -> Callable[..., Forecaster]:
  """A maker that gives one forecaster for one model and arguments."""

  @functools.wraps(make)
  def made(model: AutoregressiveModel, *args: Any, **named: Any) -> Forecaster:
    key = make.__name__, args, tuple(sorted(named.items()))
    found: Forecaster = once(model, key, lambda: make(model, *args, **named))
    return found

  return made


@_made_once
def last(model: AutoregressiveModel) -> Forecaster:
  """The value of the last final position, repeated."""
  slots, rank = order.slots(model.rank), model.rank

  def guess(at: Progress) -> Array:
    final = (jnp.asarray(rank) < at.frontier).sum()
    flat = at.picks.reshape(slots.size, *at.picks.shape[rank.ndim :])
    value = flat[jnp.asarray(slots)[jnp.maximum(final - 1, 0)]]
    return jnp.broadcast_to(value, at.picks.shape)

  return Forecaster('last', next=guess)


@_made_once
def above(model: AutoregressiveModel) -> Forecaster:
  """The nearest final value above, in the first axis of the event.

  Raises:
    ValueError: the event has one axis, so nothing is above.
  """
  if model.rank.ndim < 2:
    raise ValueError(
      f'The forecaster above copies the row above; {model.name} has events of '
      f'one axis, {model.event.shape}. Use last, or ngram for text.'
    )

  def guess(at: Progress) -> Array:
    final = over_positions(jnp.asarray(model.rank) < at.frontier, at.picks)

    def row(over: Array, here: tuple[Array, Array]) -> tuple[Array, Array]:
      picks, final = here
      value = jnp.where(final, picks, over)
      return value, value

    start = jnp.zeros_like(at.picks[0])
    return jax.lax.scan(row, start, (at.picks, final))[1]

  return Forecaster('above', next=guess)


@_made_once
def ngram(model: AutoregressiveModel, n: int = 3) -> Forecaster:
  """What followed the last n - 1 symbols where the prefix has had them before.

  The latest occurrence is continued, periodically where it runs into the
  frontier. Without an occurrence the picks of the last pass are kept.

  Args:
    model: the model, of one symbol a position.
    n: at least 2.

  Raises:
    ValueError: n < 2, or positions that carry vectors.

  References:
    Fu, Bailis, Stoica, Zhang: Break the sequential dependency of LLM inference
    using lookahead decoding. ICML 2024 (n-grams from the run itself).
  """
  if n < 2 or model.event.shape != model.rank.shape:
    raise ValueError(
      f'ngram needs n >= 2 and one symbol a position; got n={n} and '
      f'{model.name} with event {model.event.shape}, rank {model.rank.shape}.'
    )
  slots = order.slots(model.rank)
  ends = jnp.asarray(slots).argsort()

  def guess(at: Progress) -> Array:
    x = at.picks.reshape(-1)[slots]
    final = (jnp.asarray(model.rank) < at.frontier).sum()
    k = jnp.arange(x.size)
    same = (k >= n - 1) & (k < final)  # k ends a context, x[k] follows it
    for back in range(1, n):
      same &= x[jnp.maximum(k - back, 0)] == x[jnp.maximum(final - back, 0)]
    found = jnp.where(same, k, -1).max()
    period = jnp.maximum(final - found, 1)
    source = found + (k - final) % period
    said = jnp.where(found >= 0, x[jnp.clip(source, 0, x.size - 1)], x)
    return said[ends].reshape(at.picks.shape)

  return Forecaster(f'ngram({n})', next=guess)


def draft(
  sampler: Callable[..., Any], params: Params, name: str = 'draft'
) -> Forecaster:
  """The sample that a smaller model draws with the same keys.

  The noise is keyed by position, so both models see the same; they agree where
  their conditionals do.

  Args:
    sampler: of the smaller model, of the same event.
    params: of the smaller model.
    name: shown in tables.
  """

  def first(_: Params, keys: PRNGKey, context: Context) -> Any:
    return sampler(params, keys, context).x

  return Forecaster(name, first=first)


# The forecasters that need nothing but the model.
BY_NAME: dict[str, Callable[[AutoregressiveModel], Forecaster]] = {
  'previous': lambda model: previous(),
  'zeros': lambda model: zeros(),
  'last': last,
  'above': above,
  'ngram': functools.partial(ngram, n=3),
}
