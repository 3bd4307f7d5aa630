"""Rules of operations that act entry by entry."""

from typing import Any

import numpy as np

from parallel_ar.decode import facts as known
from parallel_ar.decode.facts import NEVER, Facts
from parallel_ar.decode.rules.rule import NoRule, Rule, Step
from parallel_ar.program.primitives import POINTWISE

NAMES = POINTWISE | frozenset(
  'select_n optimization_barrier sharding_constraint pvary'.split()
)
_SAME = frozenset(
  'copy copy_p stop_gradient reduce_precision device_put '
  'convert_element_type sharding_constraint pvary name'.split()
)
# f(0) = 0
_ZERO = _SAME | frozenset(
  'abs asin asinh atan atanh cbrt ceil conj erf erf_inv expm1 floor imag '
  'integer_pow log1p neg real round sign sin sinh sqrt square tan tanh'.split()
)
_EXPONENTIAL = frozenset(('exp', 'exp2', 'logistic'))


def _ready(op: Any, ins: list[Facts]) -> list[Facts]:
  if op.name == 'optimization_barrier':
    return ins
  if op.name == 'select_n':
    return [_select(ins)]
  shape = op.outputs[0].shape
  if any(v.shape not in ((), shape) for v in op.inputs):
    if any(_stretched(v.shape, shape) is None for v in op.inputs):
      raise NoRule
  zero, true, low = _flags(op, ins)
  fixed = zero
  if true is not None and op.outputs[0].dtype == bool:
    fixed = known.either([zero, true])
  ready = known.most(_wide(f.ready, shape) for f in ins)
  ready = known.unless(fixed, ready, 0)
  return [Facts(ready, zero, true, low) for _ in op.outputs]


def _stretched(shape: tuple, out: tuple) -> Any:
  fits = len(shape) == len(out) and all(
    m in (1, n) for m, n in zip(shape, out, strict=True)
  )
  return shape if fits or not shape else None


def _wide(a: Any, shape: tuple) -> Any:
  """A fact of an operand, maybe a scalar, with the axes of the result."""
  if a is None or a.ndim == len(shape):
    return a
  return a.reshape([1] * len(shape))


def _flags(op: Any, ins: list[Facts]) -> tuple[Any, Any, Any]:
  """Where the result is zero, true, or low."""
  shape, name = op.outputs[0].shape, op.name
  zeros = [_wide(f.zero, shape) for f in ins]
  trues = [_wide(f.true, shape) for f in ins]
  lows = [_wide(f.low, shape) for f in ins]
  if name in ('mul', 'and'):
    return known.either(zeros), known.every(trues), None
  if name == 'or':
    return known.every(zeros), known.either(trues), None
  if name in ('add', 'add_any'):
    return known.every(zeros), None, known.either(lows)
  if name == 'sub':
    return known.every(zeros), None, lows[0]
  if name == 'max':
    return known.every(zeros), None, known.every(lows)
  if name == 'min':
    return known.every(zeros), None, known.either(lows)
  if name == 'div':
    return zeros[0], None, None
  if name == 'not':
    return trues[0], zeros[0], None
  if name in _EXPONENTIAL:
    return lows[0], None, None
  if name in _SAME:
    return zeros[0], trues[0], lows[0]
  if name in _ZERO:
    return zeros[0], None, None
  return None, None, None


def _select(ins: list[Facts]) -> Facts:
  """The cases where the choice is known, else all of them and the choice."""
  which, *cases = ins
  rank = max((a.ndim for f in ins for a in _all(f)), default=0)
  up = lambda a: None if a is None or a.ndim else a.reshape([1] * rank)
  choice = [a if a is None or a.ndim else up(a) for a in _sure(ins)]
  open_ = known.most([which.ready, *(f.ready for f in cases)])

  def mix(of: Any, unsure: Any, blank: Any) -> Any:
    if unsure is None and all(of(f) is None for f in cases):
      return None
    found = np.full([1] * rank, blank) if unsure is None else unsure
    for case, sure in zip(cases, choice, strict=True):
      if sure is not None:
        own = of(case)
        found = np.where(sure, blank if own is None else own, found)
    return found

  flag = lambda name: known.some(
    mix(
      lambda f: getattr(f, name),
      known.every([getattr(f, name) for f in cases]),
      False,
    )
  )
  ready = mix(lambda f: f.ready, open_, np.int32(0))
  return Facts(ready, flag('zero'), flag('true'), flag('low'))


def _all(f: Facts) -> list[Any]:
  return [a for a in (f.ready, f.zero, f.true, f.low) if a is not None]


def _sure(ins: list[Facts]) -> list[Any]:
  """For each case, where it is chosen for sure."""
  which, *cases = ins
  if len(cases) == 2:
    return [which.zero, which.true]
  return [which.zero, *[None] * (len(cases) - 1)]


def _due(
  op: Any, ins: list[Facts], outs: list[Facts], dues: list[Any]
) -> list[Any]:
  if op.name == 'optimization_barrier':
    return dues
  due = known.least(dues)
  if op.name == 'select_n':
    sure = [_wide(a, op.outputs[0].shape) for a in _sure(ins)]
    rest = known.either(sure)
    out = [known.unless(rest, due, NEVER)]
    for n in range(len(sure)):
      others = known.either([s for m, s in enumerate(sure) if m != n])
      out.append(known.unless(others, due, NEVER))
  else:
    fixed = outs[0].zero
    if outs[0].true is not None and op.outputs[0].dtype == bool:
      fixed = known.either([fixed, outs[0].true])
    out = [known.unless(fixed, due, NEVER)] * len(op.inputs)
  return [known.fit(d, v.shape) for d, v in zip(out, op.inputs, strict=True)]


def _step(op: Any, cuts: list[Any], at: Any) -> Step:
  if op.name == 'optimization_barrier':
    due = [n for n, c in enumerate(cuts) if c is not None]

    def each(values: list[Any], k: Any) -> list[Any]:
      found = dict(zip(due, values, strict=True))
      return [found.get(n) for n in range(len(cuts))]

    return [(op.inputs[n], cuts[n]) for n in due], each
  cut = next(c for c in cuts if c is not None)
  if any(c is not None and c != cut for c in cuts):
    raise NoRule
  shape = op.outputs[0].shape

  def part(v: Any) -> tuple:
    if not v.shape:
      return ()
    return tuple(
      i if n == m else None for i, n, m in zip(cut, v.shape, shape, strict=True)
    )

  needs = [(v, part(v)) for v in op.inputs]
  if op.name in ('sharding_constraint', 'pvary'):
    return needs, lambda values, k: list(values)
  return needs, lambda values, k: op.bind(*values)


RULE = Rule(_ready, _due, _step)
