"""Keys whose draws are a function of the key alone."""

import jax
import jax.numpy as jnp

from parallel_ar.types import Array, PRNGKey

_IMPL = 'threefry2x32'


def of_its_own(keys: PRNGKey) -> PRNGKey:
  """Keys whose draws are a function of the key alone.

  Under `vmap` the generators rbg and unsafe_rbg, usual on TPUs, draw from the
  first key of the batch, so that a sample would depend on its neighbours. Their
  keys seed threefry keys instead, which also draw the same on every platform.

  Args:
    keys: typed keys of any shape.

  Returns:
    Threefry keys; `keys` itself if it holds such.
  """
  if str(jax.random.key_impl(keys)) == _IMPL:
    return keys

  def one(words: Array) -> PRNGKey:
    key = jax.random.wrap_key_data(jnp.resize(words, (2,)), impl=_IMPL)
    for word in words[2:]:
      key = jax.random.fold_in(key, word)
    return key

  seeded = one
  for _ in range(keys.ndim):
    seeded = jax.vmap(seeded)
  return seeded(jax.random.key_data(keys))
