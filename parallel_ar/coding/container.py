"""The file: events in parts, and a header that knows who can read them.

  magic | crc | version | N, B, method, precision | 4 checks | length | body

The checks are hashes of the parameters, of the model, of what decides the bits
of a float (jaxlib, device), and of the events. A file that was made elsewhere
or damaged is refused with the reason, and never decoded to something else.
"""

import hashlib
import importlib.metadata
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import ArrayLike, Context, Params

_MAGIC = b'PARc'
_VERSION = 1
_HEADER = struct.Struct('<4sBIIBB4s4s4s4sI')
_CRC = struct.Struct('<I')  # of the header and the body, and before them
METHODS = ('lanes', 'stream')


class BadFile(ValueError):
  """A file that cannot be decoded here, or is damaged."""


class Decoded(NamedTuple):
  """Events, and what they cost.

  Attributes:
    x: array[N, *event].
    passes: int[N], passes until the event was proved.
    evaluations: passes of the network over whole batches.
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
    platform: hash of jaxlib's version and the kind of device.
    events: hash of the events and their context.
  """

  num: int
  batch: int
  method: str
  precision: int
  params: bytes
  model: bytes
  platform: bytes
  events: bytes


def header(
  model: AutoregressiveModel,
  params: Params,
  x: ArrayLike,
  context: Any,
  **how: Any,
) -> Header:
  """The header of events; `how` are batch, method and precision."""
  return Header(
    num=len(np.asarray(x)),
    params=_hash(*map(np.asarray, jax.tree.leaves(params))),
    model=_hash(model.rank, str((model.event, model.head.name, model.name))),
    platform=_hash(
      str((importlib.metadata.version('jaxlib'), jax.devices()[0].device_kind))
    ),
    events=events_hash(x, context),
    **how,
  )


def events_hash(x: ArrayLike, context: Any) -> bytes:
  """Hash of the events and of what they are conditioned on."""
  leaves = map(np.asarray, jax.tree.leaves(context))
  return _hash(np.asarray(x).astype(np.int32), *leaves)


def write(head: Header, body: bytes) -> bytes:
  """The whole file."""
  num, batch, method, precision, *checks = head
  of = METHODS.index(method)
  fields = num, batch, of, precision, *checks, len(body)
  data = _HEADER.pack(_MAGIC, _VERSION, *fields) + body
  return data[:4] + _CRC.pack(zlib.crc32(data)) + data[4:]


def read(data: bytes) -> tuple[Header, bytes]:
  """Header and body of a file.

  Raises:
    BadFile: no such file, cut off or damaged.
  """
  size = _HEADER.size + _CRC.size
  if len(data) < size or data[:4] != _MAGIC:
    raise BadFile(
      f'These {len(data)} bytes are no file of the codec: it begins with '
      f'{_MAGIC!r} and has a header of {size} bytes.'
    )
  (crc,) = _CRC.unpack_from(data, 4)
  data = data[:4] + data[4 + _CRC.size :]
  fields = _HEADER.unpack_from(data)
  _, version, num, batch, method, precision, *checks, length = fields
  body = data[_HEADER.size :]
  if version == _VERSION and len(body) != length:
    raise BadFile(
      f'The file is cut off or damaged: {len(body)} bytes follow the header, '
      f'which promises {length}. Copy it again.'
    )
  if zlib.crc32(data) != crc:
    raise BadFile('The file is damaged: its checksum does not fit its bytes.')
  if version != _VERSION:
    raise BadFile(
      f'The file has version {version}; this codec reads {_VERSION}.'
    )
  return Header(num, batch, METHODS[method], precision, *checks), body


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
  reasons = {
    'model': 'another model (event, rank or head). Build the one of the file.',
    'params': 'other parameters. Load the checkpoint that encoded it.',
    'platform': (
      'another jaxlib or another kind of device, whose floats round '
      'otherwise: probabilities would differ. Decode where it was encoded.'
    ),
  }
  for name, reason in reasons.items():
    if getattr(there, name) != getattr(here, name):
      raise BadFile(f'The file was encoded with {reason}')
  for name in ('method', 'batch', 'precision'):
    if getattr(there, name) != getattr(here, name):
      raise BadFile(
        f'The file was encoded with {name}={getattr(there, name)!r}, and this '
        f'codec has {name}={getattr(here, name)!r}. Make the codec likewise.'
      )


def _hash(*parts: Any) -> bytes:
  digest = hashlib.sha256()
  for part in parts:
    if isinstance(part, np.ndarray):
      digest.update(str((part.shape, part.dtype.str)).encode())
      part = np.ascontiguousarray(part).tobytes()
    digest.update(part if isinstance(part, bytes) else part.encode())
  return digest.digest()[:4]
