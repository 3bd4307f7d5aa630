"""Law 8: a model in whole numbers has the same integers in every program."""

import functools
import re
from collections.abc import Iterator

import jax
import numpy as np

from parallel_ar.exact import Exact, NotWhole, exact, reference
from parallel_ar.exact.reference.program import FLOAT
from parallel_ar.samplers import ancestral, cached
from parallel_ar.samplers import path as paths
from parallel_ar.testing import oracles
from parallel_ar.testing.case import Case, LawBroken, make_case

_BATCHES = 1, 3, 16


def portable(case: Case) -> str:
  """Jitted, op by op, in other batches, in the derived cache, and in NumPy.

  And no sum of floats is left that could round. What cannot be made of whole
  numbers must be refused by name.
  """
  if case.model.head.num_values is None:
    return 'does not apply: continuous values have no whole frequencies'
  examples = make_case(case.model, batch=16, seed=1)
  try:
    found = exact(case.model, case.params, examples.x, examples.context)
  except NotWhole as error:
    return f'not whole: {error}'
  proved = no_float_sum(found, pass_text(case, found))
  count = 0
  for what, want, got in _pairs(case, found):
    want, got = np.asarray(want), np.asarray(got)
    if want.shape != got.shape or (want != got).any():
      raise LawBroken(
        f'Law 8 (portability). {case.name}: {what} gives other integers in '
        f'{int((want != got).sum())} of {want.size} places.'
      )
    count += want.size
  kinds = sorted({p.carrier for p in found.report.products})
  return (
    f'{count} integers are the same, carried by {", ".join(kinds)}; '
    f'{proved} sums of floats, all proved'
  )


def pass_text(case: Case, found: Exact) -> str:
  """The StableHLO of one pass."""
  first = oracles.row(case.context, 0)
  of = jax.jit(found.model.conditionals)
  text: str = of.lower(found.params, case.x[0], first).as_text()
  return text


# What floats may do: come in, go through a product, and out.
_ALLOWED = re.compile(
  r'stablehlo\.(dot_general|convolution|convert|constant)|func|return|\^'
)
_INPUT = re.compile(  # a context of real numbers is put on its grid
  r'call|stablehlo\.(multiply|round_nearest|clamp|maximum|minimum|broadcast)'
)
_SUM = re.compile(r'stablehlo\.(dot_general|convolution)')
_HIGHEST = re.compile(
  r'\[HIGHEST, HIGHEST\]|'
  r'#stablehlo<precision HIGHEST>, #stablehlo<precision HIGHEST>'
)
_BRIEF = re.compile(r'\((tensor<[^>]*bf16>(, |\) -> )){2}tensor<[^>]*f32>')


def no_float_sum(found: Exact, text: str) -> int:
  """How many products of floats a program has; all sums proved below 2^24.

  Raises:
    LawBroken: floats are summed elsewhere, or with operands cut short.
  """
  program, sums = found.report.program, 0
  inputs = any(step is not None for step in program.steps)
  for line in text.splitlines():
    if not re.search(r'\b(tensor<[^>]*)?b?f(16|32|64)>', line):
      continue
    if not _ALLOWED.search(line) and not (inputs and _INPUT.search(line)):
      raise LawBroken(f'Law 8: {program.name} computes with floats in: {line}')
    if _SUM.search(line):
      sums += 1
      # A GPU would keep 11 bits of a float32, a TPU 8: a bfloat16 has no more.
      if not _HIGHEST.search(line) and not _BRIEF.search(line):
        raise LawBroken(f'Law 8: {program.name} cuts operands in: {line}')
  floats = 'float32', 'bfloat16'
  products = [p for p in found.report.products if p.carrier in floats]
  parts = any(p.carrier == 'parts' for p in found.report.products)
  loose = [p for p in products if p.partial >= FLOAT]
  # Fewer stand there where nobody reads a product.
  unseen = products and not sums
  if loose or unseen or (sums > len(products) and not parts):
    raise LawBroken(
      f'Law 8: {program.name} has {sums} sums of floats, {len(products)} that '
      f'are proved, and {len(loose)} that reach {FLOAT}.'
    )
  return sums


def _pairs(case: Case, found: Exact) -> Iterator[tuple[str, object, object]]:
  """What is compared: a name, and two arrays of integers."""
  model, params, report = found
  one_pass = jax.jit(jax.vmap(model.conditionals, (None, 0, 0)))
  of = lambda rows: one_pass(
    params,
    case.x[rows],
    jax.tree.map(lambda leaf: leaf[rows], case.context),
  )
  num = len(case.x)
  want = np.asarray(of(np.arange(num)))
  total = want.sum(-1)
  yield (
    'the sum of a row',
    np.full_like(total, 2**report.program.precision),
    total,
  )
  for batch in _BATCHES:
    rows = np.arange(batch) % num
    yield f'a pass of batch {batch}', want[rows], of(rows)
  first = oracles.row(case.context, 0)
  yield 'op by op', want[0], model.conditionals(params, case.x[0], first)
  for n in range(num):
    leaves = map(np.asarray, jax.tree.leaves(oracles.row(case.context, n)))
    yield 'NumPy', want[n], reference.run(report.program, case.x[n], *leaves)
  args = params, case.keys, case.context
  drawn = ancestral(model)(*args)
  guess = cached(model)(*args)
  yield 'the derived cache', drawn.x, guess.x
  whole = functools.partial(np.full, ())
  yield 'its info', whole(paths.KINDS.index('whole')), guess.info.path
