"""Law 6: what is encoded is decoded, at the size that the model promises."""

import jax
import numpy as np

from parallel_ar import coding
from parallel_ar.testing import likelihood_laws
from parallel_ar.testing.case import Case, LawBroken

_HEADER = 8 * 52  # bits, at most
_LANE = 21  # bits of a lane's ends, at most on average
_METHODS = 'lanes', 'stream'


def codec(case: Case) -> str:
  """Law 6. decode(encode(x)) == x, and the file is not too long.

  Both methods code more events than a batch holds, so that the last batch is
  filled up. The length is at most the model's own bits and 1 % (what rounding
  to whole frequencies costs), the header, and for 'lanes' the ends of B D
  lanes. A model that promises causality only up to rounding must be refused.
  """
  law, model = 'Law 6, coding', case.model
  x = np.concatenate([case.x, case.x[:2]])
  context = jax.tree.map(lambda c: np.concatenate([c, c[:2]]), case.context)
  if model.causality == 'rounding':
    try:
      coding.codec(model)
    except ValueError:
      return 'refused, since its conditionals are causal only up to rounding'
    raise LawBroken(f'{law}. {case.name} is not refused.')
  args = model, case.params, case.x, case.context
  nats = -np.asarray(likelihood_laws.log_prob(*args))
  own = float((nats.sum() + nats[:2].sum()) / np.log(2))
  lines = []
  for method in _METHODS:
    pair = coding.codec(model, method=method, batch=3, verify=False)
    data = pair.encode(case.params, x, context)
    try:
      decoded = pair.decode(case.params, data, context)
    except ValueError as error:
      raise LawBroken(f'{law}. {case.name}, {method}: {error}') from error
    if not np.array_equal(decoded.x, x):
      raise LawBroken(f'{law}. {case.name}, {method}: other events came back.')
    ends = _LANE * 3 * x[0].size if method == 'lanes' else 64
    most = 1.01 * own + _cost(model, x) + _HEADER + ends
    if 8 * len(data) > most:
      raise LawBroken(
        f'{law}. {case.name}, {method}: the file has {8 * len(data)} bits; the '
        f'model promises {own:.0f}, and {most:.0f} with what may be added.'
      )
    bound = model.depth * (model.num_dims // model.num_positions) + 1
    if decoded.passes.max() > bound or decoded.passes.min() < 1:
      raise LawBroken(
        f'{law}. {case.name}, {method}: {decoded.passes} passes; at most '
        f'{bound} are needed.'
      )
    lines.append(
      f'{method} {8 * len(data)} bits in {decoded.passes.max()} passes'
    )
  return f'{own:.0f} bits of the model; ' + ', '.join(lines)


def _cost(model, x) -> float:
  """Bits by which rounding to whole frequencies may lengthen a code."""
  return x.size * model.head.num_values * 2.0**-coding.PRECISION / np.log(2)
