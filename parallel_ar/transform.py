"""Models made from models."""

import dataclasses

import jax
import numpy as np

from parallel_ar import order
from parallel_ar.decode import map_dist
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import ArrayLike


def with_temperature(
  model: AutoregressiveModel, temperature: float
) -> AutoregressiveModel:
  """Another model, whose every conditional is tempered.

    q(x) = prod_i q(x_i | x_<i),   q(x_i | x_<i) prop. to p(x_i | x_<i)^(1/T)

  This changes the model: its likelihood is that of q, and q is not the
  tempered joint p(x)^(1/T) / Z, whose normaliser couples all positions.

  Args:
    model: p.
    temperature: T > 0; below 1 sharpens, above 1 flattens.

  Raises:
    ValueError: T is not positive and finite, or the head has no tempering.
  """
  if not 0 < temperature < float('inf'):
    raise ValueError(
      f'temperature must be positive and finite; got {temperature}. For the '
      'greedy limit use a small one, such as 1e-4.'
    )
  temper = model.head.temper
  if temper is None:
    raise ValueError(
      f'The head {model.head.name} of {model.name} defines no `temper`, so '
      'its conditionals cannot be tempered.'
    )

  def conditionals(params, x, context):
    return temper(model.conditionals(params, x, context), temperature)

  def change(dist):
    return temper(dist, temperature)

  decode = model.decode and map_dist(model.decode, change)
  return dataclasses.replace(
    model,
    conditionals=conditionals,
    decode=decode,
    features=None,
    objective=None,  # it bounds another likelihood
    name=f'{model.name} at temperature {temperature:g}',
  )


def permute(
  model: AutoregressiveModel, positions: ArrayLike
) -> AutoregressiveModel:
  """The same model with its positions renamed.

  Position d of the new event z shows position positions[d] of the old event
  x: z = x[positions] on flattened positions, and the rank goes along. A
  transposed raster order of an image model, for example.

  Args:
    model: model of x.
    positions: int[D], a permutation of 0..D-1.

  Returns:
    A model of z with the same event shape, depth and probabilities.

  Raises:
    ValueError: `positions` is no permutation of 0..D-1.
  """
  shape = model.rank.shape
  inverse = order.permutation(positions, shape).reshape(-1)
  positions = np.asarray(positions).reshape(-1)

  def gather(leaf, index):
    flat = leaf.reshape((index.size, *leaf.shape[len(shape) :]))
    return flat[index].reshape(leaf.shape)

  def conditionals(params, z, context):
    dist = model.conditionals(params, gather(z, inverse), context)
    return jax.tree.map(lambda leaf: gather(leaf, positions), dist)

  def objective(params, z, context, key):
    assert model.objective is not None
    return model.objective(params, gather(z, inverse), context, key)

  def from_data(key, z, context):
    assert model.init_from_data is not None
    x = jax.vmap(lambda z: gather(z, inverse))(z)
    return model.init_from_data(key, x, context)

  return dataclasses.replace(
    model,
    rank=gather(model.rank, positions),
    conditionals=conditionals,
    decode=None,
    features=None,
    objective=model.objective and objective,
    init_from_data=model.init_from_data and from_data,
    name=f'permuted {model.name}',
  )
