"""Incremental evaluation: the paths a family writes, and the derived one."""

from parallel_ar.decode.derive import derive_decode
from parallel_ar.decode.record import (
  Blocks,
  Decode,
  Groups,
  from_blocks,
  from_groups,
  recompute_decode,
  slot_by_slot,
)

__all__ = [
  'Blocks',
  'Decode',
  'Groups',
  'derive_decode',
  'from_blocks',
  'from_groups',
  'recompute_decode',
  'slot_by_slot',
]
