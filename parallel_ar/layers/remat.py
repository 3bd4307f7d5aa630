"""Rematerialisation: memory for time, by name."""

import jax
from flax import linen as nn

POLICIES = {
  'none': None,  # keep every activation
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_saveable,
  'dots_no_batch': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def remat(block: type[nn.Module], policy: str) -> type[nn.Module]:
  """Wraps a block so that its backward pass recomputes activations.

  Args:
    block: a Linen module class.
    policy: 'none' keeps all activations, 'full' keeps the block's inputs only,
      'dots' keeps the results of matrix products, 'dots_no_batch' those of
      products without batch axes (weights).

  Returns:
    The class, wrapped by `jax.checkpoint` unless the policy is 'none'.

  Raises:
    ValueError: an unknown policy.
  """
  if policy not in POLICIES:
    raise ValueError(
      f'Unknown remat policy {policy!r}; choose one of {", ".join(POLICIES)}.'
    )
  if policy == 'none':
    return block
  return nn.remat(block, policy=POLICIES[policy])
