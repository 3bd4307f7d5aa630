"""Where the bits of a compressed file are.

  file = -log2 q(x) + frequencies + header + ends + coder

'frequencies' is what whole numbers cost in the place of probabilities; 'ends'
what the lanes need to begin and to end beside the bits that they still hold;
'coder' the rest, what the arithmetic of the coder loses or gains. All but the
last are computed from the file and the model, so a rest that is not small says
that the file was not made as the model promises. With the source p of x known,
-log2 q(x) = -log2 p(x) + log2 p(x) / q(x), whose means are entropy and KL.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from parallel_ar import likelihood, precision
from parallel_ar.coding import container, quantize, rans
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import ArrayLike, Context, Params


class Account(NamedTuple):
  """Bits of a file, which add up to `total`.

  Attributes:
    model: -log2 q(x), of all events.
    frequencies: what rounding of the probabilities adds.
    header: of the file.
    ends: of the lanes; 0 for a stream.
    coder: all else.
    total: 8 bits for each byte of the file.
  """

  model: float
  frequencies: float
  header: float
  ends: float
  coder: float
  total: int


def account(
  model: AutoregressiveModel,
  params: Params,
  data: bytes,
  x: ArrayLike,
  context: Context = None,
  *,
  batch: int = 100,
) -> Account:
  """Takes a file apart.

  Args:
    model: the model that encoded it.
    params: its parameters.
    data: the file.
    x: array[N, *event], the events in it.
    context: what they were conditioned on.
    batch: events of one pass here; changes speed only.

  Returns:
    The parts, bits.

  Raises:
    ValueError: a file of another number of events, or one that is damaged.
  """
  head, body = container.read(data)
  if head.num != len(np.asarray(x)):
    raise ValueError(f'The file has {head.num} events; got {len(x)}.')
  coded = quantize.quantized(model, head.precision)
  own, whole = (_bits(m, params, x, context, batch) for m in (model, coded))
  ends = 0.0
  if head.method != 'stream' and head.num:
    each = model.num_dims if head.method == 'lanes' else 1
    size = min(head.num, head.batch) * each
    state, taken = rans.unpack(body, size)
    ends = 8 * taken - float((np.log2(state) - rans.LOW).sum())
  header = 8 * (len(data) - len(body))
  coder = 8 * len(body) - whole - ends
  return Account(own, whole - own, header, ends, coder, 8 * len(data))


def _bits(
  model: AutoregressiveModel,
  params: Params,
  x: ArrayLike,
  context: Context,
  batch: int,
) -> float:
  """-log2 of the probability of all events, at the codec's precision."""
  one = jax.jit(functools.partial(likelihood.log_prob, model))
  total = 0.0
  with precision.scope('highest'):
    for part in container.batches(np.asarray(x), context, batch):
      found = np.asarray(one(params, part.x, part.context), np.float64)
      total -= found[part.used].sum() / np.log(2)
  return float(total)
