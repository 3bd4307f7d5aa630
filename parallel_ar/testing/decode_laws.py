"""Law 4: incremental evaluation agrees with the one pass."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from parallel_ar import order, samplers
from parallel_ar.decode import Decode, recompute_decode
from parallel_ar.testing import case as cases
from parallel_ar.testing import oracles
from parallel_ar.testing.case import Case, LawBroken


def decode_agreement(
  case: Case,
  decode: Decode | None = None,
  partitions: Sequence[Sequence[int]] | None = None,
) -> str:
  """Law 4. `extend` over any blocks, with rewinds, equals the one pass.

  Before each block a draft of wrong values is run and rewound; at the end the
  cache is rewound to the middle and extended again. Then one slot after
  another is drawn, and the tokens are those of `ancestral`: all of them under
  jax.enable_x64, up to near ties in float32.

  Args:
    case: the case.
    decode: the path to try; by default `recompute_decode(model)`, and then the
      model's own where it has one.
    partitions: block sizes that sum to D; by default single slots, and one
      slot followed by all others at once.

  Returns:
    What was measured.
  """
  if decode is None:
    line = decode_agreement(case, recompute_decode(case.model), partitions)
    if case.model.decode is None:
      return line
    native = decode_agreement(case, case.model.decode, partitions)
    return f'{line}; native: {native}'
  model, size = case.model, case.model.num_positions
  if partitions is None:
    partitions = [1] * size, [1, size - 1] if size > 1 else [1]
  decode = decode._replace(
    init=jax.jit(decode.init), extend=jax.jit(decode.extend)
  )
  trial = _DecodeTrial(case, decode)
  for blocks in partitions:
    trial.run(blocks)
  drawn = oracles.decode_sample(
    model, decode, case.params, case.keys[0], oracles.row(case.context, 0)
  )
  want = samplers.ancestral(model)(case.params, case.keys, case.context)
  ties = cases.agree(
    case, 'Law 4, decode', 'one slot at a time', want.x[:1], drawn[None]
  )
  return (
    f'{len(partitions)} partitions agree to {trial.worst:.1e}, tokens equal'
    f'{cases.count(ties)}'
  )


class _DecodeTrial:
  """Runs partitions of one example against its one pass."""

  def __init__(self, case: Case, decode: Decode):
    model = case.model
    self.case, self.decode = case, decode
    self.context = oracles.row(case.context, 0)
    slots = order.slots(model.rank)
    dist = oracles.conditionals(model, case.params, case.x[0], self.context)
    self.want = oracles.row(oracles.flatten(model, dist), slots)
    self.values = oracles.flatten(model, case.x[0])[slots]
    self.worst = 0.0

  def run(self, blocks: Sequence[int]) -> None:
    """Extends over the blocks, each after a draft that is rewound."""
    size = len(self.values)
    if sum(blocks) != size:
      raise ValueError(
        f'The blocks {tuple(blocks)} do not sum to {size} slots.'
      )
    cache, k = self.decode.init(self.case.params, self.context), 0
    for n in blocks:
      _, draft = self._extend(cache, k, n, wrong=True)
      cache = self.decode.rewind(draft, k)
      cache, k = self._check(cache, k, n, blocks), k + n
    for k in range(size // 2, size):
      cache = self._check(self.decode.rewind(cache, k), k, 1, blocks)

  def _extend(self, cache: Any, k: int, n: int, wrong: bool = False) -> Any:
    padded = np.concatenate([self.values[:1], self.values])
    previous = padded[k : k + n]
    if wrong:
      previous = np.flip(self.values, 0)[:n]
    return self.decode.extend(self.case.params, cache, k, previous)

  def _check(self, cache: Any, k: int, n: int, blocks: Sequence[int]) -> Any:
    dist, cache = self._extend(cache, k, n)

    def compare(got: Any, want: np.ndarray) -> None:
      got, here = np.asarray(got, np.float64), want[k : k + n]
      error = np.abs(got - here.astype(np.float64)).max()
      error /= max(1, np.abs(want.astype(np.float64)).max())
      tolerance = 1e-10 if want.dtype == np.float64 else self.case.tolerance
      self.worst = max(self.worst, float(error))
      if not error <= tolerance:
        raise LawBroken(
          f'Law 4, decode. {self.case.name}: with the blocks {tuple(blocks)} '
          f'the conditionals of slots {k}..{k + n - 1} are {error:.1e} away '
          f'from the one pass (at most {tolerance:.0e} is rounding). The cache '
          'holds something that is not a function of the values before, or a '
          'rewind left values of a draft behind.'
        )

    jax.tree.map(compare, dist, self.want)
    return cache
