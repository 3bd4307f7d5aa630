"""Events of different length: what follows an end symbol is sure.

  p(x) = prod_{i <= n} p(x_i | x_<i),   x_n the first `end`, and x_i = end after

An event of D positions holds a sequence and is filled up with the end symbol.
Events that go on after it have probability 0, and those without it are the
sequences of D symbols or more, cut off: all probabilities sum to 1.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from parallel_ar import order
from parallel_ar.decode import Decode
from parallel_ar.head import Head
from parallel_ar.memo import once
from parallel_ar.model import AutoregressiveModel
from parallel_ar.transform import wrap
from parallel_ar.types import Array, ArrayLike, Context, Dist, Params


class Ended(NamedTuple):
  """Conditionals of a model with an end: what its `dist` is.

  Attributes:
    dist: conditionals of the model without.
    over: bool[E], whether an end symbol stands before.
  """

  dist: Dist
  over: Array


def with_end(model: AutoregressiveModel, end: int) -> AutoregressiveModel:
  """Another model, whose events end with the first `end`.

  Its likelihood, samplers, decode paths and codec are had as those of any
  model. What stands after the first end symbol is `end` with probability 1, so
  that it costs no nats; `padded` fills sequences up so.

  Args:
    model: a model of symbols, one a position. It is trained through what this
      function returns, so that no nats are spent on what follows the end.
    end: the symbol, 0..V-1.

  Returns:
    The model, of the same parameters.

  Raises:
    ValueError: `end` is no symbol of the model, or a position holds several.
  """
  count, lead = model.head.num_values, model.rank.ndim
  if count is None or not 0 <= end < count:
    have = 'real values' if count is None else f'the symbols 0..{count - 1}'
    raise ValueError(
      f'end must be a symbol of {model.name}, which has {have}; got {end}.'
    )
  if len(model.event.shape) > lead:
    raise ValueError(
      f'{model.name} has {model.event.shape[lead:]} symbols at a position; an '
      'end symbol needs one symbol a position.'
    )
  return once(model, ('with_end', int(end)), lambda: _with_end(model, int(end)))


def padded(sequences: Sequence[ArrayLike], length: int, end: int) -> np.ndarray:
  """Sequences of symbols as events of one length, ended.

  Args:
    sequences: B of them, int[n], without the end symbol.
    length: D.
    end: the symbol that ends them.

  Returns:
    int32[B, D]. A sequence of D symbols has no room for its end: it is one that
    was cut off.

  Raises:
    ValueError: a sequence is longer, or holds the end symbol.
  """
  out = np.full((len(sequences), length), end, np.int32)
  for row, sequence in zip(out, sequences, strict=True):
    values = np.asarray(sequence, np.int32)
    if values.ndim != 1 or len(values) > length or (values == end).any():
      raise ValueError(
        f'A sequence has at most {length} symbols other than {end}; got shape '
        f'{values.shape}, with {int((values == end).sum())} of {end}.'
      )
    row[: len(values)] = values
  return out


def _with_end(model: AutoregressiveModel, end: int) -> AutoregressiveModel:
  """The model, once its arguments are checked."""
  slots = order.slots(model.rank)
  ranks = model.rank.reshape(-1)
  # What is drawn with a position, or after it, ends nothing there.
  first = np.searchsorted(ranks[slots], ranks)  # of a position

  def over(x: Array) -> Array:
    ended = jnp.cumsum(x.reshape(-1)[slots] == end, dtype=jnp.int32)
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), ended])[first]
    return (before > 0).reshape(model.rank.shape)

  def conditionals(params: Params, x: Array, context: Context) -> Ended:
    return Ended(model.conditionals(params, x, context), over(x))

  features = model.features
  if features is not None:
    apply = features.apply

    def with_over(params: Params, x: Array, context: Context) -> Any:
      dist, raw = apply(params, x, context)
      return Ended(dist, over(x)), raw

    features = features._replace(apply=with_over)
  decode = model.decode
  return wrap(
    model,
    head=_head(model.head, end),
    conditionals=conditionals,
    features=features,
    decode=decode and _decode(decode, end, first[slots], over),
    conditionals_given=None,  # of every order, but an end has one
    name=f'{model.name} with the end {end}',
  )


def _decode(decode: Decode, end: int, first: np.ndarray, over: Any) -> Decode:
  """The path of the model, which also keeps where an end stood.

  Args:
    decode: the path of the model without.
    end: the symbol.
    first: int[D], the first slot that is drawn together with a slot.
    over: x -> bool[E].
  """
  size = len(first)

  def init(params: Params, context: Context) -> Any:
    return decode.init(params, context), jnp.zeros(size, bool)

  def extend(params: Params, cache: Any, k: Any, previous: Any) -> Any:
    inner, ends = cache
    n = previous.shape[0]
    at = k - 1 + jnp.arange(n, dtype=jnp.int32)
    # Slot -1 does not exist: send its write out of bounds, where it is dropped.
    here = jnp.where(at < 0, size, at)
    ends = ends.at[here].set(previous == end, mode='drop')
    before = jnp.asarray(first)[at + 1]
    known = jnp.arange(size)[None] < before[:, None]
    done = (ends[None] & known).any(1)
    dist, inner = decode.extend(params, inner, k, previous)
    return Ended(dist, done), (inner, ends)

  def resize(cache: Any, n: int) -> Any:
    assert decode.resize is not None
    return decode.resize(cache[0], n), cache[1]

  def level(params: Params, cache: Any, level: Any, x: Any) -> Any:
    assert decode.groups is not None
    dist, cache = decode.groups.extend(params, cache, level, x)
    return Ended(dist, over(x)), cache

  return Decode(
    init,
    extend,
    rewind=lambda cache, k: (decode.rewind(cache[0], k), cache[1]),
    resize=decode.resize and resize,
    groups=decode.groups and decode.groups._replace(extend=level),
  )


def _head(head: Head, end: int) -> Head:
  """The head whose conditionals are sure where an event is over."""

  def log_prob(dist: Ended, x: Array) -> Array:
    sure = jnp.where(x == end, 0.0, -jnp.inf)
    return jnp.where(dist.over, sure, head.log_prob(dist.dist, x))

  def pick(dist: Ended, noise: Any) -> Array:
    return jnp.where(dist.over, end, head.pick(dist.dist, noise))

  def sure(p: Array, over: Array) -> Array:
    over = over.reshape(*over.shape, *[1] * (p.ndim - over.ndim))
    return jnp.where(over, jnp.zeros_like(p).at[..., end].set(1), p)

  pmf, chain, temper = head.pmf, head.chain, head.temper
  return Head(
    name=f'{head.name} with the end {end}',
    num_values=head.num_values,
    log_prob=log_prob,
    noise=head.noise,
    pick=pick,
    pmf=pmf and (lambda dist: sure(pmf(dist.dist), dist.over)),
    chain=chain and (lambda dist, x: sure(chain(dist.dist, x), dist.over)),
    temper=temper and (lambda dist, t: Ended(temper(dist.dist, t), dist.over)),
  )
