"""Causal attention over the slots of a generation order."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar.types import Array


class KeyValues(NamedTuple):
  """What attention keeps of the slots before: S slots, H heads of size K.

  Keys are stored transposed, because a decode step reads all of them as the
  right factor of a matrix product.
  """

  keys: Array  # [H, K, S]
  values: Array  # [H, S, K]


def resize(cache: KeyValues, slots: int) -> KeyValues:
  """The cache with room for `slots` slots: the first ones, or zeros added."""
  more = max(slots - cache.values.shape[1], 0)
  keys = jnp.pad(cache.keys, ((0, 0), (0, 0), (0, more)))
  values = jnp.pad(cache.values, ((0, 0), (0, more), (0, 0)))
  return KeyValues(keys[:, :, :slots], values[:, :slots])


def block_causal_attention(
  q_LHK: Array,
  k_LHK: Array,
  v_LHK: Array,
  *,
  block: int = 1,
  chunk: int = 64,
) -> Array:
  """softmax(q k^T / sqrt(K)) v where slot l reads slots of blocks <= its own.

  Queries are taken in static chunks, and a chunk meets only the keys up to its
  own end: half of the work and a fraction of the memory of a masked square.
  Scores and the softmax are float32.

  Args:
    q_LHK: queries, one for each slot and head.
    k_LHK: keys.
    v_LHK: values.
    block: slots of one block see each other; 1 is plain causal attention.
    chunk: queries to take at once; rounded up to a multiple of `block`.

  Returns:
    float[L, H, K].
  """
  length, _, size = q_LHK.shape
  chunk = -(-chunk // block) * block
  q_HLK, k_HSK, v_HSK = (jnp.moveaxis(a, 0, 1) for a in (q_LHK, k_LHK, v_LHK))
  q_HLK = q_HLK * (size**-0.5)
  blocks = np.arange(length) // block
  out = []
  for start in range(0, length, chunk):
    end = min(start + chunk, length)
    scores = (q_HLK[:, start:end] @ k_HSK[:, :end].mT).astype(jnp.float32)
    mask = blocks[None, start:end, None] >= blocks[None, None, :end]
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    att = jax.nn.softmax(scores, -1).astype(v_HSK.dtype)
    out.append(att @ v_HSK[:, :end])
  return jnp.moveaxis(jnp.concatenate(out, 1), 0, 1)


def cached_attention(
  q_LHK: Array,
  k_LHK: Array,
  v_LHK: Array,
  slots_L: Array,
  cache: KeyValues,
) -> tuple[Array, KeyValues]:
  """Attention of a few new slots to themselves and to all slots before.

  Entries of the cache beyond the newest slot are masked, so a draft that was
  given up needs no cleaning: the next block overwrites it.

  Args:
    q_LHK: queries of the slots k..k+L-1.
    k_LHK: their keys.
    v_LHK: their values.
    slots_L: int[L], k..k+L-1.
    cache: of S >= k + L slots.

  Returns:
    float[L, H, K] and the cache with the new slots.
  """
  size = q_LHK.shape[-1]
  write = jax.lax.dynamic_update_slice_in_dim
  k_HKS = write(cache.keys, jnp.moveaxis(k_LHK, 0, 2), slots_L[0], 2)
  v_HSK = write(cache.values, jnp.moveaxis(v_LHK, 0, 1), slots_L[0], 1)
  q_HLK = jnp.moveaxis(q_LHK, 0, 1) * (size**-0.5)
  scores = (q_HLK @ k_HKS).astype(jnp.float32)
  mask = slots_L[:, None] >= jnp.arange(k_HKS.shape[-1])[None, :]
  scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
  att = jax.nn.softmax(scores, -1).astype(v_HSK.dtype)
  return jnp.moveaxis(att @ v_HSK, 0, 1), KeyValues(k_HKS, v_HSK)


def rotary(x_LHK: Array, positions: Array, base: float = 1e4) -> Array:
  """Rotary position embedding (Su et al. 2021, eq. 34).

  Rotates the pair (x[k], x[k + K/2]) of each head by position * base^(-2k/K),
  so that scores depend on the difference of two positions only.

  Args:
    x_LHK: queries or keys, K even.
    positions: float or int[L].
    base: of the frequencies.

  Returns:
    float[L, H, K].
  """
  half = x_LHK.shape[-1] // 2
  frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle_L1K = (
    positions.astype(jnp.float32)[:, None, None] * frequency[None, None, :]
  )
  cos, sin = jnp.cos(angle_L1K), jnp.sin(angle_L1K)
  a, b = x_LHK[..., :half], x_LHK[..., half:]
  turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)
  return turned.astype(x_LHK.dtype)


class SelfAttention(nn.Module):
  """Multi-head self-attention over slots, block-causal.

  Attributes:
    heads: H, a divisor of the width N; N / H even for rotary positions.
    block: see `block_causal_attention`.
    rotary: rotates queries and keys by their slot.
    chunk: see `block_causal_attention`.
    dtype: of the products; parameters are float32.
  """

  heads: int
  block: int = 1
  rotary: bool = True
  chunk: int = 64
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x_LN: Array, slots_L: Array, cache: KeyValues | None = None
  ) -> tuple[Array, KeyValues | None]:
    """Maps the slots `slots_L`: all of them, or the next ones of a cache."""
    length, width = x_LN.shape
    if width % self.heads or (self.rotary and width // self.heads % 2):
      raise ValueError(
        f'{self.heads} heads do not fit a width of {width}: the width must be '
        'a multiple of the heads, and of twice the heads with rotary positions.'
      )
    size = width // self.heads
    qkv = nn.Dense(3 * width, use_bias=False, dtype=self.dtype, name='qkv')
    q, k, v = jnp.split(qkv(x_LN), 3, -1)
    q, k, v = (a.reshape(length, self.heads, size) for a in (q, k, v))
    if self.rotary:
      q, k = (rotary(a, slots_L) for a in (q, k))
    if cache is None:
      y = block_causal_attention(q, k, v, block=self.block, chunk=self.chunk)
    else:
      y, cache = cached_attention(q, k, v, slots_L, cache)
    out = nn.Dense(width, use_bias=False, dtype=self.dtype, name='out')
    return out(y.reshape(length, width)), cache
