"""How often two conditionals agree under one noise.

  rate(p, q) = P(pick(p, g) = pick(q, g))

Everything that shares noise lives by this number: a fixed-point pass whose
prefix is slightly wrong, a draft model, a coarse level. No coupling of p and q
agrees more often than 1 - TV(p, q); under independent noise the rate would be
sum_v p(v) q(v).

  head                        rate
  Bernoulli                   1 - TV, the maximum
  categorical, Gumbel         at least (1 - TV) / (1 + TV), whatever the symbols
  categorical, inverse CDF    sum_v max(0, min(F(v), G(v)) - max(F(u), G(u)))

with the CDFs F and G, u = v - 1. For q = p shifted by a few symbols the last is
about 1 - W1, W1 = sum_v |F(v) - G(v)|: a shift by one moves every pick by one,
so that none agree, where Gumbel noise keeps its bound. What inverse CDF gains
is not agreement but nearness: no coupling has a smaller mean of |X - Y|, which
is W1, while a pick of Gumbel noise that differs may be any other symbol. It
depends on the order of the symbols; Gumbel's does not.

References:
  Daliri, Musco, Suresh: Coupling without communication and drafter-invariant
  speculative decoding. 2024 (the bound of the Gumbel coupling).
  Villani: Optimal transport. 2009, chapter 5 (the monotone coupling).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.head import Head
from parallel_ar.keys import of_its_own
from parallel_ar.types import Dist, PRNGKey


class Collision(NamedTuple):
  """Agreement of pairs of conditionals, means over the positions.

  Attributes:
    rate: measured P(X = Y).
    error: its standard error.
    apart: measured mean of |X - Y|, in symbols.
    maximum: 1 - TV.
    gumbel: (1 - TV) / (1 + TV).
    independent: sum_v p q.
  """

  rate: float
  error: float
  apart: float
  maximum: float
  gumbel: float
  independent: float


def collision_rate(
  head: Head, first: Dist, second: Dist, key: PRNGKey, num: int = 1000
) -> Collision:
  """Measures how often two conditionals pick the same.

  Args:
    head: their head, with a pmf.
    first: dists, leaves that lead with positions [D].
    second: likewise.
    key: PRNG key of the noise.
    num: draws of the noise of each position.

  Returns:
    A Collision.

  Raises:
    ValueError: the head has no pmf.
  """
  if head.pmf is None:
    raise ValueError(
      f'The collision rate is compared with 1 - TV; the head {head.name} has '
      'no pmf.'
    )
  p_DV, q_DV = head.pmf(first), head.pmf(second)
  positions = jnp.arange(p_DV.shape[0])

  def agree(key: PRNGKey) -> tuple[jax.Array, jax.Array]:
    noise = jax.vmap(head.noise, (None, 0))(key, positions)
    apart = jnp.abs(head.pick(first, noise) - head.pick(second, noise))
    return (apart == 0).mean(), apart.mean()

  drawn = jax.lax.map(agree, jax.random.split(of_its_own(key), num))
  rates, aparts = (np.asarray(a, np.float64) for a in drawn)
  distance = 0.5 * jnp.abs(p_DV - q_DV).sum(-1)
  return Collision(
    rate=float(rates.mean()),
    error=float(rates.std() / np.sqrt(max(num - 1, 1))),
    apart=float(aparts.mean()),
    maximum=float((1 - distance).mean()),
    gumbel=float(((1 - distance) / (1 + distance)).mean()),
    independent=float((p_DV * q_DV).sum(-1).mean()),
  )
