"""How much one position sways another: the rounds that sampling needs.

  C_ij = E_x TV(p(x_i | x_<i), p(x_i | x'_<i)),   x' = x but for position j

Let every sampler see one noise, keyed by position, and let x* be the sample and
x^k the picks after k fixed-point passes. x^k_<i and x*_<i are functions of the
noise before i, so noise_i is independent of both. Where the picks of two
conditionals differ with probability TV, as under a maximal coupling (the
Bernoulli head), and with the supremum over x in place of the mean,

  P(x^{k+1}_i != x*_i) <= sum_j C_ij P(x^k_j != x*_j)

by changing one position after another: e_{k+1} <= C e_k. If C's largest row sum
is rho < 1 the expected number of wrong positions is at most D rho^k, so that
O(log D) passes suffice; else C is still strictly triangular, and R passes do.

The mean C measured here is no bound. It is a prediction, to be compared with
what fixed-point passes do.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import doors, samplers
from parallel_ar.model import AutoregressiveModel, position_noise
from parallel_ar.types import ArrayLike, Params, PRNGKey


class Decay(NamedTuple):
  """Wrong positions, one entry a pass, from the zeros of pass 0 on.

  Attributes:
    measured: float[K], mean number of positions where x^k is not x*.
    predicted: float[K], the sum over positions of C^k e_0, cut at 1.
    passes: mean passes of `fixed_point`.
  """

  measured: np.ndarray
  predicted: np.ndarray
  passes: float


def matrix(
  model: AutoregressiveModel, params: Params, x: ArrayLike, *, chunk: int = 56
) -> np.ndarray:
  """The mean influence matrix over events.

  Args:
    model: unconditional, with a head that has a pmf and one symbol a position.
    params: its parameters.
    x: array[N, *event], usually samples of the model.
    chunk: events of one pass.

  Returns:
    float64[D, D] over (output i, input j); D + 1 passes an event.

  Raises:
    ValueError: a head without a pmf, a context, or vectors at a position.
  """
  pmf, num_values = model.head.pmf, model.head.num_values
  if pmf is None or num_values is None or model.context is not None:
    raise ValueError(
      f'The influence matrix needs a head with a pmf and no context; '
      f'{model.name} has {model.head.name} and the context {model.context}.'
    )
  if model.event.shape != model.rank.shape:
    raise ValueError(
      f'The influence matrix needs one symbol a position; {model.name} has '
      f'event {model.event.shape} and rank {model.rank.shape}.'
    )
  x = np.asarray(doors.check_events(model, x))
  if not len(x):
    raise ValueError('The mean over events needs at least one; got none.')
  size = model.num_positions

  def probabilities(x: Any) -> Any:
    return pmf(model.conditionals(params, x, None)).reshape(size, num_values)

  @jax.jit
  def change(x: Any, at: Any) -> Any:
    """TV of every output for each changed position `at`: float[D, D_chunk]."""
    base = probabilities(x)

    def one(j: Any) -> Any:
      flat = x.reshape(-1)
      other = flat.at[j].set((flat[j] + 1) % num_values)
      moved = probabilities(other.reshape(x.shape))
      return 0.5 * jnp.abs(moved - base).sum(-1)

    return jax.vmap(one)(at).T

  total = np.zeros((size, size))
  places = np.arange(-(-size // chunk) * chunk).reshape(-1, chunk)
  for event in x:
    columns = [change(event, np.minimum(at, size - 1)) for at in places]
    total += np.concatenate(columns, 1)[:, :size]
  return total / len(x)


def decay(
  model: AutoregressiveModel,
  params: Params,
  keys: PRNGKey,
  influence: np.ndarray,
) -> Decay:
  """Wrong positions after each fixed-point pass, measured and predicted.

  Args:
    model: the model.
    params: its parameters.
    keys: key[B], of the samples.
    influence: float[D, D], of `matrix`.

  Returns:
    A Decay until no position of any sample is wrong.
  """
  sample = samplers.fixed_point(model)(params, keys)
  want = np.asarray(sample.x)
  noise = jax.jit(jax.vmap(functools.partial(position_noise, model)))(keys)

  @jax.jit
  def one_pass(x: Any) -> Any:
    dist = jax.vmap(model.conditionals, (None, 0, None))(params, x, None)
    return jax.vmap(model.head.pick)(dist, noise).astype(x.dtype)

  x = np.zeros_like(want)
  error = (x != want).reshape(len(want), -1).mean(0)
  measured, predicted = [], []
  for _ in range(model.depth + 1):
    wrong = (np.asarray(x) != want).reshape(len(want), -1).sum(1).mean()
    measured.append(float(wrong))
    predicted.append(float(error.sum()))
    if not wrong:
      break
    error = np.minimum(influence @ error, 1)
    x = one_pass(x)
  passes = float(np.mean(sample.info.passes))
  return Decay(np.array(measured), np.array(predicted), passes)
