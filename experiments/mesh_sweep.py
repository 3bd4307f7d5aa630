"""Data or model parallelism: the planner beside measured meshes.

  ./run.sh mesh_sweep --png=runs/mesh_sweep.png
  ./run.sh mesh_sweep --config=configs/digits_rg_lru.py

Every mesh of --devices virtual devices that the config can be
trained on: the planner's rank on --hardware, its memory and bytes, and beside
them what the compiled step needs and sends, how many collectives it calls, and
the time of a step here. The devices share the cores of one CPU, so that time
counts the work and the copies that a mesh adds and nothing of links; memory,
bytes and calls are what carries over to real devices.
"""

import importlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import entry, options, plots
from experiments.limits import meshes
from experiments.tables import report
from parallel_ar import describe, models
from parallel_ar.analysis import plan, timing
from parallel_ar.distributed import hardware
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.training import configuration

_CONFIG = options.define_config(
  'config', None, 'Config file; digits_transformer by default.'
)
_DEVICES = flags.DEFINE_integer('devices', 8, 'Virtual devices.', lower_bound=1)
_HARDWARE = flags.DEFINE_string(
  'hardware', 'v5e', 'A line of distributed/hardware.py, or a JSON file.'
)
_FULL = flags.DEFINE_bool('full', False, 'Twice the devices, and 15 rounds.')
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Timed rounds.', lower_bound=1)
_PNG = options.define_output('png', 'Draw the meshes here.', options.PICTURES)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


class Line(NamedTuple):
  """A mesh: what was foretold, and what was measured."""

  choice: plan.Choice
  real: meshes.Measured

  @property
  def name(self) -> str:
    """Of the mesh."""
    return mesh_lib.describe(self.choice.sizes)


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  config = _CONFIG.value
  if config is None:
    module = importlib.import_module('configs.digits_transformer')
    config = module.get_config()
  configuration.validate(config)
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', 4)  # the planner's probes
  chip = hardware.find(_HARDWARE.value)
  numbers: report.Numbers = {}
  lines = sweep(config, chip, numbers)
  if _PNG.value:
    draw(lines, _PNG.value)
    print(f'picture: {_PNG.value}')
  report.save(
    _OUT.value,
    numbers,
    configuration.to_json(config),
    started,
    model=describe(models.build(config.model)[0]),
    devices=_devices(),
    hardware=chip._asdict(),
  )


def _devices() -> int:
  return _DEVICES.value * (2 if _FULL.value else 1)


def sweep(
  config: Any, chip: hardware.Hardware, numbers: report.Numbers
) -> list[Line]:
  """Prints every mesh of the virtual devices."""
  planner = plan.Planner(config, _devices())
  choices = planner.rank(chip)
  wanted = [(choice.sizes, planner.batch) for choice in choices]
  found = meshes.measure(
    config, wanted, _devices(), 15 if _FULL.value else _ROUNDS.value
  )
  print(describe(models.build(config.model)[0]))
  print(
    f'{planner.batch} examples; ms planned for {chip.name}, ms here on '
    f'{_devices()} virtual devices of one CPU\n'
  )
  print(
    '| mesh | ms, planned | memory, MB: planned | compiled | collectives '
    '| sent, MB: planned | compiled | ms here | of the first |'
  )
  print('|---|--:|--:|--:|--:|--:|--:|--:|--:|')
  lines = [Line(*pair) for pair in zip(choices, found, strict=True)]
  first = found[0].seconds
  for line in lines:
    choice, real = line
    sent = sum(choice.cost.sent.values())
    seconds = timing.summarize(real.seconds)
    share = timing.summarize(real.seconds / first)
    print(
      f'| {line.name} | {1e3 * choice.seconds:.3g} '
      f'| {choice.cost.memory / 1e6:.2f} | {real.memory / 1e6:.2f} '
      f'| {real.calls} | {sent / 1e6:.2f} | {real.sent / 1e6:.2f} '
      f'| {seconds.text(1e3, 1)} | {share.text()} |'
    )
    numbers |= {
      f'{line.name}: planned': (choice.seconds, 's'),
      f'{line.name}: memory planned': (choice.cost.memory, 'bytes'),
      f'{line.name}: memory': (real.memory, 'bytes'),
      f'{line.name}: collectives': (real.calls, 'calls'),
      f'{line.name}: sent planned': (sent, 'bytes'),
      f'{line.name}: sent': (real.sent, 'bytes'),
      f'{line.name}: here': (seconds.median, 's'),
      f'{line.name}: here, of the first': (share.median, '1'),
    }
  return lines


def draw(lines: list[Line], path: str) -> None:
  """Memory and bytes of each mesh, planned and compiled."""
  made, axes = plots.figure(2, size=5)
  names = [line.name for line in lines]
  at = np.arange(len(lines))
  for place, what, planned, real in (
    (
      axes[0, 0],
      'memory of a device, MB',
      [line.choice.cost.memory for line in lines],
      [line.real.memory for line in lines],
    ),
    (
      axes[0, 1],
      'sent by a device in a step, MB',
      [sum(line.choice.cost.sent.values()) for line in lines],
      [line.real.sent for line in lines],
    ),
  ):
    place.barh(at - 0.2, np.array(planned) / 1e6, 0.4, label='planned')
    place.barh(at + 0.2, np.array(real) / 1e6, 0.4, label='compiled')
    place.set_yticks(at, names, fontsize=6)
    place.invert_yaxis()
    place.set(xlabel=what)
    place.legend(fontsize=7)
  plots.save(made, path)


if __name__ == '__main__':
  entry.run(main)
