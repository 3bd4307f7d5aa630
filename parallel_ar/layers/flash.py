"""Causal attention that keeps no scores, for long sequences.

  o_i = sum_j p_ij v_j,   p_ij = exp(q_i k_j^T - lse_i),   lse_i = log sum_j ...

Queries and keys are taken in chunks. The forward pass meets the chunks of keys
up to a chunk of queries one after another, with a running maximum and sum; it
keeps o and lse. The backward pass computes p again, chunk by chunk:

  dv_j = sum_i p_ij do_i           ds_ij = p_ij (do_i v_j^T - do_i o_i^T)
  dq_i = sum_j ds_ij k_j           dk_j = sum_i ds_ij q_i

Chunks wholly in the future are never computed: half of the square in work, and
O(L) memory for the gradient as well. Both passes are loops in the program,
whose size does not depend on the length.

References:
  Dao et al.: FlashAttention. NeurIPS 2022, Algorithms 1 and 4. Rabe, Staats:
  Self-attention does not need O(n^2) memory. 2021.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.types import Array

_LEAST = float(np.finfo(np.float32).min)


def flash_attention(
  q_LHK: Array, k_LHK: Array, v_LHK: Array, *, block: int = 1, chunk: int = 256
) -> Array:
  """softmax(q k^T / sqrt(K)) v where slot l reads slots of blocks <= its own.

  It can be differentiated once, backwards. Scores, sums and the gradient's
  sums are float32.

  Args:
    q_LHK: queries, one for each slot and head.
    k_LHK: keys.
    v_LHK: values.
    block: slots of one block see each other; 1 is plain causal attention.
    chunk: queries, and keys, to take at once; rounded up to a multiple of
      `block`.

  Returns:
    float[L, H, K].
  """
  length, _, size = q_LHK.shape
  chunk = -(-min(chunk, length) // block) * block
  after = -length % chunk
  pad = lambda a: jnp.pad(jnp.moveaxis(a, 0, 1), ((0, 0), (0, after), (0, 0)))
  q, k, v = pad(q_LHK * (size**-0.5)), pad(k_LHK), pad(v_LHK)
  out = _attend((length, block, chunk), q, k, v)
  return jnp.moveaxis(out[:, :length], 0, 1)


def _cut(a: Array, i: Array | int, chunk: int) -> Array:
  """Chunk i of the slots, the second axis."""
  return jax.lax.dynamic_slice_in_dim(a, i * chunk, chunk, 1)


def _joined(parts: Array) -> Array:
  """[chunks, H, C, K] as [H, L, K]."""
  parts = jnp.moveaxis(parts, 0, 1)
  return parts.reshape(parts.shape[0], -1, parts.shape[-1])


def _allowed(sizes: tuple[int, int, int], i: Array | int) -> Any:
  """Which keys of chunk i its own queries read: bool[1, queries, keys]."""
  length, block, chunk = sizes
  place = np.arange(chunk)[None, None]
  own = place.mT // block >= place // block
  return own & (i * chunk + place < length)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(sizes: tuple[int, int, int], q: Array, k: Array, v: Array) -> Array:
  """Attention of [H, L, K] in whole chunks; `sizes` is (L, block, chunk)."""
  return _forward(sizes, q, k, v)[0]


def _forward(
  sizes: tuple[int, int, int], q: Array, k: Array, v: Array
) -> tuple[Array, tuple[Array, ...]]:
  chunk = sizes[-1]

  def rows(i: Array) -> tuple[Array, Array]:
    q_i = _cut(q, i, chunk)

    def meet(j: Array, carry: tuple[Array, ...], own: bool = False) -> tuple:
      out, most, total = carry
      scores = (q_i @ _cut(k, j, chunk).mT).astype(jnp.float32)
      if own:
        scores = jnp.where(_allowed(sizes, i), scores, _LEAST)
      new = jnp.maximum(most, scores.max(-1, keepdims=True))
      p, before = jnp.exp(scores - new), jnp.exp(most - new)
      part = (p.astype(v.dtype) @ _cut(v, j, chunk)).astype(jnp.float32)
      total = total * before + p.sum(-1, keepdims=True)
      return out * before + part, new, total

    empty = jnp.zeros(q_i.shape, jnp.float32)
    carry = empty, jnp.full_like(empty[..., :1], _LEAST), empty[..., :1]
    carry = jax.lax.fori_loop(0, i, meet, carry)
    out, most, total = meet(i, carry, True)
    return (out / total).astype(v.dtype), most + jnp.log(total)

  out, lse = jax.lax.map(rows, jnp.arange(q.shape[1] // chunk))
  out, lse = _joined(out), _joined(lse)
  return out, (q, k, v, out, lse)


def _backward(
  sizes: tuple[int, int, int], kept: tuple[Array, ...], d_out: Array
) -> tuple[Array, Array, Array]:
  q, k, v, out, lse = kept
  chunk = sizes[-1]
  count = q.shape[1] // chunk
  through = (out.astype(jnp.float32) * d_out).sum(-1, keepdims=True)

  # Scores are [keys, queries] here: fewer products of transposed arrays.
  def columns(d_q: Array, j: Array) -> tuple[Array, tuple[Array, Array]]:
    k_j, v_j = _cut(k, j, chunk), _cut(v, j, chunk)

    def meet(i: Array, carry: tuple[Array, ...], own: bool = False) -> tuple:
      d_q, d_k, d_v = carry
      q_i, d_i = _cut(q, i, chunk), _cut(d_out, i, chunk)
      p = jnp.exp((k_j @ q_i.mT).astype(jnp.float32) - _cut(lse, i, chunk).mT)
      if own:
        p = jnp.where(_allowed(sizes, i).mT, p, 0)
      d_p = (v_j @ d_i.mT).astype(jnp.float32)
      d_s = (p * (d_p - _cut(through, i, chunk).mT)).astype(q.dtype)
      d_v = d_v + p.astype(v.dtype) @ d_i
      d_k = d_k + d_s @ q_i
      new = _cut(d_q, i, chunk) + d_s.mT @ k_j
      d_q = jax.lax.dynamic_update_slice_in_dim(d_q, new, i * chunk, 1)
      return d_q, d_k, d_v

    none = jnp.zeros(k_j.shape, jnp.float32)
    carry = meet(j, (d_q, none, none), True)
    d_q, d_k, d_v = jax.lax.fori_loop(j + 1, count, meet, carry)
    return d_q, (d_k, d_v)

  start = jnp.zeros(q.shape, jnp.float32)
  d_q, (d_k, d_v) = jax.lax.scan(columns, start, jnp.arange(count))
  d_k, d_v = _joined(d_k), _joined(d_v)
  return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype)


_attend.defvjp(_forward, _backward)
