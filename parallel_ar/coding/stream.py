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
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from parallel_ar.coding import quantize
from parallel_ar.coding.container import Decoded, Part
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array, Context, Params


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
    table = np.asarray(_tables(model, precision, params, part.x, part.context))
    for at in _steps(model):
      symbols = part.x[part.used][at].reshape(-1)
      rows = table[part.used][at].reshape(-1, table.shape[-1])
      encoder.encode(_symbols(symbols), family, _rows(rows, precision))
  return encoder.get_compressed().astype('<u4').tobytes()


def decode(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  parts: list[Part],
  body: bytes,
) -> Decoded:
  """The events of all parts; a pass for every rank, or channel of a rank."""
  coder, family = _constriction()
  if len(body) % 4:
    raise ValueError('a stream is made of words of 4 bytes.')
  words = np.frombuffer(body, '<u4').astype(np.uint32)
  decoder = coder.RangeDecoder(words)
  events, passes = [], 0
  for part in parts:
    x = np.array(part.x)
    for at in _steps(model):
      table = np.asarray(_tables(model, precision, params, x, part.context))
      rows = table[part.used][at].reshape(-1, table.shape[-1])
      values = _decoded(decoder, family, _rows(rows, precision))
      known = x[part.used]
      known[at] = values.reshape(known[at].shape)
      x[part.used] = known
      passes += 1
    events.append(x)
  if not events:
    empty = np.zeros((0, *model.event.shape), np.int32)
    return Decoded(empty, np.zeros(0, np.int32), 0)
  each = passes // len(parts)
  x = np.concatenate(events)
  return Decoded(x, np.full(len(x), each), passes)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _tables(
  model: AutoregressiveModel,
  precision: int,
  params: Params,
  x: Array,
  context: Context,
) -> Array:
  """int32[B, *event, V]; the one program of both directions."""
  x = x.astype(model.event.dtype)
  dist = jax.vmap(model.conditionals, (None, 0, 0))(params, x, context)
  of_one = functools.partial(quantize.tables, model.head, precision=precision)
  table: Array = jax.vmap(of_one)(dist, x)
  return table


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
