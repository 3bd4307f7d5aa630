"""Probabilities as whole numbers: what an entropy coder can agree on.

  f_v = 1 + floor(p_v (2^r - V)),   and what is left of 2^r goes to the largest

Both ends of a file must use the same numbers, so they are integers that sum to
2^r, and none is 0, so that every event has a code: also one that the model
forbids (p = 0, a logit of -inf). The price of r = 16 is at most V 2^-16 / ln 2
bits a symbol, and a symbol rarer than 2^-16 costs 16 bits.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import transform
from parallel_ar.doors import check_model
from parallel_ar.memo import once
from parallel_ar.model import AutoregressiveModel, Head
from parallel_ar.types import Array, Dist

PRECISION = 16


def check(model: AutoregressiveModel, precision: int = PRECISION) -> None:
  """Refuses what cannot be coded.

  Raises:
    ValueError: continuous values, a head without probabilities, conditionals
      that forbidden inputs change by rounding, more values than 2^precision
      can tell apart, or a precision outside 2..16.
  """
  check_model(model)
  head = model.head
  if model.causality == 'rounding':
    raise ValueError(
      f'{model.name} cannot be coded: what a decoder does not know yet changes '
      "its conditionals by rounding (causality='rounding'), and one bit is "
      "enough. Build it with an exact evaluation, for a GRU evaluation='scan'."
    )
  if head.num_values is None or (head.pmf is None and head.chain is None):
    raise ValueError(
      f'{model.name} cannot be coded: its head {head.name} has no '
      'probabilities of symbols (pmf). Continuous values must be quantized '
      'first, and modelled with a bernoulli, categorical or '
      'discretized_logistic head.'
    )
  if head.num_values < 2:
    raise ValueError(
      f'{model.name} has one value, so there is nothing to code.'
    )
  if not isinstance(precision, int) or not 2 <= precision <= 16:
    raise ValueError(f'precision is 2 to 16 bits; got {precision}.')
  if head.whole not in (None, precision):
    raise ValueError(
      f'{model.name} has whole frequencies of {head.whole} bits; make the '
      f'codec with precision={head.whole}.'
    )
  if 4 * head.num_values > 2**precision:
    raise ValueError(
      f'{model.name} has {head.num_values} values, too many for frequencies of '
      f'{precision} bits: at most {2**precision // 4}. '
      + ('Raise precision.' if precision < 16 else 'Split a symbol in two.')
    )


def frequencies(pmf: Array, precision: int = PRECISION) -> Array:
  """Whole numbers that sum to 2^precision, each at least 1.

  Args:
    pmf: float[..., V], probabilities; they need not sum to 1 exactly.
    precision: r.

  Returns:
    int32[..., V].
  """
  num_values, total = pmf.shape[-1], 2**precision
  pmf = pmf.astype(jnp.float32)
  pmf = pmf / pmf.sum(-1, keepdims=True)
  # At most V 2^-24 total = V / 256 too many, which the largest can spare.
  scaled = jnp.floor(pmf * (total - num_values))
  counts = 1 + scaled.astype(jnp.int32)
  rest = total - counts.sum(-1, keepdims=True, dtype=jnp.int32)
  largest = jax.nn.one_hot(jnp.argmax(counts, -1), num_values, dtype=jnp.int32)
  return counts + rest * largest


def probabilities(head: Head, dist: Dist, x: Array) -> Array:
  """float[*event, V] of every symbol given those before it.

  Where a position carries channels, each is given those before it in `x`.
  """
  if head.chain is not None:
    return head.chain(dist, x)
  assert head.pmf is not None
  return head.pmf(dist)


def tables(head: Head, dist: Dist, x: Array, precision: int) -> Array:
  """int32[*event, V], the frequencies of `probabilities`."""
  if head.whole is not None:
    return dist
  return frequencies(probabilities(head, dist, x), precision)


def checked_tables(
  model: AutoregressiveModel,
  dist: Dist,
  x: Array,
  precision: int,
  channel: tuple[int, ...] = (),
) -> tuple[Array, Array]:
  """`tables` of one event or slot, and where they come of probabilities.

  A row that is no distribution (NaN, below 0, a sum that is not 1 within 2 %),
  or whose position has NaN in any leaf of `dist`, gets equal frequencies: what
  a guess asks for need not be known, and only a row that is used must be good.

  Args:
    model: the model.
    dist: its conditionals of one event, or of one slot of it.
    x: int32[*event], or the values of the slot.
    precision: r.
    channel: the one that is wanted, by which `*event` is then shorter, so that
      no other is computed; without it all.

  Returns:
    int32[*event, V], and bool[*event], whether the row can be coded with.
  """
  own = (..., *channel, slice(None))
  if model.head.whole is not None:  # by integers alone
    return dist[own], jnp.ones(dist[own].shape[:-1], bool)
  pmf = probabilities(model.head, dist, x)[own]
  total = pmf.astype(jnp.float32).sum(-1)
  good = (pmf >= 0).all(-1) & (abs(total - 1) < 0.02)  # NaN is neither
  channels = len(model.event.shape) - model.rank.ndim
  positions = x.shape[: x.ndim - channels]
  for leaf in jax.tree.leaves(dist):
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
      number = ~jnp.isnan(leaf).reshape(*positions, -1).any(-1)
      good &= number.reshape(*positions, *(1,) * (channels - len(channel)))
  pmf = jnp.where(good[..., None], pmf, 1 / pmf.shape[-1])
  return frequencies(pmf, precision), good


def refuse_bad(model: AutoregressiveModel, good: np.ndarray) -> None:
  """Raises where frequencies do not come of probabilities.

  Raises:
    ValueError: see `checked_tables`.
  """
  if not good.all():
    raise ValueError(
      f'{model.name} gives conditionals that are no probabilities: NaN, all '
      'of a row -inf, below 0, or a sum that is not 1. Nothing can be coded '
      'with them. Look at the parameters, and at pmf of a head of your own.'
    )


def ends(table: Array) -> Array:
  """Cumulative sums: symbol v owns the numbers ends[v-1] .. ends[v] - 1."""
  return jnp.cumsum(table, -1, dtype=jnp.int32)


def quantized(
  model: AutoregressiveModel, precision: int = PRECISION
) -> AutoregressiveModel:
  """The model that a coder really uses: every p_v is f_v / 2^r.

  Its `log_prob` is the length of the code, -log2 of it in bits, and it can be
  sampled and audited as any other record. Noise is a whole number below 2^r,
  and the pick is the symbol that owns it, channel after channel.

  Args:
    model: a model with probabilities.
    precision: r.

  Returns:
    The model with the same parameters and another head.

  Raises:
    ValueError: the model cannot be coded, see `check`.
  """
  check(model, precision)
  head = model.head
  if head.whole is not None:
    return model
  channels = model.event.shape[model.rank.ndim :]
  coded = lambda: transform.wrap(model, head=_coded(head, channels, precision))
  made: AutoregressiveModel = once(model, ('coded', precision), coded)
  return made


def _coded(head: Head, channels: tuple[int, ...], precision: int) -> Head:
  """The head of whole frequencies; a position carries these channels."""
  axes = tuple(range(-len(channels), 0))

  def log_prob(dist: Dist, x: Array) -> Array:
    found = probabilities(head, dist, x)
    table = frequencies(found, precision)
    at = jnp.take_along_axis(table, x[..., None].astype(jnp.int32), -1)
    # NaN has no place among whole numbers, and must stay NaN.
    nats = jnp.log(at[..., 0] / 2.0**precision) + 0 * found.sum(-1)
    return nats.sum(axes) if channels else nats

  def noise(key: Array, position: Array) -> Array:
    key = jax.random.fold_in(key, position)
    return jax.random.randint(key, channels, 0, 2**precision, jnp.int32)

  def pick(dist: Dist, noise: Any) -> Array:
    x = jnp.zeros_like(noise)
    for channel in np.ndindex(channels):
      at = (..., *channel)
      upper = ends(tables(head, dist, x, precision)[(*at, slice(None))])
      owner = (upper <= noise[at][..., None]).sum(-1).astype(jnp.int32)
      x = x.at[at].set(owner)
    return x

  def pmf(dist: Dist) -> Array:
    empty = jnp.zeros(jax.tree.leaves(dist)[0].shape, jnp.int32)
    return tables(head, dist, empty, precision) / 2.0**precision

  def chain(dist: Dist, x: Array) -> Array:
    return tables(head, dist, x, precision) / 2.0**precision

  return Head(
    name=f'{head.name} in {precision} bits',
    num_values=head.num_values,
    log_prob=log_prob,
    noise=noise,
    pick=pick,
    pmf=None if head.chain else pmf,
    chain=chain if head.chain else None,
  )
