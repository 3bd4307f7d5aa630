"""A model and data of one's own, which configs name: examples.mine:net."""

import jax
import jax.numpy as jnp
import numpy as np

import parallel_ar as par


def net(
  length: int = 12, num_values: int = 5, features: int = 8
) -> par.AutoregressiveModel:
  """p(x_i | x_<i) from a decaying memory; its arguments are config.model's."""

  def init(key):
    w = jax.random.normal(key, (2, num_values, features)) * 0.1
    return {'read': w[0], 'write': w[1].T, 'decay': jnp.array(0.0)}

  def conditionals(params, x, context):
    age = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    decay = jax.nn.sigmoid(params['decay']) ** jnp.maximum(age - 1, 0)
    seen = jnp.where(age > 0, decay, 0.0) @ params['read'][x]
    return jnp.tanh(seen) @ params['write']

  return par.from_function(
    conditionals,
    event=(length,),
    rank=par.order.raster(length),
    head=par.heads.categorical(num_values),
    init=init,
    name='mine',
  )


def walk(split: str, length: int = 12, num_values: int = 5) -> par.data.Dataset:
  """Random walks on a circle of symbols: steps of -1, 0 or 1."""
  seed = ('train', 'valid', 'test').index(split)
  steps = np.random.RandomState(seed).randint(-1, 2, (500, length))
  x = np.cumsum(steps, axis=1) % num_values
  return par.data.Dataset('walk', split, x.astype(np.int32), num_values)
