"""What training carries from one step to the next.

Everything a resumed run needs is in this record; what is only looked at (loss,
norms, rates) travels apart from it, in the metrics of the step.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from parallel_ar.model import AutoregressiveModel
from parallel_ar.training import mup, rules, spikes
from parallel_ar.training import optimizer as optimizer_lib
from parallel_ar.training.spikes import Spikes
from parallel_ar.types import Array, Context, Params, PRNGKey


class TrainState(NamedTuple):
  """The whole state of a run; a pytree.

  Attributes:
    step: int32[], optimizer updates done so far.
    params: trainable parameters.
    ema: moving average of `params` with the same structure, or that of the
      rule itself (schedule-free), or None.
    opt_state: state of the optimizer.
    spikes: what the last steps were like, or None where none is skipped.
  """

  step: Array
  params: Params
  ema: Params | None
  opt_state: Any
  spikes: Spikes | None = None


def create(
  model: AutoregressiveModel,
  optimizer: optax.GradientTransformation,
  key: PRNGKey,
  *,
  ema: bool = False,
  spike_window: int = 0,
  data: tuple[Array, Context] | None = None,
) -> TrainState:
  """State before the first step.

  The average starts as a copy of the parameters; `step.make_train_step` says
  how fast it forgets that start.

  Args:
    model: model whose `init` makes the parameters.
    optimizer: transformation whose `init` makes the optimizer's state.
    key: PRNG key of the initial parameters.
    ema: whether to keep a moving average.
    spike_window: steps that a spike is measured against; 0 skips none.
    data: x[B, *event] and context[B] that a model with `init_from_data` starts
      from; others do not read it.

  Returns:
    A TrainState at step 0.

  Raises:
    ValueError: the model has no parameters, or two averages were asked for.
  """
  if data is not None and model.init_from_data is not None:
    params = model.init_from_data(key, *data)
  else:
    params = model.init(key)
  if not any(leaf.size for leaf in jax.tree.leaves(params)):
    raise ValueError(
      f'{model.name} has 0 parameters, so that nothing can be trained. What a '
      'function captures, such as a module, is a constant: give from_function '
      'init=, or take par.from_nnx, from_equinox, from_linen or from_haiku.'
    )
  opt_state = optimizer.init(params)
  average = rules.average(opt_state, params)
  if average is not None and ema:
    raise ValueError(
      'A schedule-free optimizer keeps an average of its own, which is what is '
      'evaluated: set config.train.ema_decay = 0.'
    )
  if ema or average is not None:
    average = jax.tree.map(jnp.copy, params)  # both start there
  return TrainState(
    jnp.zeros((), jnp.int32),
    params,
    average,
    opt_state,
    spikes.create(spike_window) if spike_window else None,
  )


def of_config(
  config: ConfigDict, model: AutoregressiveModel
) -> tuple[optax.GradientTransformation, Callable[..., TrainState]]:
  """The optimizer of a run, and its `create(key, data=None)`.

  Args:
    config: the configuration of the run.
    model: the first of its models.

  Raises:
    ValueError: of the optimizer, or of its `mup_base`; when called, as
      `create`.
  """
  rule = optimizer_lib.make(
    config.optimizer, steps=config.train.steps, by_width=mup.rates(config)
  )
  window = config.train.skip_window if config.train.skip_sigmas else 0
  made = functools.partial(
    create,
    mup.initialised(model, config),
    rule,
    ema=config.train.ema_decay > 0,
    spike_window=window,
  )
  return rule, made


def first_data(model: AutoregressiveModel, batches: Any) -> Any:
  """What `create` starts from: the first batch, if the model reads one."""
  if model.init_from_data is None:
    return None
  batch = batches[0]
  x = batch['x'].astype(model.event.dtype)
  return x, None if model.context is None else batch['context']


def all_finite(tree: Any) -> Array:
  """bool[]: whether no inexact leaf of `tree` holds a nan or an infinity."""
  leaves = [
    jnp.all(jnp.isfinite(leaf))
    for leaf in jax.tree.leaves(tree)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  ]
  return jnp.all(jnp.stack(leaves)) if leaves else jnp.array(True)
