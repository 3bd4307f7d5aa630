"""Steps a second of `train`, in turn with another checkout and with the roof.

  git worktree add /tmp/before 9f83b5f~1
  ./run.sh tables/loop_speed --other=/tmp/before

Each round trains the config in a process of its own, from this checkout and
from the other, without validation and checkpoints; then the roof runs, the
compiled step alone on one batch that lies on the device. Of a training the
median over its records counts, the first left out. Host time is what this
checkout's records say, see docs/scaling.md.
"""

import collections
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import models
from parallel_ar.analysis import timing
from parallel_ar.data import pipeline
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import sharding
from parallel_ar.training import (
  configuration,
  datasets,
  metrics,
  outcome,
  state,
  step,
)

_CONFIG = options.define_config(
  'config', 'configs/digits_transformer.py', 'Config of the run.'
)
_OTHER = flags.DEFINE_string(
  'other', None, 'Another checkout of this repository, to compare with.'
)
_STEPS = flags.DEFINE_integer('steps', 400, 'Of a training.', lower_bound=16)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Of all in turn.', lower_bound=1)
_OUT = options.define_output('out', 'Write the result here, as JSON.')

_HERE = pathlib.Path(__file__).parents[2]
_Values = dict[str, list[float]]


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  config = configuration.to_json(entry.require(_CONFIG))
  flag = flags.FLAGS['config']
  fields = config_flags.get_override_values(flag)
  given = config_flags.get_config_filename(flag), fields, _STEPS.value
  rate = 'steps_per_second'
  programs: dict[str, Callable[[], _Values]] = {
    'here': lambda: train(_HERE, *given)
  }
  if _OTHER.value:
    there = pathlib.Path(_OTHER.value).resolve()
    programs['other'] = lambda: train(there, *given)
  roof = make_roof(configuration.from_json(config), _STEPS.value)
  programs['roof'] = lambda: {rate: [roof()]}
  rounds: dict[str, list[_Values]] = {name: [] for name in programs}
  for k in range(_ROUNDS.value):
    for name in list(programs)[:: -1 if k % 2 else 1]:
      rounds[name].append(programs[name]())
      speed = np.median(rounds[name][-1][rate])
      print(f'round {k + 1}, {name}: {speed:.1f} steps/s', file=sys.stderr)
  speeds = {
    name: np.asarray([np.median(values[rate]) for values in found])
    for name, found in rounds.items()
  }
  numbers: report.Numbers = {}
  print('| | steps/s | of the other | of the roof |\n|---|--:|--:|--:|')
  for name, found in speeds.items():
    line = [timing.summarize(found).text(1, 1)]
    numbers[f'{name}: speed'] = timing.summarize(found).median, 'steps/s'
    for against in ('other', 'roof'):
      line.append('')
      if against in speeds:
        ratio = timing.summarize(found / speeds[against])
        line[-1] = ratio.text()
        numbers[f'{name} of {against}'] = ratio.median, '1'
    print(f'| {name} | {" | ".join(line)} |')
  for field in ('host_seconds_per_step', 'read_seconds_per_step'):
    own = [np.median(values[field]) for values in rounds['here']]
    print(f'{field}: {timing.summarize(own).text(1e3, 3)} ms')
    numbers[field] = timing.summarize(own).median, 's'
  each = {name: found.tolist() for name, found in speeds.items()}
  report.save(_OUT.value, numbers, config, started, speeds=each)


def train(
  checkout: pathlib.Path, path: str, given: dict[str, Any], steps: int
) -> _Values:
  """Numbers of the records of a run from a checkout, by name.

  Args:
    checkout: where its modules lie.
    path: of its config file, from there.
    given: fields of the config that have other values.
    steps: of the run.

  Raises:
    RuntimeError: the run failed; with its last words.
  """
  words = {'steps': steps, 'eval_every': 0, 'checkpoint_every': 0}
  words |= {'keep_best': False, 'patience': 0, 'tensorboard': False}
  words['log_every'] = steps // 8
  fields = given | {f'train.{name}': value for name, value in words.items()}
  paths = [str(checkout), *filter(None, [os.environ.get('PYTHONPATH')])]
  env = os.environ | {'PYTHONPATH': os.pathsep.join(paths)}
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, '-m', 'experiments.train', f'--config={path}']
    command += [f'--workdir={folder}/run']
    command += [f'--config.{name}={value}' for name, value in fields.items()]
    done = subprocess.run(
      command, cwd=checkout, env=env, capture_output=True, text=True
    )
    if done.returncode:
      raise RuntimeError(f'{checkout} does not train: {done.stderr[-500:]}')
    records = metrics.read(f'{folder}/run/metrics.jsonl')
  found: _Values = {}
  for record in [r for r in records if r['kind'] == 'train'][1:]:
    for name, value in record.items():
      if isinstance(value, float):
        found.setdefault(name, []).append(value)
  return found


def make_roof(config: ConfigDict, steps: int) -> Callable[[], float]:
  """A function that gives the steps a second of the compiled step alone."""
  made = models.build(config.model)
  data, _ = datasets.load_for_training(config, None)
  rule, create = state.of_config(config, made[0])
  mesh = mesh_lib.make(config.mesh)
  with jax.set_mesh(mesh):
    shapes = jax.eval_shape(create, jax.random.key(0))
    places = sharding.state_shardings(shapes, config.model.name, mesh)
    whole = mesh_lib.replicated(mesh)
    given = config, made, rule, shapes, places, whole
    run, packing = step.of_config(*given)
    size = config.train.batch_size
    batches = pipeline.batches(data, size, config.seed, narrow=True)
    batch = mesh_lib.place_batch(batches, 0)

  def roof() -> float:
    with jax.set_mesh(mesh):
      seen = jax.jit(outcome.nothing_seen, out_shardings=whole)()
      create_there = jax.jit(create, out_shardings=places)
      packed = packing.pack(create_there(jax.random.key(config.seed)))
      flight: collections.deque[Any] = collections.deque()
      for at in range(-2, steps):  # the first compile, and warm up
        if at == 0:
          jax.block_until_ready(packed)
          begin = time.perf_counter()
        packed, seen, values = run(packed, seen, batch)
        flight.append(values['loss_nats'])
        if len(flight) > 2:
          flight.popleft().block_until_ready()
      jax.block_until_ready(packed)
      return steps / (time.perf_counter() - begin)

  return roof


if __name__ == '__main__':
  entry.run(main)
