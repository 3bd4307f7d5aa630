"""Causal attention over the slots of a generation order."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import partition
from parallel_ar.layers import flash, kernels, sharded
from parallel_ar.types import Array

Pattern = Literal['full', 'local', 'strided']
LONG = 2048  # slots from which on full attention keeps no scores


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
  block: int | np.ndarray = 1,
  chunk: int = 0,
) -> Array:
  """softmax(q k^T / sqrt(K)) v where slot l reads slots of blocks <= its own.

  Queries are taken in static chunks, and a chunk meets only the keys up to the
  end of its last block: half of the work and a fraction of the memory of a
  masked square. Scores and the softmax are float32. The gradient keeps the
  softmax of all chunks; `flash.flash_attention` keeps none.

  Args:
    q_LHK: queries, one for each slot and head.
    k_LHK: keys.
    v_LHK: values.
    block: slots of one block see each other; 1 is plain causal attention. An
      array int[L] gives the block of each slot, in ascending order.
    chunk: queries to take at once; rounded up to a multiple of `block`. 0
      takes 64, and a 32nd of long sequences: their gradient adds up one array
      of all keys for each chunk.

  Returns:
    float[L, H, K].
  """
  length, _, size = q_LHK.shape
  chunk = chunk or max(64, length // 32)
  if isinstance(block, int):
    chunk = -(-chunk // block) * block
    blocks = np.arange(length) // block
  else:
    blocks = np.asarray(block)
  q_HLK, k_HSK, v_HSK = (jnp.moveaxis(a, 0, 1) for a in (q_LHK, k_LHK, v_LHK))
  q_HLK = q_HLK * (size**-0.5)
  out = []
  for start in range(0, length, chunk):
    end = min(start + chunk, length)
    seen = int(np.searchsorted(blocks, blocks[end - 1], 'right'))
    scores = (q_HLK[:, start:end] @ k_HSK[:, :seen].mT).astype(jnp.float32)
    mask = blocks[None, start:end, None] >= blocks[None, None, :seen]
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    att = softmax(scores).astype(v_HSK.dtype)
    out.append(att @ v_HSK[:, :seen])
  return jnp.moveaxis(jnp.concatenate(out, 1), 0, 1)


def local_attention(
  q_LHK: Array, k_LHK: Array, v_LHK: Array, *, window: int, chunk: int = 0
) -> Array:
  """Attention of slot l to the slots l - w + 1 .. l.

  A chunk of c queries meets the w + c - 1 keys that any of them reads, chunk
  after chunk: O(L (w + c)) work, and the memory of one chunk, whose scores the
  backward pass computes again.

  Args:
    q_LHK: queries, one for each slot and head.
    k_LHK: keys.
    v_LHK: values.
    window: w.
    chunk: c; 0 takes a quarter of the window, and at least 64.

  Returns:
    float[L, H, K].

  References:
    Child et al.: Generating long sequences with sparse transformers. 2019;
    Parmar et al.: Image Transformer. ICML 2018 (local windows).
  """
  length, _, size = q_LHK.shape
  chunk = min(chunk or max(64, window // 4), length)
  count, seen = -(-length // chunk), min(window, length) - 1
  after = count * chunk - length
  q_LHK = jnp.pad(q_LHK * (size**-0.5), ((0, after), (0, 0), (0, 0)))
  k, v = (jnp.pad(a, ((seen, after), (0, 0), (0, 0))) for a in (k_LHK, v_LHK))
  query, key = np.arange(chunk)[:, None], np.arange(chunk + seen)[None] - seen
  near = (key <= query) & (key > query - window)

  @jax.checkpoint
  def attend(c: Array) -> Array:
    cut = jax.lax.dynamic_slice_in_dim
    q_HLK = jnp.moveaxis(cut(q_LHK, c * chunk, chunk), 0, 1)
    k_HSK, v_HSK = (
      jnp.moveaxis(cut(a, c * chunk, chunk + seen), 0, 1) for a in (k, v)
    )
    exists = jnp.asarray(key) + c * chunk >= 0
    return softmax_product(q_HLK @ k_HSK.mT, exists & near, v_HSK)

  out = jax.lax.map(attend, jnp.arange(count))
  return out.reshape(count * chunk, *out.shape[2:])[:length]


def strided_attention(
  q_LHK: Array, k_LHK: Array, v_LHK: Array, *, stride: int, chunk: int = 0
) -> Array:
  """Attention of slot l to the slots l, l - s, l - 2 s, ...

  Slots of one residue modulo s are a sequence of their own: O(L^2 / s) work.
  In a block after a local one every slot reaches every slot before it.

  Args:
    q_LHK: queries, one for each slot and head.
    k_LHK: keys.
    v_LHK: values.
    stride: s.
    chunk: queries of a residue to take at once, as above.

  Returns:
    float[L, H, K].

  References:
    Child et al. 2019, section 4.2.
  """
  length = q_LHK.shape[0]
  after = -length % stride

  def split(a: Array) -> Array:
    a = jnp.pad(a, ((0, after), (0, 0), (0, 0)))
    return a.reshape(-1, stride, *a.shape[1:])

  attend = jax.vmap(
    lambda q, k, v: block_causal_attention(q, k, v, chunk=chunk), 1, 1
  )
  out = attend(split(q_LHK), split(k_LHK), split(v_LHK))
  return out.reshape(length + after, *out.shape[2:])[:length]


def cached_attention(
  q_LHK: Array,
  k_LHK: Array,
  v_LHK: Array,
  slots_L: Array,
  cache: KeyValues,
  pattern: Pattern = 'full',
  window: int = 0,
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
    pattern: which slots before are read; a local slot costs O(w), a strided
      one O(S), of which S / w are read.
    window: w, the window or the stride.

  Returns:
    float[L, H, K] and the cache with the new slots.
  """
  size = q_LHK.shape[-1]
  write = jax.lax.dynamic_update_slice_in_dim
  k_HKS = write(cache.keys, jnp.moveaxis(k_LHK, 0, 2), slots_L[0], 2)
  v_HSK = write(cache.values, jnp.moveaxis(v_LHK, 0, 1), slots_L[0], 1)
  q_HLK = jnp.moveaxis(q_LHK, 0, 1) * (size**-0.5)
  new, room = KeyValues(k_HKS, v_HSK), k_HKS.shape[-1]
  keys, values, at_S = k_HKS, v_HSK, jnp.arange(room)
  if pattern == 'local':
    seen = min(room, window + slots_L.shape[0] - 1)
    first = jnp.clip(slots_L[0] - window + 1, 0, room - seen)
    keys = jax.lax.dynamic_slice_in_dim(k_HKS, first, seen, 2)
    values = jax.lax.dynamic_slice_in_dim(v_HSK, first, seen, 1)
    at_S = first + jnp.arange(seen)
  mask = slots_L[:, None] >= at_S[None, :]
  if pattern == 'local':
    mask &= at_S[None, :] > slots_L[:, None] - window
  elif pattern == 'strided':
    mask &= (slots_L[:, None] - at_S[None, :]) % window == 0
  return softmax_product(q_HLK @ keys, mask, values), new


def two_part_attention(
  q_LK: Array,
  keys: tuple[Array, Array],
  values: tuple[Array, Array],
  masks: tuple[Array, Array],
) -> Array:
  """softmax over two sets of keys together, which are never joined in memory.

  A decode step reads a large set that does not change and a small one that
  does: joining them would copy the large one at every step.

  Args:
    q_LK: queries of one head.
    keys: float[S, K] and float[T, K].
    values: float[S, F] and float[T, F].
    masks: what is read, bool[L or 1, S] and bool[L or 1, T].

  Returns:
    float[L, F].
  """
  lowest = jnp.finfo(jnp.float32).min
  q_LK = q_LK * (q_LK.shape[-1] ** -0.5)
  scores = [
    jnp.where(mask, (q_LK @ k.T).astype(jnp.float32), lowest)
    for k, mask in zip(keys, masks, strict=True)
  ]
  att = softmax(jnp.concatenate(scores, -1))
  first, second = jnp.split(att, [keys[0].shape[0]], -1)
  of = lambda att, v: att.astype(v.dtype) @ v
  return of(first, values[0]) + of(second, values[1])


@jax.custom_jvp
def softmax(scores: Array) -> Array:
  """The softmax y of scores s, float[..., S]; its derivative keeps y alone.

    d y = y (d s - sum(y d s))

  That of `jax.nn.softmax` keeps exp(s) as well, which is as large.
  """
  return jax.nn.softmax(scores, -1)


@softmax.defjvp
def _softmax_jvp(scores: Any, moves: Any) -> tuple[Array, Array]:
  y, (move,) = softmax(*scores), moves
  return y, y * (move - (y * move).sum(-1, keepdims=True))


def softmax_product(scores_HLS: Array, mask_LS: Array, v_HSK: Array) -> Array:
  """softmax(scores) v where the mask is true, float[L, H, K]; in float32."""
  scores = scores_HLS.astype(jnp.float32)
  scores = jnp.where(mask_LS[None], scores, jnp.finfo(jnp.float32).min)
  att = softmax(scores).astype(v_HSK.dtype)
  return jnp.moveaxis(att @ v_HSK, 0, 1)


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


def attend(
  q_LHK: Array,
  k_LHK: Array,
  v_LHK: Array,
  reach: sharded.Reach,
  *,
  chunk: int = 0,
  kernel: kernels.Kernels = 'loops',
) -> Array:
  """softmax(q k^T / sqrt(K)) v over all slots: the one door of a pass.

  Behind it are the ring over `sequence`, the kernels of the platform
  (`layers.kernels`) and the loops of this module and of `layers.flash`; they
  differ in speed, memory and rounding.

  Args:
    q_LHK: queries, one for each slot and head.
    k_LHK: keys.
    v_LHK: values.
    reach: which slots are read; `block` may be int[L] outside the ring.
    chunk: queries that the loops take at once; 0 chooses by the length.
    kernel: 'auto' for the kernel of the platform where it fits.

  Returns:
    float[L, H, K].
  """
  length, qkv = q_LHK.shape[0], (q_LHK, k_LHK, v_LHK)
  if sharded.parts(length) > 1:
    return sharded.ring_attention(*qkv, reach, chunk)
  if (fused := kernels.choose(kernel, q_LHK, reach)) is not None:
    out: Array = fused(*qkv, reach)
    return out
  if reach.window:
    return local_attention(*qkv, window=reach.window, chunk=chunk)
  if reach.stride > 1:
    return strided_attention(*qkv, stride=reach.stride, chunk=chunk)
  if length >= LONG and isinstance(reach.block, int):
    return flash.flash_attention(*qkv, block=reach.block, chunk=chunk or 256)
  return block_causal_attention(*qkv, block=reach.block, chunk=chunk)


class SelfAttention(nn.Module):
  """Multi-head self-attention over slots, block-causal.

  Attributes:
    heads: H, a divisor of the width N; N / H even for rotary positions.
    block: see `block_causal_attention`.
    rotary: rotates queries and keys by their slot.
    chunk: see `block_causal_attention`.
    pattern: which slots a slot reads; all but 'full' need block = 1.
    window: slots of a local window, or the stride.
    kernel: see `attend`.
    dtype: of the products; parameters are float32.
    bias: adds a bias to queries, keys, values and the output.
    scale: of the scores, beside 1 / sqrt(K).
  """

  heads: int
  block: Any = 1
  rotary: bool = True
  chunk: int = 0
  pattern: Pattern = 'full'
  window: int = 64
  kernel: kernels.Kernels = 'loops'
  dtype: Any = jnp.float32
  bias: bool = False
  scale: float = 1.0

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
    qkv = nn.Dense(3 * width, use_bias=self.bias, dtype=self.dtype, name='qkv')
    q, k, v = jnp.split(qkv(x_LN), 3, -1)
    q = q if self.scale == 1 else q * self.scale
    q, k, v = (a.reshape(length, self.heads, size) for a in (q, k, v))
    if self.rotary:
      q, k = (rotary(a, slots_L) for a in (q, k))
    q, k, v = (partition.over_slots(a, cache, 'tensor') for a in (q, k, v))
    if cache is not None:
      y, cache = cached_attention(
        q, k, v, slots_L, cache, self.pattern, self.window
      )
    else:
      y = attend(q, k, v, self._reach(), chunk=self.chunk, kernel=self.kernel)
    out = nn.Dense(width, use_bias=self.bias, dtype=self.dtype, name='out')
    y = partition.over_slots(y.reshape(length, width), cache, 'tensor')
    return out(y), cache

  def _reach(self) -> sharded.Reach:
    match self.pattern:
      case 'local':
        return sharded.Reach(window=self.window)
      case 'strided':
        return sharded.Reach(stride=self.window)
    return sharded.Reach(block=self.block)
