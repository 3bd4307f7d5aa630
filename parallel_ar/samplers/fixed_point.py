"""Fixed-point (Jacobi) sampling: all ranks guessed at once, then proved."""

from collections.abc import Callable

import jax.numpy as jnp

from parallel_ar.model import AutoregressiveModel
from parallel_ar.samplers import sweep
from parallel_ar.samplers.sweep import Sample, Sampler
from parallel_ar.types import Array, Context, Params, PRNGKey

Forecast = Callable[[Params, PRNGKey, Context], Array]


def fixed_point(
  model: AutoregressiveModel, forecast: Forecast | None = None
) -> Sampler:
  """Repeats x <- pick(conditionals(x), noise) until x is final.

  Returns the integers of `ancestral` for the same keys, whatever the forecast.

  Bound. Let f ranks be final in x. All picks of rank <= f then read final
  values, so after one more pass f + 1 ranks are final: R passes from any
  start. Waiting until nothing changes would cost one more, R + 1. The loop
  does not wait: if the lowest rank at which a pass changed x is r, ranks up to
  r are already proved final, so it ends with the pass that changes rank R - 1
  only, and never exceeds R. A forecast that is right costs one pass.

  Args:
    model: the model.
    forecast: (params, keys, context) -> array[B, *event], the first guess;
      zeros without it. Anything is allowed: it can only change the cost.

  Returns:
    A sampler, called as `ancestral`'s; `info.passes` tells the cost for each
    example. Examples that are final are frozen while others go on.

  References:
    Song, Meng, Liao, Ermon: Accelerating feedforward computation via parallel
    nonlinear equation solving. ICML 2021, Proposition 1.
    Wiggers, Hoogeboom: Predictive sampling with forecasting autoregressive
    models. ICML 2020.
  """

  def draw(
    params: Params, keys: PRNGKey, context: Context, given: Array, known: Array
  ) -> Sample:
    start = jnp.zeros_like(given)
    if forecast is not None:
      start = jnp.asarray(forecast(params, keys, context), given.dtype)
      if start.shape != given.shape:
        raise ValueError(
          f'forecast returned shape {start.shape}; expected {given.shape}, one '
          f'event of {model.name} for each key.'
        )
    return sweep.sweep(
      model, params, keys, context, start, given, known, jnp.array(False)
    )

  return sweep.sampler(model, draw)
