"""The model in whole numbers: a record like any other, that cannot round.

Theorem. Let every array of a program be bounded by 2^31, and every partial sum
of a product by what its carrier holds. Then each operation has one result,
whatever the order of its sums, the batch, the program that it is part of, the
compiler and the device: sums of whole numbers that do not round are
associative, and what rounds, `scale`, `quotient`, `root` and `table`, is a
function of one entry (or two) that integers compute exactly.

So the pass, a derived cache, a codec and an interpreter in NumPy agree bit for
bit, and no pass has to prove what another drew.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import doors
from parallel_ar.exact import (
  calibrate,
  carriers,
  frequencies,
  moves,
  pointwise,
  products,
)
from parallel_ar.exact.builder import Grid, NotWhole
from parallel_ar.exact.carriers import Carrier
from parallel_ar.exact.lowering import Lowering
from parallel_ar.exact.reference import Program
from parallel_ar.head import Head, Logits, parts_of
from parallel_ar.model import AutoregressiveModel
from parallel_ar.program import trace
from parallel_ar.types import (
  Array,
  ArrayLike,
  Context,
  Labels,
  Params,
  PRNGKey,
)

RULES = {**pointwise.RULES, **moves.RULES, **products.RULES}
_INPUT_BITS = 16  # of real numbers in a context


class Product(NamedTuple):
  """A product of the pass, and how it is carried.

  Attributes:
    name: 'dot' or 'conv'.
    shapes: of its operands.
    bits: of its operands, sign included.
    partial: no partial sum is larger.
    carrier: of `carriers.choose`, on this platform.
  """

  name: str
  shapes: tuple[tuple[int, ...], ...]
  bits: tuple[int, ...]
  partial: int
  carrier: Carrier


class Report(NamedTuple):
  """What became of a pass.

  Attributes:
    program: the whole-number program.
    products: its products.
    platform: for which the carriers are.
  """

  program: Program
  products: tuple[Product, ...]
  platform: str

  def __str__(self) -> str:
    lines = [
      f'{self.program.name}: {len(self.program.ops)} operations on whole '
      f'numbers, {len(self.products)} of them products'
    ]
    for p in self.products:
      shapes = ' x '.join(str(list(s)) for s in p.shapes)
      bits = ' x '.join(map(str, p.bits))
      lines.append(
        f'  {p.name} {shapes}: {bits} bits, sums below {p.partial + 1}, '
        f'{p.carrier} on {self.platform}'
      )
    return '\n'.join(lines)


class Exact(NamedTuple):
  """A model in whole numbers.

  Attributes:
    model: the record.
    params: its integers.
    report: what became of the pass.
  """

  model: AutoregressiveModel
  params: Params
  report: Report


def exact(
  model: AutoregressiveModel,
  params: Params,
  examples: ArrayLike,
  context: Context = None,
  *,
  weight_bits: int = 8,
  activation_bits: int = 10,
  precision: int = 16,
) -> Exact:
  """The model whose conditionals are whole numbers and cannot round.

  Every array of the traced pass is put on a grid of equal steps, chosen from
  its range on `examples`; the bound of every sum is computed from the weights
  themselves. What comes out is another model, close to the first: its
  likelihood is its own and exact, and its integers are the same in every
  program, batch, cache, device and in NumPy.

  Args:
    model: a model of symbols.
    params: its parameters.
    examples: integers[N, *event], of the training set; some dozens do.
    context: of the examples, leading axis N.
    weight_bits: of the constants of products, sign included.
    activation_bits: of what they meet; fewer where a sum has no room.
    precision: r; frequencies sum to 2^r.

  Returns:
    An Exact. Its params are integers; they are not trained. Channels that one
    position carried are positions of its own, one after another.

  Raises:
    NotWhole: an operation that cannot be made of whole numbers, by name and
      line. Nothing is left in float.
    ValueError: arguments that do not fit.
  """
  x, context = checked(
    model, examples, context, weight_bits, activation_bits, precision
  )
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(context)]
  l, out = _lowered(
    model, params, x, leaves, weight_bits, activation_bits, precision
  )
  program = Program(
    name=model.name,
    inputs=tuple(range(1 + len(leaves))),
    steps=tuple(_step_of(a) for a in (x, *leaves)),
    constants=l.builder.constants,
    trained=tuple(sorted(l.builder.trained)),
    ops=tuple(l.builder.ops),
    output=out.id,
    shapes=l.builder.shapes,
    bounds=l.builder.bounds,
    rank=_rank(model),
    precision=precision,
  )
  return of_program(program, model)


def of_program(
  program: Program, like: AutoregressiveModel, platform: str | None = None
) -> Exact:
  """The record of a program.

  Args:
    program: it.
    like: a model of the same event and context.
    platform: 'cpu', 'gpu' or 'tpu', for which carriers are chosen; that of
      this process by default. All run everywhere, and give the same integers.
  """
  platform = platform or jax.default_backend()
  chosen = {
    op.output: carriers.choose(program, op, platform)
    for op in program.ops
    if op.name in ('dot', 'conv')
  }
  names = {n: f'array_{n}' for n in program.trained}
  fixed = {n: a for n, a in program.constants.items() if n not in names}
  params = {
    name: jnp.asarray(program.constants[n]) for n, name in names.items()
  }

  def conditionals(params: Params, x: Array, context: Context) -> Array:
    known = fixed | {n: params[name] for n, name in names.items()}
    leaves = jax.tree.leaves(context)
    return carriers.run(program, known, x, leaves, chosen, platform)

  num_values = program.shapes[program.output][-1]
  inner = like.event.shape[program.rank.ndim :]
  record = AutoregressiveModel(
    event=like.event,
    rank=program.rank,
    head=whole_head(num_values, program.precision, inner),
    init=lambda key: dict(params),
    conditionals=conditionals,
    context=like.context,
    whole=True,
    name=f'{program.name} in whole numbers',
  )
  found = tuple(
    Product(
      op.name,
      tuple(program.shapes[n] for n in op.inputs),
      tuple(_bits(program.bounds[n]) for n in op.inputs),
      op.params['partial'],
      chosen[op.output],
    )
    for op in program.ops
    if op.output in chosen
  )
  return Exact(record, params, Report(program, found, platform))


def whole_head(
  num_values: int, precision: int, inner: tuple[int, ...] = ()
) -> Head:
  """The head whose dist are whole frequencies, int[E, V], or int[E, 1, V].

    p(x_i = v) = f_v / 2^r,   x_i = the symbol that owns u_i < 2^r

  Integers alone decide a pick; log_prob is for reading.
  """
  total = 2**precision

  def log_prob(dist: Array, x: Array) -> Array:
    at = jnp.take_along_axis(dist, x[..., None].astype(jnp.int32), -1)
    nats = jnp.log(at[..., 0].astype(jnp.float32) / total)
    return nats.reshape(nats.shape[: nats.ndim - len(inner)])

  def noise(key: PRNGKey, position: Array) -> Array:
    bits = jax.random.bits(jax.random.fold_in(key, position), inner, jnp.uint32)
    return (bits >> np.uint32(32 - precision)).astype(jnp.int32)

  def pick(dist: Array, noise: Array) -> Array:
    ends = jnp.cumsum(dist, -1, dtype=jnp.int32)
    return (ends <= noise[..., None]).sum(-1, dtype=jnp.int32)

  return Head(
    name=f'whole({num_values}, {precision} bits)',
    num_values=num_values,
    log_prob=log_prob,
    noise=noise,
    pick=pick,
    pmf=lambda dist: dist.astype(jnp.float32) / total,
    whole=precision,
  )


def _bits(bound: tuple[int, int]) -> int:
  return max(abs(bound[0]), abs(bound[1])).bit_length() + 1


def checked(
  model: AutoregressiveModel,
  examples: ArrayLike,
  context: Context,
  weights: int,
  activations: int,
  precision: int = 16,
) -> tuple[np.ndarray, Context]:
  """Examples and their context, where all arguments fit.

  Raises:
    NotWhole: a head without frequencies.
    ValueError: bits out of range, or examples that are none of the model's.
  """
  doors.check_model(model)
  values = model.head.num_values
  if values is None or (model.head.pmf is None and model.head.chain is None):
    raise NotWhole(
      f'{model.name} has continuous values or no probabilities of symbols: a '
      'head in whole numbers has frequencies. Quantize the values first.'
    )
  if model.num_dims != model.num_positions and model.head.chain is None:
    raise NotWhole(
      f'{model.name} carries {model.num_dims // model.num_positions} values in '
      f'a position, and its head ({model.head.name}) has no chain of '
      'probabilities of one given those before: see `chain` of par.Head.'
    )
  for name, n, (low, high) in (
    ('weight_bits', weights, (2, 16)),
    ('activation_bits', activations, (2, 16)),
    ('precision', precision, (2, 16)),
  ):
    if not isinstance(n, int) or not low <= n <= high:
      raise ValueError(f'{name} is {low} to {high}; got {n}.')
  x = np.asarray(doors.check_events(model, examples))
  if not len(x):
    raise ValueError('Ranges are taken from examples; got none.')
  return x, doors.check_context(model, context, len(x))


def _chained(model: AutoregressiveModel) -> bool:
  return model.num_dims != model.num_positions


def _rank(model: AutoregressiveModel) -> np.ndarray:
  """The rank; channels of a position come one after another."""
  rank = np.asarray(model.rank)
  if not _chained(model):
    return rank
  inner = model.event.shape[rank.ndim :]
  count = int(np.prod(inner))
  rank = rank.reshape(*rank.shape, *(1 for _ in inner)) * count
  return (rank + np.arange(count).reshape(inner)).astype(np.int32)


def _step_of(a: np.ndarray) -> int | None:
  """The exponent of an input's grid; None for integers."""
  if a.dtype.kind in 'biu':
    return None
  reach = max(1.25 * float(np.abs(a).max(initial=0)), 1e-30)
  return int(np.ceil(np.log2(reach / (2 ** (_INPUT_BITS - 1) - 1))))


def _lowered(
  model: AutoregressiveModel,
  params: Params,
  x: np.ndarray,
  leaves: list[np.ndarray],
  weight_bits: int,
  activation_bits: int,
  precision: int,
) -> tuple[Lowering, Grid]:
  """The pass with frequencies at its end."""
  head = model.head
  by_logits = head.parts is Logits

  def scores(x: Array, context: Context) -> Any:
    dist = parts_of(head, model.conditionals(params, x, context))
    if by_logits:
      return dist
    if _chained(model):
      assert head.chain is not None
      return head.chain(dist, x)
    assert head.pmf is not None
    return head.pmf(dist)

  program = calibrate.laid_out(trace.trace(scores, model.event, model.context))
  found = calibrate.ranges(program, x, leaves)
  l = Lowering(RULES, found, weight_bits, activation_bits)
  high = (model.head.num_values or 2) - 1
  specs = jax.tree.leaves(model.context)
  inputs = [l.builder.input(x.shape[1:], 1.0, 0, high)]
  inputs += [_input(l, *of) for of in zip(specs, leaves, strict=True)]
  (value,) = l.run(program, inputs)
  if not by_logits:
    out = frequencies.of_weights(l, l.grid(value), precision)
  elif program.outputs[0].shape == model.rank.shape:
    out = frequencies.of_logit(l, value, precision)
  else:
    out = frequencies.of_logits(l, value, precision)
  # A position may have an axis of one value.
  shape = (*model.event.shape, out.shape[-1])
  if out.shape != shape:
    bound, params = (out.low, out.high), {'shape': list(shape)}
    out = l.builder.op('reshape', [out], bound, shape, params=params)
  return l, out


def _input(l: Lowering, spec: Any, a: np.ndarray) -> Grid:
  """A leaf of the context, of one example."""
  exponent, most = _step_of(a), 2 ** (_INPUT_BITS - 1) - 1
  if exponent is not None:
    return l.builder.input(spec.shape, 2.0**exponent, -most, most)
  if isinstance(spec, Labels):
    return l.builder.input(spec.shape, 1.0, 0, spec.num_classes - 1)
  return l.builder.input(spec.shape, 1.0, -most, most)
