"""Exact likelihoods: one pass, and the sequential oracle it must equal.

All functions take a leading batch axis, are pure, and are jitted by the
caller. Values are nats unless the name says bits.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import doors, order, partition
from parallel_ar.decode import derive_decode
from parallel_ar.model import AutoregressiveModel, over_positions
from parallel_ar.types import Array, Context, Params


def log_prob_terms(
  model: AutoregressiveModel, params: Params, x: Array, context: Context = None
) -> Array:
  """log p(x_i | x_<i) of every position, from one pass.

  Args:
    model: the model.
    params: its parameters.
    x: array[B, *event].
    context: pytree with leading axis B, or None.

  Returns:
    float[B, E], nats.
  """

  def one(x, context):
    return model.head.log_prob(model.conditionals(params, x, context), x)

  x, context = doors.check_batch(model, x, context)
  return partition.vmap(one, 0, x.shape[0])(x, context)


def log_prob(
  model: AutoregressiveModel, params: Params, x: Array, context: Context = None
) -> Array:
  """log p(x) = sum_i log p(x_i | x_<i), all terms from one pass.

  Args:
    model: the model.
    params: its parameters.
    x: array[B, *event].
    context: pytree with leading axis B, or None.

  Returns:
    float[B], nats.
  """
  return _total(log_prob_terms(model, params, x, context))


def sequential_log_prob(
  model: AutoregressiveModel, params: Params, x: Array, context: Context = None
) -> Array:
  """log p(x) one rank after another: the oracle for `log_prob`.

  Pass r sees only the prefix {x_j : rank[j] < r} (zeros elsewhere) and gives
  only the terms of rank r, so a model that reads the future is found out. R
  passes, no cache.

  Args:
    model: the model.
    params: its parameters.
    x: array[B, *event].
    context: pytree with leading axis B, or None.

  Returns:
    float[B], nats.
  """
  rank = jnp.asarray(model.rank)

  def one(x, context):
    def body(r, total):
      prefix = jnp.where(over_positions(rank < r, x), x, jnp.zeros_like(x))
      dist = model.conditionals(params, prefix, context)
      terms = model.head.log_prob(dist, x)
      return total + jnp.where(rank == r, terms, 0).sum(dtype=total.dtype)

    return jax.lax.fori_loop(0, model.depth, body, jnp.zeros(()))

  x, context = doors.check_batch(model, x, context)
  return jax.vmap(one)(x, context)


def blockwise_log_prob(
  model: AutoregressiveModel, params: Params, x: Array, context: Context = None
) -> Array:
  """log p(x) block after block, in the memory of one block.

  What `log_prob` computes in one pass, from the state that the model's decode
  path carries from block to block: a long event is evaluated in memory that
  does not grow with its length, where that state does not. The gradient keeps
  the state before each block and computes the rest again.

  Args:
    model: one whose path has blocks: rows of an image, segments of a text.
    params: its parameters.
    x: array[B, *event].
    context: pytree with leading axis B, or None.

  Returns:
    float[B], nats; equal to `log_prob` up to rounding.

  Raises:
    ValueError: the model has no blocks.
  """
  x, context = doors.check_batch(model, x, context)
  blocks = (model.decode or derive_decode(model)).blocks
  if not blocks:
    raise ValueError(
      f'{model.name} has no path by blocks. Use log_prob, a model of an image '
      'in raster order, or transformer_xl.'
    )
  slots = order.slots(model.rank)

  def one(x, context):
    rows = x.reshape(slots.size, *x.shape[model.rank.ndim :])[slots]
    rows = rows.reshape(-1, blocks.size, *rows.shape[1:])

    @jax.checkpoint
    def step(carry, at):
      cache, last, total = carry
      b, row = at
      cache, given = blocks.begin(params, cache, b, last)
      dist = blocks.conditionals(params, given, row)
      total += model.head.log_prob(dist, row).sum()
      return (cache, row, total), None

    first = blocks.init(params, context), jnp.zeros_like(rows[0]), jnp.zeros(())
    ends, _ = jax.lax.scan(step, first, (jnp.arange(len(rows)), rows))
    return ends[2]

  return jax.vmap(one)(x, context)


def mixture_log_prob(
  models: Sequence[AutoregressiveModel],
  params: Params,
  x: Array,
  context: Context = None,
) -> Array:
  """log (1/K) sum_k p_k(x): the exact likelihood of a uniform mixture.

  Members share one params tree and differ in masks or order. Probabilities of
  whole events are averaged. Averaging the logits of different orders position
  by position would let a position read its own future.

  Args:
    models: K models of the same event.
    params: shared parameters.
    x: array[B, *event].
    context: pytree with leading axis B, or None.

  Returns:
    float[B], nats.

  Raises:
    ValueError: no models.
  """
  if not models:
    raise ValueError('A mixture needs at least one model; got none.')
  each = jnp.stack([log_prob(m, params, x, context) for m in models])
  return jax.nn.logsumexp(each, 0) - np.float32(np.log(len(models)))


def bits_per_dim(nats: Array | float, num_dims: int) -> Array | float:
  """Negative log-likelihood in nats -> bits/dim = nats / (num_dims ln 2).

  Args:
    nats: float, or float[...].
    num_dims: D, scalars of an event, see `AutoregressiveModel.num_dims`.

  Returns:
    float, or float[...], bits per dimension.
  """
  return nats / (num_dims * float(np.log(2)))


def _total(terms: Array) -> Array:
  size = math.prod(terms.shape[1:])  # -1 has no meaning for no examples
  return terms.reshape(terms.shape[0], size).sum(-1)
