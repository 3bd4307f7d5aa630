"""The family of the conditionals: what a dist means, and how it is drawn from.

A head guards itself: every head, also one's own, takes dists of any precision
and calls what is no symbol impossible to score, so that no sampler, likelihood
or codec can forget to.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar.types import Array, Dist, PRNGKey


class _Parts(NamedTuple):
  name: str
  num_values: int | None
  log_prob: Callable[[Dist, Array], Array]
  noise: Callable[[PRNGKey, Array], Any]
  pick: Callable[[Dist, Any], Array]
  pmf: Callable[[Dist], Array] | None = None
  chain: Callable[[Dist, Array], Array] | None = None
  temper: Callable[[Dist, Any], Dist] | None = None
  parts: Any = None  # a NamedTuple class
  whole: int | None = None


class Logits(NamedTuple):
  """What heads over an alphabet take: one array, by itself or by this name.

  Attributes:
    logits: float[E, V], or float[E] of two values.
  """

  logits: Array


class Head(_Parts):
  """The family of the conditionals.

  Whatever the network computes in, its functions see a dist of float32 or
  wider. What is no symbol has the log-probability nan.

  Attributes:
    name: shown in errors and descriptions.
    num_values: V for symbols 0..V-1, None for continuous values.
    log_prob: (dist, x) -> float[E], nats.
    noise: (key, position) -> the noise of ONE position. Keyed by the position,
      never by a loop step, so that every sampler sees the same noise.
    pick: (dist, noise) -> x; deterministic and elementwise over positions.
    pmf: (dist) -> float[E, V] for coding, or None.
    chain: (dist, x) -> float[E, C, V], of channels given those before, or None.
    temper: (dist, temperature) -> dist of p^(1/temperature) normalised for
      each position, or None.
    parts: a NamedTuple class with the parts of a dist, which may then come in
      any tuple, mapping or object that has them by name, or in a plain tuple
      of that order; the functions see that class, or the array where there is
      only one. None takes a dist as it is.
    whole: r, where a dist is int[E, V] whole frequencies that sum to 2^r, each
      at least 1; see `par.exact`.
  """

  __slots__ = ()

  def __new__(cls, *args: Any, **fields: Any) -> 'Head':
    """Guards the functions; those of another head are guarded anew."""
    parts = _Parts(*args, **fields)
    wide: dict[str, Any] = {
      k: _widened(getattr(parts, k), parts) for k in _OF_A_DIST
    }
    terms = _of_symbols(parts)
    return super().__new__(cls, *parts._replace(log_prob=terms, **wide))

  @classmethod
  def _make(cls, parts: Iterable[Any]) -> 'Head':  # type: ignore[override]
    return cls(*parts)  # what `_replace` makes is a head too


_OF_A_DIST = ('pick', 'pmf', 'chain', 'temper')


def widen(tree: Any) -> Any:
  """Leaves of less than float32 as float32; others as they are."""

  def one(leaf: Array) -> Array:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
      return leaf
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))

  return jax.tree.map(one, tree)


def is_named(head: _Parts, dist: Any) -> bool:
  """Whether a dist holds what the head takes by name."""
  if head.parts is None:
    return False
  if isinstance(dist, Mapping):
    return bool(set(dist) & set(head.parts._fields))
  return any(hasattr(dist, name) for name in head.parts._fields)


def parts_of(head: _Parts, dist: Any) -> Any:
  """A dist as the head's functions see it.

  Raises:
    ValueError: it lacks a part, or has no names and another number of parts.
  """
  kind = head.parts
  if kind is None or isinstance(dist, kind) and len(kind._fields) > 1:
    return dist
  names, optional = kind._fields, kind._field_defaults
  if is_named(head, dist):
    get = dist.get if isinstance(dist, Mapping) else _getter(dist)
    found = {name: get(name) for name in names}
    lacks = [n for n in names if found[n] is None and n not in optional]
    if lacks:
      raise ValueError(
        f'the head {head.name} takes {", ".join(names)} by name; got '
        f'{type(dist).__name__} without {", ".join(lacks)}'
      )
    made = kind(**found)
  elif len(names) == 1:
    return dist
  elif isinstance(dist, (tuple, list)) and len(dist) == len(names):
    made = kind(*dist)
  else:
    raise ValueError(
      f'the head {head.name} takes {", ".join(names)}, by name in a '
      f'{kind.__name__} or a dict; got {type(dist).__name__}'
    )
  return made[0] if len(names) == 1 else made


def _getter(dist: Any) -> Callable[[str], Any]:
  return lambda name: getattr(dist, name, None)


def _widened(function: Callable | None, parts: _Parts) -> Callable | None:
  if function is None:
    return None
  inner = getattr(function, 'inside_head', function)

  def wide(dist: Dist, *args: Any) -> Any:
    return inner(widen(parts_of(parts, dist)), *args)

  wide.inside_head = inner  # type: ignore[attr-defined]
  return wide


def _of_symbols(parts: _Parts) -> Callable:
  """log_prob of wide dists, nan where x is no symbol."""
  name, num_values, log_prob = parts.name, parts.num_values, parts.log_prob
  inner = getattr(log_prob, 'inside_head', log_prob)

  def terms(dist: Dist, x: Array) -> Array:
    x, dist = jnp.asarray(x), widen(parts_of(parts, dist))
    if num_values is None:
      return widen(inner(dist, x))
    if not jnp.issubdtype(x.dtype, jnp.integer):
      raise ValueError(
        f'The head {name} takes integers 0..{num_values - 1}; got dtype '
        f'{x.dtype}.'
      )
    # uint8 cannot be compared with 256, nor can x - 1 be taken of it.
    x = x.astype(jnp.promote_types(x.dtype, jnp.int32))
    symbol = (x >= 0) & (x < num_values)
    found = widen(inner(dist, jnp.where(symbol, x, 0)))
    whole = symbol.reshape(*x.shape[: found.ndim], -1).all(-1)
    return jnp.where(whole, found, jnp.nan)

  terms.inside_head = inner  # type: ignore[attr-defined]
  return terms
