"""What a source of data gives: arrays, and what must be said about them.

Two binarizations of grey levels g in {0, ..., 255} have two names, because
their likelihoods cannot be compared:

  static      x = 1 where g / 255 > 1/2            (`threshold`)
  dynamic     x ~ Bernoulli(g / 255), independent  (`bernoulli`)

A dynamic training split keeps its grey levels and is drawn afresh for every
batch; an evaluation split is drawn once, from a seed with a name.

References:
  Salakhutdinov and Murray, On the quantitative analysis of deep belief
  networks, 2008 (images as probabilities of bits).
"""

import dataclasses
import difflib
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from parallel_ar.data import records

SPLITS = ('train', 'valid', 'test', 'train+valid')

# The seed of every dynamic binarization that is drawn once, for evaluation.
EVALUATION_SEED = 2008

_HASHED_BYTES = 2**30  # of larger arrays, rows at equal distances
_ROWS = 4096  # rows binarized at a time, which bounds the memory


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """One split of one source, in memory or on disk.

  Attributes:
    name: the source; a binarized source has its own name.
    split: 'train', 'valid', 'test' or 'train+valid'.
    x: uint8[N, *E] or int32[N, *E], the examples, each value in 0..V-1, an
      array or, read by the batch, `records.Records`; or grey levels in
      0..255 where `binarize` is set.
    num_values: V, the number of values a model of this source predicts.
    context: None, or an array [N, ...]: what each example is conditioned on.
    binarize: None, or 'dynamic': x holds grey levels that the pipeline turns
      into fresh bits for every batch.
    entropy: the exact entropy of an example where it is known, nats.
    symbols: for text, the byte that value v stands for is symbols[v].
  """

  name: str
  split: str
  x: np.ndarray
  num_values: int
  context: np.ndarray | None = None
  binarize: Literal['dynamic'] | None = None
  entropy: float | None = None
  symbols: bytes | None = None

  def __post_init__(self):
    here = f'The {self.split!r} split of {self.name!r}'
    if self.x.dtype not in (np.uint8, np.int32) or self.x.ndim < 2:
      raise ValueError(
        f'{here} must be uint8 or int32 of shape [N, *event], got '
        f'{self.x.dtype}{list(self.x.shape)}. Cast it, and add an axis of '
        'size 1 to examples that are single numbers.'
      )
    if not self.x.size:
      raise ValueError(
        f'{here} is empty: its shape is {list(self.x.shape)}. Ask for more '
        'examples, or for another split.'
      )
    if self.binarize not in (None, 'dynamic'):
      raise ValueError(
        f"{here} has binarize={self.binarize!r}; expected None or 'dynamic'."
      )
    self._check_values(here)
    if self.context is not None and len(self.context) != len(self.x):
      raise ValueError(
        f'{here} has {len(self.x)} examples, but {len(self.context)} rows of '
        'context. Give one row of context for each example.'
      )

  def _check_values(self, here: str) -> None:
    top = 256 if self.binarize else self.num_values
    if self.binarize and self.num_values != 2:
      raise ValueError(
        f'{here} is binarized, so num_values must be 2, got {self.num_values}.'
      )
    if self.x.dtype == np.uint8 and top >= 256:
      return  # no byte is outside, so none need be read
    before = 0
    for x in records.blocks(self.x):
      low, high = int(x.min()), int(x.max())
      if low < 0 or high >= top:
        bad = low if low < 0 else high
        where = tuple(int(i) for i in np.argwhere(x == bad)[0])
        raise ValueError(
          f'{here} has the value {bad} in example {before + where[0]} at '
          f'position {where[1:]}; expected values in 0..{top - 1}. Map the '
          'data to that range, or set num_values to the number of values it '
          'has.'
        )
      before += len(x)

  def __len__(self) -> int:
    return len(self.x)

  @property
  def event(self) -> tuple[int, ...]:
    """E, the shape of one example."""
    return tuple(self.x.shape[1:])


def add_rows(digest: Any, array: np.ndarray) -> None:
  """Adds the rows of an array, which may be a view of overlapping windows.

  Args:
    digest: of hashlib.
    array: of shape [N, ...].
  """
  digest.update(f'{array.dtype}{array.shape}'.encode())
  every = max(1, -(-array.nbytes // _HASHED_BYTES))
  rows = array[::every]
  size = max(1, 2**22 * len(array) // max(1, array.nbytes))
  for start in range(0, len(rows), size):
    digest.update(np.ascontiguousarray(rows[start : start + size]))


def random_state(purpose: str, *key: int) -> np.random.RandomState:
  """Random numbers of a key, the same for ever.

  numpy freezes the stream of RandomState, of PCG64 and of its seeding, but not
  that of Generator, and an order of the data or a binarized test set is part
  of a published number.

  Args:
    purpose: what they are for; two purposes share no numbers.
    *key: integers >= 0.

  Returns:
    A RandomState.

  Raises:
    ValueError: a negative integer.
  """
  if min(key, default=0) < 0:
    raise ValueError(f'Seeds must be integers >= 0, got {list(key)}.')
  words = [zlib.crc32(purpose.encode()), *(int(k) for k in key)]
  return np.random.RandomState(np.random.PCG64(words))


def threshold(grey: np.ndarray) -> np.ndarray:
  """Static binarization: x = 1 where grey / 255 > 1/2.

  Args:
    grey: uint8[...].

  Returns:
    uint8[...], bits.
  """
  return (grey >= 128).astype(np.uint8)


def bernoulli(grey: np.ndarray, random: np.random.RandomState) -> np.ndarray:
  """Dynamic binarization: x ~ Bernoulli(grey / 255), exactly.

  With r uniform on {0, ..., 254}, P(r < g) = g / 255, so no number is rounded.

  Args:
    grey: uint8[...].
    random: source of the draw; it is advanced.

  Returns:
    uint8[...], bits.
  """
  return (random.randint(0, 255, grey.shape, dtype=np.uint8) < grey).astype(
    np.uint8
  )


def binarize_once(dataset: Dataset, seed: int = EVALUATION_SEED) -> Dataset:
  """A dynamically binarized split as one fixed draw of bits.

  Args:
    dataset: any dataset; one that holds no grey levels is returned as it is.
    seed: of the draw. Report it with the number.

  Returns:
    A Dataset whose x are the bits and whose `binarize` is None.
  """
  if dataset.binarize is None:
    return dataset
  random = random_state('evaluation bits', seed)
  x = np.empty_like(dataset.x)
  for start in range(0, len(x), _ROWS):
    rows = slice(start, start + _ROWS)
    x[rows] = bernoulli(dataset.x[rows], random)
  return dataclasses.replace(dataset, x=x, binarize=None)


def suggest(word: str, names: Iterable[str]) -> str:
  """' Did you mean ...?' for the nearest of `names`, or ''."""
  near = difflib.get_close_matches(str(word), [str(n) for n in names], n=1)
  return f' Did you mean {near[0]!r}?' if near else ''


def check_split(name: str, split: str, allowed: Sequence[str] = SPLITS) -> None:
  """Checks the name of a split.

  Args:
    name: of the source, for the message.
    split: the name.
    allowed: those of the source.

  Raises:
    ValueError: it is none of them; the nearest is named.
  """
  if split not in allowed:
    raise ValueError(
      f'{name!r} has no split {split!r}; expected one of '
      f'{", ".join(map(repr, allowed))}.{suggest(split, allowed)}'
    )
