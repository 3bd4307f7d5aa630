"""A file with an rANS lane for every event of a batch, decoded from a cache.

The state of a lane goes with the cache of its event through one compiled scan:
a slot gives frequencies, these a symbol or, where it is known, its numbers. So
a decoder does the work of one pass, in D steps, and both ends run the same
program. The frequencies are those of the cache, which a pass may round
otherwise; a file needs that both ends agree, and no more.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.coding import environment, quantize, rans
from parallel_ar.coding.container import Decoded, Part
from parallel_ar.memo import once
from parallel_ar.model import AutoregressiveModel
from parallel_ar.samplers import path, slots
from parallel_ar.types import Array, Context, Dist, Params


class _Lane(NamedTuple):
  state: Array  # uint32[]
  at: Array  # int32[], words that all lanes have read


class _Coded(NamedTuple):
  """Arrays [B, D, *channels], slot after slot, but for the last three.

  Of JAX where they are made, and of NumPy where they are read.
  """

  x: Any
  start: Any  # first number of every symbol
  owned: Any  # numbers that it owns
  good: Any  # bool, its frequencies come of probabilities
  state: Any  # uint32[B]
  read: Any  # int32[], words
  bits: Any  # uint32[], fingerprint of all conditionals


def possible(model: AutoregressiveModel) -> bool:
  """Whether there is a path that is no pass a slot, and a head that takes it.

  A head of one's own may make probabilities of whole events only.
  """
  found: bool = once(model, 'coded from a cache', lambda: _possible(model))
  return found


def code(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  x: Array,
  context: Context,
  lanes: tuple[Array, Array],
  words: Array,
  known: Array,
) -> _Coded:
  """Walks through B events; the one program of both directions.

  Args:
    model: the model.
    precision: r.
    params: its parameters.
    x: int32[B, *event], read where it is known.
    context: of every event.
    lanes: uint32[B], states, and bool[B], those that are read from.
    words: uint32[B D], the next of all lanes.
    known: bool[]; True reads no lane.

  Returns:
    The symbols, their numbers, and the lanes behind them.
  """
  num, decode = len(x), path.choose(model).decode
  shape = x.shape[1 + model.rank.ndim :]

  def one(x: Array, context: Context, state: Array, used: Array, n: Array):
    def pick(lane: _Lane, dist: Dist, own: Array) -> tuple:
      value, rows = own.astype(model.event.dtype), []
      start, owned = jnp.zeros(shape, jnp.int32), jnp.ones(shape, jnp.int32)
      good = jnp.ones(shape, bool)
      for at in np.ndindex(shape):  # channels are a chain inside a position
        row, fine = quantize.checked_tables(model, dist, value, precision, at)
        upper = quantize.ends(row)
        u = (lane.state & (2**precision - 1)).astype(jnp.int32)
        named = (upper <= u).sum(dtype=jnp.int32)
        symbol = jnp.where(known, own[at], named)
        value = value.at[at].set(symbol.astype(value.dtype))
        count = row[symbol]
        start = start.at[at].set(upper[symbol] - count)
        owned = owned.at[at].set(count)
        good = good.at[at].set(fine)
        lane = _pop(lane, u - start[at], count, used & ~known, precision)
        lane = _refill(lane, words, used & ~known, n, num)
        rows.append(upper)
      bits = environment.fingerprint((dist, rows))
      return lane, value, (value.astype(jnp.int32), start, owned, good, bits)

    args = params, context, slots.in_slots(model, x)
    first = _Lane(state, jnp.zeros((), jnp.int32))
    lane, out = path.walk(model, decode, pick, *args, first)
    return *out, lane

  each = slots.over_batch(one, axis_name='lane')
  *kept, bits, lane = each(x, context, *lanes, jnp.arange(num))
  x, start, owned, good = kept
  bits = environment.fingerprint(bits)
  return _Coded(x, start, owned, good, lane.state, lane.at[0], bits)


def _pop(
  lane: _Lane, above: Array, count: Array, used: Array, precision: int
) -> _Lane:
  """See `rans.pop`: the symbol owns `count` numbers, u is `above` its first."""
  popped = count.astype(jnp.uint32) * (lane.state >> precision)
  popped += above.astype(jnp.uint32)
  return lane._replace(state=jnp.where(used, popped, lane.state))


def _refill(
  lane: _Lane, words: Array, used: Array, n: Array, num: int
) -> _Lane:
  """A word for every lane that is short of bits, in the order of the lanes."""
  short = used & (lane.state < 2**rans.LOW)
  every = jax.lax.all_gather(short, 'lane') if num > 1 else short[None]
  before = (every & (jnp.arange(num) < n)).sum(dtype=jnp.int32)
  word = words.at[lane.at + before].get(mode='clip')
  state = jnp.where(short, lane.state << rans.WORD | word, lane.state)
  return _Lane(state, lane.at + every.sum(dtype=jnp.int32))


def probe(
  model: AutoregressiveModel, precision: int, params: Params, part: Part
) -> int:
  """The bits of the conditionals of a part."""
  return int(_coded(model, precision, params, part).bits)


def encode(
  model: AutoregressiveModel, precision: int, params: Params, parts: list[Part]
) -> bytes:
  """Pushes parts and slots in reverse, so that they are popped in order."""
  if not parts:
    return b''
  state = np.full(len(parts[0].x), 2**rans.LOW, np.uint64)
  words = []
  for part in reversed(parts):
    found = _coded(model, precision, params, part)
    quantize.refuse_bad(model, found.good[part.used])
    start, owned = (
      np.ascontiguousarray(a.reshape(len(a), -1).T)
      for a in (found.start, found.owned)
    )
    for k in reversed(range(len(start))):
      args = start[k], owned[k], part.used, precision
      state, moved = rans.push(state, *args)
      words.append(moved)
  return rans.write(state[parts[0].used], words)


def decode(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  parts: Iterable[Part],
  body: bytes,
) -> Decoded:
  """Walks through one part after another; each hands its lanes to the next."""
  state, words, at = np.empty(0, np.uint32), np.empty(0, '<u2'), 0
  events: list[np.ndarray] = []
  for part in parts:
    if not events:
      state, words = rans.read(body, part.used)
      state = state.astype(np.uint32)
    next_words = np.zeros(part.x.size, np.uint32)
    here = words[at : at + part.x.size]
    next_words[: len(here)] = here
    found = _coded(model, precision, params, part, state, next_words)
    quantize.refuse_bad(model, found.good[part.used])
    state, at = found.state, at + int(found.read)
    if at > len(words):
      raise ValueError(f'{at} words are needed and {len(words)} are there.')
    each = jax.vmap(functools.partial(slots.to_event, model))(found.x)
    events.append(np.asarray(each)[part.used])
  rans.check_end(state, words, at)
  x = np.concatenate(events)
  return Decoded(x, np.ones(len(x), np.int32), len(events))


def _possible(model: AutoregressiveModel) -> bool:
  decode, kind = path.choose(model)
  if path.KINDS[kind] == 'recomputed':
    return False
  params, x = jax.eval_shape(model.init, jax.random.key(0)), model.event
  value = jax.ShapeDtypeStruct(x.shape[model.rank.ndim :], x.dtype)

  def one(params: Params, context: Context, value: Array) -> Array:
    first = decode.init(params, context)
    dist, _ = decode.extend(params, first, jnp.int32(0), value[None])
    dist = jax.tree.map(lambda d: d[0], dist)
    return quantize.checked_tables(model, dist, value, quantize.PRECISION)[0]

  try:
    table = jax.eval_shape(one, params, model.context, value)
  except (TypeError, ValueError):
    return False
  return table.shape == (*value.shape, model.head.num_values)


@functools.cache
def _program() -> Callable[..., _Coded]:
  return environment.program(code)


def _coded(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  part: Part,
  state: np.ndarray | None = None,
  words: np.ndarray | None = None,
) -> _Coded:
  """What `code` finds: of given lanes, or without them of the events."""
  known = state is None or words is None
  if known:
    state = np.full(len(part.x), 2**rans.LOW, np.uint32)
    words = np.zeros(part.x.size, np.uint32)
  lanes: Any = state, part.used
  found: _Coded = jax.device_get(
    _program()(
      model,
      precision,
      params,
      part.x,
      part.context,
      lanes,
      words,
      jnp.array(known),
    )
  )
  return found
