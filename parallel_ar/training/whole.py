"""A trained run in whole numbers: the examples of its grids, and training on.

Training on the grids of a run's whole numbers minimises

  - sum_i sum_v p(v | x_<i) log q(v | x_<i)                    nats per example

over training examples x, where p is the run as it is and q the pass on the
grids, its probabilities those of whole frequencies of 16 bits. It is the loss
in whole numbers itself, KL(p | q) and the entropy of p, and not the likelihood
of the training data, which a run that has seen them often fits further by
forgetting others. See `parallel_ar.exact`.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from parallel_ar.coding import quantize
from parallel_ar.data import dataset, pipeline
from parallel_ar.exact import straight_through
from parallel_ar.model import AutoregressiveModel, Objective
from parallel_ar.training import datasets, optimizer, step
from parallel_ar.training.state import TrainState
from parallel_ar.training.trained import Trained
from parallel_ar.types import Array, Context, Params


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


class Updates(NamedTuple):
  """How a run is trained on the grids.

  Attributes:
    steps: updates.
    rate: peak of their learning rate, in parts of the run's. It rises for a
      tenth of them and falls to 0 by a cosine.
    ema_decay: of the moving average of the parameters; 0: none.
    targets: 'model', the probabilities of the run as it is, or 'data', the
      likelihood of its training examples.
  """

  steps: int
  rate: float = 0.1
  ema_decay: float = 0.95
  targets: Literal['model', 'data'] = 'model'


def tune(
  run: Trained,
  shown: Examples,
  updates: Updates,
  *,
  weight_bits: int,
  activation_bits: int,
  data_dir: str | None = None,
) -> Params:
  """Parameters that were trained on the grids they will be lowered to.

  The batches and the optimizer are those of the run, the optimizer begun anew.

  Args:
    run: of one model.
    shown: of `examples`.
    updates: how many, and how.
    weight_bits: as for `par.exact`.
    activation_bits: as there.
    data_dir: where data files lie.

  Returns:
    The parameters, averaged where `updates` says so.
  """
  model = straight_through(
    run.model,
    run.params,
    shown.x,
    shown.context,
    weight_bits=weight_bits,
    activation_bits=activation_bits,
  )
  if updates.targets == 'model':
    model = dataclasses.replace(model, objective=_towards(run, model))
  section = ConfigDict(run.config.optimizer.to_dict())
  section.learning_rate *= updates.rate
  section.schedule, section.schedule_options = 'cosine', {}
  section.decay_steps, section.end_factor = 0, 0.0
  section.warmup_steps = updates.steps // 10
  rule = optimizer.make(section, steps=updates.steps)
  train_step = jax.jit(
    step.make_train_step(
      [model],
      rule,
      schedule=optimizer.schedule(section, steps=updates.steps),
      ema_decay=updates.ema_decay,
      seed=run.config.seed,
    )
  )
  batches = pipeline.batches(
    run.load_split('train', data_dir),
    run.config.train.batch_size,
    run.config.seed,
  )
  zero = jnp.zeros((), jnp.int32)
  average = run.params if updates.ema_decay else None
  state = TrainState(zero, run.params, average, rule.init(run.params))
  for n in range(updates.steps):
    state, _ = train_step(state, batches[n])
  return state.params if state.ema is None else state.ema


def _towards(run: Trained, grids: AutoregressiveModel) -> Objective:
  """The cross entropy of the grids' model and the run's."""
  total = 2**quantize.PRECISION

  def objective(params, x, context, key):
    def of(model: AutoregressiveModel, params: Params) -> Array:
      dist = model.conditionals(params, x, context)
      return quantize.probabilities(model.head, dist, x)

    want, found = of(run.model, run.params), of(grids, params)
    found = (found * (total - found.shape[-1]) + 1) / total
    return -(want * jnp.log(found)).sum()

  return objective
