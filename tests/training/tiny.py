"""A model small enough to train a thousand times in a test."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import heads, model, order


def fvsbn(
  event=(4, 3), rank=None, dtype=jnp.float32, num_classes=0, init_scale=0.0
):
  """logit_i = b_i + sum_{rank j < rank i} W_ij x_j, a sigmoid belief net."""
  rank = order.raster(event) if rank is None else rank
  flat = np.asarray(rank).reshape(-1)
  mask = (flat[None, :] < flat[:, None]).astype(np.float32)
  size = flat.size

  def init(key):
    weights = init_scale * jax.random.normal(key, (size, size))
    params = {'w': weights, 'b': jnp.zeros(size)}
    if num_classes:
      params['label'] = jnp.ones((num_classes, size))
    return params

  def logits(params, x, context):
    inputs = x.reshape(-1).astype(dtype)
    out = (mask * params['w']).astype(dtype) @ inputs
    out = out.astype(jnp.float32) + params['b']
    if num_classes:
      out = out + params['label'][context]
    return out.reshape(x.shape)

  context = jax.ShapeDtypeStruct((), jnp.int32) if num_classes else None
  return model.from_function(
    logits,
    event=event,
    rank=rank,
    head=heads.bernoulli(),
    init=init,
    context=context,
    name='fvsbn',
  )


def fitted(event=(4, 3), **options):
  """The same net, whose biases begin as the means of the first batch."""
  net = fvsbn(event, **options)

  def from_data(key, x, context):
    return net.init(key) | {'b': x.reshape(len(x), -1).mean(0)}

  return dataclasses.replace(net, init_from_data=from_data, name='fitted')


def drawn(event=(4, 3), **options):
  """The same net, whose objective leaves out half of the terms, drawn.

  Its mean over keys is -log p(x).
  """
  net = fvsbn(event, **options)

  def objective(params, x, context, key):
    terms = net.head.log_prob(net.conditionals(params, x, context), x)
    return -2 * jnp.sum(terms * jax.random.bernoulli(key, 0.5, x.shape))

  return dataclasses.replace(net, objective=objective, name='drawn')
