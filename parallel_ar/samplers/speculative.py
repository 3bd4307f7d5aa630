"""Speculative sampling: a draft proposes, and the model checks in blocks."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from parallel_ar.decode import Decode
from parallel_ar.model import AutoregressiveModel, position_noise
from parallel_ar.samplers import rounds, sweep
from parallel_ar.samplers.sweep import Sample, Sampler
from parallel_ar.types import Array, Context, Dist, Params, PRNGKey


def speculative(
  model: AutoregressiveModel,
  draft: AutoregressiveModel,
  *,
  window: int = 4,
  verify: bool = True,
  decode: Decode | None = None,
) -> Sampler:
  """Draws several slots for one evaluation of the model, and proves the result.

    y_t = pick(draft_t(x_<k, y_k..y_{t-1}), noise_t)      t = k, ..., k + g - 1
    x_t = pick(model_t(x_<k, y_k..y_{t-1}), noise_t)      t = k, ..., k + g

  Both pick with the noise of the position, so that a draft that is close to the
  model proposes what the model will pick. Up to and including the first slot
  where y differs from x, every x_t has read final values, so these are final.
  A round takes one evaluation of the model on g + 1 slots and yields 1 to g + 1
  of them, and the integers are those of `ancestral` whatever the draft.

  As in `cached`, an incremental evaluation may round otherwise than a pass and
  flip a pick that nearly ties: the passes of `fixed_point` verify the sample,
  one where nothing was flipped.

  Args:
    model: the model.
    draft: a model of the same event, rank and head, and of the same context or
      none; fast, or there is no gain.
    window: g, proposals of a round.
    verify: False returns what was drawn, whose log_prob is that of the
      incremental conditionals; `info.passes` is then 0.
    decode: incremental evaluation of the model; by default its own, and
      without one the derived one. The draft's is chosen likewise.

  Returns:
    A sampler, called as `ancestral`'s but with the pair (params, draft_params)
    for params. `info.steps` counts rounds, `info.tested` the proposals that
    were compared, up to and including the first that differs in each round,
    `info.agreed` those that were equal. A known position passes like an
    accepted proposal, and neither counts it.

  Raises:
    ValueError: the two models do not fit, or window < 1; at the call, params
      are not the pair.

  References:
    Leviathan, Kalman, Matias: Fast inference from transformers via speculative
    decoding. ICML 2023. They accept at random, see `rejection`.
  """
  paths = rounds.check(model, draft, window, decode)
  _check_noise(model, draft)
  split = rounds.pair_of_params(model, draft)

  def draw(
    params: Params, keys: PRNGKey, context: Context, given: Array, known: Array
  ) -> Sample:
    pair = split(params)
    guess = rounds.draw(
      model, draft, _EQUAL, window, paths, pair, keys, context, given, known
    )
    if not verify or paths[0].proves_itself:
      return guess
    return sweep.prove(model, pair[0], keys, context, guess, given, known)

  return sweep.sampler(model, draw)


def expected_tokens(alpha: Any, window: int) -> Any:
  """Slots that a round yields, if proposals are accepted independently.

    E = 1 + a + ... + a^g = (1 - a^(g+1)) / (1 - a)

  Args:
    alpha: a, probability that a proposal is accepted, `agreed / tested`.
    window: g, proposals of a round.

  Returns:
    E in 1..g+1, to be compared with D / `steps`.

  Raises:
    ValueError: alpha outside 0..1 or a negative window.

  References:
    Leviathan et al. 2023, equation 1.
  """
  if not jnp.all((jnp.asarray(alpha) >= 0) & (jnp.asarray(alpha) <= 1)):
    raise ValueError(f'alpha must be a probability, in 0..1; got {alpha}.')
  if window < 0:
    raise ValueError(f'A window has at least 0 proposals; got {window}.')
  return sum(alpha**n for n in range(window + 1))


def expected_speedup(alpha: Any, window: int, cost: Any) -> Any:
  """Gain in wall time over one slot at a time.

    S = (1 - a^(g+1)) / ((1 - a) (g c + 1))

  It holds where a block of g + 1 slots takes the model no longer than one slot.

  Args:
    alpha: a, probability that a proposal is accepted.
    window: g, proposals of a round.
    cost: c, time of a slot of the draft over that of the model.

  Returns:
    S; below 1 the draft does not pay.

  Raises:
    ValueError: as `expected_tokens`.

  References:
    Leviathan et al. 2023, theorem 3.8.
  """
  return expected_tokens(alpha, window) / (window * cost + 1)


def _check_noise(
  model: AutoregressiveModel, draft: AutoregressiveModel
) -> None:
  key = jax.eval_shape(lambda: jax.random.key(0))
  want, have = (
    jax.eval_shape(functools.partial(position_noise, m), key)
    for m in (model, draft)
  )
  if want != have:
    raise ValueError(
      f'The draft {draft.name} (head {draft.head.name}) must pick with the '
      f'noise of {model.name} (head {model.head.name}), but it takes {have} '
      f'instead of {want}. Build both with the same head.'
    )


def _random(
  model: AutoregressiveModel, draft: AutoregressiveModel, key: PRNGKey
) -> Any:
  del draft  # it picks with the model's
  return position_noise(model, key)


def _propose(draft: AutoregressiveModel, dist: Dist, noise: Any) -> Array:
  return draft.head.pick(dist, noise)


def _judge(
  model: AutoregressiveModel,
  draft: AutoregressiveModel,
  dist: Dist,
  drafted: Dist,
  proposed: Array,
  tested: Array,
  noise: Any,
) -> tuple[Array, Array]:
  del draft, drafted, tested
  picked = model.head.pick(dist, noise).astype(proposed.dtype)
  return picked, (picked == proposed).reshape(len(picked), -1).all(-1)


_EQUAL = rounds.Rule(_random, _propose, _judge)
