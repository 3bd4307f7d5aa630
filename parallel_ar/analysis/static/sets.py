"""Sets of positions, one for each entry of an array: bool[2, B, *shape].

The first are all that an entry MAY read, the second what it reads FIRMLY, of B
positions that are followed at once. None is the empty set everywhere.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

MAY, FIRM = 0, 1


def union(tracks: Sequence[np.ndarray | None], shape: Any) -> np.ndarray | None:
  """The union of sets, each broadcast to `shape`."""
  out = None
  for reads in tracks:
    if reads is None:
      continue
    lead, own = reads.shape[:2], reads.shape[2:]
    ones = (1,) * (len(shape) - len(own))
    reads = reads.reshape(*lead, *ones, *own)
    reads = np.broadcast_to(reads, (*lead, *shape))
    out = reads if out is None else out | reads
  return out


def weaken(reads: Any) -> Any:
  """The same sets, none of them firm."""
  if reads is None:
    return None
  return np.stack([reads[MAY], np.zeros_like(reads[FIRM])])


def spread(arrays: Sequence[Any], firm: bool) -> np.ndarray | None:
  """What any entry of any of the arrays reads: bool[2, B] or None."""
  out: Any = None
  for v in arrays:
    if v.reads is not None:
      flat = v.reads.reshape(*v.reads.shape[:2], -1).any(-1)
      out = flat if out is None else out | flat
  return out if firm else weaken(out)


def everywhere(sets: np.ndarray | None, shape: Any) -> np.ndarray | None:
  """The sets bool[2, B] at every entry of an array."""
  if sets is None:
    return None
  lead = sets.reshape(*sets.shape, *(1,) * len(shape))
  return np.broadcast_to(lead, (*sets.shape, *shape))
