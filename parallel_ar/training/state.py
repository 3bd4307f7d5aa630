"""What training carries from one step to the next.

Everything a resumed run needs is in this record; what is only looked at (loss,
norms, rates) travels apart from it, in the metrics of the step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from parallel_ar.model import AutoregressiveModel
from parallel_ar.training import spikes
from parallel_ar.training.spikes import Spikes
from parallel_ar.types import Array, Context, Params, PRNGKey


class TrainState(NamedTuple):
  """The whole state of a run; a pytree.

  Attributes:
    step: int32[], optimizer updates done so far.
    params: trainable parameters.
    ema: moving average of `params` with the same structure, or None.
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
    ValueError: the model has no parameters.
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
  average = jax.tree.map(jnp.copy, params) if ema else None
  return TrainState(
    jnp.zeros((), jnp.int32),
    params,
    average,
    optimizer.init(params),
    spikes.create(spike_window) if spike_window else None,
  )


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
