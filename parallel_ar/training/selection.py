"""Selection on the validation split: which step is best, and when to stop."""

from typing import NamedTuple


class Selection(NamedTuple):
  """What the validations so far have shown; saved with every checkpoint.

  Attributes:
    evaluated: step of the last validation; -1 before the first.
    nats: its mean negative log-likelihood of an example, nats.
    best_step: step of the lowest one; -1 before the first.
    best_nats: its nats.
    stale: validations since then.
  """

  evaluated: int = -1
  nats: float | None = None
  best_step: int = -1
  best_nats: float | None = None
  stale: int = 0

  def update(self, step: int, nats: float) -> 'Selection':
    """The selection after a validation at `step`; ties go to the earlier."""
    if self.best_nats is None or nats < self.best_nats:
      return Selection(step, nats, step, nats, 0)
    return self._replace(evaluated=step, nats=nats, stale=self.stale + 1)

  def exhausted(self, patience: int) -> bool:
    """Whether `patience` validations have brought no new best; 0: never."""
    return 0 < patience <= self.stale
