"""Sets of positions, one for each entry of an array: uint64[2, W, *shape].

The first are all that an entry MAY read, the second what it reads FIRMLY, of
the 64 W positions that are followed at once, a bit each. None is the empty set
everywhere.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from parallel_ar.program import uniform

MAY, FIRM = 0, 1
WORD = 64  # positions of a word
Sets = np.ndarray | None


def of_bits(bits: np.ndarray) -> np.ndarray:
  """bool[2, B, *shape] as words."""
  last = np.moveaxis(uniform.thin(bits), 1, -1)
  whole = np.zeros((*last.shape[:-1], -(-last.shape[-1] // WORD) * WORD), bool)
  whole[..., : last.shape[-1]] = last
  words = np.packbits(whole, axis=-1, bitorder='little').view(np.uint64)
  words = np.moveaxis(words, -1, 1)
  shape = 2, words.shape[1], *bits.shape[2:]
  return uniform.wide(words, shape)


def bits(reads: np.ndarray, count: int | None = None) -> np.ndarray:
  """Words as bool[2, B, *shape], of all positions or the first ones."""
  last = np.moveaxis(reads, 1, -1).copy().view(np.uint8)
  out = np.unpackbits(last, axis=-1, count=count, bitorder='little')
  return np.moveaxis(out, -1, 1).view(bool)


def union(tracks: Sequence[Sets], shape: Any) -> Sets:
  """The union of sets, each broadcast to `shape`."""
  out: Sets = None
  for reads in tracks:
    if reads is None:
      continue
    lead, own = reads.shape[:2], reads.shape[2:]
    reads = reads.reshape(*lead, *(1,) * (len(shape) - len(own)), *own)
    out = reads if out is None else uniform.over(np.bitwise_or, out, reads)
  return out if out is None else uniform.wide(out, (*out.shape[:2], *shape))


def without(reads: Sets, mask: Any) -> Sets:
  """The sets, empty where the mask is set."""
  if reads is None:
    return None
  return uniform.over(lambda m, r: np.where(m, np.uint64(0), r), mask, reads)


def weaken(reads: Any, mask: Any = True) -> Any:
  """The same sets, none of them firm where the mask is set."""
  if reads is None:
    return None
  small = uniform.thin(reads[FIRM])
  firm = np.where(uniform.thin(mask), np.uint64(0), small)
  may = uniform.thin(reads[MAY])
  return uniform.wide(np.stack(np.broadcast_arrays(may, firm)), reads.shape)


def gathered(
  reads: np.ndarray, axes: Any, keepdims: bool = False
) -> np.ndarray:
  """The union over axes of the array."""
  axes = (axes,) if isinstance(axes, int) else axes
  return uniform.reduced(
    np.bitwise_or, reads, tuple(a + 2 for a in axes), keepdims
  )


def spread(arrays: Sequence[Any], firm: bool) -> Sets:
  """What any entry of any of the arrays reads: uint64[2, W] or None."""
  out = union(
    [
      gathered(v.reads, range(len(v.shape)))
      for v in arrays
      if v.reads is not None
    ],
    (),
  )
  return out if firm else weaken(out)


def everywhere(sets: Sets, shape: Any) -> Sets:
  """The sets uint64[2, W] at every entry of an array."""
  if sets is None:
    return None
  lead = sets.reshape(*sets.shape, *(1,) * len(shape))
  return uniform.wide(lead, (*sets.shape, *shape))


def items(reads: np.ndarray) -> np.ndarray:
  """The sets as an array of one item an entry, to be moved as any other."""
  small = uniform.thin(reads)
  small = np.broadcast_to(small, (*reads.shape[:2], *small.shape[2:]))
  last = np.moveaxis(small, (0, 1), (-2, -1)).copy()
  size = 8 * last.shape[-1] * 2
  flat = last.reshape(*last.shape[:-2], -1).view(f'V{size}')[..., 0]
  return uniform.wide(flat, reads.shape[2:])


def of_items(moved: np.ndarray) -> np.ndarray:
  """The sets of such items."""
  small = uniform.thin(moved).copy()
  words = small[..., None].view(np.uint64)
  words = words.reshape(*small.shape, 2, small.itemsize // 16)
  words = np.moveaxis(words, (-2, -1), (0, 1))
  wide = uniform.wide(words, (*words.shape[:2], *moved.shape))
  return uniform.pressed(wide, 2)


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
  """[..., R, K] times [..., K, C], with `and` for * and `or` for +.

  Args:
    left: bool, or words with their two axes in front.
    right: the same; at most one of them has words. An axis of length 1 stands
      for one of any length.

  Returns:
    [..., R, C], words if one of them has words.
  """
  if left.shape[-1] == 1:  # the same along all: any of the other
    right = any_along(right, -2)
  elif right.shape[-2] == 1:
    left = any_along(left, -1)
  words = left if left.dtype == np.uint64 else right
  if left.shape[-1] == 1:
    if words.dtype == bool:
      return left & right
    full = lambda a: a if a is words else np.where(a, ~np.uint64(0), 0)
    return full(left) & full(right).astype(np.uint64)
  single = lambda a: a.astype(np.float32)
  if words.dtype == bool:
    return single(left) @ single(right) > 0.5
  every = bits(words)
  used = every.any(tuple(n for n in range(every.ndim) if n != 1))
  some = single(every[:, used])
  found = some @ single(right) if words is left else single(left) @ some
  shape = list(found.shape)
  shape[1] = used.size
  whole = np.zeros(shape, bool)
  whole[:, used] = found > 0.5
  return of_bits(whole)


def any_along(a: np.ndarray, axis: int) -> np.ndarray:
  """The union along an axis, of length 1 then."""
  op = np.logical_or if a.dtype == bool else np.bitwise_or
  return op.reduce(a, axis=axis, keepdims=True)
