"""How often two conditionals agree under one noise.

  rate(p, q) = P(pick(p, g) = pick(q, g))

Everything that shares noise lives by this number: a fixed-point pass whose
prefix is slightly wrong, a draft model, a coarse level. No coupling of p and q
agrees more often than 1 - TV(p, q); under independent noise the rate would be
sum_v p(v) q(v).

  head                        rate
  Bernoulli                   1 - TV, the maximum
  categorical, Gumbel         at least (1 - TV) / (1 + TV), whatever the symbols
  categorical, inverse CDF    1 - sum of the gaps of the CDFs where they do not
                              overlap: high for neighbours of ordered symbols

References:
  Daliri, Musco, Suresh: Coupling without communication and drafter-invariant
  speculative decoding. 2024 (the bound of the Gumbel coupling).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.model import Head
from parallel_ar.types import Dist, PRNGKey


class Collision(NamedTuple):
  """Agreement of pairs of conditionals, means over the positions.

  Attributes:
    rate: measured P(X = Y).
    error: its standard error.
    maximum: 1 - TV.
    gumbel: (1 - TV) / (1 + TV).
    independent: sum_v p q.
  """

  rate: float
  error: float
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
    key: of the noise.
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

  def agree(key: PRNGKey) -> jax.Array:
    noise = jax.vmap(head.noise, (None, 0))(key, positions)
    same = head.pick(first, noise) == head.pick(second, noise)
    return same.mean()

  rates = np.asarray(jax.lax.map(agree, jax.random.split(key, num)), np.float64)
  distance = 0.5 * jnp.abs(p_DV - q_DV).sum(-1)
  return Collision(
    rate=float(rates.mean()),
    error=float(rates.std() / np.sqrt(max(num - 1, 1))),
    maximum=float((1 - distance).mean()),
    gumbel=float(((1 - distance) / (1 + distance)).mean()),
    independent=float((p_DV * q_DV).sum(-1).mean()),
  )
