"""Measures which of XLA's CPU kernels suit this machine; run.sh stores it.

  ./run.sh cpu_libraries --out=FILE

XLA has two sets of kernels for matrix products and for convolutions. Which is
faster depends on the CPU, and the bits of the older set can depend on the
number of cores. Products and convolutions are measured apart: a step with its
gradient, each set in a process of its own, in turn; and once more on one core,
whose bits are compared. A set whose bits do not depend on the cores is taken
wherever it costs less than 5 %, else the faster one. The flag, or an empty
line, goes to the file, and what was measured to the file's name with .json.
"""

import functools
import hashlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import entry, kernels, options
from parallel_ar.analysis import timing
from parallel_ar.training import results, run_directory

_OUT = options.define_output(
  'out',
  'Write the flag here, and the measurement beside it as .json.',
)
_ROUNDS = flags.DEFINE_integer(
  'rounds', 15, 'Timed rounds of every set.', lower_bound=3
)
_WORKER = flags.DEFINE_enum(
  'worker', None, ['all', 'one'], 'Used by the script itself: the cores to use.'
)


def _steps() -> dict[str, Callable[[], Any]]:
  """A step of each kind with its gradient, of the sizes that models have."""
  key = jax.random.key(0)
  normal = lambda *shape: jax.random.normal(key, shape) * shape[-2] ** -0.5
  dense = normal(784, 500), normal(500, 784)
  rows, images = normal(100, 784), normal(16, 28, 28, 32)
  kernel = normal(2, 3, 32, 64)

  def products(weights, x):
    return ((jax.nn.relu(x @ weights[0]) @ weights[1]) ** 2).mean()

  def convolutions(kernel, x):
    y = jax.lax.conv_general_dilated(
      x,
      kernel,
      (1, 1),
      [(1, 0), (1, 1)],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return (y**2).mean()

  run = lambda loss, *args: functools.partial(jax.jit(jax.grad(loss)), *args)
  return {
    'products': run(products, dense, rows),
    'convolutions': run(convolutions, kernel, images),
  }


def _work() -> None:
  """Answers each line, the name of a step, when the step is done."""
  if _WORKER.value == 'one':
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  steps, bits = _steps(), {}
  for name, step in steps.items():
    leaves = jax.tree.leaves(jax.device_get(step()))
    data = b''.join(np.asarray(leaf).tobytes() for leaf in leaves)
    bits[name] = hashlib.sha256(data).hexdigest()
  print(json.dumps(bits), flush=True)
  for line in sys.stdin:
    jnp.asarray(jax.block_until_ready(steps[line.strip()]())[0])
    print(flush=True)


class _Worker:
  """A process that runs steps with one set of kernels."""

  def __init__(self, xla_flags: str, cores: str):
    module = 'experiments.cpu_libraries'
    self._process = subprocess.Popen(
      [sys.executable, '-m', module, f'--worker={cores}'],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
      env=os.environ | {'XLA_FLAGS': xla_flags, 'JAX_PLATFORMS': 'cpu'},
    )

  def bits(self) -> dict[str, str] | None:
    """Of the result of each step; None where this jaxlib has no such flag."""
    try:
      return json.loads(self._line())
    except ValueError:
      return None

  def run(self, name: str) -> None:
    """One step."""
    assert self._process.stdin
    self._process.stdin.write(f'{name}\n')
    self._process.stdin.flush()
    self._line()

  def close(self) -> None:
    """Ends the process."""
    self._process.kill()
    self._process.communicate()

  def _line(self) -> str:
    assert self._process.stdout
    return self._process.stdout.readline()


def measure(rounds: int) -> dict[str, Any]:
  """Times both sets in turn and compares their bits with those of one core.

  Args:
    rounds: of every set.

  Returns:
    JSON data: the flag, and for products and convolutions the choice, the ratio
    of default to older with quartiles, and whose bits one core has too.
  """
  one = 'one' if hasattr(os, 'sched_setaffinity') else 'all'
  workers = {name: _Worker(text, 'all') for name, text in kernels.SETS.items()}
  alone = {name: _Worker(text, one) for name, text in kernels.SETS.items()}
  try:
    single = {name: worker.bits() for name, worker in alone.items()}
    for worker in alone.values():
      worker.close()
    bits = {name: worker.bits() or {} for name, worker in workers.items()}
    if not all(bits.values()):
      return {'flag': '', 'why': 'this jaxlib has one set of kernels only'}
    report: dict[str, Any] = {}
    for kind in kernels.OLDER:
      times = timing.in_turn(
        {n: functools.partial(w.run, kind) for n, w in workers.items()},
        rounds=rounds,
        repeats=5,
      )
      ratio = timing.ratio(times, 'default', 'older')
      same = {
        n: bits[n][kind] == (single[n] or {}).get(kind) for n in kernels.SETS
      }
      report[kind] = {
        'choice': kernels.choose(ratio, same['default'], same['older']),
        'default_to_older': [ratio.median, ratio.low, ratio.high],
        'bits_of_one_core': same,
      }
  finally:
    for worker in (*workers.values(), *alone.values()):
      worker.close()
  choice = {kind: report[kind]['choice'] for kind in kernels.OLDER}
  return {'flag': kernels.flag(choice), **report}


def _lines(found: dict[str, Any]) -> list[str]:
  """What was measured, a line a kind."""
  lines = []
  for kind in kernels.OLDER:
    if kind in found:
      ratio, low, high = found[kind]['default_to_older']
      same = [n for n, yes in found[kind]['bits_of_one_core'].items() if yes]
      lines.append(
        f'{kind}: {found[kind]["choice"]} kernels; the default takes '
        f'{ratio:.2f} [{low:.2f}, {high:.2f}] of the older; bits of one core: '
        f'{", ".join(same) or "neither"}'
      )
  return lines or [found['why']]


def main() -> None:
  """Runs the script."""
  if _WORKER.value:
    return _work()
  found = measure(_ROUNDS.value) | {'hardware': results.hardware()}
  lines = _lines(found)
  print('\n'.join(lines))
  print(f'XLA_FLAGS: {found["flag"] or "none"}')
  if _OUT.value:
    path = pathlib.Path(_OUT.value)
    comments = ''.join(f'# {line}\n' for line in lines)
    run_directory.replace(path, f'{found["flag"]}\n{comments}')
    run_directory.replace(
      path.with_name(path.name + '.json'), json.dumps(found, indent=2) + '\n'
    )


if __name__ == '__main__':
  entry.run(main)
