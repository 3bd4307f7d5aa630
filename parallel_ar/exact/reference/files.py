"""A file of the codec, read with a program and nothing else.

  magic | crc | version 3 | method, precision | N | B | length | 5 checks | body

The body has the states of B D lanes, 4 bits of length and then a number, and
words of 16 bits. The low bits u of every lane are there before anything is
decoded, and an event is the solution of

  x_i = the symbol that owns u_i under f_i(x_<i)

See `parallel_ar.coding`, which writes such files.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .program import Program, run

_START = struct.Struct('<4sIBB')
_CHECKS = 20  # bytes: parameters, model, context, events, and 4 of zeros
_VERSION = 3


def read(
  program: Program,
  data: bytes,
  *context: Any,
  tell: Callable[[int, int], None] | None = None,
) -> np.ndarray:
  """The events of a file, int64[N, *event].

  Args:
    program: the whole numbers that it was written with.
    data: the file.
    *context: leaves of the context, with leading axis N.
    tell: called with an event's number and its passes.

  Raises:
    ValueError: another kind of file, a damaged one, or another program.
  """
  num, batch, precision, wanted, body = _header(data)
  if precision != program.precision:
    raise ValueError(
      f'The file has frequencies of {precision} bits and {program.name} of '
      f'{program.precision}: it was written with another program.'
    )
  if any(len(leaf) != num for leaf in context):
    raise ValueError(f'The file has {num} events; so must the context.')
  shape = program.shapes[program.inputs[0]]
  size = int(np.prod(shape, dtype=int))
  events = np.zeros((num, *shape), np.int64)
  state, words = _states(body, min(batch, num) * size)
  at = 0
  for first in range(0, num, batch):
    count = min(batch, num - first)
    lanes = state[: count * size].reshape(count, size)
    for n in range(count):
      leaves = (leaf[first + n] for leaf in context)
      u = (lanes[n] & (2**precision - 1)).reshape(shape)
      x, table, passes = _solve(program, u, leaves)
      events[first + n] = x
      lanes[n] = _pop(lanes[n], u.reshape(-1), x.reshape(-1), table, precision)
      if tell is not None:
        tell(first + n, passes)
    empty = np.flatnonzero(state[: count * size] < 2**16)
    state[empty] = state[empty] << 16 | words[at : at + len(empty)]
    at += len(empty)
  found = events.astype(np.int32)
  digest = hashlib.sha256(_leaf(found)).digest()[:4]
  if digest != wanted or at != len(words) or (state != 2**16).any():
    raise ValueError(
      'Other events came out than were encoded: the program, its parameters or '
      'the context are not those of the file.'
    )
  return events


def _leaf(a: np.ndarray) -> bytes:
  return str((a.shape, a.dtype.str)).encode() + a.tobytes()


def _header(data: bytes) -> tuple[int, int, int, bytes, bytes]:
  """N, B, precision, the hash of the events, and the body."""
  if len(data) < _START.size or data[:4] != b'PARc':
    raise ValueError(f'These {len(data)} bytes are no file of the codec.')
  _, crc, version, how = _START.unpack_from(data)
  if version != _VERSION:
    raise ValueError(
      f'The file has version {version}; {_VERSION} is what the codec of a '
      'model in whole numbers writes, and others are for their own machine.'
    )
  if zlib.crc32(data[8:]) != crc:
    raise ValueError('The file is damaged: its checksum does not fit.')
  if how >> 5:
    raise ValueError(
      "The file was written by another method; write it with method='lanes' "
      'to read it with NumPy.'
    )
  at, sizes = _START.size, []
  for _ in range(3):
    number, shift = 0, 0
    while True:
      byte = data[at]
      number |= (byte & 127) << shift
      at, shift = at + 1, shift + 7
      if byte < 128:
        break
    sizes.append(number)
  num, batch, length = sizes
  body = data[at + _CHECKS :]
  if len(body) != length:
    raise ValueError(f'{len(body)} bytes follow the header, not {length}.')
  return num, batch, how & 31, data[at + 12 : at + 16], body


def _states(body: bytes, lanes: int) -> tuple[np.ndarray, np.ndarray]:
  """The states of the lanes, and the words behind them."""
  bits = np.unpackbits(np.frombuffer(body, np.uint8)).astype(np.int64)
  state, at = np.zeros(lanes, np.int64), 0
  weights = 1 << np.arange(40)[::-1]
  for n in range(lanes):
    length = 16 + int(bits[at : at + 4] @ weights[-4:])
    number = bits[at + 4 : at + 4 + length]
    if len(number) < length:
      raise ValueError(f'{n} of {lanes} lanes are there: the file is cut off.')
    state[n] = (1 << length) + int(number @ weights[40 - length :])
    at += 4 + length
  words = np.frombuffer(body[-(-at // 8) :], '<u2').astype(np.int64)
  return state, words


def _solve(
  program: Program, u: np.ndarray, leaves: Any
) -> tuple[np.ndarray, np.ndarray, int]:
  """The event that u names, its frequencies, and the passes that it took."""
  leaves = tuple(leaves)
  x = np.zeros(u.shape, np.int64)
  for passes in range(1, u.size + 2):
    table = run(program, x, *leaves)
    y = (np.cumsum(table, -1) <= u[..., None]).sum(-1)
    if (y == x).all():
      return x, table.reshape(u.size, -1), passes
    x = y
  raise ValueError('No event was found: the program is not causal.')


def _pop(
  state: np.ndarray,
  u: np.ndarray,
  x: np.ndarray,
  table: np.ndarray,
  precision: int,
) -> np.ndarray:
  """s <- f (s div 2^r) + u - start, before words are moved in."""
  rows = np.arange(len(x))
  own = table[rows, x]
  start = np.cumsum(table, -1)[rows, x] - own
  return own * (state >> precision) + u - start
