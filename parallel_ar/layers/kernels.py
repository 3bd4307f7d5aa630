"""Attention by the kernels that a platform's own people write.

  cudnn    of NVIDIA GPUs, FlashAttention by `jax.nn.dot_product_attention`, for
           products of 16 bits
  splash   of TPUs, block-sparse, by Pallas (`splash_attention` of JAX)
  loops    ours, anywhere: `layers.attention`, `layers.flash`

They are equal to rounding, and keep no scores. `layers.attention.attend` is the
door; under a mesh a kernel runs on each device's examples and heads, since XLA
cannot cut it. Audits and derived paths read the loops.

References:
  Dao et al.: FlashAttention. NeurIPS 2022. Shazeer et al.: the splash kernel of
  MaxText.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from parallel_ar import partition, target
from parallel_ar.layers.sharded import Reach
from parallel_ar.types import Array

Kernels = Literal['auto', 'loops']
SHORTEST = 256  # slots below which a kernel has one tile and nothing to skip
# A mask that is no band is an array of L x L for a kernel.
_LONGEST_MASK = 16384
_LANES = 128
_TILES = (512, 384, 256, _LANES)  # the largest that divides the slots


def check(wanted: str) -> None:
  """Checks the name of a choice.

  Raises:
    ValueError: it is none.
  """
  if wanted not in get_args(Kernels):
    raise ValueError(
      f'attention_kernel must be one of {", ".join(get_args(Kernels))}; got '
      f'{wanted!r}. auto takes the kernel of the platform where it fits.'
    )


def choose(wanted: str, q_LHK: Array, reach: Reach) -> Callable | None:
  """The kernel of this platform for these queries; None for our loops.

  Args:
    wanted: 'auto' or 'loops'.
    q_LHK: queries, their shape and dtype.
    reach: which slots are read.
  """
  length, _, size = q_LHK.shape
  platform = target.platform()
  band = _is_band(reach) or length <= _LONGEST_MASK
  if wanted != 'auto' or length < SHORTEST or not band:
    return None
  if platform == 'tpu' and size >= 32:
    return splash
  if platform == 'gpu' and _takes_cudnn(q_LHK):
    return cudnn
  return None


def cudnn(q_LHK: Array, k_LHK: Array, v_LHK: Array, reach: Reach) -> Array:
  """softmax(q k^T / sqrt(K)) v by cuDNN.

  Args:
    q_LHK: queries, in bfloat16 or float16, with K a multiple of 8 of at most
      128.
    k_LHK: keys.
    v_LHK: values.
    reach: which slots are read. Blocks and strides are a mask of L x L.

  Returns:
    float[L, H, K].
  """
  return _on_each_device(
    functools.partial(_dot_product, 'cudnn', reach), q_LHK, k_LHK, v_LHK
  )


def _dot_product(
  implementation: Any, reach: Reach, q: Array, k: Array, v: Array
) -> Array:
  options: dict[str, Any] = {'is_causal': True}
  if not _is_band(reach):
    options = {'mask': jnp.asarray(reads(reach, q.shape[0]))[None, None]}
  elif reach.window:
    options['local_window_size'] = (reach.window - 1, 0)
  return jax.nn.dot_product_attention(
    q, k, v, implementation=implementation, **options
  )


def splash(
  q_LHK: Array,
  k_LHK: Array,
  v_LHK: Array,
  reach: Reach,
  interpret: bool = False,
) -> Array:
  """softmax(q k^T / sqrt(K)) v by the splash kernel of TPUs.

  Slots are filled up to a multiple of 128.

  Args:
    q_LHK: queries, one for each slot and head.
    k_LHK: keys.
    v_LHK: values.
    reach: which slots are read; tiles that nobody reads are left out.
    interpret: run the kernel's program as JAX, for tests.

  Returns:
    float[L, H, K].
  """
  return _on_each_device(
    functools.partial(_splash, reach, interpret), q_LHK, k_LHK, v_LHK
  )


def _splash(
  reach: Reach, interpret: bool, q: Array, k: Array, v: Array
) -> Array:
  # Pallas takes a while to import, and a CPU never needs it.
  from jax.experimental.pallas.ops.tpu import splash_attention as splash_lib

  length, heads, size = q.shape
  after = -length % _LANES
  whole = length + after
  tile = next(n for n in _TILES if whole % n == 0)
  mask: Any
  if not _is_band(reach):
    seen = np.eye(whole, dtype=bool)
    seen[:length, :length] = reads(reach, length)
    mask = splash_lib.NumpyMask(seen)
  elif reach.window:
    mask = splash_lib.LocalMask((whole, whole), (reach.window - 1, 0), 0)
  else:
    mask = splash_lib.CausalMask((whole, whole))
  names = (
    *('block_q', 'block_kv', 'block_kv_compute', 'block_q_dkv'),
    *('block_kv_dkv', 'block_kv_dkv_compute', 'block_q_dq', 'block_kv_dq'),
  )
  tiles: dict[str, Any] = dict.fromkeys(names, tile)
  kernel = splash_lib.make_splash_mha_single_device(
    splash_lib.MultiHeadMask([mask] * heads),
    block_sizes=splash_lib.BlockSizes(**tiles),
    interpret=interpret,
  )
  first = lambda a: jnp.pad(jnp.moveaxis(a, 0, 1), ((0, 0), (0, after), (0, 0)))
  out = kernel(first(q * size**-0.5), first(k), first(v))
  return jnp.moveaxis(out[:, :length], 0, 1)


def reads(reach: Reach, length: int) -> np.ndarray:
  """bool[L, L]: whether a slot (row) reads another one (column)."""
  query, key = np.arange(length)[:, None], np.arange(length)[None]
  blocks = np.asarray(reach.block)
  if blocks.ndim:
    seen = blocks[query] >= blocks[key]
  else:
    seen = query // blocks >= key // blocks
  if reach.window:
    seen &= key > query - reach.window
  if reach.stride > 1:
    seen &= (query - key) % reach.stride == 0
  return np.asarray(seen)


def _is_band(reach: Reach) -> bool:
  return np.ndim(reach.block) == 0 and reach.block == 1 and reach.stride == 1


def _takes_cudnn(q_LHK: Array) -> bool:
  size, short = q_LHK.shape[-1], q_LHK.dtype.itemsize == 2
  there = any(importlib.util.find_spec(f'jax_cuda{n}_plugin') for n in (12, 13))
  return short and size % 8 == 0 and size <= 128 and there


def _on_each_device(kernel: Callable, *qkv: Array) -> Array:
  """The kernel on the heads of each device of `tensor`, and its examples."""
  if partition.axis_size(*partition.AXES) == 1:
    out: Array = kernel(*qkv)
    return out
  whole = qkv[0].shape[1] % partition.axis_size('tensor')
  spec = PartitionSpec(None, None if whole else 'tensor')
  spread: Callable[..., Array] = jax.shard_map(
    kernel,
    in_specs=(spec,) * 3,
    out_specs=spec,
    axis_names=set(partition.AXES),
    check_vma=False,
  )
  return spread(*qkv)
