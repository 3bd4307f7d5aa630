"""rANS with a lane for every position: an array of coders that move together.

  push   s <- (s div f) 2^r + s mod f + start
  pop    u = s mod 2^r names the symbol;   s <- f (s div 2^r) + u - start

A state s is kept in [2^16, 2^32) by moving 16 bits to or from a list of words.
The low bits u of all lanes are known before anything is decoded, which makes
them the noise of a fixed point (see `codec`). All lanes that move a word in a
step do so in one order, so words of all lanes share one list.

References:
  Duda: Asymmetric numeral systems. arXiv:1311.2540, 2013. Giesen: Interleaved
  entropy coders. arXiv:1402.3392, 2014.
"""

import numpy as np

LOW = 16  # a state is at least 2^LOW
WORD = 16  # bits that are moved at once


def push(
  state: np.ndarray,
  start: np.ndarray,
  count: np.ndarray,
  used: np.ndarray,
  precision: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Puts one symbol on every lane that is used.

  Args:
    state: uint64[N], each in [2^16, 2^32).
    start: int[N], first number of the symbol.
    count: int[N], how many numbers the symbol owns.
    used: bool[N].
    precision: r, at most 16.

  Returns:
    The states, and the words that moved out: uint16[M], by lane.
  """
  start, count = start.astype(np.uint64), count.astype(np.uint64)
  full = used & (state >= count << np.uint64(LOW + WORD - precision))
  words = (state[full] & np.uint64(2**WORD - 1)).astype(np.uint16)
  state = np.where(full, state >> np.uint64(WORD), state)
  safe = np.where(used, count, 1)
  pushed = (state // safe << np.uint64(precision)) + state % safe + start
  return np.where(used, pushed, state), words


def peek(state: np.ndarray, precision: int) -> np.ndarray:
  """u of every lane, int32[N]: the number that names the next symbol."""
  return (state & np.uint64(2**precision - 1)).astype(np.int32)


def pop(
  state: np.ndarray,
  start: np.ndarray,
  count: np.ndarray,
  used: np.ndarray,
  words: np.ndarray,
  precision: int,
) -> tuple[np.ndarray, int]:
  """Takes the symbol that `peek` named from every lane that is used.

  Args:
    state: uint64[N].
    start: int[N].
    count: int[N].
    used: bool[N].
    words: uint16[...], the words not yet read.
    precision: r.

  Returns:
    The states, and how many words were read.

  Raises:
    ValueError: there are too few words.
  """
  start, count = start.astype(np.uint64), count.astype(np.uint64)
  u = state & np.uint64(2**precision - 1)
  popped = count * (state >> np.uint64(precision)) + u - start
  state = np.where(used, popped, state)
  empty = used & (state < 2**LOW)
  num = int(empty.sum())
  if num > len(words):
    raise ValueError(f'{num} words are needed and {len(words)} are left.')
  state[empty] = state[empty] << np.uint64(WORD) | words[:num]
  return state, num


def pack(state: np.ndarray) -> bytes:
  """States as bits: 4 for the length less 17, then all but the leading 1."""
  length = np.frexp(state.astype(np.float64))[1].astype(np.int64)
  bits = [(length[:, None] - 17 >> np.arange(3, -1, -1)) & 1]
  places = np.arange(LOW + WORD - 2, -1, -1)
  bits.append((state.astype(np.int64)[:, None] >> places) & 1)
  kept = np.concatenate(
    [np.ones((len(state), 4), bool), places[None] < length[:, None] - 1], 1
  )
  return np.packbits(np.concatenate(bits, 1)[kept].astype(np.uint8)).tobytes()


def unpack(data: bytes, num: int) -> tuple[np.ndarray, int]:
  """`num` states, and the bytes that they took.

  Raises:
    ValueError: the data is too short.
  """
  bits = np.unpackbits(np.frombuffer(data, np.uint8))
  state, at = np.empty(num, np.uint64), 0
  weights = 1 << np.arange(LOW + WORD - 1, dtype=np.int64)[::-1]
  for n in range(num):
    head = bits[at : at + 4]
    if len(head) < 4:
      raise ValueError(f'{n} of {num} states are there.')
    length = 16 + int(head @ weights[-4:])
    body = bits[at + 4 : at + 4 + length]
    if len(body) < length:
      raise ValueError(f'{n} of {num} states are there.')
    state[n] = (1 << length) + int(body @ weights[-length:])
    at += 4 + length
  return state, -(-at // 8)


def write(state: np.ndarray, words: list[np.ndarray]) -> bytes:
  """A file: the states of the lanes that are used, and all words.

  Args:
    state: uint64[N], as the last `push` left them.
    words: of each `push`, in the order in which they were made.
  """
  moved = np.concatenate(words[::-1]).astype('<u2')
  return pack(state) + moved.tobytes()


def read(body: bytes, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The states, uint64[N], and the words, uint16[M], of a file.

  Args:
    body: what `write` made.
    used: bool[N], lanes that it has states of; the others are as at the start.

  Raises:
    ValueError: the file is too short.
  """
  state = np.full(len(used), 2**LOW, np.uint64)
  state[used], size = unpack(body, int(used.sum()))
  return state, np.frombuffer(body[size:], '<u2')


def check_end(state: np.ndarray, words: np.ndarray, num: int) -> None:
  """Refuses lanes that are not as they were before the first `push`.

  Args:
    state: uint[N], when all is decoded.
    words: of the file.
    num: how many of them were read.

  Raises:
    ValueError: a state is another, or words are left.
  """
  if num != len(words) or (state != 2**LOW).any():
    raise ValueError('its lanes do not end where they began.')
