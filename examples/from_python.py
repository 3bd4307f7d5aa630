"""A trained run from Python, and a model of one's own: all of it has types."""

import sys

import jax
import jax.numpy as jnp

import parallel_ar as par

Params = dict[str, jax.Array]


def decaying(length: int, num_values: int) -> par.AutoregressiveModel:
  """p(x_i | x_<i) from a decaying memory."""

  def init(key: jax.Array) -> Params:
    return {'w': jax.random.normal(key, (num_values, num_values))}

  def conditionals(params: Params, x: jax.Array, context: None) -> jax.Array:
    age = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    return jnp.where(age > 0, 0.8**age, 0.0) @ params['w'][x]

  return par.from_function(
    conditionals,
    event=(length,),
    rank=par.order.raster(length),
    head=par.heads.categorical(num_values),
    init=init,
  )


def complete(run: par.Trained, count: int) -> par.Sample:
  """Samples, and again with the first half of each kept."""
  drawn = run.sample(count)
  half = run.model.num_positions // 2
  known = jnp.arange(run.model.num_positions) < half
  mask = jnp.broadcast_to(known.reshape(run.model.rank.shape), drawn.x.shape)
  keys = jax.random.split(jax.random.key(1), count)
  sampler: par.Sampler = par.ancestral(run.model)
  again = sampler(run.params, keys, x=drawn.x, known=mask)
  assert (again.x == drawn.x)[mask].all()
  return again


def main(path: str) -> None:
  """Likelihood, samples, codec and audit of the run in a directory."""
  run = par.load(path)
  print(run, par.__version__)
  sample = complete(run, 4)
  nats: jax.Array = -run.log_prob(sample.x)
  packed: bytes = run.codec().encode(run.params, sample.x)
  back = run.codec().decode(run.params, packed)
  assert (back.x == sample.x).all()
  print(
    f'{float(nats.mean()):.2f} nats, {len(packed)} bytes', sample.info.passes
  )
  model = decaying(12, 5)
  params = model.init(jax.random.key(0))
  fast = par.fixed_point(model)(params, jax.random.split(jax.random.key(2), 3))
  found = par.analysis.causality.audit(model, params, jax.random.key(3))
  print(par.log_prob(model, params, jnp.asarray(fast.x)), found.describe())


if __name__ == '__main__':
  main(sys.argv[1])
