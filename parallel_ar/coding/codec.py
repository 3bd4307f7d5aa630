"""A lossless codec of any model: encode in one pass, decode by a fixed point.

  bits = -log2 p(x), up to rounding of the probabilities and the file's ends

Encoding knows x, so one pass gives all frequencies. Decoding looks sequential,
since the frequencies of a position need the positions before it. But if every
position has an rANS lane of its own, shared by the events of a file, the low
bits u_i of lane i are there before anything is decoded, and the event solves

  x_i = symbol that owns u_i under f_i(x_<i),                       i = 1 .. D

which is triangular, like a sample: u takes the place of the noise. So it is
found by a few passes over all positions at once, and no bits are lost: no
position is coded as if it were independent of another. The price is one state
a lane and a file, about 20 bits. `method='stream'` is the plain way beside it:
one range coder for all symbols, and a pass for every rank.

Encoder and decoder need the same frequencies bit for bit, and another program
may round otherwise. So each method has ONE compiled program of one batch size,
which both directions run, and the file says on what it was made.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.coding import container, lanes, quantize, stream
from parallel_ar.coding.container import BadFile, Decoded, Part, batches
from parallel_ar.model import AutoregressiveModel, check_events
from parallel_ar.types import Array, ArrayLike, Context, Params


class Codec(NamedTuple):
  """Both directions.

  Attributes:
    encode: (params, x[N, *event], context=None) -> bytes.
    decode: (params, bytes, context=None) -> Decoded. The context is not in the
      file: whoever decodes has it.
  """

  encode: Callable[..., bytes]
  decode: Callable[..., Decoded]


def codec(
  model: AutoregressiveModel,
  *,
  method: str = 'lanes',
  batch: int = 16,
  precision: int = quantize.PRECISION,
) -> Codec:
  """The lossless codec of a model.

  Args:
    model: any model whose head has probabilities.
    method: 'lanes' decodes by a fixed point; 'stream' rank after rank, with
      files that are shorter by the ends of the lanes.
    batch: B, events of one pass. 'lanes' keeps B D lanes, so that a file grows
      with it by some 20 bits a lane.
    precision: r; frequencies are multiples of 2^-r.

  Returns:
    A Codec.

  Raises:
    ValueError: the model cannot be coded (see `quantize.check`), or a wrong
      argument. `encode` refuses events that do not fit the model; `decode`
      raises BadFile, a ValueError, for a file that is damaged or was made with
      another model, parameters or platform.
    ModuleNotFoundError: 'stream' without the extra 'coding'.
  """
  quantize.check(model, precision)
  if method not in container.METHODS or batch < 1:
    raise ValueError(
      f"method is 'lanes' or 'stream' and batch at least 1; got {method!r} and "
      f'{batch}.'
    )
  directions = {
    'lanes': (_encode_lanes, _decode_lanes),
    'stream': (stream.encode, stream.decode),
  }
  write, read = directions[method]
  how = {'method': method, 'batch': batch, 'precision': precision}

  def encode(params: Params, x: ArrayLike, context: Context = None) -> bytes:
    check_events(model, x)
    x = np.asarray(x).astype(np.int32)
    _check_context(model, context, len(x))
    head = container.header(model, params, x, context, **how)
    parts = list(batches(x, context, batch))
    return container.write(head, write(model, precision, params, parts))

  def decode(params: Params, data: bytes, context: Context = None) -> Decoded:
    head, body = container.read(data)
    empty = np.zeros((head.num, *model.event.shape), np.int32)
    here = container.header(model, params, empty, context, **how)
    container.refuse(head, here)
    _check_context(model, context, head.num)
    parts = list(batches(empty, context, batch))
    try:
      decoded = read(model, precision, params, parts, body)
    except ValueError as error:
      raise BadFile(
        f'The file could not be decoded: {error} Its checksum is right, so the '
        'context differs, or this machine rounds otherwise.'
      ) from error
    decoded = Decoded(
      decoded.x[: head.num].astype(model.event.dtype),
      decoded.passes[: head.num],
      decoded.evaluations,
    )
    if container.events_hash(decoded.x, context) != head.events:
      raise BadFile(
        'The events that were decoded are not those that were encoded. The '
        'context differs, or this machine rounds otherwise.'
      )
    return decoded

  return Codec(encode, decode)


class _State(NamedTuple):
  x: Array  # [B, *event]
  start: Array  # [B, *event], first number of every symbol
  owned: Array  # [B, *event], numbers that it owns
  running: Array  # bool[B]
  passes: Array  # int32[B]
  finite: Array  # bool[]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _solve(
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
    functools.partial(quantize.tables, model.head, precision=precision)
  )
  batch, axes = x.shape[0], tuple(range(1, x.ndim))
  # Channels of a position are a chain inside it.
  most = model.depth * (model.num_dims // model.num_positions) + 1

  def body(state: _State) -> _State:
    dist = conditionals(params, state.x.astype(model.event.dtype), context)
    table = tables(dist, state.x)
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
      jnp.isfinite(jax.tree.leaves(dist)[0]).all(),
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
    jnp.array(True),
  )
  return jax.lax.while_loop(go_on, body, first)


def _encode_lanes(
  model: AutoregressiveModel, precision: int, params: Params, parts: list[Part]
) -> bytes:
  """Pushes the parts in reverse, so that they are popped in order."""
  if not parts:
    return b''
  state = np.full(parts[0].x.size, 2**lanes.LOW, np.uint64)
  words = []
  for part in reversed(parts):
    found = _found(model, precision, params, part, np.zeros_like(part.x), True)
    used = _lanes_used(part)
    state, moved = lanes.push(
      state,
      np.asarray(found.start).reshape(-1),
      np.asarray(found.owned).reshape(-1),
      used,
      precision,
    )
    words.append(moved)
  words.reverse()
  return lanes.pack(state) + np.concatenate(words).astype('<u2').tobytes()


def _decode_lanes(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  parts: list[Part],
  body: bytes,
) -> Decoded:
  """Solves one part after another; each hands its states to the next."""
  if not parts:
    shape = (0, *model.event.shape)
    return Decoded(np.zeros(shape, np.int32), np.zeros(0, np.int32), 0)
  state, size = lanes.unpack(body, parts[0].x.size)
  words, at = np.frombuffer(body, '<u2', offset=size), 0
  events, passes, evaluations = [], [], 0
  for part in parts:
    u = lanes.peek(state, precision).reshape(part.x.shape)
    found = _found(model, precision, params, part, u, False)
    if found.running.any():
      raise ValueError(
        f'no event was found in {found.passes.max()} passes, so {model.name} '
        'is not causal; experiments.audit finds where it reads the future.'
      )
    state, read = lanes.pop(
      state,
      np.asarray(found.start).reshape(-1),
      np.asarray(found.owned).reshape(-1),
      _lanes_used(part),
      words[at:],
      precision,
    )
    at += read
    events.append(found.x)
    passes.append(found.passes)
    evaluations += int(found.passes.max())
  if at != len(words) or (state != 2**lanes.LOW).any():
    raise ValueError('its lanes do not end where they began.')
  return Decoded(np.concatenate(events), np.concatenate(passes), evaluations)


def _found(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  part: Part,
  u: np.ndarray,
  given: bool,
) -> _State:
  found: _State = jax.device_get(
    _solve(model, precision, params, part.x, part.context, u, jnp.array(given))
  )
  if not found.finite:
    raise ValueError(
      f'{model.name} gives conditionals that are not finite; nothing can be '
      'coded with them. Look at the parameters.'
    )
  return found


def _lanes_used(part: Part) -> np.ndarray:
  return np.repeat(part.used, part.x[0].size)


def _check_context(
  model: AutoregressiveModel, context: Context, num: int
) -> None:
  want = jax.tree.map(lambda c: (num, *c.shape), model.context)
  have = jax.tree.map(np.shape, context)
  if want != have:
    raise ValueError(
      f'{model.name} is conditioned on a context of shapes {want} for {num} '
      f'events; got {have}.'
    )
