"""Symbols and contexts as vectors."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from parallel_ar.types import Array, Context, Labels

Inputs = Literal['scaled', 'one_hot']


def encode(x: Array, num_values: int, inputs: Inputs) -> Array:
  """Symbols as real features.

  Args:
    x: int[..., C].
    num_values: V.
    inputs: 'scaled' maps 0..V-1 to -1..1, one feature for each channel;
      'one_hot' gives V features for each channel, channel by channel.

  Returns:
    float32[..., C] or float32[..., C * V].

  Raises:
    ValueError: another name.
  """
  if inputs == 'scaled':
    return 2.0 * x.astype(jnp.float32) / (num_values - 1) - 1.0
  if inputs == 'one_hot':
    hot = jax.nn.one_hot(x, num_values, dtype=jnp.float32)
    return hot.reshape(*x.shape[:-1], -1)
  raise ValueError(f"inputs must be 'scaled' or 'one_hot'; got {inputs!r}.")


def context_spec(
  num_classes: int, context_size: int, image: Sequence[int] = ()
) -> Any:
  """What one example's context looks like.

  Args:
    num_classes: > 0 for a label in 0..num_classes-1.
    context_size: > 0 for a real vector.
    image: (height, width, channels) of a real image, where channels > 0.

  Returns:
    The ShapeDtypeStruct of the one that there is; None for none.

  Raises:
    ValueError: more than one.
  """
  pictured = bool(image) and image[-1] > 0
  if bool(num_classes) + bool(context_size) + pictured > 1:
    raise ValueError(
      f'Condition on a label (num_classes={num_classes}) or on a vector '
      f'(context_size={context_size}) or on an image, not on both.'
    )
  if pictured:
    return jax.ShapeDtypeStruct(tuple(image), jnp.float32)
  if num_classes:
    return Labels(num_classes)
  if context_size:
    return jax.ShapeDtypeStruct((context_size,), jnp.float32)
  return None


def blank(spec: Any) -> Context:
  """A context of zeros, from which parameters are made; None for None."""
  return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), spec)


class AddContext(nn.Module):
  """y + W h for a context h: a label (as a one-hot h) or a real vector.

  Of features of an image each pixel has its own h.

  Attributes:
    num_classes: number of labels; not read for a vector.
    dtype: of the product; parameters are float32.
  """

  num_classes: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, y: Array, context: Context) -> Array:
    """Returns y itself where there is no context, nan for what is no label."""
    if context is None:
      return y
    if jnp.issubdtype(context.dtype, jnp.integer):
      known = (context >= 0) & (context < self.num_classes)
      hot = jax.nn.one_hot(context, self.num_classes)
      context = jnp.where(known[..., None], hot, jnp.nan)
    bias = nn.Dense(y.shape[-1], use_bias=False, dtype=self.dtype)(context)
    return y + jnp.broadcast_to(bias, y.shape).astype(y.dtype)
