"""Speculative sampling by rejection: the law of the model, not its integers."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar.decode import Decode
from parallel_ar.keys import of_its_own
from parallel_ar.model import AutoregressiveModel
from parallel_ar.samplers import rounds, sweep
from parallel_ar.samplers.sweep import Sample, Sampler
from parallel_ar.types import Array, Context, Dist, Params, PRNGKey

Residual = Callable[[Array, Array], Array]  # (p[n, V], q[n, V]) -> [n, V]


class Random(NamedTuple):
  """Randomness of every position, leaves that lead with E.

  Why one draw for each position is enough, although a position can be proposed
  again. Call a slot's three variables its randomness. By induction over slots,
  values and acceptances up to slot t are a function of the randomness of slots
  <= t: a proposal reads earlier slots, and the first rejection of a round ends
  what counts of it. If slot t is proposed again, that is because some slot
  before it was rejected, and what was seen of slot t has decided nothing. So
  given all that has decided, the randomness of slot t is fresh when it decides.

  What is NOT allowed is one variable for two purposes at one slot, since a
  rejection tells something about the proposal's noise, nor a variable keyed by
  the place in the window, which decides again in the next round.
  """

  proposal: Any  # noise of the draft's head
  uniform: Array  # decides whether the proposal is accepted
  gumbel: Array  # [E, V], draws what replaces it


def rejection(
  model: AutoregressiveModel,
  draft: AutoregressiveModel,
  *,
  window: int = 4,
  decode: Decode | None = None,
) -> Sampler:
  """Draws several slots for one evaluation of the model, by rejection.

    accept x ~ q_t with probability min(1, p_t(x) / q_t(x))
    at the first rejection draw from norm(max(0, p_t - q_t))
    if all g proposals are accepted, draw one slot more from p

  where p are the model's conditionals and q the draft's. A proposal is accepted
  with probability sum_x min(p(x), q(x)) = 1 - TV(p, q), the most that any
  coupling of the two can reach; the shared noise of `speculative` reaches it
  for two values.

  This keeps the LAW of the model and not the integers of a key: another draft
  or window gives another sample, `ancestral` gives another still, and no pass
  can prove a sample right. `info.passes` is 0, and log_prob is that of the
  model's incremental conditionals.

  Args:
    model: the model; its head has a pmf.
    draft: a model of the same event, rank and values with a pmf, and of the
      same context or none.
    window: g, proposals of a round.
    decode: as for `speculative`.

  Returns:
    A sampler, called as `speculative`'s, with the same counts in `info`.

  Raises:
    ValueError: the two models do not fit, a head has no pmf, or window < 1; at
      the call, params are not the pair (params, draft_params).

  References:
    Leviathan, Kalman, Matias: Fast inference from transformers via speculative
    decoding. ICML 2023, algorithm 1.
    Chen, Borgeaud, Irving, Lespiau, Sifre, Jumper: Accelerating large language
    model decoding with speculative sampling. 2023, algorithm 2.
  """
  return with_rule(model, draft, RULE, window, decode)


def with_rule(
  model: AutoregressiveModel,
  draft: AutoregressiveModel,
  rule: rounds.Rule,
  window: int,
  decode: Decode | None = None,
) -> Sampler:
  """As `rejection`, by another rule; for rules that are wrong on purpose.

  Raises:
    ValueError: as `rejection`.
  """
  paths = rounds.check(model, draft, window, decode)
  for which in (model, draft):
    if which.head.pmf is None:
      raise ValueError(
        f'Rejection compares probabilities of values, but the head '
        f'{which.head.name} of {which.name} has no pmf. Use speculative, which '
        'compares the values themselves.'
      )
  split = rounds.pair_of_params(model, draft)

  def sample(
    params: Params, keys: PRNGKey, context: Context, given: Array, known: Array
  ) -> Sample:
    pair = split(params)
    return rounds.draw(
      model, draft, rule, window, paths, pair, keys, context, given, known
    )

  return sweep.sampler(model, sample)


def random(
  model: AutoregressiveModel, draft: AutoregressiveModel, key: PRNGKey
) -> Random:
  """Randomness of one example, keyed by purpose and then by position."""
  key = of_its_own(key)
  proposal, accept, replace = (jax.random.fold_in(key, n) for n in range(3))
  num_values = model.head.num_values
  assert num_values is not None  # a head with a pmf

  def at(i: Array) -> Random:
    fold = jax.random.fold_in
    return Random(
      draft.head.noise(proposal, i),
      jax.random.uniform(fold(accept, i)),
      # mode='high': see `heads.categorical`.
      jax.random.gumbel(fold(replace, i), (num_values,), mode='high'),
    )

  shape = model.rank.shape
  each = jax.vmap(at)(jnp.arange(model.num_positions))
  return jax.tree.map(lambda a: a.reshape(shape + a.shape[1:]), each)


def propose(draft: AutoregressiveModel, dist: Dist, random: Random) -> Array:
  """x ~ q."""
  return draft.head.pick(dist, random.proposal)


def surplus(p: Array, q: Array) -> Array:
  """max(0, p - q): what the proposals that are accepted leave of p."""
  return jnp.maximum(p - q, 0)


def judge(
  residual: Residual,
  model: AutoregressiveModel,
  draft: AutoregressiveModel,
  dist: Dist,
  drafted: Dist,
  proposed: Array,
  tested: Array,
  random: Random,
) -> tuple[Array, Array]:
  """Accepts by min(1, p/q), and draws by `residual` what is not accepted."""
  pmf, draft_pmf = model.head.pmf, draft.head.pmf
  assert pmf is not None and draft_pmf is not None
  p_nV, q_gV = pmf(dist), draft_pmf(drafted)
  q_nV = jnp.zeros_like(p_nV).at[: len(q_gV)].set(q_gV, mode='drop')
  # Where nothing is proposed q is 0, and the residual is p itself.
  q_nV = jnp.where(tested[:, None], q_nV, 0)
  index = proposed[:, None].astype(jnp.int32)
  p, q = (jnp.take_along_axis(a, index, -1)[:, 0] for a in (p_nV, q_nV))
  accepted = tested & (random.uniform * q < p)
  left = residual(p_nV, q_nV)
  # Rounding alone can reject where p = q, and then nothing is left.
  left = jnp.where(left.sum(-1, keepdims=True) > 0, left, p_nV)
  drawn = jnp.argmax(jnp.log(left) + random.gumbel, -1)
  return jnp.where(accepted, proposed, drawn.astype(proposed.dtype)), accepted


RULE = rounds.Rule(random, propose, functools.partial(judge, surplus))
