"""Steps whose loss or gradient is far from those before are left out.

A step is a spike where its loss or its gradient norm is above

  mean + sigmas * std

of that quantity over the last `window` steps (OLMo, Groeneveld et al. 2024, and
others skip steps so). Parameters, average and optimizer stay as they are, and
the run goes on with the next batch. A spike joins the window all the same, so
that a lasting change soon is the new normal. Nothing is skipped before half of
the window has been seen. What is not finite is no spike: it ends the run.
"""

from typing import NamedTuple

import jax.numpy as jnp

from parallel_ar.types import Array


class Spikes(NamedTuple):
  """What the last steps were like; a part of the state of a run.

  Attributes:
    history: float32[window, 2], losses and gradient norms, oldest overwritten.
    seen: int32[], steps so far.
    skipped: int32[], those of them that were left out.
  """

  history: Array
  seen: Array
  skipped: Array


def create(window: int) -> Spikes:
  """Before the first step."""
  zero = jnp.zeros((), jnp.int32)
  return Spikes(jnp.zeros((window, 2), jnp.float32), zero, jnp.copy(zero))


def is_spike(spikes: Spikes, values: Array, sigmas: float) -> Array:
  """bool[]: whether a step is far above the steps in the window.

  Args:
    spikes: what came before.
    values: float32[2], loss and gradient norm of the step.
    sigmas: how many standard deviations are far.
  """
  window = spikes.history.shape[0]
  known = jnp.minimum(spikes.seen, window)
  valid = (jnp.arange(window) < known)[:, None]
  count = jnp.maximum(known, 2).astype(jnp.float32)
  mean = jnp.sum(jnp.where(valid, spikes.history, 0), 0) / count
  squares = jnp.where(valid, jnp.square(spikes.history - mean[None]), 0)
  std = jnp.sqrt(jnp.sum(squares, 0) / (count - 1))
  # A constant loss has no deviation, and rounding is no spike.
  std = jnp.maximum(std, 1e-6 * jnp.abs(mean))
  far = jnp.any(values > mean + sigmas * std)
  return far & (known >= max(2, window // 2))


def update(spikes: Spikes, values: Array, skipped: Array) -> Spikes:
  """After a step.

  Args:
    spikes: before it.
    values: float32[2], its loss and gradient norm.
    skipped: bool[], whether it was left out.
  """
  at = spikes.seen % spikes.history.shape[0]
  return Spikes(
    spikes.history.at[at].set(values),
    spikes.seen + 1,
    spikes.skipped + skipped.astype(jnp.int32),
  )
