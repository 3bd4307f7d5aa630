"""The head of a network over V values: Bernoulli for two, else categorical."""

from parallel_ar.head import Head
from parallel_ar.heads.bernoulli import bernoulli
from parallel_ar.heads.categorical import categorical


def of_values(num_values: int) -> Head:
  """The head whose parameters are `num_logits` numbers a position."""
  return bernoulli() if num_values == 2 else categorical(num_values)


def num_logits(num_values: int) -> int:
  """One for a Bernoulli head, else one for each value."""
  return 1 if num_values == 2 else num_values
