"""What a dependency matrix says: receptive fields, blind spots, channel order.

All take reads bool[D, D], row i is output i, as `causality.audit` measures it
or `static.check` proves it.
"""

from typing import NamedTuple

import numpy as np

from parallel_ar import order
from parallel_ar.analysis import causality
from parallel_ar.types import ArrayLike

READ, BLIND, LEAK, CLOSED = 3, 2, 1, 0


class Fields(NamedTuple):
  """The summary of a matrix.

  Attributes:
    kinds: int8[D, D] in generation order: READ and BLIND where the rank
      allows it and the model reads it or not, LEAK where it reads and may not,
      CLOSED elsewhere.
    blind: pairs (output, input) that are allowed and not read.
    share: float[E of offsets], how many of the pairs at an offset of position
      that the rank allows are read; nan where it allows none. Entry c + o is
      offset o = input - output, c the middle of each axis.
    channels: float[C, C] of an event [H, W, C], how many pixels have an output
      of channel i that reads channel j of the same pixel; None without.
  """

  kinds: np.ndarray
  blind: tuple[tuple[int, int], ...]
  share: np.ndarray
  channels: np.ndarray | None


def fields(reads: ArrayLike, rank: ArrayLike) -> Fields:
  """Summarises what is read.

  Args:
    reads: bool[D, D].
    rank: int[E].

  Returns:
    The summary.

  Raises:
    ValueError: the matrix is not of the rank's positions.
  """
  reads, rank = np.asarray(reads, bool), np.asarray(rank)
  if reads.shape != (rank.size, rank.size):
    raise ValueError(
      f'A matrix of {rank.size} positions must have shape '
      f'{(rank.size, rank.size)}; got {reads.shape}.'
    )
  allowed = causality.predecessors(rank)
  kinds = np.full(reads.shape, CLOSED, np.int8)
  kinds[allowed & reads], kinds[allowed & ~reads] = READ, BLIND
  kinds[~allowed & reads] = LEAK
  slots = order.slots(rank)
  blind = np.argwhere(allowed & ~reads)
  return Fields(
    kinds=kinds[slots][:, slots],
    blind=tuple((int(i), int(j)) for i, j in blind),
    share=_share(reads, allowed, rank.shape),
    channels=_channels(reads, rank.shape) if rank.ndim == 3 else None,
  )


def reach(reads: ArrayLike, rank: ArrayLike) -> tuple[int, int]:
  """How many slots back an output reads at most, and which output does.

  Args:
    reads: bool[D, D].
    rank: int[E], of one rank a position.

  Returns:
    The largest number of slots from an output to an input before it that it
    reads, 0 where none reads any, and the first such output.
  """
  rank = np.asarray(rank).reshape(-1)
  back = np.where(np.asarray(reads, bool), rank[:, None] - rank[None, :], 0)
  return int(back.max()), int(np.argmax(back.max(1)))


def describe(found: Fields, shape: tuple[int, ...]) -> str:
  """Lines about blind spots and channels, in words."""
  read = int((found.kinds == READ).sum())
  lines = [
    f'receptive field: {read} of {read + len(found.blind)} allowed pairs are '
    'read'
  ]
  never = np.argwhere(found.share == 0) - np.array(found.share.shape) // 2
  if never.size:
    shown = ', '.join(str(tuple(int(n) for n in o)) for o in never[:6])
    more = ', ...' if len(never) > 6 else ''
    lines.append(
      f'blind spots: {len(never)} offsets (input - output) are allowed and '
      f'never read: {shown}{more}'
    )
  elif found.blind:
    i, j = (np.unravel_index(n, shape) for n in found.blind[0])
    place = lambda at: tuple(int(n) for n in at)
    lines.append(
      f'{len(found.blind)} allowed pairs are not read, for example '
      f'{place(i)} does not read {place(j)}; no offset is blind everywhere'
    )
  else:
    lines.append('blind spots: none')
  if found.channels is not None and len(found.channels) > 1:
    rows = '; '.join(
      f'{i} reads {", ".join(map(str, np.flatnonzero(row > 0))) or "none"}'
      for i, row in enumerate(found.channels)
    )
    lines.append(f'channels of one pixel: {rows}')
  return '\n'.join(lines)


def _share(
  reads: np.ndarray, allowed: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
  at = np.stack(np.unravel_index(np.arange(len(reads)), shape), -1)
  offset = at[None, :] - at[:, None] + np.array(shape) - 1
  size = tuple(2 * n - 1 for n in shape)
  flat = np.ravel_multi_index(tuple(np.moveaxis(offset, -1, 0)), size)
  count = lambda pairs: np.bincount(flat[pairs], minlength=int(np.prod(size)))
  with np.errstate(invalid='ignore'):
    share = count(allowed & reads) / count(allowed)
  return share.reshape(size)


def _channels(reads: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  pixels, channels = shape[0] * shape[1], shape[2]
  grid = reads.reshape(pixels, channels, pixels, channels)
  same = grid[np.arange(pixels), :, np.arange(pixels)]
  return same.mean(0)
