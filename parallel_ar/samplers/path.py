"""Which incremental evaluation a sampler takes, and how `info` tells it."""

from typing import NamedTuple

from parallel_ar import doors
from parallel_ar.decode import Decode, derive_decode, recompute_decode
from parallel_ar.model import AutoregressiveModel

# `SampleInfo.path` is a place in here.
KINDS = ('none', 'own', 'derived', 'given', 'recomputed', 'whole')


class Path(NamedTuple):
  """An incremental evaluation, and where it comes from.

  Attributes:
    decode: it.
    kind: a place in KINDS.
  """

  decode: Decode
  kind: int

  @property
  def proves_itself(self) -> bool:
    """Whether it cannot round, so that no pass has to prove what it draws."""
    return KINDS[self.kind] == 'whole'


def choose(model: AutoregressiveModel, decode: Decode | None = None) -> Path:
  """The path that is given, else the model's own, else the derived one.

  Where nothing can be derived, that is one full pass for each block:
  'recomputed'. Of a model in whole numbers it is 'whole': any program of its
  pass has the integers of the pass.

  Raises:
    ValueError: see `doors.check_decode`.
  """
  given = doors.check_decode(model, decode)
  path = given or model.decode or derive_decode(model)
  kind = 'derived' if given is None else 'given'
  if path is model.decode:
    kind = 'own'
  elif path is recompute_decode(model):
    kind = 'recomputed'
  if model.whole and path is not given and path is not model.decode:
    kind = 'whole'
  return Path(path, KINDS.index(kind))
