"""Conditionals over a finite alphabet."""

import jax
import jax.numpy as jnp

from parallel_ar.model import Head
from parallel_ar.types import Array, PRNGKey


def categorical(num_values: int) -> Head:
  """x_i in {0, ..., V-1} with p(x_i = v) = softmax(l_i)_v.

    log p(x_i)    = l_i[x_i] - logsumexp(l_i)                           [nats]
    x_i(l_i, g_i) = argmax_v (l_i[v] + g_i[v]),   g_i[v] ~ Gumbel(0, 1)

  `dist` is the array of logits, float[E, V]. Under shared noise two logits
  agree with probability at least (1 - TV) / (1 + TV).

  Args:
    num_values: V, at least 2.

  Raises:
    ValueError: V < 2.
  """
  if num_values < 2:
    raise ValueError(
      f'A categorical head needs at least 2 values; got {num_values}.'
    )

  def noise(key: PRNGKey, position: Array) -> Array:
    return jax.random.gumbel(
      jax.random.fold_in(key, position), (num_values,), mode='high'
    )

  return Head(
    name=f'categorical({num_values})',
    num_values=num_values,
    log_prob=_log_prob,
    noise=noise,
    pick=lambda logits, g: jnp.argmax(logits + g, -1).astype(jnp.int32),
    pmf=lambda logits: jax.nn.softmax(logits, -1),
    temper=lambda logits, temperature: logits / temperature,
  )


def _log_prob(logits: Array, x: Array) -> Array:
  log_p = jax.nn.log_softmax(logits, -1)
  return jnp.take_along_axis(log_p, x[..., None].astype(jnp.int32), -1)[..., 0]
