"""Examples that lie on disk and are read when a batch asks for them.

`Records` stands where a Dataset has its array `x`: it has the shape and dtype
of all examples and reads those of a batch. What reads is one of

  mapped files       .npy, or an .npz that is not compressed
  ArrayRecord        grain's reader; a record is the bytes of one example
  Hugging Face       `datasets`, a table of Arrow that is mapped
  TFDS               `tensorflow_datasets.data_source`, ArrayRecord below

Each is a path until it is read, also in grain's worker processes, so no process
ever holds more than the batches in flight.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import math
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, cast

import numpy as np

from parallel_ar import npz

_BLOCK = 1 << 24  # bytes of what is looked at in one go


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
  """Rows of an array [N, *E] that are read by their numbers.

  Attributes:
    opens: () -> what reads: rows int64[n] -> array [n, *E]. It is called once
      in each process, and must pickle.
    numbers: int64[N], which rows these are; a range where they are adjacent.
    event: E.
    dtype: of the values.
  """

  opens: Callable[[], Callable[[np.ndarray], np.ndarray]]
  numbers: np.ndarray | range
  event: tuple[int, ...]
  dtype: np.dtype

  @functools.cached_property
  def _read(self) -> Callable[[np.ndarray], np.ndarray]:
    return self.opens()

  def __getstate__(self) -> dict[str, Any]:
    return {k: v for k, v in vars(self).items() if k != '_read'}

  def __setstate__(self, state: dict[str, Any]) -> None:
    vars(self).update(state)

  def __len__(self) -> int:
    return len(self.numbers)

  @property
  def shape(self) -> tuple[int, ...]:
    """[N, *E]."""
    return (len(self), *self.event)

  @property
  def ndim(self) -> int:
    """Axes, that of the examples among them."""
    return len(self.shape)

  @property
  def size(self) -> int:
    """Values of all examples."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Bytes that all examples would take in memory."""
    return self.size * self.dtype.itemsize

  def __getitem__(self, index: Any) -> Any:
    """A slice as Records; one row, or rows by their numbers, as an array.

    Raises:
      ValueError: an index of more than the first axis, or values that are not
        what the first example was.
    """
    if isinstance(index, slice):
      return dataclasses.replace(self, numbers=self.numbers[index])
    if isinstance(index, tuple):
      raise ValueError(
        'Examples on disk are read whole: take rows first, such as '
        'x[:100][...], or np.asarray(x) where all of it fits into memory.'
      )
    one = np.ndim(index) == 0
    asked = np.atleast_1d(np.asarray(index, np.int64))
    wanted = self._at(asked)
    found = self._read(wanted)
    if found.shape[1:] != self.event or found.dtype != self.dtype:
      raise ValueError(
        f'Records {wanted.min()} to {wanted.max()} hold '
        f'{found.dtype}{list(found.shape[1:])}, the first one '
        f'{self.dtype}{list(self.event)}: all examples have one form.'
      )
    return found[0] if one else found

  def _at(self, asked: np.ndarray) -> np.ndarray:
    if isinstance(self.numbers, range):
      low, high = -len(self), len(self)
      if asked.size and (asked.min() < low or asked.max() >= high):
        raise IndexError(f'rows {asked.min()}..{asked.max()} of {len(self)}')
      return self.numbers.start + (asked % len(self)) * self.numbers.step
    return self.numbers[asked]

  def __array__(self, dtype: Any = None, copy: bool | None = None):
    """All of it, in memory."""
    return np.concatenate(list(blocks(self))).astype(dtype or self.dtype)


def of(
  opens: Callable[[], Callable[[np.ndarray], np.ndarray]],
  numbers: range,
) -> np.ndarray:
  """Records as a Dataset takes them; the first row tells their form.

  Args:
    opens: gives a function from int64[n], numbers, to rows [n, ...]; see
      `Records`.
    numbers: which rows.

  Returns:
    Records of shape [N, ...].

  Raises:
    ValueError: there are none.
  """
  if not len(numbers):
    raise ValueError('There are no examples to read.')
  first = opens()(np.asarray(numbers[:1]))
  found = Records(opens, numbers, first.shape[1:], first.dtype)
  return cast(np.ndarray, found)  # it does what a Dataset does with an array


@dataclasses.dataclass(frozen=True)
class MappedFile:
  """Opens an array of a .npy file, or one of a .npz file.

  A file that was put in the place of this one is refused where it is opened
  anew; what is mapped already stays. One that is written to is not read on: of
  a page that it lost the process would die.

  Attributes:
    path: of the file.
    key: of the array in a .npz.
    facts: of the file when this was made: its number, bytes and time.
  """

  path: str
  key: str | None = None
  facts: tuple[int, ...] = dataclasses.field(init=False)

  def __post_init__(self) -> None:
    object.__setattr__(self, 'facts', _facts(self.path))

  def array(self) -> np.ndarray:
    """The array [N, ...], mapped.

    Raises:
      ValueError: one that cannot be mapped.
    """
    if self.key is None:
      return npz.map_file(self.path)
    return npz.map_member(self.path, self.key)

  def __call__(self) -> Callable[[np.ndarray], np.ndarray]:
    """What reads rows of it; it raises ValueError where the file changed."""
    self._check(_facts(self.path))
    array = self.array()

    def read(rows: np.ndarray) -> np.ndarray:
      now = _facts(self.path)
      if now[:1] == self.facts[:1]:
        self._check(now)
      return np.asarray(array[rows])

    return read

  def _check(self, now: tuple[int, ...]) -> None:
    if now != self.facts:
      raise ValueError(
        f'{self.path} was changed while it was in use. Start again with the '
        'files as they are to be; write new data beside it, then rename.'
      )


def _facts(path: str) -> tuple[int, ...]:
  try:
    found = os.stat(path)
  except FileNotFoundError:
    return ()
  return found.st_ino, found.st_size, found.st_mtime_ns


class Kept:
  """Examples that are unpacked once and mapped from then on."""

  def __init__(self, name: pathlib.Path, sources: Sequence[pathlib.Path]):
    """Looks at nothing but the sources.

    Args:
      name: beginning of the names of the files to make.
      sources: what they are unpacked from; others make other files.
    """
    facts = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sources]
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
    self._x = name.with_name(f'{name.name}-{key}.npy')
    self._context = name.with_name(f'{name.name}-{key}-labels.npy')

  def arrays(
    self, make: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Records of x [N, *E], and the context [N].

    Args:
      make: gives (x [n, *E], context [n]) block by block, where the files are
        not there yet.

    Raises:
      OSError: they cannot be written.
    """
    if not self._x.exists():
      with _one_at_a_time(self._x):
        if not self._x.exists():
          _write(self._x, self._context, make())
    opened = MappedFile(str(self._x))
    x = of(opened, range(len(opened.array())))
    return x, np.array(npz.map_file(self._context))


def _write(
  path: pathlib.Path,
  beside: pathlib.Path,
  parts: Iterator[tuple[np.ndarray, np.ndarray]],
) -> None:
  """Two .npy files of rows that come in blocks; each whole or not at all."""
  mine = secrets.token_hex(4)  # hosts have processes of one number
  drafts = [p.with_name(f'{p.name}.{mine}.part') for p in (path, beside)]
  try:
    with drafts[0].open('wb') as file:
      count, facts = 0, {}
      contexts: list[np.ndarray] = []
      for x, context in parts:
        if not contexts:
          event = x.shape[1:]
          facts = {'descr': x.dtype.str, 'fortran_order': False}
          _header(file, facts | {'shape': (0, *event)})
        file.write(np.ascontiguousarray(x).data)
        contexts.append(context)
        count += len(x)
      file.seek(0)  # NumPy leaves room for the rows to become more
      _header(file, facts | {'shape': (count, *event)})
      file.flush()
      os.fsync(file.fileno())
    with drafts[1].open('wb') as file:
      np.save(file, np.concatenate(contexts))
    if not path.exists():  # another host was faster: it reads those
      os.replace(drafts[1], beside)
      os.replace(drafts[0], path)
  except OSError as error:
    raise OSError(
      error.errno,
      f'{error.strerror}: the data are unpacked there once, to be mapped; make '
      'room, or pass a data_dir that can be written',
      str(path),
    ) from error
  finally:
    for draft in drafts:
      draft.unlink(missing_ok=True)


def _header(file: IO[bytes], facts: dict[str, Any]) -> None:
  np.lib.format.write_array_header_1_0(file, facts)


@contextlib.contextmanager
def _one_at_a_time(path: pathlib.Path) -> Iterator[None]:
  """Lets one process of this machine unpack; where locks work."""
  lock = path.with_name(f'{path.name}.lock')
  with lock.open('wb') as file:
    with contextlib.suppress(OSError):
      fcntl.flock(file, fcntl.LOCK_EX)
    try:
      yield
    finally:
      lock.unlink(missing_ok=True)


def blocks(x: Any) -> Iterator[np.ndarray]:
  """All rows in turn, as arrays [n, ...]: of Records some 16 MB at a time."""
  if not isinstance(x, Records):
    yield x
    return
  rows = max(1, _BLOCK * len(x) // max(1, x.nbytes))
  for start in range(0, len(x), rows):
    yield x[np.arange(start, min(start + rows, len(x)))]
