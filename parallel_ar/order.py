"""Generation orders as one integer array of ranks.

A rank array `rank: int[E]` says what may be read: output i may depend on
input j only if rank[j] < rank[i]. Its values are 0..R-1 without a gap.

  D different ranks   a total order; sequential depth R = D
  tied ranks          positions of one rank are conditionally independent given
                      all lower ranks and are drawn together; depth R < D

Every function returns int32 arrays of the event shape. Positions are counted
in row-major order of the event.
"""

from collections.abc import Sequence

import numpy as np

from parallel_ar.types import Array, ArrayLike

Shape = int | Sequence[int]


def as_shape(shape: Shape) -> tuple[int, ...]:
  """An event shape as a tuple; an integer, also NumPy's, is one axis.

  Raises:
    ValueError: no axis, or a size that is no positive integer.
  """
  shape = tuple(np.atleast_1d(np.asarray(shape)).tolist())
  if not shape or any(type(n) is not int or n < 1 for n in shape):
    raise ValueError(
      f'An event shape needs at least one axis and positive sizes; got {shape}.'
    )
  return shape


def raster(shape: Shape) -> np.ndarray:
  """Row-major order: rank[position] = position, depth D."""
  shape = as_shape(shape)
  return np.arange(np.prod(shape), dtype=np.int32).reshape(shape)


def reverse(rank: ArrayLike) -> np.ndarray:
  """The same groups drawn last to first: int[E], of a rank int[E]."""
  rank = np.asarray(rank)
  return (rank.max() - rank).astype(np.int32)


def permutation(positions: ArrayLike, shape: Shape) -> np.ndarray:
  """Draws position `positions[k]` at step k.

  Args:
    positions: int[D], a permutation of 0..D-1.
    shape: event shape with D positions.

  Returns:
    int32[E], the inverse permutation: rank[positions[k]] = k.

  Raises:
    ValueError: `positions` is no permutation of 0..D-1.
  """
  shape = as_shape(shape)
  size = int(np.prod(shape))
  positions = np.asarray(positions).reshape(-1)
  if not np.array_equal(np.sort(positions), np.arange(size)):
    raise ValueError(
      f'positions must hold each of 0..{size - 1} once for the event shape '
      f'{shape}; got {positions.size} entries {_excerpt(positions)}.'
    )
  rank = np.empty(size, np.int32)
  rank[positions.astype(int)] = np.arange(size)
  return rank.reshape(shape)


def random(shape: Shape, seed: int) -> np.ndarray:
  """A uniformly drawn total order; the same seed gives the same order.

  Args:
    shape: E.
    seed: of the draw.

  Returns:
    int[E], a permutation of 0..D-1.
  """
  shape = as_shape(shape)
  size = int(np.prod(shape))
  return permutation(np.random.default_rng(seed).permutation(size), shape)


def groups(labels: ArrayLike) -> np.ndarray:
  """Tied groups I_1 ... I_L from any sortable labels, smallest first.

  Args:
    labels: array[E]; positions of equal label are drawn together.

  Returns:
    int32[E], the labels made dense: values 0..R-1 without a gap.
  """
  labels = np.asarray(labels)
  as_shape(labels.shape)
  _, dense = np.unique(labels, return_inverse=True)
  return dense.reshape(labels.shape).astype(np.int32)


def blocks(shape: Shape, size: int) -> np.ndarray:
  """Row-major runs of `size` tied positions; the last may be shorter.

  Args:
    shape: E.
    size: positions of a run.

  Returns:
    int[E].

  Raises:
    ValueError: a size below 1.
  """
  if int(size) != size or size < 1:
    raise ValueError(f'A block needs at least one position; got size {size}.')
  return raster(shape) // np.int32(size)


def tie(rank: ArrayLike, sizes: Sequence[int]) -> np.ndarray:
  """Draws runs of consecutive slots together.

  Args:
    rank: int[E]; ties of its own keep row-major order.
    sizes: slots of each group, in the order they are drawn; they sum to D.

  Returns:
    int32[E] with len(sizes) ranks.

  Raises:
    ValueError: the sizes are not positive, or do not sum to D.
  """
  rank, sizes = np.asarray(rank), [int(n) for n in sizes]
  if not sizes or min(sizes) < 1 or sum(sizes) != rank.size:
    raise ValueError(
      f'sizes must be positive and sum to the {rank.size} positions; got '
      f'{_excerpt(np.asarray(sizes))} with the sum {sum(sizes)}.'
    )
  tied = np.empty(rank.size, np.int32)
  tied[slots(rank)] = np.repeat(np.arange(len(sizes)), sizes)
  return tied.reshape(rank.shape)


def known_first(rank: ArrayLike, known: ArrayLike) -> np.ndarray:
  """The total order that draws known positions before all others.

  Under it one pass gives p(x_i | known, unknown before i) for every unknown i,
  wherever the known ones stand: the future is conditioned on, not predicted.

  Args:
    rank: int[E], the order inside both parts; ties keep row-major order.
    known: bool[E].

  Returns:
    int32[E].

  Raises:
    ValueError: another shape.
  """
  rank, known = np.asarray(rank), np.asarray(known, bool)
  if known.shape != rank.shape:
    raise ValueError(
      f'known has shape {known.shape}, but the rank has {rank.shape}.'
    )
  first = np.where(known, 0, rank.size) + rank
  return permutation(slots(first), rank.shape)


def multiscale(shape: Shape, per_octave: int = 3) -> np.ndarray:
  """Coarse to fine: each octave halves the grid that is known.

  From the grid of stride s to that of stride s / 2 come the pixels (odd, odd),
  (even, odd) and (odd, even), drawn as `per_octave` groups in this order: 3 as
  in Reed et al., 2 with the last two together, or 1. The coarsest grid is one
  pixel: the depth is at most 1 + per_octave * ceil(log2 max(height, width)).

  Args:
    shape: (height, width) or (height, width, channels); channels are tied.
    per_octave: groups of an octave, 1, 2 or 3.

  Returns:
    int32[E].

  Raises:
    ValueError: another number of groups or of axes.

  References:
    Reed et al.: Parallel multiscale autoregressive density estimation. ICML
    2017, Figure 2.
  """
  shape = as_shape(shape)
  if per_octave not in (1, 2, 3) or len(shape) not in (2, 3):
    raise ValueError(
      'multiscale takes an image, (height, width) or (height, width, '
      f'channels), and 1, 2 or 3 groups an octave; got {shape} and '
      f'{per_octave}.'
    )
  row, column = np.indices(shape[:2])
  rank = np.zeros(shape[:2], np.int32)
  octaves = int(np.ceil(np.log2(max(shape[:2]))))
  for octave in range(octaves):
    step = 2 ** (octaves - octave)
    down, right = row % step == step // 2, column % step == step // 2
    known = row % (step // 2) + column % (step // 2) == 0
    first = 1 + per_octave * octave
    for n, new in enumerate((down & right, ~down & right, down & ~right)):
      rank[known & new] = first + min(n, per_octave - 1)
  rank = groups(rank)  # at a border a group can be empty
  rank = rank.reshape(shape[:2] + (1,) * (len(shape) - 2))
  return np.ascontiguousarray(np.broadcast_to(rank, shape))


def halvings(shape: Shape) -> tuple[int, ...]:
  """Strides 2^K, ..., 2, 1, the first of a grid with one pixel."""
  side = max(as_shape(shape)[:2])
  return tuple(2**k for k in range(int(np.ceil(np.log2(side))), -1, -1))


def scales(shape: Shape, strides: Sequence[int]) -> np.ndarray:
  """Grids from coarse to fine: rank l is what the grid of stride s_l adds.

  With strides 2^K, ..., 2, 1 this is `multiscale` with one group an octave.

  Args:
    shape: (height, width) or (height, width, channels); channels are tied.
    strides: s_0 > s_1 > ... > 1, each a divisor of the one before.

  Returns:
    int32[E].

  Raises:
    ValueError: another number of axes, strides that do not nest, or one whose
      grid adds no pixel.
  """
  shape, strides = as_shape(shape), tuple(strides)
  nested = all(
    a > b >= 1 and not a % b for a, b in zip(strides, strides[1:], strict=False)
  )
  if len(shape) not in (2, 3) or not nested or strides[-1:] != (1,):
    raise ValueError(
      'scales takes an image, (height, width) or (height, width, channels), '
      'and strides that end with 1, each a divisor of the one before, as in '
      f'(8, 4, 2, 1); got {shape} and {strides}.'
    )
  place = np.indices(shape[:2])
  rank = np.zeros(shape[:2], np.int32)
  for stride in strides[:-1]:  # the rank counts the grids that lack the pixel
    rank += (place % stride != 0).any(0)
  if np.unique(rank).size != len(strides):
    raise ValueError(
      f'Of the strides {strides} one adds no pixel to an image of '
      f'{shape[:2]}; leave out those above {max(shape[:2])}.'
    )
  rank = rank.reshape(shape[:2] + (1,) * (len(shape) - 2))
  return np.ascontiguousarray(np.broadcast_to(rank, shape))


def channels(shape: Shape) -> np.ndarray:
  """All places of the first channel, then of the next: rank = channel.

  The channels are the last axis, and the depth is their number.

  Returns:
    int[E], of an event shape E.
  """
  shape = as_shape(shape)
  row = np.arange(shape[-1], dtype=np.int32)
  return np.ascontiguousarray(np.broadcast_to(row, shape))


def check(rank: ArrayLike, shape: Shape) -> np.ndarray:
  """Validates a rank array for an event and returns it as int32[E].

  Raises:
    ValueError: wrong shape, not integers, negative values or gaps.
  """
  shape, rank = as_shape(shape), np.asarray(rank)
  if rank.shape != shape:
    raise ValueError(
      f'rank has shape {rank.shape}, but the event has shape {shape}. Give one '
      'rank for each position, for example order.raster(event_shape).'
    )
  if not np.issubdtype(rank.dtype, np.integer):
    raise ValueError(
      f'rank must hold integers; got dtype {rank.dtype}. order.groups(labels) '
      'turns any sortable labels into ranks.'
    )
  present = np.unique(rank)
  if present[0] != 0 or present[-1] != present.size - 1:
    raise ValueError(
      'rank is no order: its values must be 0..R-1 without a gap, but it holds '
      f'{_excerpt(present)}. order.groups(rank) closes the gaps.'
    )
  return rank.astype(np.int32)


def depth(rank: ArrayLike) -> int:
  """Number R of ranks of int[E]: the sequential depth of sampling."""
  return int(np.max(np.asarray(rank))) + 1


def slots(rank: ArrayLike) -> np.ndarray:
  """Positions in the order they are drawn: int32[D], ties in row-major order.

  Slot k of the generation order is position slots(rank)[k].
  """
  return np.argsort(np.asarray(rank).reshape(-1), kind='stable').astype(
    np.int32
  )


def group_size(rank: ArrayLike) -> int | None:
  """The common size of all groups of int[E], or None when they differ."""
  counts = np.bincount(np.asarray(rank).reshape(-1))
  return int(counts[0]) if (counts == counts[0]).all() else None


def place(rank: np.ndarray, i: int) -> str:
  """'position (0, 1) (rank 3)': position i of a rank int[E], in words."""
  index = tuple(int(n) for n in np.unravel_index(i, rank.shape))
  where = i if len(index) == 1 else index
  return f'position {where} (rank {int(rank.reshape(-1)[i])})'


def _excerpt(values: np.ndarray, most: int = 6) -> str:
  shown = ', '.join(str(v) for v in values[:most])
  return f'[{shown}{", ..." if values.size > most else ""}]'


def to_positions(values: Array, slots: np.ndarray) -> Array:
  """What leads with slots, sent back to positions: out[slots[k]] = values[k].

  Args:
    values: array[D, ...].
    slots: of `slots`, int[D].

  Returns:
    array[D, ...]; `values` itself in raster order, which a mesh would
    otherwise have to gather.
  """
  if (slots == np.arange(slots.size)).all():
    return values
  return values[np.argsort(slots)]
