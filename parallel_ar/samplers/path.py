"""Which incremental evaluation is taken, how it is told, and its walk."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parallel_ar import doors
from parallel_ar.decode import Decode, derive_decode, recompute_decode
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array, Context, Dist, Params

# `SampleInfo.path` is a place in here.
KINDS = ('none', 'own', 'derived', 'given', 'recomputed', 'whole')

# (state, dist of a slot, inputs of it) -> (state, its value, what is kept)
Pick = Callable[[Any, Dist, Any], tuple[Any, Array, Any]]


class Path(NamedTuple):
  """An incremental evaluation, and where it comes from.

  Attributes:
    decode: it.
    kind: a place in KINDS.
  """

  decode: Decode
  kind: int

  @property
  def proves_itself(self) -> bool:
    """Whether it cannot round, so that no pass has to prove what it draws."""
    return KINDS[self.kind] == 'whole'


def choose(model: AutoregressiveModel, decode: Decode | None = None) -> Path:
  """The path that is given, else the model's own, else the derived one.

  Where nothing can be derived, that is one full pass for each block:
  'recomputed'. Of a model in whole numbers it is 'whole': any program of its
  pass has the integers of the pass.

  Raises:
    ValueError: see `doors.check_decode`.
  """
  given = doors.check_decode(model, decode)
  path = given or model.decode or derive_decode(model)
  kind = 'derived' if given is None else 'given'
  if path is model.decode:
    kind = 'own'
  elif path is recompute_decode(model):
    kind = 'recomputed'
  if model.whole and path is not given and path is not model.decode:
    kind = 'whole'
  return Path(path, KINDS.index(kind))


def walk(
  model: AutoregressiveModel,
  decode: Decode,
  pick: Pick,
  params: Params,
  context: Context,
  inputs: Any,
  state: Any = (),
) -> tuple[Any, Any]:
  """One example, slot after slot; where slots come in rows, row after row.

  Args:
    model: the model.
    decode: its path; by slots, or by rows if it has some.
    pick: what gives a slot its value.
    params: parameters of the model.
    context: of the example.
    inputs: leaves [D, ...], what `pick` gets at each slot.
    state: what `pick` hands on, before the first slot.

  Returns:
    The state behind the last slot, and what `pick` gave out, leaves [D, ...].
  """
  by = _by_slots if decode.blocks is None else _by_blocks
  zero = jnp.zeros(model.event.shape[model.rank.ndim :], model.event.dtype)
  return by(decode, pick, params, context, inputs, (zero, state))


def rooms(num: int, least: int) -> list[int]:
  """Lengths that a cache of `num` slots has, one after another.

  Room for all slots from the start would make the first as dear as the last.
  Each length is laid out as a program of its own, so there are at most 16: a
  step then meets 6 % more slots than it must, in the mean, however many there
  are.

  Args:
    num: slots in all.
    least: slots by which the cache grows, at least.
  """
  segment = max(least, -(-num // 16))
  return [*range(segment, num, segment), num]


def _by_slots(
  decode: Decode,
  pick: Pick,
  params: Params,
  context: Context,
  inputs: Any,
  first: tuple[Array, Any],
) -> tuple[Any, Any]:
  def step(carry, at):
    cache, (previous, state) = carry
    k, own = at
    dist, cache = decode.extend(params, cache, k, previous[None])
    dist = jax.tree.map(lambda d: d[0], dist)
    state, value, out = pick(state, dist, own)
    return (cache, (value, state)), out

  num, parts = len(jax.tree.leaves(inputs)[0]), []
  carry = decode.init(params, context), first
  start = 0
  for end in rooms(num, 64) if decode.resize else [num]:
    if decode.resize:
      carry = decode.resize(carry[0], end), carry[1]
    part = jax.tree.map(lambda a, s=start, e=end: a[s:e], inputs)
    carry, out = jax.lax.scan(
      step, carry, (jnp.arange(start, end, dtype=jnp.int32), part)
    )
    parts.append(out)
    start = end
  return carry[1][1], jax.tree.map(lambda *a: jnp.concatenate(a), *parts)


def _by_blocks(
  decode: Decode,
  pick: Pick,
  params: Params,
  context: Context,
  inputs: Any,
  first: tuple[Array, Any],
) -> tuple[Any, Any]:
  """As `_by_slots`, block after block and slot after slot inside."""
  blocks = decode.blocks
  assert blocks is not None
  size, (zero, state) = blocks.size, first
  rows = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), inputs)

  def block(carry, at):
    cache, last, state = carry
    b, row = at
    cache, shared = blocks.begin(params, cache, b, last)

    def step(carry, at):
      inner, previous, state = carry
      j, own = at
      dist, inner = blocks.extend(params, shared, inner, j, previous)
      state, value, out = pick(state, dist, own)
      return (inner, value, state), (value, out)

    begun = blocks.start(params, shared), zero, state
    (_, _, state), (x, out) = jax.lax.scan(
      step, begun, (jnp.arange(size, dtype=jnp.int32), row)
    )
    return (cache, x, state), out

  none = jnp.broadcast_to(zero, (size, *zero.shape))
  count = len(jax.tree.leaves(rows)[0])
  (_, _, state), out = jax.lax.scan(
    block,
    (blocks.init(params, context), none, state),
    (jnp.arange(count, dtype=jnp.int32), rows),
  )
  return state, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)
