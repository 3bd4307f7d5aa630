"""How a run ends."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from parallel_ar import likelihood
from parallel_ar.model import AutoregressiveModel
from parallel_ar.training.state import TrainState
from parallel_ar.types import Array, Params


class NonFiniteLoss(RuntimeError):
  """Training left the finite numbers.

  Attributes:
    step: the update (counted from 1) whose loss or gradient was not finite.
  """

  def __init__(self, at: int, reason: str, newest: str):
    super().__init__(
      f'Step {at}: {reason}. Training stopped. {newest} Lower '
      'optimizer.learning_rate, set optimizer.clip_norm, add '
      'optimizer.warmup_steps, or look at the batch.'
    )
    self.step = at


def not_finite(values: Mapping[str, float]) -> str:
  """What is not finite in the numbers of a step; '' where all is well."""
  checked = {name: float(values[name]) for name in ('loss_nats', 'grad_norm')}
  if all(math.isfinite(value) for value in checked.values()):
    return ''
  return ', '.join(f'{name} = {value}' for name, value in checked.items())


class Seen(NamedTuple):
  """The first step that left the finite numbers; carried on the devices.

  Attributes:
    step: int32[], that update, counted from 1; 0 while there is none.
    loss_nats: float32[], of that step.
    grad_norm: float32[], of that step.
  """

  step: Array
  loss_nats: Array
  grad_norm: Array


def nothing_seen() -> Seen:
  """Before the first step."""
  zero = jnp.zeros((), jnp.float32)
  return Seen(jnp.zeros((), jnp.int32), zero, zero)


def look(seen: Seen, step: Array, metrics: Mapping[str, Array]) -> Seen:
  """`seen` after update `step`; part of the compiled step.

  Args:
    seen: before it.
    step: int32[], updates done with it.
    metrics: of the step, float[] each; see `step.make_train_step`.
  """
  loss, norm = metrics['loss_nats'], metrics['grad_norm']
  fine = jnp.isfinite(loss) & jnp.isfinite(norm)
  new = Seen(step, loss.astype(jnp.float32), norm.astype(jnp.float32))
  keep = fine | (seen.step > 0)
  return Seen(*(jnp.where(keep, a, b) for a, b in zip(seen, new, strict=True)))


def of_first_bad(seen: Seen, num_dims: int) -> dict[str, float]:
  """The numbers of the first step that was not finite, as a record has them.

  Args:
    seen: after the steps so far.
    num_dims: D, scalars of an event.

  Returns:
    name -> number: 'loss_nats', 'bits_per_dim' and 'grad_norm'.
  """
  bits = likelihood.bits_per_dim(seen.loss_nats, num_dims)
  values = {
    'loss_nats': seen.loss_nats,
    'bits_per_dim': bits,
    'grad_norm': seen.grad_norm,
  }
  return {name: float(value) for name, value in values.items()}


class Summary(NamedTuple):
  """How a run ended.

  Attributes:
    state: after the last step.
    models: the models of the config.
    params: what to evaluate: those of the last step, or of the best
      validation under train.keep_best; the average where one is kept.
    params_name: for example 'ema of step 900'.
    valid_nats: validation of `params`, nats per example; None without one.
    stopped: 'steps' when all steps are done, 'patience' before that.
    seconds: time of this start, reading of data included, and of those
      before it up to their last saves.
    config: what made `params`; that of the start, but where a change came
      after them.
  """

  state: TrainState
  models: tuple[AutoregressiveModel, ...]
  params: Params
  params_name: str
  valid_nats: float | None
  stopped: str
  seconds: float
  config: ConfigDict
