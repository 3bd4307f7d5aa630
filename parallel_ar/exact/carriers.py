"""Whole-number programs in JAX: who carries the integers of a product.

Sums whose partial sums stay below what a carrier holds are exact in any order,
so every carrier gives the same integers, and the fastest may be taken:

  int8       int8 x int8 -> int32, where both sides are that small
  digits     the same, one side in two digits: a = 128 h + l
  bfloat16   up to 256 in bfloat16, the sums in float32, below 2^24
  float32    whole numbers in float32, below 2^24
  parts      the same, the summed axis cut until every part is below 2^24
  int32      anything

`choose` says which for a product, from its proved bound and the platform. Where
they are floats, HIGHEST asks for whole operands: a GPU would round them to 11
bits, and a TPU to 8. It then sums six products of parts of 8 bits, which is
exact where the operands have 25 bits together, as a sum below 2^24 says.

A convolution on a GPU is a product of patches, since its library may take one
by Winograd's or Fourier's transform, whose numbers are no whole ones.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.exact import operations
from parallel_ar.exact.reference import Op, Program
from parallel_ar.exact.reference.program import FLOAT

Carrier = Literal['int8', 'digits', 'bfloat16', 'float32', 'parts', 'int32']
_SMALL = 127
_BRIEF = 256  # has no other bits than those of a bfloat16
_TWO_DIGITS = 128 * 127 + 63  # the largest h and l
_LONG = 96  # entries of a sum that pay for the digits


def choose(program: Program, op: Op, platform: str) -> Carrier:
  """The carrier of a product or a convolution.

  Two products of int8 take a third to a half of the time of one of float32
  where the processor has instructions for them, as most since 2019 do; but
  XLA's convolution of int8 on a CPU takes 50 times that of float32. A TPU
  multiplies bfloat16 at once, where HIGHEST takes six products.
  """
  small, large = sorted(_most(program, n) for n in op.inputs)
  if small <= _SMALL and _takes_bytes(program, op, platform):
    if large <= _SMALL:
      return 'int8'
    if large <= _TWO_DIGITS and _entries(program, op) >= _LONG:
      return 'digits'
  if op.params['partial'] < FLOAT:
    brief = platform == 'tpu' and large <= _BRIEF
    return 'bfloat16' if brief else 'float32'
  return 'parts' if op.params.get('cut') else 'int32'


def _takes_bytes(program: Program, op: Op, platform: str) -> bool:
  """Whether XLA has a kernel for it there, of int8, that is worth having.

  On an H100 it found none for sums of 3 and of 21 entries, and cuBLAS asks for
  matrices in words of 4 bytes; one row is as many as there are examples.
  """
  if platform == 'gpu':
    if op.name != 'dot':  # of patches: a cache cuts their places as it likes
      return False
    both = op.params['dimensions'][0][0], op.params['dimensions'][1][0]
    batch = math.prod(program.shapes[op.inputs[0]][n] for n in both[1])
    entries = _entries(program, op)
    rows = [
      math.prod(program.shapes[n]) // (entries * batch) for n in op.inputs
    ]
    return entries % 4 == 0 and all(n == 1 or n % 4 == 0 for n in rows)
  return op.name == 'dot' or platform != 'cpu'


def _entries(program: Program, op: Op) -> int:
  """Of a sum of products."""
  if op.name == 'dot':
    shape, axes = program.shapes[op.inputs[0]], op.params['dimensions'][0][0]
  else:
    shape, axes = program.shapes[op.inputs[1]], op.params['rhs'][1:]
  return math.prod(shape[n] for n in axes)


def _most(program: Program, n: int) -> int:
  return max(map(abs, program.bounds[n]))


def run(
  program: Program,
  constants: Mapping[int, Any],
  x: Any,
  context: Any,
  carriers: Mapping[int, Carrier],
  platform: str = 'cpu',
) -> Any:
  """The frequencies of ONE example, int32[*event, V].

  Args:
    program: it.
    constants: its constants, those that are parameters among them.
    x: integers[*event].
    context: leaves.
    carriers: output of a product -> its carrier.
    platform: where it runs.
  """
  conv = _patches if platform == 'gpu' else _conv
  known = {n: jnp.asarray(a) for n, a in constants.items()}
  given = zip(program.inputs, program.steps, (x, *context), strict=True)
  for n, step, a in given:
    known[n] = on_grid(a, step, program.bounds[n])
  for op in program.ops:
    values = [known[n] for n in op.inputs]
    if op.output in carriers:
      rule = {'dot': _dot, 'conv': conv}[op.name]
      carrier = carriers[op.output]
      known[op.output] = _carried(program, op, rule, carrier, *values)
    elif _is_weight(program, op):  # stays as narrow as it is
      kind = jnp.result_type(*values)
      known[op.output] = values[0].astype(kind) * values[1].astype(kind)
    else:
      params = {name: _fixed(p) for name, p in op.params.items()}
      known[op.output] = operations.OPS[op.name](
        params, *map(operations.wide, values)
      )
  return known[program.output]


def _is_weight(program: Program, op: Op) -> bool:
  """Whether it is a constant, and the truth values of where it is not 0."""
  given = [program.constants.get(n) for n in op.inputs]
  if op.name != 'mul' or any(a is None for a in given):
    return False
  return any(
    0 <= program.bounds[n][0] <= program.bounds[n][1] <= 1 for n in op.inputs
  )


def _fixed(value: Any) -> Any:
  """What JSON has as a list, as JAX wants it."""
  return tuple(map(_fixed, value)) if isinstance(value, list) else value


def on_grid(a: Any, step: int | None, bound: tuple[int, int]) -> Any:
  """See `reference.on_grid`."""
  if step is None:
    return jnp.clip(jnp.asarray(a).astype(jnp.int32), *map(np.int32, bound))
  a = jnp.asarray(a).astype(jnp.float32) * np.float32(2.0**-step)
  low, high = map(np.float32, bound)
  return jnp.clip(jnp.round(a), low, high).astype(jnp.int32)


def _carried(
  program: Program, op: Op, rule: Callable, carrier: Carrier, a: Any, b: Any
) -> Any:
  """The product by its carrier, of int8 digits or of parts where it says so."""
  if carrier == 'digits':
    if _most(program, op.inputs[0]) > _SMALL:
      high, low = (rule(op, 'int8', digit, b) for digit in _digits(a))
    else:
      high, low = (rule(op, 'int8', a, digit) for digit in _digits(b))
    return high * np.int32(128) + low
  if carrier == 'parts':
    return _parts(op, rule, a, b)
  return rule(op, carrier, a, b)


def _digits(a: Any) -> tuple[Any, Any]:
  """(h, l) of a = 128 h + l, -64 <= l < 64."""
  a = operations.wide(a)
  high = jax.lax.shift_right_arithmetic(a + np.int32(64), operations.like(7, a))
  return high, a - high * np.int32(128)


def _parts(op: Op, rule: Callable, a: Any, b: Any) -> Any:
  """The sum of the parts of the summed axis."""
  if op.name == 'dot':
    axes = [n[0] for n in op.params['dimensions'][0]]
  else:
    axes = [op.params['lhs'][1], op.params['rhs'][1]]
  size = a.shape[axes[0]]
  each = -(-size // op.params['cut'])
  total: Any = 0
  for start in range(0, size, each):
    stop = min(start + each, size)
    left, right = (
      jax.lax.slice_in_dim(side, start, stop, axis=axis)
      for side, axis in zip((a, b), axes, strict=True)
    )
    total = total + rule(op, 'float32', left, right)
  return total


def _dot(op: Op, carrier: Carrier, a: Any, b: Any) -> Any:
  contracted, batch = op.params['dimensions']
  dims = tuple(map(tuple, contracted)), tuple(map(tuple, batch))
  return _product(dims, carrier, a, b)


def _product(dims: Any, carrier: Carrier, a: Any, b: Any) -> Any:
  kind, precision, out = _KINDS[carrier]
  return jax.lax.dot_general(
    a.astype(kind),
    b.astype(kind),
    dims,
    precision=precision,
    preferred_element_type=out,
  ).astype(jnp.int32)


_HIGHEST = (jax.lax.Precision.HIGHEST,) * 2
_KINDS: dict[str, tuple[Any, Any, Any]] = {
  'int8': (jnp.int8, None, jnp.int32),
  'int32': (jnp.int32, None, jnp.int32),
  'bfloat16': (jnp.bfloat16, None, jnp.float32),
  'float32': (jnp.float32, _HIGHEST, jnp.float32),
}


def _conv(op: Op, carrier: Carrier, x: Any, w: Any) -> Any:
  if min(n for pad in op.params['pad'] for n in pad) < 0:
    # Kernels of JAX 0.10 read beyond the array there, see `layers.conv`.
    return _patches(op, carrier, x, w)
  p = {name: _fixed(value) for name, value in op.params.items()}
  kind, precision, out = _KINDS[carrier]
  return jax.lax.conv_general_dilated(
    x.astype(kind),
    w.astype(kind),
    window_strides=p['strides'],
    padding=p['pad'],
    lhs_dilation=p['spread'],
    rhs_dilation=p['dilation'],
    dimension_numbers=jax.lax.ConvDimensionNumbers(
      p['lhs'], p['rhs'], p['out']
    ),
    feature_group_count=p['groups'],
    precision=precision,
    preferred_element_type=out,
  ).astype(jnp.int32)


def _patches(op: Op, carrier: Carrier, x: Any, w: Any) -> Any:
  """The convolution as ONE product: [group, features, taps] of every place."""
  p = {name: _fixed(value) for name, value in op.params.items()}
  kind, group = _KINDS[carrier][0], p['groups']
  x = jnp.transpose(x.astype(kind), p['lhs'])
  w = jnp.transpose(w.astype(kind), p['rhs'])
  sides = zip(p['pad'], p['spread'], strict=True)
  wide = [(0, 0, 0)] * 2 + [(*pad, by - 1) for pad, by in sides]
  x = jax.lax.pad(x, np.zeros((), x.dtype), wide)
  taps = w.shape[2:]
  reach = [(n - 1) * by for n, by in zip(taps, p['dilation'], strict=True)]
  seen = []
  for tap in np.ndindex(*taps):
    first = [t * by for t, by in zip(tap, p['dilation'], strict=True)]
    last = [
      n - r + f for n, r, f in zip(x.shape[2:], reach, first, strict=True)
    ]
    cut = map(slice, first, last, p['strides'])
    seen.append(x[(slice(None), slice(None), *cut)])
  a = jnp.stack(seen, 2).reshape(
    x.shape[0], group, -1, len(seen), *seen[0].shape[2:]
  )
  w = w.reshape(group, w.shape[0] // group, w.shape[1], -1)
  dims = (((2, 3), (2, 3)), ((0,), (1,)))
  out = jnp.moveaxis(_product(dims, carrier, w, a), 2, 0)
  out = out.reshape(x.shape[0], -1, *seen[0].shape[2:])
  return jnp.transpose(out, np.argsort(p['out']).tolist())
