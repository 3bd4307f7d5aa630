"""Law 4: incremental evaluation agrees with the one pass."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from parallel_ar import doors, memo, order, samplers
from parallel_ar.decode import Decode, derive_decode, recompute_decode
from parallel_ar.model import AutoregressiveModel
from parallel_ar.testing import case as cases
from parallel_ar.testing import oracles
from parallel_ar.testing.case import Case, LawBroken
from parallel_ar.types import ArrayLike, Context, Params, PRNGKey

Partitions = Sequence[Sequence[int]]


def check_decode(
  model: AutoregressiveModel,
  decode: Decode | None = None,
  *,
  params: Params = None,
  examples: ArrayLike | None = None,
  context: Context = None,
  key: PRNGKey | None = None,
  partitions: Partitions | None = None,
  tolerance: float = 2e-5,
) -> str:
  """Checks that an incremental evaluation gives what the one pass gives.

    extend(cache, k, x_{k-1..k+n-2}) = conditionals(x) at slots k..k+n-1

  for blocks of slots, after drafts of other values that are rewound, with room
  that grows (`resize`), row by row (`blocks`), group by group (`groups`); and
  slot after slot the picks of a key are those of `ancestral`. Values that a
  part must not read are replaced by others, so that one that reads them shows.
  It is law 4 of the conformance suite, for a path of one's own.

  Args:
    model: the model.
    decode: the path; by default the model's own, else the derived one.
    params: parameters; by default strong random ones, under which an output
      that reads the wrong input differs.
    examples: array[B, *event], events to try; by default one of random values.
    context: of the examples, leading axis B; random by default.
    key: PRNG key of what is random and drawn; jax.random.key(0) by default.
    partitions: sizes of blocks that sum to D, each list tried; by default
      single slots, and one slot followed by all others at once.
    tolerance: largest difference over the largest conditional, or 1, that is
      called rounding; about 1e-5 for float32 and 2e-2 for bfloat16. In float64
      it is 1e-10.

  Returns:
    One line that says what was compared, and the largest difference.

  Raises:
    ValueError: the path is that of another model, or examples, context or
      partitions do not fit.
    parallel_ar.testing.case.LawBroken: an AssertionError that names the part,
      the block, the first wrong slot, and how far it is away.
  """
  path = doors.check_decode(model, decode) or model.decode
  seed = 0
  if key is not None:
    key = doors.check_key(key)
    seed = int(jax.random.randint(key, (), 0, 1 << 30))
  batch = 1
  if examples is not None:
    examples = doors.check_events(model, examples)
    batch = len(examples)
  if context is not None:
    context = doors.check_context(model, context, batch)
  case = cases.make_case(
    model,
    params=params,
    context=context,
    batch=batch,
    seed=seed,
    tolerance=tolerance,
  )
  if examples is not None:
    case = dataclasses.replace(case, x=np.asarray(examples))
  return agreement(case, path or derive_decode(model), partitions, batch)


def decode_agreement(
  case: Case,
  decode: Decode | None = None,
  partitions: Partitions | None = None,
) -> str:
  """Law 4. The path of a model equals its one pass.

  Args:
    case: the case.
    decode: the path to try; by default the one that samplers take, the model's
      own or else the derived one, which `derived` tries in any case.
    partitions: see `check_decode`.

  Returns:
    What was measured.
  """
  path = decode or case.model.decode or derive_decode(case.model)
  return agreement(case, path, partitions)


def derived(case: Case) -> str:
  """Law 4 for the path that is derived from the pass."""
  path = derive_decode(case.model)
  line = agreement(case, path)
  if path is recompute_decode(case.model):
    line += '; nothing could be derived'
  return line


def agreement(
  case: Case,
  decode: Decode,
  partitions: Partitions | None = None,
  count: int = 1,
) -> str:
  """Law 4 for one path.

  Args:
    case: the case; its first `count` examples are tried.
    decode: the path.
    partitions: see `check_decode`.
    count: examples.

  Returns:
    What was measured.
  """
  model, size = case.model, case.model.num_positions
  if partitions is None:
    partitions = [1] * size, [1, size - 1] if size > 1 else [1]
  for blocks in partitions:
    if sum(blocks) != size or min(blocks) < 1:
      raise ValueError(
        f'The blocks {_show(blocks)} do not sum to {size} slots, each of at '
        'least 1.'
      )
  path = _programs(model, decode)
  worst, parts = 0.0, [f'{len(partitions)} partitions']
  parts += [n for n in ('resize', 'blocks', 'groups') if getattr(path, n)]
  for n in range(count):
    trial = _Trial(case, path, n)
    for blocks in partitions:
      trial.run(blocks)
    if path.blocks is not None:
      trial.rows()
    if path.groups is not None:
      trial.levels()
    worst = max(worst, trial.worst)
  drawn = oracles.decode_sample(
    model, path, case.params, case.keys[0], oracles.row(case.context, 0)
  )
  want = samplers.ancestral(model)(case.params, case.keys, case.context)
  ties = cases.agree(
    case, 'Law 4, decode', 'one slot at a time', want.x[:1], drawn[None]
  )
  return (
    f'{", ".join(parts)} agree to {worst:.1e}, tokens equal{cases.count(ties)}'
  )


def _programs(model: AutoregressiveModel, decode: Decode) -> Decode:
  """The path with each of its functions as one program, made once for a path.

  What is kept holds the path, so that its id is that of no other.
  """
  make = lambda: (decode, _compiled(decode))
  return memo.once(model, ('laws', id(decode)), make)[1]


def _compiled(decode: Decode) -> Decode:

  def each(part: Any) -> Any:
    if part is None:
      return None
    made = {n: jax.jit(f) for n, f in part._asdict().items() if n != 'size'}
    return part._replace(**made)

  return decode._replace(
    init=jax.jit(decode.init),
    extend=jax.jit(decode.extend),
    blocks=each(decode.blocks),
    groups=each(decode.groups),
  )


class _Trial:
  """Compares the parts of a path with the one pass, on one example."""

  def __init__(self, case: Case, decode: Decode, example: int):
    model = case.model
    self.case, self.decode, self.model = case, decode, model
    self.context = oracles.row(case.context, example)
    self.slots = order.slots(model.rank)
    x = case.x[example]
    dist = oracles.conditionals(model, case.params, x, self.context)
    self.want = oracles.row(oracles.flatten(model, dist), self.slots)
    self.values = oracles.flatten(model, x)[self.slots]
    num_values, dtype = model.head.num_values, self.values.dtype
    other = self.values + np.ones((), dtype)
    self.other = other if num_values is None else other % num_values
    self.worst = 0.0

  def run(self, blocks: Sequence[int]) -> None:
    """Extends over the blocks, each after a draft that is rewound."""
    try:
      self._run(blocks, drafts=True)
    except LawBroken as broken:
      self._run(blocks, drafts=False)  # raises where extend itself is wrong
      raise LawBroken(
        f'{broken} Without rewinds the same blocks agree: a rewind left values '
        'of a draft behind.'
      ) from None

  def _run(self, blocks: Sequence[int], drafts: bool) -> None:
    size, rewind = len(self.values), self.decode.rewind
    cache, k = self.decode.init(self.case.params, self.context), 0
    room = 0  # half of the slots, then all: of each a program serves all blocks
    for n in blocks:
      what = f'with the blocks {_show(blocks)}'
      if self.decode.resize is not None and k + n > room:
        room = size if k else max(n, size // 2)
        cache = self.decode.resize(cache, room)
        what += f', the cache resized at slot {k}'
      if drafts:
        _, draft = self._extend(cache, k, n, wrong=True)
        cache = rewind(draft, k)
        what += ', a draft rewound before each'
      dist, cache = self._extend(cache, k, n)
      self._compare(dist, k, n, what)
      k += n
    for k in range(size // 2, size if drafts else 0):
      dist, cache = self._extend(rewind(cache, k), k, 1)
      self._compare(dist, k, 1, f'rewound to slot {k} from the end')

  def _extend(self, cache: Any, k: int, n: int, wrong: bool = False) -> Any:
    # What stands at slot -1 is ignored; the value of slot 0 shows if it is not.
    values = self.other if wrong else self.values
    previous = np.concatenate([self.values[:1], values])[k : k + n]
    return self.decode.extend(self.case.params, cache, k, previous)

  def rows(self) -> None:
    """Block by block: the pass over each, and slot after slot inside."""
    blocks, params = self.decode.blocks, self.case.params
    assert blocks is not None
    size, num = blocks.size, len(self.values)
    if num % size:
      raise LawBroken(
        f'Law 4, decode. {self.case.name}: blocks of {size} slots do not '
        f'divide the {num} slots of the event.'
      )
    cache, last = blocks.init(params, self.context), self.other[:size]
    for b in range(num // size):
      low = b * size
      row = self.values[low : low + size]
      cache, given = blocks.begin(params, cache, b, last)
      dist = blocks.conditionals(params, given, row)
      self._compare(dist, low, size, f'blocks.conditionals of block {b}')
      for j in sorted({0, size // 2}):
        mixed = np.concatenate([row[:j], self.other[low + j : low + size]])
        dist = blocks.conditionals(params, given, mixed)
        seen = jax.tree.map(lambda d, j=j: d[: j + 1], dist)
        what = f'blocks.conditionals of block {b} with other values from {j} on'
        self._compare(seen, low, j + 1, what)
      inner, previous = blocks.start(params, given), self.other[low]
      for j in range(size):
        dist, inner = blocks.extend(params, given, inner, j, previous)
        dist = jax.tree.map(lambda d: d[None], dist)
        self._compare(dist, low + j, 1, f'blocks.extend at {j} of block {b}')
        previous = row[j]
      last = row

  def levels(self) -> None:
    """Group by group, with other values at this rank and beyond it."""
    model, groups, params = self.model, self.decode.groups, self.case.params
    assert groups is not None
    level_of = model.rank.reshape(-1)[self.slots]
    shape = model.event.shape
    back = np.argsort(self.slots)
    cache = groups.init(params, self.context)
    for level in range(model.depth):
      past = (level_of < level).reshape(-1, *[1] * (self.values.ndim - 1))
      x = np.where(past, self.values, self.other)[back].reshape(shape)
      dist, cache = groups.extend(params, cache, level, x)
      dist = oracles.row(oracles.flatten(model, dist), self.slots)
      here = np.flatnonzero(level_of == level)
      low, high = int(here[0]), int(here[-1]) + 1  # slots go by rank
      part = jax.tree.map(lambda d, a=low, b=high: d[a:b], dist)
      self._compare(part, low, high - low, f'groups at rank {level}')

  def _compare(self, dist: Any, k: int, n: int, what: str) -> None:
    """Raises where slots k..k+n-1 are not those of the pass."""
    got, want = jax.tree.leaves(dist), jax.tree.leaves(self.want)
    shapes = [np.shape(leaf) for leaf in got]
    expected = [(n, *leaf.shape[1:]) for leaf in want]
    where = f'Law 4, decode. {self.case.name}, {what}'
    if shapes != expected:
      raise LawBroken(
        f'{where}: conditionals of shapes {shapes} instead of {expected}.'
      )
    for leaf, whole in zip(got, want, strict=True):
      error = _errors(np.asarray(leaf), whole[k : k + n])
      error /= max(1, _scale(whole))
      limit = 1e-10 if whole.dtype == np.float64 else self.case.tolerance
      self.worst = max(self.worst, float(error.max(initial=0)))
      wrong = np.flatnonzero(~(error <= limit))
      if wrong.size:
        first, slots = int(wrong[0]), f'slots {k}..{k + n - 1}'
        raise LawBroken(
          f'{where}: slot {k + first} of the block of {slots} is '
          f'{error[first]:.1e} away from the one pass (at most {limit:.0e} is '
          f'rounding), {wrong.size} of its {n} slots are wrong. The path reads '
          'or keeps something that is not a function of the values before.'
        )


def _errors(got: np.ndarray, want: np.ndarray) -> np.ndarray:
  """float[n], the largest difference at each slot; equal infinities have 0."""
  got, want = got.astype(np.float64), want.astype(np.float64)
  with np.errstate(invalid='ignore'):
    error = np.where(got == want, 0, np.abs(got - want))
  return error.reshape(len(error), -1).max(1, initial=0)


def _scale(want: np.ndarray) -> float:
  """The largest finite number."""
  a = np.abs(want.astype(np.float64))
  return float(a.max(initial=0, where=np.isfinite(a)))


def _show(blocks: Sequence[int]) -> str:
  """Sizes of blocks, the first few."""
  few = ', '.join(str(n) for n in list(blocks)[:6])
  return f'({few}{", ..." if len(blocks) > 6 else ""})'
