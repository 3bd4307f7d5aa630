"""Recurrences that are parallel over time.

  h_t = a_t h_{t-1} + b_t

is associative: (a, b) then (a', b') is (a' a, a' b + b'). A scan over a tree
has depth O(log L) instead of L, for twice the work and more; on a few CPU cores
the plain loop wins, see `tables/recurrences`.

References:
  Blelloch: Prefix sums and their applications. 1990, section 1.4.
  Martin, Cundy: Parallelizing linear recurrent neural nets over sequence
  length. ICLR 2018.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from parallel_ar.types import Array

Method = Literal['scan', 'associative', 'chunked']


def linear_recurrence(
  a_LN: Array,
  b_LN: Array,
  start_N: Array,
  method: Method = 'scan',
  chunk: int = 64,
) -> Array:
  """All states of h_t = a_t h_{t-1} + b_t.

  Every method computes a state from earlier terms alone, bit for bit: what
  stands later does not even change the rounding.

  Args:
    a_LN: float[L, ...], factors.
    b_LN: float[L, ...], terms.
    start_N: float[...], the state before the first.
    method: 'scan' is a loop of L steps; 'associative' a tree of depth
      O(log L) that keeps every intermediate for the gradient; 'chunked' a loop
      of L / chunk trees that keeps one state a chunk and computes the rest
      again in the backward pass.
    chunk: steps of one tree, for 'chunked'.

  Returns:
    float[L, ...], the states h_1, ..., h_L.

  Raises:
    ValueError: another method, or chunk < 1.
  """
  if method == 'scan':

    def step(h: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
      h = at[0] * h + at[1]
      return h, h

    return jax.lax.scan(step, start_N, (a_LN, b_LN))[1]
  if method == 'associative':
    b_LN = b_LN.at[0].add(a_LN[0] * start_N)
    return jax.lax.associative_scan(compose, (a_LN, b_LN))[1]
  if method != 'chunked':
    raise ValueError(
      f'method must be one of {", ".join(get_args(Method))}; got {method!r}.'
    )
  if chunk < 1:
    raise ValueError(f'A chunk has at least one step; got {chunk}.')
  length = a_LN.shape[0]
  count = -(-length // chunk)
  # Beyond the end a = 1 and b = 0 keep the state as it is.
  more = [(0, count * chunk - length)] + [(0, 0)] * (a_LN.ndim - 1)
  a = jnp.pad(a_LN, more, constant_values=1)
  parts = [
    p.reshape(count, chunk, *p.shape[1:]) for p in (a, jnp.pad(b_LN, more))
  ]

  @jax.checkpoint
  def tree(h: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
    states = linear_recurrence(*at, h, 'associative')
    return states[-1], states

  _, states = jax.lax.scan(tree, start_N, tuple(parts))
  return states.reshape(count * chunk, *a_LN.shape[1:])[:length]


def matrix_recurrence(a_LNN: Array, b_LN: Array) -> Array:
  """All states of h_t = A_t h_{t-1} + b_t from zero, by a tree.

  Args:
    a_LNN: float[L, N, N], factors.
    b_LN: float[L, N], terms.

  Returns:
    float[L, N]; O(L N^3) work at depth O(log L).
  """
  return jax.lax.associative_scan(compose_matrices, (a_LNN, b_LN))[1]


def compose(
  first: tuple[Array, Array], second: tuple[Array, Array]
) -> tuple[Array, Array]:
  """The step that does first one and then the other: h -> c (a h + b) + d."""
  (a, b), (c, d) = first, second
  return c * a, c * b + d


def compose_matrices(
  first: tuple[Array, Array], second: tuple[Array, Array]
) -> tuple[Array, Array]:
  """As `compose`, for steps h -> A h + b."""
  (a, b), (c, d) = first, second
  return c @ a, (c @ b[..., None])[..., 0] + d
