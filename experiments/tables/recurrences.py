"""Recurrences evaluated one step after another and in parallel over time.

  ./run.sh tables/recurrences

At every length and in turn: the linear recurrence h_t = a_t h_{t-1} + b_t by a
loop, by a tree and by trees of chunks; a GRU by a loop and by Newton's method
over time (DEER with the full Jacobian, quasi-DEER with its diagonal). Above 1
in the column 'loop / it' the parallel form wins; the crossover is where it
begins. 'deviation' is the largest distance of a state from the loop's.
"""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar.analysis import timing
from parallel_ar.layers import deer, recurrence, scan

_LENGTHS = options.define_numbers(
  'lengths', [64, 256, 1000, 4096], 'Steps of the recurrence.'
)
_SIZES = options.define_numbers('sizes', [8, 64], 'Sizes of the state.')
_BATCH = flags.DEFINE_integer('batch', 1, 'Sequences at once.', lower_bound=1)
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Timed rounds.', lower_bound=1)
_FULL = flags.DEFINE_integer(
  'full', 16, 'Largest size whose full Jacobians are taken.', lower_bound=1
)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  lengths = _LENGTHS.value
  sizes = _SIZES.value
  numbers: report.Numbers = {}
  print(
    '| recurrence | state | length | evaluated by | iterations | deviation '
    '| ms | loop / it |'
  )
  print('|---|--:|--:|---|--:|--:|--:|--:|')
  for size in sizes:
    for length in lengths:
      for name, programs in problems(length, size).items():
        numbers |= measure(name, size, length, programs)
  config = {'batch': _BATCH.value, 'lengths': lengths, 'sizes': sizes}
  report.save(_OUT.value, numbers, config, started)


def problems(length: int, size: int) -> dict[str, dict[str, Any]]:
  """Recurrence -> way to evaluate it -> compiled program."""
  keys = jax.random.split(jax.random.key(0), 3)
  batch = _BATCH.value
  gates = jax.random.normal(keys[0], (batch, length, 3 * size))
  a, b = jax.nn.sigmoid(gates[..., :size]), gates[..., size : 2 * size]
  kernel = jax.nn.initializers.orthogonal()(keys[1], (3, size, size))
  start = jnp.zeros(size)

  def linear(method: scan.Method) -> Any:
    one = lambda a, b: scan.linear_recurrence(a, b, start, method)
    return report.compile_program(jax.vmap(one), a, b)[0]

  def loop(u: jax.Array) -> jax.Array:
    def step(h: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
      h = recurrence.gru_step(kernel, h, u)
      return h, h

    return jax.lax.scan(step, start, u)[1]

  def newton(u: jax.Array, diagonal: Any = None) -> deer.Solution:
    return deer.solve(
      recurrence.gru_step, kernel, u, size, diagonal=diagonal, bound=1.0
    )

  gru: dict[str, Any] = {'loop': loop}
  if size <= _FULL.value:
    gru['DEER'] = newton
  gru['quasi-DEER'] = functools.partial(
    newton, diagonal=recurrence.gru_diagonal
  )
  return {
    'linear': {
      'loop': linear('scan'),
      'tree': linear('associative'),
      'chunks of 64': linear('chunked'),
    },
    'GRU': {
      name: report.compile_program(jax.vmap(f), gates)[0]
      for name, f in gru.items()
    },
  }


def measure(
  name: str, size: int, length: int, programs: dict[str, Any]
) -> report.Numbers:
  """Prints the rows of one recurrence, and returns their numbers."""
  rounds = timing.in_turn(programs, rounds=_ROUNDS.value)
  want, numbers = programs['loop'](), {}
  for how, program in programs.items():
    got: Any = program()
    iterations = 0
    if isinstance(got, deer.Solution):
      got, iterations = got.states, int(got.iterations.max())
    deviation = float(jnp.abs(got - want).max())
    seconds = timing.summarize(rounds.seconds[how])
    gain = timing.ratio(rounds, 'loop', how)
    print(
      f'| {name} | {size} | {length} | {how} | {iterations or ""} '
      f'| {deviation:.1e} | {seconds.text(1e3)} | {gain.text()} |'
    )
    label = f'{name}, state {size}, length {length}, {how}'
    numbers[f'{label}: ms'] = 1e3 * seconds.median, 'ms'
    numbers[f'{label}: gain'] = gain.median, 'x'
    numbers[f'{label}: deviation'] = deviation, '1'
    if iterations:
      numbers[f'{label}: iterations'] = iterations, 'iterations'
  return numbers


if __name__ == '__main__':
  entry.run(main)
