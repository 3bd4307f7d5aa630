"""Binary conditionals."""

import jax
import jax.numpy as jnp

from parallel_ar.head import Head, Logits
from parallel_ar.types import Array, PRNGKey


def bernoulli() -> Head:
  """x_i in {0, 1} with p(x_i = 1) = sigmoid(l_i).

    log p(x_i)    = log sigmoid(l_i) if x_i = 1, else log sigmoid(-l_i)   [nats]
    x_i(l_i, g_i) = 1[l_i + g_i > 0],   g_i ~ Logistic(0, 1)

  The noise is the difference of two Gumbels, so that this is the Gumbel-max
  rule for the logits (0, l_i). `dist` is the array of logits, float[E], or
  {'logits': array}.

  For two values the rule is a maximal coupling: under shared noise two logits
  pick different values with probability |p - q|, the total variation distance,
  and no sampler of the pair can agree more often.
  """
  return Head(
    name='bernoulli',
    num_values=2,
    log_prob=_log_prob,
    noise=_noise,
    pick=_pick,
    pmf=_pmf,
    temper=lambda logits, temperature: logits / temperature,
    parts=Logits,
  )


def _log_prob(logits: Array, x: Array) -> Array:
  return -jax.nn.softplus(jnp.where(x > 0, -logits, logits))


def _noise(key: PRNGKey, position: Array) -> Array:
  # mode='high': float32 uniforms of the default mode cut the tails at 1e-7.
  gumbel = jax.random.gumbel(
    jax.random.fold_in(key, position), (2,), mode='high'
  )
  return gumbel[1] - gumbel[0]


def _pick(logits: Array, noise: Array) -> Array:
  return (logits + noise > 0).astype(jnp.int32)


def _pmf(logits: Array) -> Array:
  return jnp.stack([jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits)], -1)
