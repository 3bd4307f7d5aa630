"""Blocks of the Transformer, and a period of them for loops over layers.

y = y + attention(norm(y)),   y = y + mlp(norm(y))
"""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn

from parallel_ar import partition
from parallel_ar.layers import attention, kernels
from parallel_ar.types import Array


class Block(nn.Module):
  """Pre-norm attention and MLP.

  Attributes:
    heads: H.
    mlp_features: width of the MLP's hidden layer.
    group: slots predicted together, or int[L], the group of each slot.
    rotary: rotary positions in the attention.
    chunk: queries taken at once.
    pattern: of the attention.
    window: of the pattern.
    kernel: of the attention.
    dtype: of the products; parameters are float32.
    attention_bias: adds biases in the attention.
    norm_epsilon: added to the variance by the norms.
    attention_scale: of the scores.
  """

  heads: int
  mlp_features: int
  group: Any
  rotary: bool
  chunk: int
  pattern: attention.Pattern
  window: int
  kernel: kernels.Kernels
  dtype: Any
  attention_bias: bool = False
  norm_epsilon: float = 1e-6
  attention_scale: float = 1.0

  @nn.compact
  def __call__(
    self, y_LN: Array, slots_L: Array, cache: attention.KeyValues | None
  ) -> tuple[Array, attention.KeyValues | None]:
    width = y_LN.shape[-1]
    attend = attention.SelfAttention(
      self.heads,
      self.group,
      self.rotary,
      self.chunk,
      self.pattern,
      self.window,
      self.kernel,
      self.dtype,
      self.attention_bias,
      self.attention_scale,
      name='att',
    )
    norm = lambda name: nn.LayerNorm(
      self.norm_epsilon, dtype=self.dtype, name=name
    )
    z = norm('norm_att')(y_LN)
    z, cache = attend(z, slots_L, cache)
    y_LN = partition.over_slots(y_LN + z, cache)
    z = norm('norm_mlp')(y_LN)
    z = nn.Dense(self.mlp_features, dtype=self.dtype, name='up')(z)
    z = partition.over_slots(z, cache, 'tensor')
    z = nn.Dense(width, dtype=self.dtype, name='down')(nn.gelu(z))
    return partition.over_slots(y_LN + z, cache), cache


class Period(nn.Module):
  """One block for each entry of the pattern: what a loop over layers repeats.

  Attributes:
    pattern: of the attention of each.
    shared: the other attributes of the blocks.
  """

  pattern: Sequence[attention.Pattern]
  shared: Any

  @nn.compact
  def __call__(self, y_LN: Array, caches: Any, slots_L: Array) -> Any:
    kept = []
    for n, pattern in enumerate(self.pattern):
      block = Block(**self.shared, pattern=pattern, name=f'block_{n}')
      y_LN, cache = block(y_LN, slots_L, caches[n] if caches else None)
      kept.append(cache)
    return y_LN, tuple(kept)
