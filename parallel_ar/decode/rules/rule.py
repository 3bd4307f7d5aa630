"""What a rule says of a primitive."""

from collections.abc import Callable
from typing import Any, NamedTuple

Step = tuple[Any, ...]  # (needs, run), and the cuts made where not those asked


class NoRule(Exception):
  """A form of a primitive that its rule does not cover; it is run in full."""


class Rule(NamedTuple):
  """One primitive, read three times.

  Attributes:
    ready: (op, facts of the inputs) -> facts of the outputs.
    due: (op, facts of the inputs, facts of the outputs, due times of the
      outputs, None where nothing needs one) -> due times of the inputs: each
      entry is due when the first entry that reads it is.
    step: (op, cuts of the outputs, None where nothing is due, class) ->
      (needs, run): needs are (array, cut) pairs, and run(values, k) computes
      the cuts of the outputs of their values.
  """

  ready: Callable[..., Any]
  due: Callable[..., Any]
  step: Callable[..., Step]
