"""Infilling as a likelihood: log p(x_missing | x_known), any known positions.

Where no known position comes after a missing one, the terms of the missing are
the answer, from one pass: a prefix of a causal model, or any positions of a
model of any order, whose rank can put the known ones first
(`order.known_first`). Elsewhere

  log p(x_missing | x_known) = log p(x) - log p(x_known)

and p(x_known) is a sum over all that could be missing: done exactly where that
is a few hundred events, and otherwise estimated. A sampler draws x^k whose
known positions are held and whose others follow the conditionals, so that

  w_k = prod_{i known} p(x_i | x^k_<i),      E[w_k] = p(x_known)

and with w_0 of the true event

  at_most  = log p(x) - log 1/K sum_{k=1..K} w_k
  at_least = log p(x) - log 1/K (w_0 + sum_{k=1..K-1} w_k)

By Jensen's inequality the mean of `at_most` over draws is at least log
p(x_missing | x_known). The mean of exp(at_least) is the probability with which
x is drawn by resampling one of K weighted events, so the mean of `at_least` is
a bound from below for what such an infilling can be credited with.

References:
  Burda, Grosse, Salakhutdinov: Importance weighted autoencoders. ICLR 2016 (the
  bound by K samples). Cremer, Morris, Duvenaud: Reinterpreting importance
  weighted autoencoders. 2017 (resampling one of K).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import doors, likelihood, samplers
from parallel_ar.data import synthetic
from parallel_ar.decode import recompute_decode
from parallel_ar.keys import of_its_own
from parallel_ar.model import AutoregressiveModel
from parallel_ar.samplers.path import choose
from parallel_ar.types import Array, ArrayLike, Params, PRNGKey


class Bounds(NamedTuple):
  """log p(x_missing | x_known) of B events, nats, float64[B] each.

  Attributes:
    at_least: float64[B], for infilling by resampling one of K.
    at_most: float64[B], for the model's own conditional, in the mean over
      draws.
  """

  at_least: np.ndarray
  at_most: np.ndarray


def comes_first(rank: ArrayLike, known: ArrayLike) -> bool:
  """Whether no known position comes after a missing one.

  Args:
    rank: int[E].
    known: bool[E], with a position of each kind.

  Raises:
    ValueError: another shape, or nothing known or nothing missing.
  """
  rank, known = np.asarray(rank), np.asarray(known, bool)
  if rank.shape != known.shape or known.all() or not known.any():
    raise ValueError(
      f'known marks some of the positions {rank.shape}, not all and not none; '
      f'got {known.sum()} of {known.shape}.'
    )
  return bool(rank[known].max() <= rank[~known].min())


def exact(
  model: AutoregressiveModel, params: Params, x: ArrayLike, known: ArrayLike
) -> np.ndarray:
  """log p(x_missing | x_known) of events whose known positions come first.

  Args:
    model: an unconditional model.
    params: its parameters.
    x: int[B, *event].
    known: bool[E], the same for all.

  Returns:
    float64[B], nats.

  Raises:
    ValueError: a known position comes after a missing one.
  """
  if not comes_first(model.rank, known):
    raise ValueError(
      f'In the order of {model.name} some known position comes after a missing '
      'one, so its terms are no conditional. Give a model of any order the '
      'rank order.known_first(rank, known), or use enumerated or bounds.'
    )
  x, _ = doors.check_batch(model, x, None)
  terms = np.asarray(_terms(model, params, jnp.asarray(x)), np.float64)
  return np.where(known, 0, terms).reshape(len(terms), -1).sum(1)


def enumerated(
  model: AutoregressiveModel, params: Params, x: ArrayLike, known: ArrayLike
) -> np.ndarray:
  """log p(x_missing | x_known), by a sum over all that could be missing.

  Args:
    model: an unconditional model of V values and m missing positions.
    params: its parameters.
    x: int[B, *event].
    known: bool[E].

  Returns:
    float64[B], nats, from B V^m events.

  Raises:
    ValueError: continuous values, or too many events.
  """
  comes_first(model.rank, known)
  if model.head.num_values is None or model.event.shape != model.rank.shape:
    raise ValueError(
      f'{model.name} has no finite number of values a position to sum over.'
    )
  x = np.asarray(doors.check_batch(model, x, None)[0])
  missing = ~np.asarray(known, bool)
  fills = synthetic.enumerate_events(
    model.head.num_values, (int(missing.sum()),)
  )
  found = np.empty(len(x))
  for b, one in enumerate(x):
    every = np.repeat(one[None], len(fills), 0)
    every[:, missing] = fills
    joint = np.asarray(_joint(model, params, every), np.float64)
    (mine,) = np.flatnonzero((fills == one[missing]).all(1))
    found[b] = joint[mine] - np.logaddexp.reduce(joint)
  return found


def bounds(
  model: AutoregressiveModel,
  params: Params,
  x: ArrayLike,
  known: ArrayLike,
  key: PRNGKey,
  num: int,
  *,
  batch: int = 16,
) -> Bounds:
  """Bounds for log p(x_missing | x_known) from K draws an event.

  Args:
    model: an unconditional model.
    params: its parameters.
    x: int[B, *event].
    known: bool[E].
    key: PRNG key of the draws.
    num: K >= 2.
    batch: events whose draws are made at once; changes speed only.

  Returns:
    Bounds.

  Raises:
    ValueError: K < 2, or a mask that does not fit.
  """
  comes_first(model.rank, known)
  if num < 2:
    raise ValueError(f'Bounds need at least two draws an event; got {num}.')
  x = np.asarray(doors.check_batch(model, x, None)[0])
  key, known = of_its_own(key), np.asarray(known, bool)
  least, most = [], []
  for start in range(0, len(x), batch):
    rows = x[start : start + batch]
    short = batch - len(rows)  # one compiled program for every part
    rows = np.concatenate([rows, np.repeat(rows[:1], short, 0)])
    keys = jax.random.split(jax.random.fold_in(key, start), batch * num)
    log_w, own = _weights(
      model, params, rows, np.repeat(rows, num, 0), known, keys
    )
    log_w = np.asarray(log_w, np.float64).reshape(batch, num)
    log_0, joint = (np.asarray(a, np.float64) for a in own)
    mixed = np.concatenate([log_0[:, None], log_w[:, 1:]], 1)
    mean = lambda a: np.logaddexp.reduce(a, 1) - np.log(num)
    least.append((joint - mean(mixed))[: batch - short])
    most.append((joint - mean(log_w))[: batch - short])
  return Bounds(np.concatenate(least), np.concatenate(most))


@functools.partial(jax.jit, static_argnums=0)
def _terms(model: AutoregressiveModel, params: Params, x: Array) -> Array:
  return likelihood.log_prob_terms(model, params, x)


@functools.partial(jax.jit, static_argnums=0)
def _joint(model: AutoregressiveModel, params: Params, x: Array) -> Array:
  return likelihood.log_prob(model, params, x)


@functools.partial(jax.jit, static_argnums=0)
def _weights(
  model: AutoregressiveModel,
  params: Params,
  x: Array,
  given: Array,
  known: Array,
  keys: PRNGKey,
) -> tuple[Array, tuple[Array, Array]]:
  """log w of every draw; and of the events, with their log p."""
  known = jnp.asarray(known)
  total = model.depth == model.num_positions
  total &= choose(model).decode is not recompute_decode(model)
  sampler = samplers.fixed_point(model)
  if total:  # a slot at a time from the cache is less work
    sampler = samplers.cached(model, verify=False)
  held = jnp.broadcast_to(known, (len(keys), *known.shape))
  drawn = sampler(params, keys, x=given, known=held).x

  def weights(events: Array) -> tuple[Array, Array]:
    terms = likelihood.log_prob_terms(model, params, events)
    flat = lambda a: a.reshape(len(events), -1).sum(1)
    return flat(jnp.where(known, terms, 0)), flat(terms)

  return weights(jnp.asarray(drawn))[0], weights(x)
