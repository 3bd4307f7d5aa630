"""Real-valued conditionals."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar.head import Head
from parallel_ar.types import Array, PRNGKey

_MIN_LOG_SCALE = -87.0
_MOST = 1e19  # deviations; its square is still a float32


class Mixture(NamedTuple):
  """Parameters of the mixtures: what `dist` is.

  Attributes:
    logits: float[E, K], of the weights.
    means: float[E, K].
    log_scales: float[E, K], of the standard deviations.
  """

  logits: Array
  means: Array
  log_scales: Array


def gaussian_mixture(num_components: int = 1) -> Head:
  """p(x_i) = sum_k w_k N(x_i; m_k, s_k^2), a density over the reals.

    log p(x_i)    = logsumexp_k (log w_k + log N(x_i; m_k, s_k^2))      [nats]
    x_i(d_i, g_i) = m_k + s_k e_i,  k = argmax_k (log w_k + g_ik)

  with g_ik ~ Gumbel(0, 1) and e_i ~ N(0, 1). `dist` is a `Mixture`, or
  {'logits': ..., 'means': ..., 'log_scales': ...}, each float[E, K]; a plain
  tuple is read in that order. A density has no pmf, and its log-likelihood
  depends on the unit of x.

  Args:
    num_components: K; 1 is one Gaussian, whose pick is the affine map of MAF.

  Raises:
    ValueError: K < 1.

  References:
    Uria, Murray, Larochelle: RNADE. NeurIPS 2013, eq. 6.
    Papamakarios, Pavlakou, Murray: Masked autoregressive flow for density
    estimation. NeurIPS 2017, section 3.1.
  """
  if num_components < 1:
    raise ValueError(
      f'A mixture needs at least 1 component; got {num_components}.'
    )

  def noise(key: PRNGKey, position: Array) -> Any:
    which, where = jax.random.split(jax.random.fold_in(key, position))
    # mode='high': see `heads.categorical`.
    gumbel = jax.random.gumbel(which, (num_components,), mode='high')
    return gumbel, jax.random.normal(where)

  def of_components(function: Callable) -> Callable:
    def of(dist: Mixture, *args: Any) -> Array:
      for name, part in zip(Mixture._fields, dist, strict=True):
        if part.shape[-1:] != (num_components,):
          raise ValueError(
            f'the head has K = {num_components} components, but the last axis '
            f'of {name} {part.shape} is none of {num_components}'
          )
      return function(dist, *args)

    return of

  return Head(
    name=f'gaussian_mixture({num_components})',
    num_values=None,
    log_prob=of_components(_log_prob),
    noise=noise,
    pick=of_components(_pick),
    parts=Mixture,
  )


def _log_prob(dist: Mixture, x: Array) -> Array:
  logits, means, log_scales = dist
  # 0 * inf is nan, and so is the gradient of a square that overflows.
  steep = jnp.exp(-jnp.maximum(log_scales, _MIN_LOG_SCALE))
  z = jnp.clip((x[..., None] - means) * steep, -_MOST, _MOST)
  log_normal = -0.5 * (z**2 + math.log(2 * math.pi)) - log_scales
  weights = jax.nn.log_softmax(logits, -1)
  return jax.nn.logsumexp(weights + log_normal, -1)


def _pick(dist: Mixture, noise: Any) -> Array:
  logits, means, log_scales = dist
  gumbel, normal = noise
  k = jnp.argmax(logits + gumbel, -1)[..., None]
  mean, log_scale = (
    jnp.take_along_axis(a, k, -1)[..., 0] for a in (means, log_scales)
  )
  return mean + jnp.exp(log_scale) * normal
