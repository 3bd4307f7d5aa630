"""Networks of any framework as records: batch axis, start symbol, boxes."""

from parallel_ar.adapters.equinox import from_equinox
from parallel_ar.adapters.haiku import from_haiku
from parallel_ar.adapters.linen import from_linen
from parallel_ar.adapters.network import Fields, from_apply
from parallel_ar.adapters.nnx import from_nnx

__all__ = [
  'Fields',
  'from_apply',
  'from_equinox',
  'from_haiku',
  'from_linen',
  'from_nnx',
]
