"""Letters and aliases that the whole library shares.

Inside the mathematics a name carries its shape, one letter per axis:

  B  batch              E  event shape (stands for several axes)
  D  positions, prod(E) R  ranks, the sequential depth
  V  values of a symbol H  image height (heads in attention code)
  W  image width        C  channels of the event
  L  sequence length    S  slots of keys in attention
  N  network width      K  size of one attention head
  F  features of a layer's output

Everything inside a model is written for ONE example; the batch axis `B` lives
in likelihoods, samplers, training and data.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
ArrayLike = jax.Array | np.ndarray
PRNGKey = jax.Array
Params = Any  # a pytree of arrays
Context = Any  # a pytree of arrays, or None for an unconditional model
Dist = Any  # a pytree of arrays whose leaves lead with E


class Labels(jax.ShapeDtypeStruct):
  """The spec of a context that is a label: int32 in 0..num_classes-1.

  Attributes:
    num_classes: how many labels there are.
  """

  __slots__ = ('num_classes',)

  def __init__(self, num_classes: int, shape: tuple[int, ...] = ()):
    if num_classes < 1:
      raise ValueError(f'Labels need at least 1 class; got {num_classes}.')
    super().__init__(shape, jnp.int32)
    self.num_classes = num_classes
