"""Mixtures of discretized logistics over the channels of a pixel."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar.head import Head
from parallel_ar.types import Array, PRNGKey

_MIN_LOG_SCALE = -7.0
_LEAST_WIDTH = 1e-30


class Logistics(NamedTuple):
  """Parameters of the mixtures: what `dist` is.

  Attributes:
    logits: float[E, K], of the mixture.
    means: float[E, C, K], on the scale where values go from -1 to 1.
    log_scales: float[E, C, K].
    links: float[E, C (C - 1) / 2, K]: channel 1 on 0, 2 on 0, 2 on 1, ...;
      None for one channel.
  """

  logits: Array
  means: Array
  log_scales: Array
  links: Array | None = None


def discretized_logistic(
  num_values: int, channels: int = 1, num_mixtures: int = 10
) -> Head:
  """p(x_i) = sum_k w_k prod_c P(x_ic | x_i,<c, k) for a pixel of C channels.

    P(v | m, s) = F((v + d - m) / s) - F((v - d - m) / s),   d = 1 / (V - 1)
    m_c = mean_c + sum_{b<c} link_cb v_b

  with F the logistic function and v = 2 x / (V - 1) - 1; the bins of 0 and
  V - 1 reach to infinity, so the V probabilities sum to 1. One k serves all
  channels, which form a chain: a pixel is one position with a closed form.

  A pick takes k by Gumbel noise, and then v_c = m_c + s_c g_c, g_c ~ Logistic,
  rounded to the nearest value, channel after channel.

  `dist` is a `Logistics`, or a dict with its parts; events are int[E, C].

  Args:
    num_values: V.
    channels: C.
    num_mixtures: K.

  Raises:
    ValueError: V < 2, C < 1 or K < 1.

  References:
    Salimans, Karpathy, Chen, Kingma: PixelCNN++. ICLR 2017, section 2.1, 2.2.
  """
  if num_values < 2 or channels < 1 or num_mixtures < 1:
    raise ValueError(
      'discretized_logistic takes at least 2 values, 1 channel and 1 mixture; '
      f'got {num_values}, {channels} and {num_mixtures}.'
    )

  def noise(key: PRNGKey, position: Array) -> Any:
    which, where = jax.random.split(jax.random.fold_in(key, position))
    # mode='high': see `heads.categorical`.
    component = jax.random.gumbel(which, (num_mixtures,), mode='high')
    # A logistic is the difference of two Gumbels.
    two = jax.random.gumbel(where, (channels, 2), mode='high')
    return component, two[:, 1] - two[:, 0]

  def log_prob(dist: Logistics, x: Array) -> Array:
    terms = channel_log_probs(dist, x, num_values).sum(-2)
    return jax.nn.logsumexp(terms + jax.nn.log_softmax(dist.logits, -1), -1)

  def mixed(weights: Array, dist: Logistics, x: Array, c: int) -> Array:
    mean = _means(dist, x, num_values)[..., c, :]
    every = _bins(mean, dist.log_scales[..., c, :], num_values)
    return (jnp.exp(weights)[..., None, :] * every).sum(-1)

  def pmf(dist: Logistics) -> Array:
    x = jnp.zeros((*dist.logits.shape[:-1], 1), jnp.int32)  # it is not read
    return mixed(jax.nn.log_softmax(dist.logits, -1), dist, x, 0)

  def chain(dist: Logistics, x: Array) -> Array:
    own = channel_log_probs(dist, x, num_values)
    weights = jax.nn.log_softmax(dist.logits, -1)
    parts = []
    for c in range(channels):
      parts.append(mixed(weights, dist, x, c))
      weights = jax.nn.log_softmax(weights + own[..., c, :], -1)
    return jnp.stack(parts, -2)

  return Head(
    name=f'discretized_logistic({num_values}, {channels} channels)',
    num_values=num_values,
    log_prob=log_prob,
    noise=noise,
    pick=lambda dist, noise: _pick(dist, noise, num_values),
    pmf=pmf if channels == 1 else None,
    chain=chain,
    parts=Logistics,
  )


def _pick(dist: Logistics, noise: Any, num_values: int) -> Array:
  """The component of the Gumbels, and its logistics channel after channel."""
  gumbel, logistic = noise
  k = jnp.argmax(dist.logits + gumbel, -1)[..., None, None]
  of_k = lambda a: jnp.take_along_axis(a, k, -1)[..., 0]
  means, log_scales, links = jax.tree.map(of_k, tuple(dist[1:]))
  scales = jnp.exp(jnp.maximum(log_scales, _MIN_LOG_SCALE))
  values: list[Array] = []
  for c in range(means.shape[-1]):
    first = c * (c - 1) // 2
    mean = means[..., c]
    for b, before in enumerate(values):
      mean = mean + links[..., first + b] * _scaled(before, num_values)
    v = mean + scales[..., c] * logistic[..., c]
    index = jnp.round((v + 1) * (num_values - 1) / 2)
    values.append(jnp.clip(index, 0, num_values - 1).astype(jnp.int32))
  return jnp.stack(values, -1)


def num_outputs(channels: int, num_mixtures: int) -> int:
  """Numbers that make the parameters of one position."""
  return num_mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)


def from_outputs(out: Array, channels: int, num_mixtures: int) -> Logistics:
  """The parameters of float[E, num_outputs(C, K)], links within -1..1."""
  out = out.astype(jnp.float32).reshape(*out.shape[:-1], -1, num_mixtures)
  logits, means, scales, links = jnp.split(
    out, [1, 1 + channels, 1 + 2 * channels], -2
  )
  chain = jnp.tanh(links) if channels > 1 else None
  return Logistics(logits[..., 0, :], means, scales, chain)


def channel_log_probs(dist: Logistics, x: Array, num_values: int) -> Array:
  """log P(x_c | x_<c, k) of every channel and component, float[E, C, K]."""
  means = _means(dist, x, num_values)
  return _log_bins(x[..., None], means, dist.log_scales, num_values)


def _means(dist: Logistics, x: Array, num_values: int) -> Array:
  """mean_c + sum_{b<c} link_cb v_b, float[E, C, K]."""
  v, means, first = _scaled(x, num_values)[..., None], [], 0
  for c in range(x.shape[-1]):
    mean = dist.means[..., c, :]
    if dist.links is not None:
      links = dist.links[..., first : first + c, :]
      mean = mean + (links * v[..., :c, :]).sum(-2)
    means.append(mean)
    first += c
  return jnp.stack(means, -2)


def _log_bins(x: Array, mean: Array, log_scales: Array, num: int) -> Array:
  """log of the logistic's part in the bins of x.

  The middle bins use F(a) - F(b) = F(a) F(-b) (1 - exp(b - a)), which neither
  cancels nor underflows, so that no second formula is needed for far values.
  a - b = 2 d / s is computed as such: of the two edges, far from 0, it cancels.
  """
  log_scales = jnp.maximum(log_scales, _MIN_LOG_SCALE)
  scales = jnp.exp(-log_scales)
  edge = lambda n: (2.0 * n.astype(jnp.float32) + 1) / (num - 1) - 1
  upper = (edge(x) - mean) * scales
  lower = (edge(x - 1) - mean) * scales
  below = jax.nn.log_sigmoid(upper)  # log F(a)
  above = jax.nn.log_sigmoid(-lower)  # log (1 - F(b))
  log_width = math.log(2 / (num - 1)) - log_scales
  width = jnp.maximum(jnp.exp(log_width), _LEAST_WIDTH)
  # Of bins so narrow that 1 - exp(-width) is lost, the width itself is left.
  wide = jnp.log(-jnp.expm1(-width))
  middle = below + above + jnp.where(width > _LEAST_WIDTH, wide, log_width)
  inner = jnp.where(x == num - 1, above, middle)
  return jnp.where(x == 0, below, inner)


def _bins(mean: Array, log_scales: Array, num: int) -> Array:
  """The logistic's part in every bin, float[E, V, K] of float[E, K].

  As `_log_bins`, without logarithms: F(a) and F(-a) of an edge come of one
  exponential, so that all values cost little more than one.
  """
  scale = jnp.exp(-jnp.maximum(log_scales, _MIN_LOG_SCALE))
  edges = jnp.arange(1, 2 * num - 2, 2, jnp.float32) / (num - 1) - 1
  a = jax.vmap(lambda edge: (edge - mean) * scale, out_axes=-2)(edges)
  small = jnp.exp(-abs(a))
  near, far = 1 / (1 + small), small / (1 + small)
  one = jnp.ones_like(a[..., :1, :])
  below = jnp.concatenate([jnp.where(a < 0, far, near), one], -2)
  above = jnp.concatenate([one, jnp.where(a < 0, near, far)], -2)
  wide = -jnp.expm1(-2 / (num - 1) * scale)[..., None, :]
  wide = jnp.repeat(wide, num - 2, -2)
  return below * above * jnp.concatenate([one, wide, one], -2)


def _scaled(x: Array, num_values: int) -> Array:
  return 2.0 * x.astype(jnp.float32) / (num_values - 1) - 1.0
