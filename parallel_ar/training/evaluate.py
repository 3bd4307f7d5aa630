"""The likelihood of a whole split, with nothing dropped.

  nats = -(1/N) sum_n log p(x_n),      standard error = s / sqrt(N)

with s the sample standard deviation over the N examples. The last batch is
filled up with copies of its last example, whose values are then thrown away,
so one compiled program serves every batch and every example counts once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from parallel_ar import likelihood, precision
from parallel_ar.data import dataset as data_lib
from parallel_ar.data import pipeline
from parallel_ar.data.dataset import Dataset
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import multihost
from parallel_ar.model import AutoregressiveModel
from parallel_ar.training import datasets
from parallel_ar.types import Array, Params

LogProb = Callable[[Params, Array, Any], Array]


class Evaluation(NamedTuple):
  """A likelihood, and everything that must be known to compare it.

  Attributes:
    nats: mean negative log-likelihood of an example, nats.
    standard_error: of `nats`; nan for a single example.
    bits_per_dim: nats / (num_dims ln 2).
    count: N, number of examples.
    num_dims: scalars of an example.
    per_example: float64[N], negative log-likelihoods in nats, in file order.
    dataset: source; a binarized source's name tells the binarization.
    split: which part of it.
    binarization_seed: of the one draw of a dynamically binarized source, else
      None.
    params: which parameters: 'raw', 'ema', with the step where one is chosen.
    num_models: K; above 1 the probabilities of K masks or orders are averaged.
    precision: of products of float32 on the devices, see `precision`.
  """

  nats: float
  standard_error: float
  bits_per_dim: float
  count: int  # type: ignore[assignment]
  num_dims: int
  per_example: np.ndarray
  dataset: str
  split: str
  binarization_seed: int | None
  params: str
  num_models: int
  precision: str

  def __str__(self) -> str:
    members = f', mixture of {self.num_models}' if self.num_models > 1 else ''
    drawn = ''
    if self.binarization_seed is not None:
      drawn = f' (bits drawn once, seed {self.binarization_seed})'
    # One example has none.
    error = f' +- {self.standard_error:.4f}' * (self.count > 1)
    return (
      f'{self.nats:.4f}{error} nats, '
      f'{self.bits_per_dim:.4f} bits/dim, {self.count} examples of '
      f'{self.dataset} {self.split}{drawn}, {self.params} parameters{members}'
    )


def make_log_prob(
  models: Sequence[AutoregressiveModel], level: str = 'highest'
) -> LogProb:
  """The jitted log p(x) of a batch; make it once and pass it to `evaluate`.

  Args:
    models: one model, or K that share params and form a uniform mixture.
    level: of products of float32, see `precision`.

  Returns:
    log_prob(params, x[B, *event], context) -> nats[B].

  Raises:
    ValueError: no models, or no such level.
  """
  precision.check(level)
  models = tuple(models)
  if not models:
    raise ValueError('Evaluation needs at least one model; got none.')

  def log_prob(params, x, context):
    with precision.scope(level):
      if len(models) == 1:
        return likelihood.log_prob(models[0], params, x, context)
      return likelihood.mixture_log_prob(models, params, x, context)

  return jax.jit(log_prob)


def chosen(params: str, kept: bool) -> str:
  """'raw' or 'ema': what `config.evaluate.params` means for a run.

  Args:
    params: 'raw', 'ema', or 'auto' for the average where one is kept.
    kept: whether the state has an average.

  Raises:
    ValueError: there is none, and it was asked for.
  """
  if params == 'ema' and not kept:
    raise ValueError(
      "config.evaluate.params = 'ema', but config.train.ema_decay = 0 keeps no "
      "average. Set a decay such as 0.999, or evaluate 'raw' parameters."
    )
  return 'ema' if kept and params != 'raw' else 'raw'


def evaluate(
  models: Sequence[AutoregressiveModel],
  params: Params,
  dataset: Dataset,
  batch_size: int,
  *,
  params_name: str = 'raw',
  level: str = 'highest',
  log_prob: LogProb | None = None,
  poll: Callable[[], None] | None = None,
) -> Evaluation:
  """Mean negative log-likelihood of a dataset, on the mesh in force.

  Args:
    models: one model, or K that share params and form a uniform mixture.
    params: their parameters.
    dataset: the split; grey levels of a dynamically binarized source are
      drawn once, from `data.dataset.EVALUATION_SEED`.
    batch_size: examples of one pass, at least; the result does not depend on
      it beyond rounding.
    params_name: what to call `params` in the result.
    level: of products of float32, see `precision`.
    log_prob: `make_log_prob(models, level)`, to share one compilation; None
      makes it.
    poll: called before each batch; may raise to stop early.

  Returns:
    An Evaluation.

  Raises:
    ValueError: the dataset does not fit the model, or a log-likelihood is nan.
  """
  datasets.check_fit(models[0], dataset)
  log_prob = log_prob or make_log_prob(models, level)
  drawn = dataset.binarize is not None
  batch_size = mesh_lib.round_up(batch_size)
  parts, masks = [], []
  batches = pipeline.Padded(dataset, batch_size, narrow=True)
  for index in range(len(batches)):
    if poll is not None:
      poll()
    batch = mesh_lib.place_batch(batches, index)
    context = None if models[0].context is None else batch['context']
    parts.append(log_prob(params, batch['x'], context))
    masks.append(batches.mask(index))
    if len(parts) > 1:
      jax.block_until_ready(parts[-2])  # at most two batches in flight
  parts = multihost.fetch(parts)
  per_example = -np.concatenate(parts)[np.concatenate(masks)]
  per_example = per_example.astype(np.float64)
  broken = np.flatnonzero(np.isnan(per_example))
  if broken.size:
    raise ValueError(
      f'The log-likelihood of example {broken[0]} of {dataset.name} '
      f'{dataset.split} is nan ({broken.size} of {len(per_example)} are). '
      'The parameters are broken, or the network overflows on this input.'
    )
  count, num_dims = len(per_example), models[0].num_dims
  nats = float(per_example.mean())
  deviation = per_example.std(ddof=1) if count > 1 else np.nan
  return Evaluation(
    nats=nats,
    standard_error=float(deviation / np.sqrt(count)),
    bits_per_dim=float(likelihood.bits_per_dim(nats, num_dims)),
    count=count,
    num_dims=num_dims,
    per_example=per_example,
    dataset=dataset.name,
    split=dataset.split,
    binarization_seed=data_lib.EVALUATION_SEED if drawn else None,
    params=params_name,
    num_models=len(models),
    precision=f'{level}: {precision.products(level)}',
  )
