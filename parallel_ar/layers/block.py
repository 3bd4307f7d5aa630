"""A pre-norm block whose attention is told by the caller what it may read.

  y = y + out(attend(q, k, v)),   y = y + mlp(norm(y)),   (q, k, v) of norm(y)

Families differ in who reads whom, and what a cache keeps. That is one function
of queries, keys and values; norms, projections and the MLP stand here.

References:
  Xiong et al.: On layer normalization in the transformer architecture. ICML
  2020 (pre-norm).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from parallel_ar.layers import attention
from parallel_ar.types import Array


class Parts(NamedTuple):
  """What attention works on: H heads of size K.

  `old_keys` and `old_values` are equal to keys and values, and let no gradient
  into the states that they are made of.
  """

  queries: Array  # [L, H, K]
  keys: Array  # [S, H, K]
  values: Array  # [S, H, K]
  old_keys: Array  # [S, H, K]
  old_values: Array  # [S, H, K]


Attend = Callable[[Parts], tuple[Array, Any]]


class Block(nn.Module):
  """Pre-norm attention and MLP.

  Attributes:
    heads: H, a divisor of the width N; N / H even, for rotary positions.
    mlp_features: width of the MLP's hidden layer.
    dtype: of the products; parameters are float32.
  """

  heads: int
  mlp_features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, y_LN: Array, positions_L: Array, attend: Attend, num_keys: int = 0
  ) -> tuple[Array, Any]:
    """Maps all rows.

    Args:
      y_LN: the rows.
      positions_L: of each row, for rotary positions.
      attend: what reads what, (parts) -> (float[L, H, K], what is kept).
      num_keys: the first rows give keys and values; 0 means all of them.

    Returns:
      float[L, N] and what `attend` keeps.

    Raises:
      ValueError: heads that do not fit the width.
    """
    length, width = y_LN.shape
    if width % (2 * self.heads):
      raise ValueError(
        f'{self.heads} heads do not fit a width of {width}: rotary positions '
        'need a width that is a multiple of twice the heads.'
      )
    dense = lambda features, name, bias=True: nn.Dense(
      features, use_bias=bias, dtype=self.dtype, name=name
    )
    norm = lambda name: nn.LayerNorm(dtype=self.dtype, name=name)
    shape = -1, self.heads, width // self.heads
    z_LN = norm('norm_att')(y_LN)
    z_SN = z_LN[:num_keys] if num_keys else z_LN
    to_keys = dense(2 * width, 'keys_values', False)
    q = dense(width, 'queries', False)(z_LN).reshape(shape)
    at_S = positions_L[: z_SN.shape[0]]

    def keys_values(z_SN: Array) -> tuple[Array, Array]:
      k, v = jnp.split(to_keys(z_SN), 2, -1)
      return attention.rotary(k.reshape(shape), at_S), v.reshape(shape)

    # Two equal products, of which XLA makes one where no gradient is taken.
    parts = Parts(
      attention.rotary(q, positions_L),
      *keys_values(z_SN),
      *keys_values(jax.lax.stop_gradient(z_SN)),
    )
    read, kept = attend(parts)
    y_LN = y_LN + dense(width, 'out', False)(read.reshape(length, width))
    z_LN = dense(self.mlp_features, 'up')(norm('norm_mlp')(y_LN))
    return y_LN + dense(width, 'down')(nn.gelu(z_LN)), kept


def masked_attention(
  q_LHK: Array, k_SHK: Array, v_SHK: Array, mask_LS: Array
) -> Array:
  """softmax(q k^T / sqrt(K)) v over the keys where the mask is true.

  Args:
    q_LHK: queries.
    k_SHK: keys.
    v_SHK: values.
    mask_LS: bool; every row needs a key that it reads.

  Returns:
    float[L, H, K]; scores and the softmax are float32.
  """
  q_HLK, k_HSK, v_HSK = (jnp.moveaxis(a, 0, 1) for a in (q_LHK, k_SHK, v_SHK))
  scores_HLS = q_HLK * (q_LHK.shape[-1] ** -0.5) @ k_HSK.mT
  return attention.softmax_product(scores_HLS, mask_LS, v_HSK)
