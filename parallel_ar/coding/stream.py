"""One range coder for all symbols, decoded rank after rank.

The symbols of a file follow each other by batch, rank, event and position, so
that a decoder has what the next ones are conditioned on: R passes a batch. The
coder is constriction's; it gets whole multiples of 2^-r, so that no float can
differ between both ends.

References:
  Martin: Range encoding. 1979. Bamler: Understanding entropy coding with
  asymmetric numeral systems. arXiv:2201.01741, 2022 (constriction).
"""

import functools
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.coding import environment, quantize
from parallel_ar.coding.container import Decoded, Part
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array, Context, Params


def available() -> bool:
  """Whether the coder is installed."""
  return importlib.util.find_spec('constriction') is not None


def probe(
  model: AutoregressiveModel, precision: int, params: Params, part: Part
) -> int:
  """The bits of one pass of the program on a part."""
  return int(_found(model, precision, params, part.x, part, True)[2])


def encode(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  parts: list[Part],
) -> bytes:
  """The symbols of all parts, as one stream."""
  coder, family = _constriction()
  encoder = coder.RangeEncoder()
  for part in parts:
    table, good, _ = _found(model, precision, params, part.x, part)
    quantize.refuse_bad(model, good[part.used])
    for at in _steps(model):
      symbols = part.x[part.used][at].reshape(-1)
      rows = table[part.used][at].reshape(-1, table.shape[-1])
      encoder.encode(_symbols(symbols), family, _rows(rows, precision))
  return encoder.get_compressed().astype('<u4').tobytes()


def decode(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  parts: Iterable[Part],
  body: bytes,
) -> Decoded:
  """The events of all parts; a pass for every rank, or channel of a rank."""
  coder, family = _constriction()
  if len(body) % 4:
    raise ValueError('a stream is made of words of 4 bytes.')
  words = np.frombuffer(body, '<u4').astype(np.uint32)
  decoder = coder.RangeDecoder(words)
  events, passes, num = [], 0, 0
  # The coder reads zeros behind its end, and would go on for ever.
  left = 8.0 * len(body) + 32
  for part in parts:
    x = np.array(part.x)
    for at in _steps(model):
      table, good, _ = _found(model, precision, params, x, part)
      quantize.refuse_bad(model, good[part.used][at])
      rows = table[part.used][at].reshape(-1, table.shape[-1])
      values = _decoded(decoder, family, _rows(rows, precision))
      counts = np.take_along_axis(rows, values[:, None].astype(np.int64), 1)
      left += float((np.log2(counts) - precision).sum())
      if left < 0:
        raise ValueError('its symbols take more bits than it has.')
      known = x[part.used]
      known[at] = values.reshape(known[at].shape)
      x[part.used] = known
      passes += 1
    events.append(x[part.used])
    num += 1
  if not decoder.maybe_exhausted():
    raise ValueError('bits are left behind its last symbol.')
  x = np.concatenate(events)
  return Decoded(x, np.full(len(x), passes // num), passes)


def _tables(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  x: Array,
  context: Context,
  probing: Array,
) -> tuple[Array, Array, Array]:
  """The one program of both directions.

  Args:
    model: the model.
    precision: r.
    params: its parameters.
    x: int32[B, *event].
    context: of every event.
    probing: bool[].

  Returns:
    int32[B, *event, V], the frequencies; bool[B, *event], whether they come of
    probabilities; uint32[], the fingerprint of the pass where `probing`.
  """
  x = x.astype(model.event.dtype)
  dist = jax.vmap(model.conditionals, (None, 0, 0))(params, x, context)
  of_one = functools.partial(
    quantize.checked_tables, model, precision=precision
  )
  table, good = jax.vmap(of_one)(dist, x)
  bits = environment.fingerprint_if(probing, (dist, table))
  return table, good, bits


@functools.cache
def _program() -> Callable[..., tuple[Array, Array, Array]]:
  return environment.program(_tables)


def _found(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  x: np.ndarray,
  part: Part,
  probing: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  found: tuple[np.ndarray, np.ndarray, np.ndarray] = jax.device_get(
    _program()(model, precision, params, x, part.context, jnp.array(probing))
  )
  return found


def _steps(model: AutoregressiveModel) -> Iterator[Any]:
  """What is decoded together, as an index into arrays of [N, *event]."""
  channels = model.event.shape[model.rank.ndim :]
  for r in range(model.depth):
    here = np.nonzero(model.rank == r)
    for inside in np.ndindex(channels):
      yield (slice(None), *here, *inside)


def _symbols(symbols: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(symbols, np.int32)


def _rows(table: np.ndarray, precision: int) -> np.ndarray:
  return np.ascontiguousarray(table / 2.0**precision, np.float32)


def _decoded(decoder: Any, family: Any, rows: np.ndarray) -> np.ndarray:
  try:
    return decoder.decode(family, rows)
  except AssertionError as error:  # how constriction says that bits are wrong
    raise ValueError(f'the stream does not fit the model: {error}') from error


def _constriction() -> tuple[Any, Any]:
  try:
    import constriction
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      "method='stream' needs constriction: pip install 'parallel_ar[coding]'. "
      "method='lanes' needs nothing."
    ) from error
  queue = constriction.stream.queue
  # perfect=True is some 400 times slower, and gains nothing on whole numbers.
  return queue, constriction.stream.model.Categorical(perfect=False)
