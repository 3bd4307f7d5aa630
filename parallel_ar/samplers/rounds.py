"""Rounds of a draft and a model: several slots drawn for one evaluation.

A round starts at slot k of an example, where slots < k are final:

  1. the draft proposes the slots k..k+g-1, one after another
  2. the model computes the conditionals of slots k..k+g in one block, the
     proposals being what each slot reads
  3. a `Rule` accepts a prefix of c <= g proposals and gives the value of slot
     k + c itself, which read accepted values only

So a round makes c + 1 slots final, 1 to g + 1. Every example has its own k.
There is one loop for the batch, over rounds of all examples: a round of an
example that is finished changes nothing, so that no cache is ever copied to
freeze it, as it would be if the loop of one example were vmapped.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import doors
from parallel_ar.decode import Decode
from parallel_ar.model import (
  AutoregressiveModel,
  over_positions,
)
from parallel_ar.samplers import frontier, path, slots, sweep
from parallel_ar.samplers.path import Path
from parallel_ar.samplers.sweep import Sample
from parallel_ar.types import Array, Context, Dist, Params, PRNGKey


class Rule(NamedTuple):
  """How proposals are made and judged, for ONE example.

  Attributes:
    random: (model, draft, key) -> randomness of all positions, leaves that
      lead with E.
    propose: (draft, dist, random) -> the value of one slot.
    judge: (model, draft, dist, drafted, proposed, tested, random) ->
      (values[n], accepted bool[n]) of n slots. `dist` is the model's;
      `drafted` the draft's, of the first g; `proposed` the values; `tested`
      bool[n] is false where there is no proposal to judge: `values` is then
      drawn from `dist`.
  """

  random: Callable[[AutoregressiveModel, AutoregressiveModel, PRNGKey], Any]
  propose: Callable[[AutoregressiveModel, Dist, Any], Array]
  judge: Callable[..., tuple[Array, Array]]


def check(
  model: AutoregressiveModel,
  draft: AutoregressiveModel,
  window: int,
  decode: Decode | None = None,
) -> tuple[Path, Path]:
  """Checks that a draft can propose for a model.

  Returns:
    The paths of the model, see `path.choose`, and of the draft.

  Raises:
    ValueError: what is no model; another event, order, alphabet or context, no
      window, or the decode path of another model.
  """
  doors.check_decode(model, decode)
  example = 'a smaller model of the same event'
  doors.check_part('draft', draft, AutoregressiveModel, example)
  if int(window) != window or window < 1:
    raise ValueError(
      f'window must be a whole number of proposals, at least 1; got {window}. '
      'Without proposals use cached or ancestral.'
    )
  for what, want, have in (
    ('the event', model.event, draft.event),
    ('num_values', model.head.num_values, draft.head.num_values),
  ):
    if want != have:
      raise ValueError(
        f'The draft {draft.name} must be a model of what {model.name} is a '
        f'model of, but {what} is {have} instead of {want}.'
      )
  if not np.array_equal(model.rank, draft.rank):
    raise ValueError(
      f'The draft {draft.name} draws in another order than {model.name}: their '
      'ranks differ. A proposal for a slot must read what the model reads '
      'there, so build both with the same rank.'
    )
  if draft.context is not None and draft.context != model.context:
    raise ValueError(
      f'The draft {draft.name} is conditioned on {draft.context}, but '
      f'{model.name} on {model.context}. A draft takes the context of the '
      'model, or none.'
    )
  return path.choose(model, decode), path.choose(draft)


def pair_of_params(
  model: AutoregressiveModel, draft: AutoregressiveModel
) -> Callable[[Params], tuple[Params, Params]]:
  """The check that params is a pair, the model's and the draft's.

  Returns:
    params -> (params, draft_params), or a ValueError that says which of the
    two does not fit; it looks at shapes only, so that it works under jit.
  """
  key = jax.eval_shape(lambda: jax.random.key(0))
  names = 'params', 'draft_params'
  specs = [_shapes(jax.eval_shape(m.init, key)) for m in (model, draft)]

  def split(params: Params) -> tuple[Params, Params]:
    if not isinstance(params, tuple | list) or len(params) != 2:
      raise ValueError(
        f'params must be the pair (params, draft_params), those of '
        f'{model.name} and those of its draft {draft.name}; got '
        f'{type(params).__name__}.'
      )
    for which, name, part, spec in zip(
      (model, draft), names, params, specs, strict=True
    ):
      have = _shapes(part)
      if have != spec:
        leaf = min(set(have.items()) ^ set(spec.items()))[0]
        raise ValueError(
          f'params must be the pair (params, draft_params), in this order, but '
          f'{name} are not those of {which.name}: {leaf or "the leaf"} has '
          f'shape {have.get(leaf)} instead of {spec.get(leaf)}.'
        )
    return params[0], params[1]

  return split


def _shapes(tree: Any) -> dict[str, tuple]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): jnp.shape(a) for path, a in leaves}


class _Plan(NamedTuple):
  """What is fixed when the program is compiled."""

  model: AutoregressiveModel
  draft: AutoregressiveModel
  rule: Rule
  decode: Decode
  draft_decode: Decode
  window: int  # g
  block: int  # slots in a block of the model, g + 1 or D


class _Inputs(NamedTuple):
  """One example, slot after slot."""

  given: Array  # [D, ...]
  known: Array  # [D]
  random: Any  # [D, ...]


class _State(NamedTuple):
  """One example between two rounds."""

  k: Array  # [], slots below it are final
  values: Array  # [D + 1, ...], the value of slot k at k + 1
  log_prob: Array  # []
  cache: Any
  draft_cache: Any
  steps: Array  # [], rounds
  tested: Array  # []
  agreed: Array  # []


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def draw(
  model: AutoregressiveModel,
  draft: AutoregressiveModel,
  rule: Rule,
  window: int,
  paths: tuple[Path, Path],
  params: tuple[Params, Params],
  keys: PRNGKey,
  context: Context,
  given: Array,
  known: Array,
) -> Sample:
  """Draws a batch by rounds.

  Args:
    model: the model.
    draft: proposes.
    rule: judges.
    window: proposals of a round.
    paths: of `check`.
    params: of the model and of the draft.
    keys: key[B].
    context: pytree with leading axis B, or None.
    given: array[B, *event].
    known: bool[B, E].

  Returns:
    The samples; nothing has been proved.
  """
  num = model.num_positions
  # The last slot of a block needs no proposal, since the model draws it.
  window = max(min(window, num - 1), 1)
  plan = _Plan(
    model,
    draft,
    rule,
    paths[0].decode,
    paths[1].decode,
    window,
    min(window + 1, num),
  )
  inputs, state = jax.vmap(functools.partial(_start, plan, params))(
    keys, context, given, known
  )
  for room in _rooms(plan):
    state = state._replace(
      cache=_resize(plan.decode, state.cache, room),
      draft_cache=_resize(plan.draft_decode, state.draft_cache, room),
    )
    step = jax.vmap(functools.partial(_round, plan, params, room))
    waiting = functools.partial(_waiting, plan, room)
    state = jax.lax.while_loop(waiting, functools.partial(step, inputs), state)
  x = jax.vmap(functools.partial(slots.to_event, model))(state.values[:, 1:])
  return sweep.draft(
    model,
    x,
    state.log_prob,
    paths[0].kind,
    steps=state.steps,
    tested=state.tested,
    agreed=state.agreed,
  )


def _start(
  plan: _Plan,
  params: tuple[Params, Params],
  key: PRNGKey,
  context: Context,
  given: Array,
  known: Array,
) -> tuple[_Inputs, _State]:
  random = plan.rule.random(plan.model, plan.draft, key)
  inputs = _Inputs(*slots.in_slots(plan.model, (given, known, random)))
  zero = jnp.zeros((), jnp.int32)
  first = jnp.zeros_like(inputs.given[:1])  # slot -1, which no slot reads
  draft_context = None if plan.draft.context is None else context
  return inputs, _State(
    k=zero,
    values=jnp.concatenate([first, jnp.zeros_like(inputs.given)]),
    log_prob=jnp.zeros(()),
    cache=plan.decode.init(params[0], context),
    draft_cache=plan.draft_decode.init(params[1], draft_context),
    steps=zero,
    tested=zero,
    agreed=zero,
  )


def _rooms(plan: _Plan) -> list[int]:
  """Lengths that the caches have, one after another."""
  num = plan.model.num_positions
  if plan.decode.resize is None and plan.draft_decode.resize is None:
    return [num]
  return [n for n in path.rooms(num, 128) if n >= plan.block]


def _resize(decode: Decode, cache: Any, room: int) -> Any:
  resize = decode.resize
  return jax.vmap(lambda c: resize(c, room))(cache) if resize else cache


def _active(plan: _Plan, room: int, k: Array) -> Array:
  """Whether the example has a whole block of room, or is at its end."""
  num = plan.model.num_positions
  return k + plan.block <= room if room < num else k < num


def _waiting(plan: _Plan, room: int, state: _State) -> Array:
  return _active(plan, room, state.k).any()


def _round(
  plan: _Plan,
  params: tuple[Params, Params],
  room: int,
  inputs: _Inputs,
  state: _State,
) -> _State:
  """One round of one example; nothing that counts changes unless active."""
  model, num, k = plan.model, plan.model.num_positions, state.k
  values, draft_cache, drafted = _propose(plan, params[1], room, inputs, state)

  # A block that does not fit starts earlier: a cache would move it silently,
  # but to extend final slots again changes nothing.
  start = jnp.minimum(k, room - plan.block)
  previous = jax.lax.dynamic_slice_in_dim(values, start, plan.block)
  cache = plan.decode.rewind(state.cache, start)
  dist, cache = plan.decode.extend(params[0], cache, start, previous)

  j = jnp.arange(plan.block, dtype=jnp.int32)  # slot k + j
  here = jnp.minimum(k - start + j, plan.block - 1)
  dist = jax.tree.map(lambda d: d[here], dist)
  at = jnp.minimum(k + j, num - 1)
  given, known, random = jax.tree.map(lambda a: a[at], inputs)
  proposed = values[at + 1]
  active = _active(plan, room, k)
  tested = active & (j < jnp.minimum(plan.window, num - 1 - k))
  picked, accepted = plan.rule.judge(
    model, plan.draft, dist, drafted, proposed, tested, random
  )
  picked = jnp.where(over_positions(known, given), given, picked)
  accepted = tested & (accepted | known)

  count = jnp.cumprod(accepted.astype(jnp.int32)).sum(dtype=jnp.int32)
  taken = active & (j <= count) & (k + j < num)
  terms = model.head.log_prob(dist, picked)
  total = jnp.where(taken, terms, 0).sum().astype(state.log_prob.dtype)
  judged = tested & taken & ~known
  return _State(
    k=k + taken.sum(dtype=k.dtype),
    values=_put(values, jnp.where(taken, k + j, num), picked),
    log_prob=state.log_prob + total,
    cache=cache,
    draft_cache=draft_cache,
    steps=state.steps + active,
    tested=state.tested + judged.sum(dtype=k.dtype),
    agreed=state.agreed + (judged & accepted).sum(dtype=k.dtype),
  )


def _propose(
  plan: _Plan, params: Params, room: int, inputs: _Inputs, state: _State
) -> tuple[Array, Any, Dist]:
  """Values with proposals from slot k on, the cache, and their dists.

  The draft has seen no value of the last round that it did not propose: the
  one that the model put in place of a proposal, and where all proposals were
  accepted, the last of them and the one after it. A first block of two slots,
  k - 1 and k, covers both cases.
  """
  decode, k = plan.draft_decode, state.k
  lead = min(2, plan.model.num_positions)

  def extend(cache: Any, start: Array, length: int, values: Array) -> Any:
    previous = jax.lax.dynamic_slice_in_dim(values, start, length)
    return decode.extend(params, decode.rewind(cache, start), start, previous)

  def put(values: Array, dist: Dist, slot: Array) -> Array:
    at = jnp.minimum(slot, plan.model.num_positions - 1)
    given, known, random = jax.tree.map(lambda a: a[at], inputs)
    value = plan.rule.propose(plan.draft, dist, random).astype(given.dtype)
    value = frontier.finite(value)  # the model reads it beside final ones
    return _put(values, slot, jnp.where(known, given, value))

  start = jnp.clip(k - 1, 0, room - lead)
  dist, cache = extend(state.draft_cache, start, lead, state.values)
  here = jnp.minimum(k, room - 1) - start
  first = jax.tree.map(lambda d: d[here], dist)
  values = put(state.values, first, k)

  def step(carry: tuple, slot: Array) -> tuple[tuple, Dist]:
    cache, values = carry
    # Beyond the end the last slot is extended again, and nothing is kept.
    dist, cache = extend(cache, jnp.minimum(slot, room - 1), 1, values)
    dist = jax.tree.map(lambda d: d[0], dist)
    return (cache, put(values, dist, slot)), dist

  (cache, values), rest = jax.lax.scan(
    step, (cache, values), k + jnp.arange(1, plan.window, dtype=jnp.int32)
  )
  join = lambda a, b: jnp.concatenate([a[None], b])
  return values, cache, jax.tree.map(join, first, rest)


def _put(values: Array, slot: Array, value: Array) -> Array:
  """Writes slots; those from D on are dropped."""
  return values.at[slot + 1].set(value, mode='drop')
