"""The causality audit: which inputs does each output really read?

  reads[i, j] = some change of x_j alone changes a bit of output i

An output i is everything that the model says about position i: the leaves of
`dist`, the value that the head picks under fixed noise, and the term
log p(x_i | x_<i), which may read x_i as well. The model keeps its promise if
reads[i, j] implies rank[j] < rank[i].

The whole D x D matrix is measured by finite perturbations of large size, not by
gradients: a gradient is zero behind an argmax, a saturated gate or a rounding,
and a mask of -10 instead of -inf leaks less than any tolerance would notice.
"""

import dataclasses

import jax
import numpy as np

from parallel_ar import doors, order
from parallel_ar.analysis import perturb
from parallel_ar.model import AutoregressiveModel, position_noise
from parallel_ar.types import ArrayLike, Context, Params, PRNGKey

Pair = tuple[int, int]  # (output, input), positions in row-major order
ROUNDING = 5e-6  # a relative change of float32 that may be rounding alone


@dataclasses.dataclass(frozen=True, eq=False)
class Audit:
  """What was measured.

  Attributes:
    name: of the model.
    rank: int32[E], what it promises.
    matrix: bool[D, D]; row i is output i, column j is input j. For models of
      causality 'rounding', where the relative change exceeds `tolerance`.
    change: float32[D, D], the largest change of output i in units of the
      largest output of its kind; it says how large a leak is.
    leaks: forbidden pairs (i, j), rank[j] >= rank[i], that are read; sorted.
    missing: positions of rank > 0 that read nothing, and so are as if of rank
      0: a dead unit, a mask too tight, or an audit that cannot see.
    unread: pairs that were expected to be read, but are not; sorted.
    causality: 'exact' or 'rounding', as the model declares.
    tolerance: for 'rounding'.
    comparisons: number of perturbed events.
  """

  name: str
  rank: np.ndarray
  matrix: np.ndarray
  change: np.ndarray
  leaks: tuple[Pair, ...]
  missing: tuple[int, ...]
  unread: tuple[Pair, ...]
  causality: str
  tolerance: float
  comparisons: int

  @property
  def largest_forbidden(self) -> float:
    """The largest relative change that a forbidden input caused."""
    rank = self.rank.reshape(-1)
    forbidden = rank[None, :] >= rank[:, None]
    return float(np.where(forbidden, self.change, 0).max())

  @property
  def rounding(self) -> bool:
    """Whether all that leaks is as small as rounding, and was not declared."""
    exact = self.causality == 'exact'
    return exact and bool(self.leaks) and self.largest_forbidden < ROUNDING

  def describe(self) -> str:
    """One paragraph: what was found, where, and what it hints at."""
    size = self.rank.size
    text = [
      f'{self.name}: {self.comparisons} perturbations of {size} positions.'
    ]
    if self.rounding:
      text.append(
        'Forbidden inputs change outputs by at most '
        f'{self.largest_forbidden:.1e} of the largest output: rounding, as of '
        "Fourier transforms or long sums. Declare causality='rounding' if the "
        'function is causal but for that.'
      )
    if self.causality == 'rounding':
      text.append(
        'The model is causal up to rounding: forbidden inputs change outputs '
        f'by at most {self.largest_forbidden:.1e} of the largest output (more '
        f'than {self.tolerance:.0e} is a leak).'
      )
    if self.leaks:
      shown = '; '.join(self._pair(*pair) for pair in self.leaks[:3])
      more = f'; and {len(self.leaks) - 3} more' if len(self.leaks) > 3 else ''
      text.append(
        f'NOT CAUSAL: {len(self.leaks)} forbidden pairs are read: {shown}'
        f'{more}. An output may read inputs of lower rank only'
        + ('.' if self.rounding else f'. {self._hint()}')
      )
    else:
      text.append(
        f'Causal: no output reads an input of its own or a higher rank; '
        f'{int(self.matrix.sum())} of {int(self._allowed().sum())} allowed '
        'pairs are read.'
      )
    if self.missing:
      shown = ', '.join(self._place(i) for i in self.missing[:3])
      more = ', ...' if len(self.missing) > 3 else ''
      text.append(
        f'Of rank > 0 but reading nothing: {shown}{more} (dead units, or '
        'masks that are too tight).'
      )
    if self.unread:
      i, j = self.unread[0]
      text.append(
        f'Expected but not read: {len(self.unread)} pairs, for example '
        f'{self._place(i)} does not read {self._place(j)}.'
      )
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

  def _allowed(self) -> np.ndarray:
    return predecessors(self.rank)

  def _place(self, i: int) -> str:
    return order.place(self.rank, i)

  def _pair(self, i: int, j: int) -> str:
    return f'{self._place(i)} reads {self._place(j)}'

  def _hint(self) -> str:
    rank = self.rank.reshape(-1)
    pairs = np.array(self.leaks)
    forbidden = int((~self._allowed()).sum())
    if len(pairs) == forbidden:
      return (
        'Every forbidden pair leaks: something couples all positions, such as '
        'a norm, softmax, pooling or sort over them, or a mask not applied.'
      )
    if (pairs[:, 0] == pairs[:, 1]).all():
      return (
        'Each of these outputs reads its own input: shift the inputs by one '
        'slot, or make the first layer strict (type A, degree < rank).'
      )
    if (rank[pairs[:, 0]] == rank[pairs[:, 1]]).all():
      return (
        'All leaks are inside groups of equal rank: compare ranks with <, and '
        'shift by whole groups, not by slots.'
      )
    ahead = np.unique(rank[pairs[:, 1]] - rank[pairs[:, 0]])
    if ahead.size == 1:
      return (
        f'Every leak goes from rank r to rank r + {ahead[0]}: a shift or a '
        f'padding is off by {ahead[0] + 1}.'
      )
    return 'Audit the stack layer by layer to find the first one that leaks.'


def predecessors(rank: ArrayLike) -> np.ndarray:
  """What may be read: bool[D, D], entry [i, j] = rank[j] < rank[i]."""
  rank = np.asarray(rank).reshape(-1)
  return rank[None, :] < rank[:, None]


def audit(
  model: AutoregressiveModel,
  params: Params,
  key: PRNGKey,
  context: Context = None,
  *,
  expected: ArrayLike | None = None,
  num_events: int = 3,
  num_values: int = 7,
  chunk: int = 64,
  tolerance: float = 1e-4,
) -> Audit:
  """Measures which inputs each output reads.

  Positions are changed one at a time in several random events, in two that
  hold one symbol only, the first or the last, and in one of repeated blocks: to
  all other symbols where the alphabet is small, to several far ones where it is
  large, and by steps from 1 to 1e4 where values are continuous. About
  (num_events + 3) * num_values * D passes.

  Args:
    model: the model.
    params: its parameters. Zeros hide dependencies: do not audit a network
      whose last layer is initialised to zero before it is trained.
    key: PRNG key of the events, the values and the head's noise.
    context: of ONE example, where the model has a context.
    expected: bool[D, D], pairs that must be read (the positive control).
    num_events: random base events, beside the three special ones.
    num_values: values tried at each position, at most V - 1.
    chunk: events of one pass.
    tolerance: relative change that a model of causality 'rounding' may show.

  Returns:
    The audit; `raise_if_leaks` turns it into a test.

  Raises:
    ValueError: the context does not fit the model's.
  """
  spec = lambda tree: jax.tree.map(lambda c: tuple(np.shape(c)), tree)
  if spec(context) != spec(model.context):
    raise ValueError(
      f'{model.name} is conditioned on a context of shapes '
      f'{spec(model.context)}; the audit got {spec(context)}. Give the context '
      'of one example, without a batch axis.'
    )
  one = jax.tree.map(lambda c: np.asarray(c)[None], context)
  one = doors.check_context(model, one, 1)
  context = jax.tree.map(lambda c: c[0], one)
  key = doors.check_key(key)
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
  size = model.num_positions
  total = np.zeros((2, size, size), np.float32)  # whether, and how much
  comparisons = 0
  kinds = ['random'] * num_events + list(perturb.SPECIAL)
  for n, kind in enumerate(kinds):
    noise = position_noise(model, jax.random.fold_in(key, n))
    found, count = perturb.measure(
      model, params, context, noise, rng, num_values, chunk, kind
    )
    total = np.maximum(total, found)
    comparisons += count
  bits, change = total[0].T > 0, total[1].T
  matrix = bits if model.causality == 'exact' else change > tolerance
  allowed = predecessors(model.rank)
  later = model.rank.reshape(-1) > 0
  wanted = np.zeros_like(allowed) if expected is None else np.asarray(expected)
  return Audit(
    name=model.name,
    rank=model.rank,
    matrix=matrix,
    change=change,
    leaks=_pairs(matrix & ~allowed),
    missing=tuple(int(i) for i in np.flatnonzero(later & ~matrix.any(1))),
    unread=_pairs(wanted & ~matrix),
    causality=model.causality,
    tolerance=tolerance,
    comparisons=comparisons,
  )


def _pairs(matrix: np.ndarray) -> tuple[Pair, ...]:
  return tuple((int(i), int(j)) for i, j in np.argwhere(matrix))
