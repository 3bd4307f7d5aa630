"""A file of the codec, read with a program and nothing else.

  magic | crc | version 3 | method, precision | N | B | length | 5 checks | body

The body has the states of the lanes, 4 bits of length and then a number, and
words of 16 bits. By method 'lanes' there are B D of them: the low bits u of
every position are there before anything is decoded, and an event is the
solution of

  x_i = the symbol that owns u_i under f_i(x_<i)

By method 'cached' there are B, and a lane tells one symbol of its event after
another, by rank. See `parallel_ar.coding`, which writes such files.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .program import Program, run

_START = struct.Struct('<4sIBB')
_CHECKS = 20  # bytes: parameters, model, context, events, and 4 of zeros
_VERSION = 3
_LANES, _CACHED = 0, 2  # methods


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
  num, batch, precision, wanted, method, body = _header(data)
  if precision != program.precision:
    raise ValueError(
      f'The file has frequencies of {precision} bits and {program.name} of '
      f'{program.precision}: it was written with another program.'
    )
  if any(len(leaf) != num for leaf in context):
    raise ValueError(f'The file has {num} events; so must the context.')
  shape = program.shapes[program.inputs[0]]
  size = int(np.prod(shape, dtype=int))
  events = np.zeros((num, size), np.int64)
  each = size if method == _LANES else 1
  lanes = _Lanes(*_states(body, min(batch, num) * each), precision)
  for first in range(0, num, batch):
    count = min(batch, num - first)
    leaves = [[a[first + n] for a in context] for n in range(count)]
    if method == _LANES:
      found = _at_once(program, lanes, leaves)
    else:
      found = _in_turn(program, lanes, leaves)
    for n, (x, passes) in enumerate(found):
      events[first + n] = x
      if tell is not None:
        tell(first + n, passes)
  events = events.reshape(num, *shape)
  digest = hashlib.sha256(_leaf(events.astype(np.int32))).digest()[:4]
  if digest != wanted or not lanes.ended:
    raise ValueError(
      'Other events came out than were encoded: the program, its parameters or '
      'the context are not those of the file.'
    )
  return events


class _Lanes:
  """The states of a file, and the words that it has for them."""

  def __init__(self, state: np.ndarray, words: np.ndarray, precision: int):
    self._state, self._words, self._at = state, words, 0
    self._precision = precision

  @property
  def ended(self) -> bool:
    """Whether the lanes are as they were before anything was encoded."""
    return self._at == len(self._words) and bool((self._state == 2**16).all())

  def low(self, count: int) -> np.ndarray:
    """u of the first lanes."""
    return self._state[:count] & (2**self._precision - 1)

  def pop(self, x: np.ndarray, table: np.ndarray) -> None:
    """s <- f (s div 2^r) + u - start for x[n] of lane n, and words moved in.

    Args:
      x: int[N], symbols of the first N lanes.
      table: int[N, V], their frequencies.

    Raises:
      ValueError: there are too few words.
    """
    rows = np.arange(len(x))
    own, state = table[rows, x], self._state[: len(x)]
    start = np.cumsum(table, -1)[rows, x] - own
    state[:] = own * (state >> self._precision) + self.low(len(x)) - start
    empty = np.flatnonzero(state < 2**16)
    words = self._words[self._at : self._at + len(empty)]
    if len(words) < len(empty):
      raise ValueError(f'{len(empty)} words are needed, {len(words)} are left.')
    state[empty] = state[empty] << 16 | words
    self._at += len(empty)


def _leaf(a: np.ndarray) -> bytes:
  return str((a.shape, a.dtype.str)).encode() + a.tobytes()


def _header(data: bytes) -> tuple[int, int, int, bytes, int, bytes]:
  """N, B, precision, the hash of the events, the method, and the body."""
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
  if how >> 5 not in (_LANES, _CACHED):
    raise ValueError(
      "The file was written by method 'stream', whose coder is no part of "
      "this: write it with method='lanes' or 'cached'."
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
  return num, batch, how & 31, data[at + 12 : at + 16], how >> 5, body


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


Found = Iterator[tuple[np.ndarray, int]]  # int[D], and passes, of an event


def _at_once(program: Program, lanes: _Lanes, leaves: list[list[Any]]) -> Found:
  """Events of a batch, the lane of every position read at once."""
  shape = program.shapes[program.inputs[0]]
  u = lanes.low(len(leaves) * int(np.prod(shape, dtype=int)))
  symbols, tables = [], []
  for row, context in zip(u.reshape(-1, *shape), leaves, strict=True):
    x, table, passes = _solve(program, row, context)
    symbols.append(x.reshape(-1))
    tables.append(table.reshape(row.size, -1))
    yield symbols[-1], passes
  lanes.pop(np.concatenate(symbols), np.concatenate(tables))


def _solve(
  program: Program, u: np.ndarray, leaves: list[Any]
) -> tuple[np.ndarray, np.ndarray, int]:
  """The event that u names, its frequencies, and the passes that it took."""
  x = np.zeros(u.shape, np.int64)
  for passes in range(1, u.size + 2):
    table = run(program, x, *leaves)
    y = (np.cumsum(table, -1) <= u[..., None]).sum(-1)
    if (y == x).all():
      return x, table, passes
    x = y
  raise ValueError('No event was found: the program is not causal.')


def _in_turn(program: Program, lanes: _Lanes, leaves: list[list[Any]]) -> Found:
  """Events of a batch, one position after another: a pass for every rank."""
  shape, rank = program.shapes[program.inputs[0]], program.rank.reshape(-1)
  x = np.zeros((len(leaves), rank.size), np.int64)
  for due in range(rank.max(initial=-1) + 1):
    tables = np.stack(
      [
        run(program, row.reshape(shape), *context).reshape(rank.size, -1)
        for row, context in zip(x, leaves, strict=True)
      ]
    )
    for at in np.flatnonzero(rank == due):
      u, table = lanes.low(len(x)), tables[:, at]
      x[:, at] = (np.cumsum(table, -1) <= u[:, None]).sum(-1)
      lanes.pop(x[:, at], table)
  for row in x:
    yield row, int(rank.max(initial=-1)) + 1
