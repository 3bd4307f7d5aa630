"""A file with an rANS lane for every position, decoded by a fixed point.

The low bits u_i of all lanes are there before anything is decoded, and the
event is the solution of x_i = symbol that owns u_i under f_i(x_<i): see
`codec`. Lanes of events that a file does not have are not kept.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.coding import environment, quantize, rans
from parallel_ar.coding.container import Decoded, Part
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array, Context, Params


class _State(NamedTuple):
  x: Array  # [B, *event]
  start: Array  # [B, *event], first number of every symbol
  owned: Array  # [B, *event], numbers that it owns
  running: Array  # bool[B]
  passes: Array  # int32[B]
  good: Array  # bool[B], all frequencies come of probabilities
  bits: Array  # uint32[], fingerprint of the conditionals, where x is given


def solve(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  x: Array,
  context: Context,
  u: Array,
  given: Array,
) -> _State:
  """The events that u names, and their frequencies; the program of the lanes.

  Args:
    model: the model.
    precision: r.
    params: its parameters.
    x: int32[B, *event], a first guess, or the events themselves.
    context: of every event.
    u: int32[B, *event], the low bits of the lanes.
    given: bool[]; True keeps x, and ends after one pass.

  Returns:
    The state at the fixed point, which its last pass proved.
  """
  conditionals = jax.vmap(model.conditionals, (None, 0, 0))
  tables = jax.vmap(
    functools.partial(quantize.checked_tables, model, precision=precision)
  )
  batch, axes = x.shape[0], tuple(range(1, x.ndim))
  # Channels of a position are a chain inside it.
  most = model.depth * (model.num_dims // model.num_positions) + 1

  def body(state: _State) -> _State:
    dist = conditionals(params, state.x.astype(model.event.dtype), context)
    table, good = tables(dist, state.x)
    upper = quantize.ends(table)
    named = (upper <= u[..., None]).sum(-1).astype(jnp.int32)
    y = jnp.where(given, state.x, named)
    of = lambda a: jnp.take_along_axis(a, y[..., None], -1)[..., 0]
    count = of(table)
    running = state.running & (y != state.x).any(axes)
    return _State(
      y,
      of(upper) - count,
      count,
      running,
      state.passes + state.running,
      good.all(axes),
      environment.fingerprint_if(given, (dist, table)),
    )

  def go_on(state: _State) -> Array:
    return state.running.any() & (state.passes.max() < most)

  zeros = jnp.zeros_like(x)
  first = _State(
    x,
    zeros,
    zeros,
    jnp.ones(batch, bool),
    jnp.zeros(batch, jnp.int32),
    jnp.ones(batch, bool),
    jnp.zeros((), jnp.uint32),
  )
  return jax.lax.while_loop(go_on, body, first)


def probe(
  model: AutoregressiveModel, precision: int, params: Params, part: Part
) -> int:
  """The bits of one pass of the program on a part."""
  found = _found(model, precision, params, part, np.zeros_like(part.x), True)
  return int(found.bits)


def encode(
  model: AutoregressiveModel, precision: int, params: Params, parts: list[Part]
) -> bytes:
  """Pushes the parts in reverse, so that they are popped in order."""
  if not parts:
    return b''
  state = np.full(parts[0].x.size, 2**rans.LOW, np.uint64)
  words = []
  for part in reversed(parts):
    found = _found(model, precision, params, part, np.zeros_like(part.x), True)
    quantize.refuse_bad(model, np.asarray(found.good)[part.used])
    state, moved = rans.push(
      state,
      np.asarray(found.start).reshape(-1),
      np.asarray(found.owned).reshape(-1),
      _lanes(part),
      precision,
    )
    words.append(moved)
  return rans.write(state[_lanes(parts[0])], words)


def decode(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  parts: Iterable[Part],
  body: bytes,
) -> Decoded:
  """Solves one part after another; each hands its states to the next."""
  state, words, at = np.empty(0, np.uint64), np.empty(0, '<u2'), 0
  events: list[np.ndarray] = []
  passes: list[np.ndarray] = []
  evaluations = 0
  for part in parts:
    if not events:
      state, words = rans.read(body, _lanes(part))
    u = rans.peek(state, precision).reshape(part.x.shape)
    found = _found(model, precision, params, part, u, False)
    if found.running[part.used].any():
      raise ValueError(
        f'no event was found in {found.passes.max()} passes, so {model.name} '
        'is not causal, or its conditionals are others here.'
      )
    quantize.refuse_bad(model, np.asarray(found.good)[part.used])
    state, read = rans.pop(
      state,
      np.asarray(found.start).reshape(-1),
      np.asarray(found.owned).reshape(-1),
      _lanes(part),
      words[at:],
      precision,
    )
    at += read
    events.append(np.asarray(found.x)[part.used])
    passes.append(np.asarray(found.passes)[part.used])
    evaluations += int(found.passes.max())
  rans.check_end(state, words, at)
  return Decoded(np.concatenate(events), np.concatenate(passes), evaluations)


@functools.cache
def _program() -> Callable[..., _State]:
  return environment.program(solve)


def _found(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  part: Part,
  u: np.ndarray,
  given: bool,
) -> _State:
  found: _State = jax.device_get(
    _program()(
      model, precision, params, part.x, part.context, u, jnp.array(given)
    )
  )
  return found


def _lanes(part: Part) -> np.ndarray:
  """bool[B D], lanes of events that there are."""
  return np.repeat(part.used, part.x[0].size)
