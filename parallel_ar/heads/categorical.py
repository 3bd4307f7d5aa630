"""Conditionals over a finite alphabet."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from parallel_ar.head import Head, Logits
from parallel_ar.types import Array, PRNGKey

Coupling = Literal['gumbel', 'inverse_cdf']


def categorical(num_values: int, coupling: Coupling = 'gumbel') -> Head:
  """x_i in {0, ..., V-1} with p(x_i = v) = softmax(l_i)_v.

    log p(x_i)    = l_i[x_i] - logsumexp(l_i)                           [nats]
    x_i(l_i, g_i) = argmax_v (l_i[v] + g_i[v]),   g_i[v] ~ Gumbel(0, 1)

  `dist` is the array of logits, float[E, V], or {'logits': array}. Under shared
  noise two logits agree with probability at least (1 - TV) / (1 + TV).

  With coupling='inverse_cdf' the pick of a uniform u_i is the first v whose
  cumulative probability exceeds u_i. It needs one number a position instead of
  V, and where the logits move a little, a pick that changes moves to a near
  symbol; `analysis.coupling` has what that costs in agreement. u has 24 bits: a
  symbol of probability below 6e-8 may never be drawn.

  Args:
    num_values: V, at least 2.
    coupling: how noise becomes a symbol; `analysis.coupling` compares them.

  Raises:
    ValueError: V < 2, or another coupling.
  """
  if num_values < 2:
    raise ValueError(
      f'A categorical head needs at least 2 values; got {num_values}.'
    )

  if coupling not in ('gumbel', 'inverse_cdf'):
    raise ValueError(
      f"coupling must be 'gumbel' or 'inverse_cdf'; got {coupling!r}."
    )
  of_logits = functools.partial(_of_logits, num_values)
  if coupling == 'inverse_cdf':
    return Head(
      name=f'categorical({num_values}, inverse_cdf)',
      num_values=num_values,
      log_prob=of_logits(_log_prob),
      noise=lambda key, i: jax.random.uniform(jax.random.fold_in(key, i)),
      pick=of_logits(_invert),
      pmf=of_logits(_pmf),
      temper=of_logits(_temper),
      parts=Logits,
    )

  def noise(key: PRNGKey, position: Array) -> Array:
    return jax.random.gumbel(
      jax.random.fold_in(key, position), (num_values,), mode='high'
    )

  return Head(
    name=f'categorical({num_values})',
    num_values=num_values,
    log_prob=of_logits(_log_prob),
    noise=noise,
    pick=of_logits(_pick),
    pmf=of_logits(_pmf),
    temper=of_logits(_temper),
    parts=Logits,
  )


def _of_logits(num_values: int, function: Callable) -> Callable:
  """`function`, which first looks whether its dist is logits of V values."""

  def of(logits: Array, *args: Any) -> Array:
    shape = getattr(logits, 'shape', None)
    if shape is None:
      raise ValueError(
        f'a categorical head of V = {num_values} values takes an array of '
        f"logits, or {{'logits': array}}; got {type(logits).__name__}"
      )
    if shape[-1:] != (num_values,):
      last = shape[-1] if shape else 0
      cure = f'give one logit for each of the {num_values} values'
      if last > num_values:
        cure = (
          f'cut them, logits[..., :{num_values}], or take categorical({last})'
        )
      raise ValueError(
        f'the head has V = {num_values} values, your last axis has {last} '
        f'(shape {shape}), and a categorical head takes logits whose last axis '
        f'is {num_values}: {cure}'
      )
    return function(logits, *args)

  return of


def _pick(logits: Array, gumbel: Array) -> Array:
  return jnp.argmax(logits + gumbel, -1).astype(jnp.int32)


def _pmf(logits: Array) -> Array:
  return jax.nn.softmax(logits, -1)


def _temper(logits: Array, temperature: Any) -> Array:
  # The best value stays at 0, however small the temperature is.
  return (logits - logits.max(-1, keepdims=True)) / temperature


def _log_prob(logits: Array, x: Array) -> Array:
  log_p = jax.nn.log_softmax(logits, -1)
  return jnp.take_along_axis(log_p, x[..., None].astype(jnp.int32), -1)[..., 0]


def _invert(logits: Array, u: Array) -> Array:
  p = jax.nn.softmax(logits, -1)
  cdf = jnp.cumsum(p, -1)
  # Sums round: u may reach the last one, which is then not quite 1.
  index = (cdf <= u[..., None] * cdf[..., -1:]).sum(-1)
  last = p.shape[-1] - 1 - jnp.argmax(p[..., ::-1] > 0, -1)
  return jnp.minimum(index, last).astype(jnp.int32)
