"""A function of one's own: p(x_i | x_<i) from a decaying memory of x_<i."""

import jax
import jax.numpy as jnp

import parallel_ar as par


def model():
  """The model that docs/audit.md audits; `--model` calls it."""

  def conditionals(params, x, context):
    seen = jax.nn.one_hot(x, 5) @ params['w']
    age = jnp.arange(12)[:, None] - jnp.arange(12)[None, :]
    return jnp.where(age > 0, 0.8**age, 0.0) @ seen

  return par.from_function(
    conditionals,
    event=(12,),
    rank=par.order.raster(12),
    head=par.heads.categorical(5),
    init=lambda key: {'w': jax.random.normal(key, (5, 5))},
  )
