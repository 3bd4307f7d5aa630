"""Fixed-point (Jacobi) sampling: all ranks guessed at once, then proved."""

import functools

import jax
import jax.numpy as jnp

from parallel_ar.model import (
  AutoregressiveModel,
  over_positions,
  position_noise,
)
from parallel_ar.samplers import forecasters, frontier, sweep
from parallel_ar.samplers.forecasters import Forecaster, Progress
from parallel_ar.samplers.sweep import Sample, Sampler
from parallel_ar.types import Array, Context, Params, PRNGKey


def fixed_point(
  model: AutoregressiveModel, forecaster: Forecaster | None = None
) -> Sampler:
  """Repeats x <- pick(conditionals(x), noise) until x is final.

  Returns the integers of `ancestral` for the same keys, whatever the forecasts.

  Bound. Let f ranks be final in x. All picks of rank <= f then read final
  values, so after one more pass f + 1 ranks are final: R passes from any
  start. Waiting until nothing changes would cost one more, R + 1. The loop
  does not wait: if the lowest rank at which a pass changed x is r, ranks up to
  r are already proved final, so it ends with the pass that changes rank R - 1
  only, and never exceeds R. A forecast that is right costs one pass.

  Args:
    model: the model.
    forecaster: guesses for what is not final, by default the picks of the last
      pass from zeros. One that speaks after every pass (`next`) runs in a
      program of its own, whose passes `info.steps` counts, and its sample is
      proved by one pass more.

  Returns:
    A sampler, called as `ancestral`'s; `info.passes` tells the cost for each
    example. Examples that are final are frozen while others go on.

  Raises:
    ValueError: no model or no forecaster; at the call, guesses of another
      shape.

  References:
    Song, Meng, Liao, Ermon: Accelerating feedforward computation via parallel
    nonlinear equation solving. ICML 2021, Proposition 1.
    Wiggers, Hoogeboom: Predictive sampling with forecasting autoregressive
    models. ICML 2020.
  """
  forecaster = forecasters.check(model, forecaster)

  def draw(
    params: Params, keys: PRNGKey, context: Context, given: Array, known: Array
  ) -> Sample:
    first = forecasters.first_guess(forecaster, params, keys, context, given)
    if forecaster.next is None:
      return sweep.draft(model, first, jnp.zeros(len(keys)))
    rule = forecaster._replace(first=None)  # it has spoken; do not compile it
    args = params, keys, context, first, given, known
    return _predict(model, rule, *args)

  if forecaster.first is None and forecaster.next is None:
    rule = functools.partial(sweep.unguessed, model, one_rank=False)
    return sweep.sampler(model, rule)
  return sweep.proved(model, draw)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predict(
  model: AutoregressiveModel,
  forecaster: Forecaster,
  params: Params,
  keys: PRNGKey,
  context: Context,
  start: Array,
  given: Array,
  known: Array,
) -> Sample:
  """`sweep.sweep` with a forecast of what is not final after every pass."""
  rank, depth = jnp.asarray(model.rank), model.depth
  held = over_positions(known, start)
  noise = jax.vmap(functools.partial(position_noise, model))(keys)

  def one_pass(x, context, given, known, noise, low):
    extra = None
    if forecaster.conditionals is None:
      dist = model.conditionals(params, x, context)
    else:
      dist, extra = forecaster.conditionals(params, x, context)
    held = over_positions(known, x)
    y = jnp.where(held, given, model.head.pick(dist, noise).astype(x.dtype))
    step = frontier.advance(x, y, dist, known, low, rank, depth)
    at = Progress(step.x, step.frontier, noise, extra)
    said = forecasters.next_guess(forecaster, at).astype(x.dtype)
    said = frontier.finite(said)
    # A frontier that stays asks for zeros.
    ahead = (rank >= step.frontier) & ~known & (step.frontier > low)
    total = model.head.log_prob(dist, step.x).sum()
    return (
      jnp.where(over_positions(ahead, x), said, step.x),
      step.frontier,
      total,
    )

  def body(state: tuple) -> tuple:
    x, low, log_prob, passes = state
    x, moved, total = jax.vmap(one_pass)(x, context, given, known, noise, low)
    running = low < depth
    return x, moved, jnp.where(running, total, log_prob), passes + running

  first = jax.vmap(lambda known: frontier.start(known, rank, depth))(known)
  start = jnp.where(held, given, frontier.finite(start))
  zeros = jnp.zeros(len(keys), jnp.int32)
  x, _, log_prob, passes = jax.lax.while_loop(
    lambda state: (state[1] < depth).any(),
    body,
    (start, first, jnp.zeros(len(keys)), zeros),
  )
  return sweep.draft(model, x, log_prob, steps=passes)
