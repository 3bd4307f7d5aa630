"""One rule a primitive: what it reads, when that is due, and how to cut it."""

from parallel_ar.decode.rules import (
  convolutions,
  joins,
  loops,
  moves,
  places,
  pointwise,
  products,
  sums,
)
from parallel_ar.decode.rules.rule import NoRule, Rule

RULES: dict[str, Rule] = {
  **dict.fromkeys(pointwise.NAMES, pointwise.RULE),
  **moves.RULES,
  **joins.RULES,
  **places.RULES,
  **products.RULES,
  **convolutions.RULES,
  **sums.RULES,
  'scan': loops.RULE,
}

__all__ = ['RULES', 'NoRule', 'Rule', 'loops', 'moves', 'products']
