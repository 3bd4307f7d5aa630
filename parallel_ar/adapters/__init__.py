"""Networks of any framework as records, and their caches as decode paths."""

from parallel_ar.adapters.cache import (
  Cache,
  decode_from_cache,
  past_key_values,
)
from parallel_ar.adapters.equinox import from_equinox
from parallel_ar.adapters.haiku import from_haiku
from parallel_ar.adapters.linen import from_linen, linen_cache
from parallel_ar.adapters.network import Fields, from_apply
from parallel_ar.adapters.nnx import from_nnx, nnx_cache
from parallel_ar.adapters.window import windowed_decode

__all__ = [
  'Cache',
  'Fields',
  'decode_from_cache',
  'from_apply',
  'from_equinox',
  'from_haiku',
  'from_linen',
  'from_nnx',
  'linen_cache',
  'nnx_cache',
  'past_key_values',
  'windowed_decode',
]
