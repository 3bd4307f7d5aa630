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
a lane and a file, about 20 bits. `method='cached'` has a lane for every event,
and decodes it slot after slot from the cache that samplers use, which is the
work of one pass. `method='stream'` is the plain way beside both: one range
coder for all symbols, and a pass for every rank.

Encoder and decoder need the same frequencies bit for bit, and another program
may round otherwise. So each method has ONE compiled program of one batch size,
which both directions run, with compiler options that no environment changes;
the file remembers the bits of one of its passes, which a decoder compares
before it starts (`environment`). And `encode` decodes what it made before it
returns it, so that a file that was written can be read.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple, Protocol

import jax
import numpy as np

from parallel_ar.coding import (
  cached,
  container,
  environment,
  lanes,
  quantize,
  stream,
)
from parallel_ar.coding.container import BadFile, Decoded, Part, batches
from parallel_ar.doors import check_context, check_events
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import ArrayLike, Context, Params

_METHODS: dict[str, ModuleType] = {
  'cached': cached,
  'lanes': lanes,
  'stream': stream,
}


class Encoder(Protocol):
  """Events to bytes; see `Codec`."""

  def __call__(
    self, params: Params, x: ArrayLike, context: Context = None
  ) -> bytes:
    """The file of some events, of about -log2 p(x) bits.

    Args:
      params: parameters of the model.
      x: integers[N, *event] in 0..V-1.
      context: leaves with leading axis N, or None for an unconditional model.

    Returns:
      The file; it has all but the parameters and the context.

    Raises:
      ValueError: what does not fit the model, or does not come back.
    """
    ...


class Decoder(Protocol):
  """Bytes to events; see `Codec`."""

  def __call__(
    self, params: Params, data: bytes, context: Context = None
  ) -> Decoded:
    """The events of a file that `encode` made.

    Args:
      params: those that it was made with.
      data: the file.
      context: that of `encode`; it is not in the file.

    Returns:
      A Decoded: x[N, *event], and how many passes it took.

    Raises:
      BadFile: a damaged file, other parameters, another model or context, or
        conditionals of other bits.
    """
    ...


class Codec(NamedTuple):
  """Both directions.

  Attributes:
    encode: (params, x[N, *event], context=None) -> bytes.
    decode: (params, bytes, context=None) -> Decoded. The context is not in the
      file: whoever decodes has it.
  """

  encode: Encoder
  decode: Decoder


def codec(
  model: AutoregressiveModel,
  *,
  method: str = 'auto',
  batch: int = 16,
  precision: int = quantize.PRECISION,
  verify: bool = True,
) -> Codec:
  """The lossless codec of a model.

  Args:
    model: any model whose head has probabilities.
    method: 'cached' decodes slot after slot from the cache of samplers, the
      work of one pass; 'lanes' by a fixed point, few passes at once; 'stream'
      rank after rank, a pass each. 'auto' takes 'cached' where the model has a
      cache, else 'lanes' where their ends are at most an eighth of the file,
      else 'stream' where its coder is installed; it decodes files of all.
    batch: B, events of one pass. A file grows with it by the ends of its lanes,
      some 20 bits each: 'cached' has one for an event, 'lanes' one for each of
      its D positions.
    precision: r; frequencies are multiples of 2^-r.
    verify: `encode` decodes what it made before it returns it, and raises where
      other events come back. It costs what `decode` costs; without it a model
      that is not causal, or only up to rounding, gives files that nobody reads.

  Returns:
    A Codec.

  Raises:
    ValueError: the model cannot be coded (see `quantize.check`), or a wrong
      argument. `encode` refuses events that do not fit the model, conditionals
      that are no probabilities, and a model whose file does not come back;
      `decode` raises BadFile, a ValueError, for a file that is damaged, was
      made with another model, parameters or context, or whose conditionals
      have other bits here.
    ModuleNotFoundError: 'stream' without the extra 'coding'.
  """
  quantize.check(model, precision)
  _check(model, method, batch)
  how = batch, precision

  def encode(params: Params, x: ArrayLike, context: Context = None) -> bytes:
    x = np.asarray(check_events(model, x)).astype(np.int32)
    context = _context(model, context, len(x))
    parts = list(batches(x, context, batch))
    of, body = _write(model, method, precision, params, parts)
    if verify:
      _prove(model, of, how, params, x, context, body)
    head = container.Header(
      len(x),
      batch,
      of,
      precision,
      params=container.params_hash(params),
      model=container.model_hash(model),
      context=container.context_hash(context),
      events=container.events_hash(x),
      probe=_probe(model, of, precision, params, iter(parts)),
      facts=None if model.whole else environment.facts(),
    )
    return container.write(head, body)

  def decode(params: Params, data: bytes, context: Context = None) -> Decoded:
    head, body = container.read(data)
    of = head.method if method == 'auto' else method
    if of == 'cached' and not cached.possible(model):
      raise BadFile(f'The file is of a cache, and {model.name} has none.')
    context = _context(model, context)
    # Whole numbers do not ask for the program of the writer's batch; how many
    # lanes there are is said by the file.
    size = head.batch if model.whole else batch
    here = head._replace(
      method=of,
      batch=size,
      precision=precision,
      params=container.params_hash(params),
      model=container.model_hash(model),
      context=container.context_hash(context),
    )
    container.refuse(head, here)
    container.check_size(model, head, body, context)
    return _events(model, here, params, context, body, head)

  encode.__doc__ = Encoder.__call__.__doc__
  decode.__doc__ = Decoder.__call__.__doc__
  return Codec(encode, decode)


def _check(model: AutoregressiveModel, method: str, batch: int) -> None:
  """Refuses a method that is none, or not of this model."""
  whole = isinstance(batch, int | np.integer)
  if method not in ('auto', *_METHODS) or not whole or batch < 1:
    raise ValueError(
      "method is 'auto', 'cached', 'lanes' or 'stream' and batch a whole "
      f'number of at least 1; got {method!r} and {batch}.'
    )
  if method == 'cached' and not cached.possible(model):
    raise ValueError(
      f'{model.name} has no cache to code with: nothing can be derived of its '
      'pass (par.explain_decode says why), or its head makes probabilities of '
      "whole events only. Take method='auto'."
    )


def _events(
  model: AutoregressiveModel,
  here: container.Header,
  params: Params,
  context: Context,
  body: bytes,
  head: container.Header,
) -> Decoded:
  """The events of a file whose header fits.

  Args:
    model: the model.
    here: how it is decoded here.
    params: parameters of the model.
    context: of the events.
    body: of the file.
    head: of the file.

  Raises:
    BadFile: the model has other bits here, or other events come out.
  """
  how = here.batch, here.precision
  parts = _blank(model, head.num, here.batch, context)
  if _probe(model, here.method, here.precision, params, parts) != head.probe:
    raise BadFile(
      'The file cannot be decoded here: on fixed events the model gives '
      'other bits than where it was written, so its frequencies differ. '
      + _explained(head)
    )
  try:
    decoded = _read(model, here.method, how, params, head.num, context, body)
    if container.events_hash(decoded.x) != head.events:
      raise ValueError('other events came out than were encoded.')
  except ValueError as error:
    raise BadFile(
      f'The file could not be decoded: {error} Its checksum is right, so it '
      'was damaged before that was made, or these events round otherwise '
      'here. ' + _explained(head)
    ) from error
  return decoded


def _write(
  model: AutoregressiveModel,
  method: str,
  precision: int,
  params: Params,
  parts: list[Part],
) -> tuple[str, bytes]:
  """The method that is taken, and the body."""
  of = method
  if method == 'auto':
    of = 'cached' if cached.possible(model) else 'lanes'
  body = _METHODS[of].encode(model, precision, params, parts)
  if method == 'auto' and of == 'lanes' and parts and stream.available():
    ends = container.LANE * parts[0].x[parts[0].used].size  # bits
    if ends > len(body):  # that is, more than an eighth of its bits
      of, body = 'stream', stream.encode(model, precision, params, parts)
  return of, body


def _read(
  model: AutoregressiveModel,
  method: str,
  how: tuple[int, int],
  params: Params,
  num: int,
  context: Context,
  body: bytes,
) -> Decoded:
  """The events of a body, in the event's dtype."""
  if not num and not body:
    empty = np.zeros((0, *model.event.shape), model.event.dtype)
    return Decoded(empty, np.zeros(0, np.int32), 0)
  if not num:
    raise ValueError('it has no events, and bits behind its header.')
  batch, precision = how
  parts = _blank(model, num, batch, context)
  found = _METHODS[method].decode(model, precision, params, parts, body)
  return found._replace(x=found.x.astype(model.event.dtype))


def _prove(
  model: AutoregressiveModel,
  method: str,
  how: tuple[int, int],
  params: Params,
  x: np.ndarray,
  context: Context,
  body: bytes,
) -> None:
  """Decodes what was encoded.

  Raises:
    ValueError: other events come back, or none.
  """
  try:
    back = _read(model, method, how, params, len(x), context, body).x
    different = int((back != x).sum())
    why = f'{different} of {x.size} integers come back as others'
  except ValueError as error:
    different, why = 1, str(error).rstrip('.')
  if different:
    raise ValueError(
      f'{model.name} cannot be coded: what was encoded does not decode '
      f'({why}). Its conditionals depend on symbols that a decoder does not '
      'know yet: it is not causal, or only up to rounding, as with an FFT. '
      'experiments.audit names the positions. No file was made.'
    )


def _explained(head: container.Header) -> str:
  if head.facts is None:
    return (
      'It was written by a model in whole numbers, whose bits are the same '
      'everywhere.'
    )
  return environment.explain(head.facts, environment.facts())


def _probe(
  model: AutoregressiveModel,
  method: str,
  precision: int,
  params: Params,
  parts: Iterator[Part],
) -> bytes:
  """The bits of a pass on fixed events, under the context of the first part.

  Of a model in whole numbers they are the same everywhere, and not asked for.
  """
  part = next(parts, None)
  if part is None or model.whole:
    return bytes(4)
  assert model.head.num_values is not None
  number = np.arange(part.x.size, dtype=np.uint64) * 2654435761 >> 16
  fixed = (number % model.head.num_values).astype(np.int32)
  part = part._replace(x=fixed.reshape(part.x.shape))
  bits = _METHODS[method].probe(model, precision, params, part)
  return bits.to_bytes(4, 'little')


def _blank(
  model: AutoregressiveModel, num: int, batch: int, context: Context
) -> Iterator[Part]:
  """Parts of events that are not known yet; no memory but that of one part."""
  x = np.broadcast_to(np.int32(0), (num, *model.event.shape))
  return batches(x, context, batch)


def _context(
  model: AutoregressiveModel, context: Context, num: int | None = None
) -> Context:
  """The context as arrays of the model's own dtypes.

  Raises:
    ValueError: wrong structure, shapes or kind of values.
  """
  leaves = jax.tree.leaves(context)
  if num is None:
    num = len(leaves[0]) if leaves and np.ndim(leaves[0]) else 0
  return jax.tree.map(np.asarray, check_context(model, context, num))
