"""The frontier: which ranks of an iterate are final, the one rule of all loops.

  y = pick(conditionals(x), noise)

Say all ranks below f are final in x, and let r be the lowest rank at or above f
at which y differs from x. The picks of rank r read final values only, so ranks
up to r are final in y: the frontier moves to r + 1 > f. So a loop ends after R
passes at most, whatever was guessed ahead of the frontier.

Two things follow. What is ahead is a guess, and a guess is free. And what is
behind never changes: where a later pass picks something else there, the
conditionals read what they must not.

Unfinished iterates of continuous values can overflow though the sample does
not, and reach finished positions as 0 * inf. So a guess that is not finite
becomes 0; and where what a pass would make final is not a number, all guesses
become 0, as `ancestral` has them, and the pass is repeated.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar.model import over_positions
from parallel_ar.types import Array, Dist


class Step(NamedTuple):
  """One example after a pass.

  Attributes:
    x: array[*event], the next iterate: what was final is kept.
    frontier: int32[], ranks below it are final.
    changed: bool[E], where the pass contradicts a value that was final.
  """

  x: Array
  frontier: Array
  changed: Array


def advance(
  x: Array,
  y: Array,
  dist: Dist,
  known: Array,
  low: Array,
  rank: Array,
  end: Any,
  one_rank: Any = False,
) -> Step:
  """Moves the frontier of ONE example after a pass.

  Args:
    x: array[*event], what the pass read.
    y: array[*event], what it picked, and what is given where that is known.
    dist: what it picked from, leaves that lead with E.
    known: bool[E]; ranks that are known wholly are passed over, but for the
      last: the pass that moves to `end` has read final values only.
    low: int32[], the frontier f; ranks below it are final in x.
    rank: int32[E].
    end: the number of ranks; nothing moves beyond it.
    one_rank: bool[]; keep the picks of one rank (ancestral) or all of them.

  Returns:
    The step. The frontier stays only where a pass must be repeated from zeros.
  """
  # What is kept is what is compared: fused into both uses, the pick could be
  # computed twice, and round in two ways.
  y = jax.lax.optimization_barrier(y)
  differs = _any(y != x, rank)
  behind = rank < low
  first = jnp.where(differs & ~behind, rank, end).min()
  first = jnp.where(one_rank, low, first)
  high = start(known, rank, end, jnp.minimum(first + 1, end))
  ahead = rank >= high
  kept = over_positions(behind | (ahead & one_rank), x)
  moved = jnp.where(kept, x, y)
  moved = jnp.where(over_positions(ahead, x), finite(moved), moved)
  if not jnp.issubdtype(x.dtype, jnp.inexact):
    return Step(moved, high, behind & differs)

  guesses = ~behind & ~known
  guessed = (guesses & _any(x != 0, rank)).any()
  spoiled = guessed & (_no_number(y, dist, rank) & ~ahead).any()
  nothing = jnp.where(over_positions(guesses, x), 0, x)
  # A final NaN differs from itself, and has not changed.
  both = _any((y != y) & (x != x), rank)
  return Step(
    jnp.where(spoiled, nothing, moved),
    jnp.where(spoiled, low, high),
    behind & differs & ~both & ~spoiled,
  )


def start(known: Array, rank: Array, end: Any, low: Any = 0) -> Array:
  """The lowest rank from `low` on that is not known wholly, or the last."""
  unknown = jnp.where(~known & (rank >= low), rank, end - 1).min()
  return jnp.maximum(unknown, low)


def finite(guess: Array) -> Array:
  """The guess, with 0 for what is not finite."""
  if not jnp.issubdtype(guess.dtype, jnp.inexact):
    return guess
  return jnp.where(jnp.isfinite(guess), guess, 0)


def _any(mask: Array, rank: Array) -> Array:
  """bool[E], of a mask over the values of every position."""
  return mask.reshape(*rank.shape, -1).any(-1)


def _no_number(y: Array, dist: Dist, rank: Array) -> Array:
  """bool[E], where a pick is not finite or its conditional is NaN."""
  found = _any(~jnp.isfinite(y), rank)
  for leaf in jax.tree.leaves(dist):
    found |= _any(jnp.isnan(leaf), rank)
  return found
