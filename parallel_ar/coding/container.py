"""The file: events in parts, and a header that knows who can read them.

  magic | crc | version | method, precision | N | B | length | 5 checks
  | what wrote it | body

N, B and the length of the body are varints. The checks are hashes of the
parameters, the model, the context and the events, and the bits of one pass on
fixed events (see `environment`). A file that was damaged, or of other
parameters, or whose bits are others here, is refused with the reason and before
it is decoded, and never decoded to something else. The checks are there for
accidents; they do not protect against a person who makes a file on purpose.
"""

import hashlib
import math
import struct
import weakref
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from parallel_ar.coding import environment
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import ArrayLike, Context, Params

_MAGIC = b'PARc'
_VERSION = 2
_PORTABLE = 3  # of a model in whole numbers: nothing is said of the writer
_START = struct.Struct('<4sIBB')  # magic, crc, version, method and precision
_CHECKS = struct.Struct('<4s4s4s4s4s')
METHODS = ('lanes', 'stream', 'cached')
LANE = (
  20  # bits that a lane takes at least: 4 of its length and 16 of its state
)


class BadFile(ValueError):
  """A file that cannot be decoded here, or is damaged."""


class Decoded(NamedTuple):
  """Events, and what they cost.

  Attributes:
    x: array[N, *event].
    passes: int[N], passes until the event was proved.
    evaluations: passes of the network over whole batches; what 'cached' does
      in D steps is the work of one.
  """

  x: np.ndarray
  passes: np.ndarray
  evaluations: int


class Part(NamedTuple):
  """B events of a file; the last part is filled up with events of zeros."""

  x: np.ndarray
  context: Any
  used: np.ndarray  # bool[B]


def batches(x: np.ndarray, context: Context, size: int) -> Iterator[Part]:
  """The parts of a file."""
  for at in range(0, len(x), size):
    num = min(size, len(x) - at)

    def cut(a: ArrayLike, at: int = at, num: int = num) -> np.ndarray:
      a = np.asarray(a)[at : at + num]
      return np.concatenate([a, np.zeros((size - num, *a.shape[1:]), a.dtype)])

    yield Part(cut(x), jax.tree.map(cut, context), np.arange(size) < num)


class Header(NamedTuple):
  """What the first bytes say.

  Attributes:
    num: N, events.
    batch: B of a pass.
    method: of `METHODS`.
    precision: r.
    params: hash of the parameters.
    model: hash of the record's shapes, rank and head.
    context: hash of what the events are conditioned on.
    events: hash of the events.
    probe: the bits of one pass on fixed events.
    facts: what wrote the file; None of a model in whole numbers, whose bits
      nothing can change.
  """

  num: int
  batch: int
  method: str
  precision: int
  params: bytes
  model: bytes
  context: bytes
  events: bytes
  probe: bytes
  facts: environment.Facts | None


def params_hash(params: Params) -> bytes:
  """Hash of all parameters; that of a JAX array is made once."""
  return _hash(*map(_leaf_digest, jax.tree.leaves(params)))


def model_hash(model: AutoregressiveModel) -> bytes:
  """Hash of what a record says of itself: shapes, rank, head and name."""
  shape, dtype = model.event.shape, model.event.dtype
  head = (model.head.name, model.head.num_values, model.name)
  return _hash(
    np.asarray(model.rank, np.int32), str((shape, str(np.dtype(dtype)), *head))
  )


def context_hash(context: Context) -> bytes:
  """Hash of the values that events are conditioned on."""
  return _hash(*map(np.asarray, jax.tree.leaves(context)))


def events_hash(x: ArrayLike) -> bytes:
  """Hash of the events."""
  return _hash(np.asarray(x).astype(np.int32))


def write(head: Header, body: bytes) -> bytes:
  """The whole file."""
  how = METHODS.index(head.method) << 5 | head.precision
  sizes = b''.join(map(_varint, (head.num, head.batch, len(body))))
  checks = _CHECKS.pack(
    head.params, head.model, head.context, head.events, head.probe
  )
  facts = b'' if head.facts is None else head.facts.pack()
  version = _PORTABLE if head.facts is None else _VERSION
  rest = sizes + checks + facts + body
  crc = zlib.crc32(rest, zlib.crc32(bytes([version, how])))
  return _START.pack(_MAGIC, crc, version, how) + rest


def read(data: bytes) -> tuple[Header, bytes]:
  """Header and body of a file.

  Raises:
    BadFile: no such file, cut off or damaged.
  """
  if not isinstance(data, bytes | bytearray | memoryview):
    raise BadFile(f'A file of the codec is bytes; got {type(data).__name__}.')
  data = bytes(data)
  if len(data) < _START.size or data[:4] != _MAGIC:
    raise BadFile(
      f'These {len(data)} bytes are no file of the codec, which begins with '
      f'{_MAGIC!r} and has a header.'
    )
  _, crc, version, how = _START.unpack_from(data)
  if version not in (_VERSION, _PORTABLE):
    raise BadFile(
      f'The file has version {version} and this codec reads {_VERSION} and '
      f'{_PORTABLE}, or it '
      'is damaged. Version 1 was written by parallel_ar before 26 November '
      '2026: decode it with that, on the machine and with the number of cores '
      'and XLA_FLAGS that wrote it.'
    )
  at, sizes = _START.size, []
  for _ in range(3):
    number, at = _read_varint(data, at)
    sizes.append(number)
  num, batch, length = sizes
  body_at = at + _CHECKS.size
  if version == _VERSION:
    body_at += environment.SIZE
  if len(data) - body_at != length:
    raise BadFile(
      f'The file is cut off or damaged: {max(0, len(data) - body_at)} bytes '
      f'follow the header, which promises {length}. Copy it again.'
    )
  if zlib.crc32(data[8:]) != crc:
    raise BadFile('The file is damaged: its checksum does not fit its bytes.')
  method, precision = how >> 5, how & 31
  if method >= len(METHODS) or not 2 <= precision <= 16 or batch < 1:
    raise BadFile(
      f'The header asks for method {method}, {precision} bits and batch '
      f'{batch}; there are {len(METHODS)} methods, 2 to 16 bits, and a batch '
      'is at least 1. The file is damaged or no file of this codec.'
    )
  checks = _CHECKS.unpack_from(data, at)
  facts = None
  if version == _VERSION:
    facts = environment.unpack(data[at + _CHECKS.size : body_at])
  fields: list[Any] = [num, batch, METHODS[method], precision, *checks, facts]
  head = Header(*fields)
  return head, data[body_at:]


def read_header(data: bytes) -> Header:
  """How a file was encoded.

  Raises:
    BadFile: see `read`.
  """
  return read(data)[0]


def refuse(there: Header, here: Header) -> None:
  """Raises where the file was made with something else than what is here.

  Raises:
    BadFile: names what differs.
  """
  for name in ('method', 'batch', 'precision'):
    if getattr(there, name) != getattr(here, name):
      raise BadFile(
        f'The file was encoded with {name}={getattr(there, name)!r}, and this '
        f'codec has {name}={getattr(here, name)!r}. Make the codec likewise.'
      )
  reasons = {
    'model': 'another model (event, rank or head). Build the one of the file.',
    'params': 'other parameters. Load the checkpoint that encoded it.',
    'context': 'another context. Give that of the encoder, value for value.',
  }
  for name, reason in reasons.items():
    if getattr(there, name) != getattr(here, name):
      raise BadFile(f'The file was encoded with {reason}')


def check_size(
  model: AutoregressiveModel, head: Header, body: bytes, context: Context
) -> None:
  """Refuses a header whose promise the body or the context cannot hold.

  Every symbol leaves a number to each other value, so it takes
  log2(2^r / (2^r - V + 1)) bits at least, and a lane takes 20.

  Raises:
    BadFile: there are more events than the bits can name, or more or fewer
      than the context has.
  """
  for leaf in jax.tree.leaves(context)[:1]:
    if len(leaf) != head.num:
      raise BadFile(
        f'The file has {head.num} events, and the context is of {len(leaf)}.'
      )
  assert model.head.num_values is not None
  total = 2.0**head.precision
  least = math.log2(total / (total - model.head.num_values + 1))
  size = model.num_dims
  bits = head.num * size * least
  if head.method == 'lanes':
    bits = max(bits, LANE * min(head.num, head.batch) * size)
  elif head.method == 'cached':
    bits = max(bits, LANE * min(head.num, head.batch))
  if bits > 8 * len(body) + 32:
    raise BadFile(
      f'The header promises {head.num} events of {size} values, which take '
      f'{bits / 8:.0f} bytes at least, and {len(body)} follow. The file is '
      'damaged.'
    )


def _varint(number: int) -> bytes:
  """Groups of 7 bits, the lowest first; all but the last have their top bit."""
  out = bytearray()
  while number > 127:
    out.append(number & 127 | 128)
    number >>= 7
  return bytes([*out, number])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
  """The number at a place, and the place behind it."""
  number = 0
  for shift in range(0, 35, 7):
    if at >= len(data):
      raise BadFile('The file is cut off or damaged: its header has no end.')
    number |= (data[at] & 127) << shift
    at += 1
    if data[at - 1] < 128:
      return number, at
  raise BadFile('The file is damaged: a number of its header is above 2^35.')


def _hash(*parts: Any) -> bytes:
  return _sha(*parts)[:4]


def _sha(*parts: Any) -> bytes:
  digest = hashlib.sha256()
  for part in parts:
    if isinstance(part, np.ndarray):
      digest.update(str((part.shape, part.dtype.str)).encode())
      part = np.ascontiguousarray(part).tobytes()
    digest.update(part if isinstance(part, bytes) else part.encode())
  return digest.digest()


_DIGESTS: dict[int, tuple[weakref.ref, bytes]] = {}


def _leaf_digest(leaf: Any) -> bytes:
  """Hash of a leaf; JAX's arrays do not change, so theirs is kept with them."""
  if not isinstance(leaf, jax.Array):
    return _sha(np.asarray(leaf))
  key = id(leaf)
  known = _DIGESTS.get(key)
  if known is not None and known[0]() is leaf:
    return known[1]
  digest = _sha(np.asarray(leaf))
  forget = lambda _: _DIGESTS.pop(key, None)
  _DIGESTS[key] = weakref.ref(leaf, forget), digest
  return digest
