"""Runs the static audit on a model, and says what it found."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from parallel_ar import order
from parallel_ar.analysis.static import blame, domain, sets
from parallel_ar.analysis.static import value as values
from parallel_ar.analysis.static.sets import FIRM, MAY
from parallel_ar.analysis.static.value import Value
from parallel_ar.model import AutoregressiveModel, position_noise
from parallel_ar.program import uniform, walk

Pair = tuple[int, int]  # (output, input), positions in row-major order


ASSUMED = (
  'Assumed: inputs, parameters and what is computed of parameters alone are '
  'finite; sums and products of them do not overflow; scores that no mask '
  'touches lie between -1e8 and 1e8, and what is added to masked scores after '
  'they are multiplied by c < 1 between -1e8 c and 1e8 c; and what a Fourier '
  'transform leaves below 1e-5 of its largest coefficient is rounding.'
)


@dataclasses.dataclass(frozen=True)
class Finding:
  """One forbidden pair explained.

  Attributes:
    pair: (output, input).
    leak: whether it is read; False where that cannot be decided.
    suspect: the operation to look at first.
    path: all operations by which the input comes, first to last.
  """

  pair: Pair
  leak: bool
  suspect: blame.Place
  path: tuple[blame.Place, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Static:
  """What was proved.

  Attributes:
    name: of the model.
    rank: int32[E], what it promises.
    may: bool[D, D]; row i is output i. Where it is False, output i does not
      depend on input j, whatever the input and the parameters are.
    firm: bool[D, D], part of `may`: read by operations that depend on all
      their operands.
    leaks: forbidden pairs that are read firmly.
    undecided: forbidden pairs of `may` that are not read firmly.
    findings: an explanation of the first leak and of the first undecided pair.
    without_rule: operations that the analysis has no rule for.
    operations: number of operations that were run.
    seconds: that it took.
  """

  name: str
  rank: np.ndarray
  may: np.ndarray
  firm: np.ndarray
  leaks: tuple[Pair, ...]
  undecided: tuple[Pair, ...]
  findings: tuple[Finding, ...]
  without_rule: tuple[str, ...]
  operations: int
  seconds: float

  @property
  def proved(self) -> bool:
    """Whether no output can read an input of its own or a higher rank."""
    return not self.leaks and not self.undecided

  def describe(self) -> str:
    """One paragraph."""
    text = [f'{self.name}: {self.operations} operations traced.']
    if self.proved:
      rank = self.rank.reshape(-1)
      allowed = int((rank[None, :] < rank[:, None]).sum())
      text.append(
        'Proved causal for every input and all parameters: no output can read '
        f'an input of its own or a higher rank; {int(self.may.sum())} of '
        f'{allowed} allowed pairs may be read. {ASSUMED}'
      )
    for finding in self.findings:
      count = len(self.leaks if finding.leak else self.undecided)
      verdict = (
        f'NOT CAUSAL: {count} forbidden pairs are read'
        if finding.leak
        else f'Cannot decide {count} forbidden pairs'
      )
      i, j = (order.place(self.rank, n) for n in finding.pair)
      text.append(
        f'{verdict}: for example, {i} reads {j}, by {finding.suspect}.'
      )
      if finding.leak and any(place.cancels for place in finding.path):
        text.append(
          'A running sum less its last term keeps a trace of that term: they '
          'cancel up to rounding only. Shift the terms by one and then sum, or '
          'sum integers.'
        )
      elif finding.leak and finding.suspect.joined == 0:
        text.append(
          'Nothing else joins it there, so the inputs may lack a shift, or a '
          'mask is not strict.'
        )
    if self.without_rule:
      text.append(f'Without a rule: {", ".join(self.without_rule)}.')
    return ' '.join(text)

  def __str__(self) -> str:
    return self.describe()

  def raise_if_leaks(self) -> None:
    """Ends a test where a forbidden pair leaks.

    Raises:
      ValueError: with the description.
    """
    if self.leaks:
      raise ValueError(self.describe())


def check(model: AutoregressiveModel, *, chunk: int = 511) -> Static:
  """Finds which inputs each output can read, without running the model.

  Args:
    model: the model; nothing is computed with its parameters.
    chunk: input positions that are followed at once, which bounds the memory.

  Returns:
    What was proved, and what reads too much.
  """
  started = time.monotonic()
  program = _Program(model)
  size = model.num_positions
  reads = np.zeros((2, size, size), bool)
  without_rule: set[str] = set()
  operations = 0
  for start in range(0, size, chunk):
    bits = np.arange(start, min(start + chunk, size))
    run = domain.Reads()
    for found in program.reads(run, bits)[1]:
      reads[:, :, bits] |= found.transpose(0, 2, 1)
    without_rule |= run.without_rule
    operations = run.operations
  rank = model.rank.reshape(-1)
  forbidden = rank[None, :] >= rank[:, None]
  leaks = reads[FIRM] & forbidden
  undecided = reads[MAY] & forbidden & ~reads[FIRM]
  findings = tuple(
    program.explain(matrix, forbidden, leak)
    for matrix, leak in ((leaks, True), (undecided, False))
    if matrix.any()
  )
  return Static(
    name=model.name,
    rank=model.rank,
    may=reads[MAY],
    firm=reads[FIRM],
    leaks=_pairs(leaks),
    undecided=_pairs(undecided),
    findings=findings,
    without_rule=tuple(sorted(without_rule)),
    operations=operations,
    seconds=time.monotonic() - started,
  )


class _Program:
  """The traced functions of a model."""

  def __init__(self, model: AutoregressiveModel):
    self.model = model
    params = jax.eval_shape(model.init, jax.random.key(0))
    noise = jax.eval_shape(lambda: position_noise(model, jax.random.key(0)))

    def outputs(params: Any, x: Any, context: Any, noise: Any) -> Any:
      dist = model.conditionals(params, x, context)
      pick = model.head.pick(dist, noise)
      return [*jax.tree.leaves(dist), pick, model.head.log_prob(dist, x)]

    specs = (params, model.event, model.context, noise)
    self.jaxpr = jax.make_jaxpr(outputs)(*specs)
    self.params = [_any(s) for s in jax.tree.leaves(params)]
    self.rest = [_any(s) for s in jax.tree.leaves((model.context, noise))]

  def reads(
    self, run: domain.Reads, bits: np.ndarray
  ) -> tuple[list[Value], list[np.ndarray]]:
    """The outputs, and for each bool[2, B, D]; a term may read its own x."""
    model, size = self.model, self.model.num_positions
    own = np.arange(size)[None] == bits[:, None]
    lead = own.reshape(1, len(bits), *model.rank.shape)
    rest = (1,) * (len(model.event.shape) - model.rank.ndim)
    # What reads positions that are not followed is told from what reads none.
    others = ~lead.any(1, keepdims=True)
    lead = sets.of_bits(np.concatenate([lead, others], 1))
    reads = uniform.wide(
      lead.reshape(*lead.shape, *rest), (*lead.shape[:2], *model.event.shape)
    )
    count = model.head.num_values
    lo, hi = values.finite()
    if count is not None:
      lo, hi = np.float64(0), np.float64(count - 1)
    everything = sets.weaken(sets.gathered(reads, range(reads.ndim - 2)))
    x = Value(
      model.event.shape,
      np.dtype(model.event.dtype),
      reads=reads,
      lo=lo,
      hi=hi,
      attained=count is not None,
      derived=everything,
    )
    told: Any = None
    outputs: Any = None
    while outputs is None or not np.array_equal(told, np.asarray(run.told)):
      told = np.asarray(run.told)
      run.steps = None if run.steps is None else []
      outputs = walk.run(self.jaxpr, run, [*self.params, x, *self.rest])
    found: list[Any] = []
    for v in outputs:
      if v.reads is None:
        found.append(np.zeros((2, len(bits), size), bool))
      else:
        rows = v.reads.reshape(*v.reads.shape[:2], size, -1)
        found.append(sets.bits(sets.gathered(rows, 1), len(bits)))
    found[-1] = found[-1] & ~own
    return outputs, found

  def explain(
    self, matrix: np.ndarray, forbidden: np.ndarray, leak: bool
  ) -> Finding:
    """The way of the lowest forbidden input into the lowest output.

    An output of the lowest rank may read nothing, so that nothing tells a mask
    from the sum behind it: where a sum would be named, the next output is
    asked too.
    """
    rank = self.model.rank.reshape(-1)
    pairs = np.argwhere(matrix)
    lowest = np.lexsort((rank[pairs[:, 1]], rank[pairs[:, 0]]))
    found = self._way(pairs[lowest[0]], forbidden, leak)
    later = [k for k in lowest if rank[pairs[k, 0]] > rank.min()]
    plain = not found.suspect.joined and not found.suspect.vague
    if later and plain and found.suspect.operation in ('add', 'add_any', 'sub'):
      other = self._way(pairs[later[0]], forbidden, leak)
      return other if other.suspect.meets else found
    return found

  def _way(
    self, pair: np.ndarray, forbidden: np.ndarray, leak: bool
  ) -> Finding:
    """The way of one input into one output."""
    i, j = (int(n) for n in pair)
    others = np.setdiff1d(np.flatnonzero(forbidden[i]), [j])
    own = np.flatnonzero(~forbidden[i])
    bits = np.concatenate([[j], others[:48], own[:14]]).astype(int)
    run = domain.Reads(keep=True)
    outputs, found = self.reads(run, bits)
    kind = FIRM if leak else MAY
    n = next(n for n, reads in enumerate(found) if reads[kind, 0, i])
    size = outputs[n].size // self.model.num_positions
    entries = np.arange(i * size, (i + 1) * size)
    bad = forbidden[i][bits]
    path_of = lambda bit: tuple(
      blame.path(run.steps or (), outputs[n], entries, bit, bad)
    )
    path = path_of(0)
    first = blame.suspect(path)
    if first.operation in ('add', 'add_any') and first.joined:
      # A residual sum: what joins here was let in on another path. Follow it.
      products = ('dot_general', 'conv_general_dilated')
      read = found[n][kind, :, i] & bad
      for bit in np.flatnonzero(read)[1:4]:
        other = path_of(int(bit))
        place = blame.suspect(other)
        if place.operation in products and place.joined:
          return Finding((i, int(bits[bit])), leak, place, other)
    return Finding((i, j), leak, first, path)


def _any(spec: Any) -> Value:
  """A parameter, a context or noise: finite, and otherwise any number."""
  return values.of_aval(spec, sampled=values.kind(spec.dtype) in 'fc')


def _pairs(matrix: np.ndarray) -> tuple[Pair, ...]:
  return tuple((int(i), int(j)) for i, j in np.argwhere(matrix))
