"""A trained run in whole numbers: the examples of its grids, and training on.

See `parallel_ar.exact`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from parallel_ar.data import dataset, pipeline
from parallel_ar.exact import straight_through
from parallel_ar.training import datasets, optimizer, step
from parallel_ar.training.state import TrainState
from parallel_ar.training.trained import Trained
from parallel_ar.types import Context, Params


class Examples(NamedTuple):
  """What ranges are taken from.

  Attributes:
    x: integers[N, *event].
    context: of the examples, leading axis N, or None.
  """

  x: np.ndarray
  context: Context


def examples(run: Trained, count: int, data_dir: str | None = None) -> Examples:
  """The first examples of a run's validation split."""
  shown = first(run.load_split('valid', data_dir), count)
  x = np.asarray(shown.x).astype(run.model.event.dtype)
  return Examples(x, datasets.contexts(run.model, shown, len(shown)))


def first(data: dataset.Dataset, count: int) -> dataset.Dataset:
  """The first examples of a split, as bits where it holds grey levels."""
  context = None if data.context is None else data.context[:count]
  data = dataclasses.replace(data, x=data.x[:count], context=context)
  return dataset.binarize_once(data)


def tune(
  run: Trained,
  shown: Examples,
  *,
  weight_bits: int,
  activation_bits: int,
  steps: int,
  rate: float = 0.1,
  data_dir: str | None = None,
) -> Params:
  """Parameters that were trained on the grids they will be lowered to.

  Some updates of -log p of the run's own training batches, with the optimizer
  of its configuration begun anew: its schedule is as long as these updates, and
  its peak a part of the run's.

  Args:
    run: of one model.
    shown: of `examples`.
    weight_bits: as for `par.exact`.
    activation_bits: as there.
    steps: updates.
    rate: of the run's learning rate.
    data_dir: where data files lie.

  Returns:
    The parameters; there is no moving average of them.
  """
  section = ConfigDict(run.config.optimizer.to_dict())
  section.learning_rate *= rate
  section.warmup_steps = min(section.warmup_steps, steps // 10)
  section.decay_steps = 0
  rule = optimizer.make(section, steps=steps)
  model = straight_through(
    run.model,
    run.params,
    shown.x,
    shown.context,
    weight_bits=weight_bits,
    activation_bits=activation_bits,
  )
  train_step = jax.jit(
    step.make_train_step(
      [model],
      rule,
      schedule=optimizer.schedule(section, steps=steps),
      seed=run.config.seed,
    )
  )
  batches = pipeline.batches(
    run.load_split('train', data_dir),
    run.config.train.batch_size,
    run.config.seed,
  )
  zero = jnp.zeros((), jnp.int32)
  state = TrainState(zero, run.params, None, rule.init(run.params))
  for n in range(steps):
    state, _ = train_step(state, batches[n])
  return state.params
