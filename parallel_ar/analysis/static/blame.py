"""By which operations an output reads an input, and which to suspect.

From the output back to the input, at every operation one entry is found through
which the input comes: of the operands that carry it, the one that carries the
fewest other forbidden inputs. The operation by which most forbidden inputs
join it is the suspect; where none join, the first that mixes entries at all.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from parallel_ar.analysis.static import domain, frames, sets
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.sets import FIRM, MAY
from parallel_ar.analysis.static.value import Value
from parallel_ar.program import uniform


@dataclasses.dataclass(frozen=True)
class Place:
  """An operation on the way.

  Attributes:
    operation: name of the primitive.
    where: 'file.py:line', of the innermost frame outside of the frameworks.
    function: that the line stands in.
    joined: forbidden inputs that join the one that is followed.
    mixes: whether the operation combines entries that read different inputs.
    vague: whether it may read the input, but not firmly.
    meets: whether the input meets others that the output may read here.
    why: the input is read only if this is so; empty where it is read firmly.
    cancels: whether it is a running sum of floats less its last term, which
      reads the input.
  """

  operation: str
  where: str
  function: str
  joined: int
  mixes: bool
  vague: bool
  meets: bool = False
  why: str = ''
  cancels: bool = False

  def __str__(self) -> str:
    text = f'{self.operation} ({self.where}, in {self.function})'
    return f'{text}: {self.why}' if self.why else text


def path(
  steps: Sequence[domain.Step],
  output: Value,
  entries: np.ndarray,
  bit: int,
  forbidden: np.ndarray,
) -> list[Place]:
  """The way of one input into one output, from the input on.

  Args:
    steps: of the readser.
    output: an array that reads the input.
    entries: flat entries of it that belong to the output position.
    bit: the input, as a track of `reads`.
    forbidden: bool[B], inputs that the output must not read.

  Returns:
    The operations, first to last.
  """
  made = {
    id(v): (step, n) for step in steps for n, v in enumerate(step.results)
  }
  kind = FIRM if _row(output, FIRM, bit)[entries].any() else MAY
  entry = int(entries[np.flatnonzero(_row(output, kind, bit)[entries])[0]])
  v, places = output, []
  while id(v) in made:
    step, n = made[id(v)]
    source = _source(step, n, entry, bit, kind, forbidden)
    if source is None:
      places.append(_place(step, v, entry, None, bit, forbidden))
      break
    places.append(_place(step, v, entry, source, bit, forbidden))
    operand, entry = source
    v = step.operands[operand]
    if _row(v, FIRM, bit)[entry]:
      kind = FIRM
  return places[::-1]


def suspect(places: Sequence[Place]) -> Place:
  """The operation to look at first."""
  vague = [p for p in places if p.vague]
  if vague:
    return vague[0]
  most = max(p.joined for p in places)
  if most > 0:
    return next(p for p in places if p.joined == most)
  if met := [p for p in places if p.meets]:
    return met[0]
  return next((p for p in places if p.mixes), places[0])


def _row(v: Value, kind: int, bit: int) -> np.ndarray:
  if v.reads is None:
    return np.zeros(v.size, bool)
  word, place = divmod(bit, sets.WORD)
  return ((v.reads[kind, word] >> np.uint64(place)) & 1).reshape(-1) > 0


def _may(v: Value, entry: int, count: int) -> np.ndarray:
  """bool[count], which of the first inputs an entry may read."""
  if v.reads is None:
    return np.zeros(count, bool)
  flat = v.reads.reshape(*v.reads.shape[:2], -1)
  return sets.bits(flat[..., entry], count)[MAY]


def _count(v: Value, entry: int, forbidden: np.ndarray) -> int:
  return int((_may(v, entry, len(forbidden)) & forbidden).sum())


def _source(
  step: domain.Step,
  result: int,
  entry: int,
  bit: int,
  kind: int,
  forbidden: np.ndarray,
) -> tuple[int, int] | None:
  """(operand, entry) through which the input comes."""
  candidates = []
  for n, v in enumerate(step.operands):
    for e in np.flatnonzero(_row(v, kind, bit)):
      candidates.append((_count(v, int(e), forbidden), n, int(e)))
  candidates.sort()
  if not candidates:
    return None
  if step.eqn.primitive.name in ('scan', 'while', 'cond'):
    return _through(step, result, entry, bit, kind, candidates)
  low, high = 0, len(candidates)
  while low < high:  # the shortest prefix that is enough ends in a source
    middle = (low + high) // 2
    if _enough(step, result, entry, kind, candidates[: middle + 1]):
      high = middle
    else:
      low = middle + 1
  if low == len(candidates):
    return None
  return candidates[low][1:]


def _enough(
  step: domain.Step, result: int, entry: int, kind: int, some: list
) -> bool:
  operands = []
  for n, v in enumerate(step.operands):
    reads = np.zeros((2, 1, v.size), bool)
    chosen = [e for _, m, e in some if m == n]
    reads[MAY, 0, chosen] = True
    if kind == FIRM:
      reads[FIRM, 0, chosen] = True
    shaped = None
    if chosen:
      shaped = sets.of_bits(reads.reshape(2, 1, *v.shape))
    linear = v.linear
    if linear is not None:
      linear = None if not chosen else linear
    operands.append(dataclasses.replace(v, reads=shaped, linear=linear))
  found = domain.apply(step.eqn, operands, set())[result]
  return bool(_row(found, kind, 0)[entry])


def _through(
  step: domain.Step,
  result: int,
  entry: int,
  bit: int,
  kind: int,
  candidates: list,
) -> tuple[int, int] | None:
  """The source in a loop or branch, whose operands are laid out by hand."""
  out = step.results[result]
  if step.eqn.primitive.name == 'scan':
    if len(step.operands) == 1 and out.size < step.operands[0].size:
      v = step.operands[0]  # one item of a series
      rows = np.arange(v.size).reshape(v.shape[0], -1)
      here = {(0, int(r[entry])) for r in rows}
    else:  # items put together
      size = max(out.size // max(len(step.operands), 1), 1)
      here = {(entry // size, entry % size)}
    for _, n, e in candidates:
      if (n, e) in here and _row(step.operands[n], kind, bit)[e]:
        return n, e
    return None
  for _, n, e in candidates:
    if step.operands[n].shape == out.shape and e == entry:
      return n, e
  return candidates[0][1:]


def _place(
  step: domain.Step,
  v: Value,
  entry: int,
  source: tuple[int, int] | None,
  bit: int,
  forbidden: np.ndarray,
) -> Place:
  after = _count(v, entry, forbidden)
  before, vague = 0, not _row(v, FIRM, bit)[entry]
  meets = False
  if source is not None:
    operand = step.operands[source[0]]
    before = _count(operand, source[1], forbidden)
    vague = vague and bool(_row(operand, FIRM, bit)[source[1]])
    meets = _others(v, entry, forbidden) and not _others(
      operand, source[1], forbidden
    )
  count = len(forbidden)
  most = max((_most(w, count) for w in step.operands), default=0)
  where, function = frames.place_of(step.outer or step.eqn)
  return Place(
    operation=step.eqn.primitive.name,
    where=where,
    function=function,
    joined=max(after - before, 0),
    mixes=_most(v, count) > most,
    vague=vague,
    meets=meets,
    why=_why([v, *step.operands]) if vague else '',
    cancels=step.eqn.primitive.name == 'sub'
    and values.kind(v.dtype) == 'f'
    and step.operands[0].sums(step.operands[1])
    and bool(_row(step.operands[1], MAY, bit)[entry]),
  )


def _others(v: Value, entry: int, forbidden: np.ndarray) -> bool:
  """Whether an entry reads an input that is not forbidden."""
  return bool((_may(v, entry, len(forbidden)) & ~forbidden).any())


def _why(arrays: Sequence[Value]) -> str:
  """The doubt in words, and the line where it arises."""
  doubt = values.doubt_of(arrays)
  if doubt is None:
    return ''
  where, _ = frames.place_of(doubt.eqn)
  return f'{doubt.why} ({where})'


def _most(v: Value, count: int) -> int:
  """The most of the first inputs that one entry reads."""
  if v.reads is None:
    return 0
  reads = sets.bits(uniform.thin(v.reads), count)
  return int(reads[MAY].sum(0).max(initial=0))
