"""Whole-number programs, and their interpreter in NumPy: the oracle.

A program is a list of operations on arrays of integers, with a bound for every
array. Nothing in it rounds but where it says so, so whoever runs it gets the
same integers: `carriers` in JAX, on any device and in any batch, and `run` here
in int64, where nothing overflows and no order of a sum matters.

  scale       (a m + h) >> s,   h = 2^(s-1), 0 where s = 0     rounds half up
  quotient    (a 2^s) div b,   b >= 1                          rounds down
              (a 2^s + b div 2) div b, where it says `nearest`
  root        the largest r with r r <= a
  table       t[a - low]
  dot, conv   sums of products; `partial` bounds every partial sum, and each of
              `cut` equal parts of the first summed axis stays below 2^24

The format of a program is that of `save`: a .npz of integers and JSON.
"""

import dataclasses
import json
from typing import Any

import numpy as np

from .operations import OPS

FORMAT = 'parallel_ar whole numbers 1'
FLOAT = 2**24  # whole numbers up to here are exact in float32
_KINDS = 'bi'


@dataclasses.dataclass(frozen=True)
class Op:
  """output = name(inputs).

  Attributes:
    name: of an operation, see OPS.
    inputs: numbers of the arrays that it reads.
    output: number of the array that it makes.
    params: what else it says, as JSON has it.
  """

  name: str
  inputs: tuple[int, ...]
  output: int
  params: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """The conditionals of one example, in whole numbers.

  Attributes:
    name: of the model.
    inputs: numbers of the event and of the leaves of the context.
    steps: for each input the exponent e of its grid 2^e, None where it comes
      in whole numbers.
    constants: number -> array of integers or of truth values.
    trained: numbers of the constants that are made of parameters.
    ops: in an order in which they can be run.
    output: number of the frequencies, int[*event, V].
    shapes: number -> shape.
    bounds: number -> (least, most) of its entries.
    rank: int[E], of the positions; an event has these axes.
    precision: r; the frequencies of a symbol sum to 2^r.
  """

  name: str
  inputs: tuple[int, ...]
  steps: tuple[int | None, ...]
  constants: dict[int, np.ndarray]
  trained: tuple[int, ...]
  ops: tuple[Op, ...]
  output: int
  shapes: dict[int, tuple[int, ...]]
  bounds: dict[int, tuple[int, int]]
  rank: np.ndarray
  precision: int


def run(program: Program, x: Any, *context: Any) -> np.ndarray:
  """The frequencies of ONE example, int64[*event, V].

  Args:
    program: it.
    x: integers[*event].
    *context: leaves of the context, in order.

  Raises:
    ValueError: arguments that do not fit.
    OverflowError: an array leaves its bound; the program is not what its
      lowering proved.
  """
  given = (x, *context)
  if len(given) != len(program.inputs):
    raise ValueError(
      f'{program.name} takes an event and {len(program.inputs) - 1} leaves of '
      f'context; got {len(given) - 1} beside the event.'
    )
  known: dict[int, Any] = {
    n: a if a.dtype == bool else a.astype(np.int64)
    for n, a in program.constants.items()
  }
  for n, step, a in zip(program.inputs, program.steps, given, strict=True):
    if np.shape(a) != program.shapes[n]:
      raise ValueError(
        f'{program.name} takes an array of shape {program.shapes[n]} for ONE '
        f'example; got {np.shape(a)}.'
      )
    known[n] = on_grid(a, step, program.bounds[n])
  last = {n: k for k, op in enumerate(program.ops) for n in op.inputs}
  for k, op in enumerate(program.ops):
    out = OPS[op.name](op.params, *(known[n] for n in op.inputs))
    low, high = program.bounds[op.output]
    if out.size and not low <= int(out.min()) <= int(out.max()) <= high:
      raise OverflowError(
        f'{program.name}: array {op.output} ({op.name}) holds numbers from '
        f'{out.min()} to {out.max()}, and its bound is {low} to {high}.'
      )
    known[op.output] = out
    for n in op.inputs:
      if last[n] == k and n != program.output:
        known.pop(n, None)  # 256 values of every pixel add up
  return known[program.output]


def on_grid(a: Any, step: int | None, bound: tuple[int, int]) -> np.ndarray:
  """An input on its grid, and inside its bound whatever comes.

  A power of two and `rint` are exact in float32, here and in JAX.
  """
  low, high = bound
  if step is None:
    return np.clip(np.asarray(a).astype(np.int64), low, high)
  a = np.rint(np.asarray(a).astype(np.float32) * np.float32(2.0**-step))
  return np.clip(a, np.float32(low), np.float32(high)).astype(np.int64)


def save(program: Program, file: Any) -> None:
  """Writes a program: integers and JSON, with no end of its life.

  Args:
    program: it.
    file: a path that ends in .npz, or a stream.
  """
  fields = {
    'format': FORMAT,
    'name': program.name,
    'inputs': program.inputs,
    'steps': program.steps,
    'trained': program.trained,
    'ops': [dataclasses.astuple(op) for op in program.ops],
    'output': program.output,
    'shapes': sorted(program.shapes.items()),
    'bounds': sorted(program.bounds.items()),
    'precision': program.precision,
  }
  text = json.dumps(fields, default=int).encode()
  arrays: dict[str, Any] = {
    f'array_{n}': a for n, a in program.constants.items()
  }
  np.savez_compressed(
    file,
    program=np.frombuffer(text, np.uint8),
    rank=program.rank.astype(np.int32),
    **arrays,
  )


def load(file: Any) -> Program:
  """Reads what `save` wrote; nothing in it is run.

  Raises:
    ValueError: it is no such file, or says what no lowering says.
  """
  try:
    with np.load(file, allow_pickle=False) as archive:
      arrays = {name: archive[name] for name in archive.files}
    fields = json.loads(arrays.pop('program').tobytes())
  except FileNotFoundError:
    raise
  except Exception as error:  # a damaged archive fails in many ways
    raise ValueError(f'{_wanted(file)} it cannot be read: {error}') from error
  if fields.get('format') != FORMAT:
    raise ValueError(
      f'{_wanted(file)} its format is {fields.get("format")!r}, and this '
      f'reads {FORMAT!r}.'
    )
  try:
    rank = arrays.pop('rank')
    program = Program(
      name=str(fields['name']),
      inputs=tuple(map(int, fields['inputs'])),
      steps=tuple(s if s is None else int(s) for s in fields['steps']),
      constants={int(k.split('_')[1]): a for k, a in arrays.items()},
      trained=tuple(map(int, fields['trained'])),
      ops=tuple(Op(n, tuple(i), o, p) for n, i, o, p in fields['ops']),
      output=int(fields['output']),
      shapes={int(n): tuple(s) for n, s in fields['shapes']},
      bounds={int(n): (int(a), int(b)) for n, (a, b) in fields['bounds']},
      rank=rank,
      precision=int(fields['precision']),
    )
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise ValueError(f'{_wanted(file)} a part is missing: {error}') from error
  fault = _fault(program)
  if fault:
    raise ValueError(f'{_wanted(file)} {fault}')
  return program


def _wanted(file: Any) -> str:
  return f'{file} is no whole-number program that `save` wrote:'


def _fault(program: Program) -> str | None:
  """What is wrong with a program, or None."""
  known = {*program.inputs, *program.constants}
  for n, a in program.constants.items():
    if a.dtype.kind not in _KINDS:
      return f'array {n} holds {a.dtype}, and only integers and bool are whole.'
    if a.shape != program.shapes.get(n):
      return f'array {n} has shape {a.shape}, not {program.shapes.get(n)}.'
  if not set(program.trained) <= set(program.constants):
    return 'parameters are no constants of it.'
  for op in program.ops:
    if op.name not in OPS:
      return f'it has an operation {op.name!r}; there are {", ".join(OPS)}.'
    unknown = sorted(set(op.inputs) - known)
    if unknown or op.output in known:
      return f'{op.name} reads arrays {unknown} that nothing made before.'
    known.add(op.output)
  for n in known:
    if n not in program.shapes or n not in program.bounds:
      return f'array {n} has no shape or no bound.'
  if program.output not in known:
    return 'its output is made by no operation.'
  if len(program.steps) != len(program.inputs):
    return 'its inputs and their grids differ in number.'
  event, row = program.shapes[program.inputs[0]], program.shapes[program.output]
  positions = event[: program.rank.ndim]
  if program.rank.shape != positions or row[:-1] != event:
    return f'rank {program.rank.shape}, event {event} and output {row} differ.'
  if not 2 <= program.precision <= 16:
    return f'precision is 2 to 16; it says {program.precision}.'
  return None
