"""Which mesh trains a config best: memory, traffic and time of each.

  ./run.sh plan --config=configs/text_transformer.py --devices=8 --hardware=v5e
  ./run.sh plan --config=configs/digits_transformer.py --devices=8 --check
  ./run.sh plan --config=configs/text_transformer.py --devices=512 --slices=2
  ./run.sh plan --config=configs/digits_rg_lru.py --topology=v5e:2x4 --check

Nothing is trained: the step is compiled for one, two and four virtual devices,
and `parallel_ar/analysis/plan.py` says how that is extended to --devices. With
--check each mesh itself is compiled too, on as many virtual devices, and XLA's
figure stands beside the prediction. With --topology both are XLA:TPU's, for
the chips of that slice; it needs the extra tpu-compile.
"""

import time
from typing import Any

import jax
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import describe, models
from parallel_ar.analysis import plan
from parallel_ar.distributed import hardware, topology
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.training import configuration

_CONFIG = options.define_config()
_DEVICES = flags.DEFINE_integer(
  'devices', 8, 'Devices there will be.', lower_bound=1
)
_SLICES = flags.DEFINE_integer(
  'slices',
  1,
  'TPU slices, or groups of GPUs, that the devices are divided into.',
  lower_bound=1,
)
_HARDWARE = flags.DEFINE_string(
  'hardware', 'v5e', 'v5e, v5p, v6e, a100, h100, or a JSON file of your own.'
)
_TOPOLOGY = flags.DEFINE_string(
  'topology',
  None,
  'Compile by XLA:TPU for these chips, such as v5e:2x4, in place of --devices; '
  'their peaks are those of --hardware, if that is given.',
)
_UTILIZATION = flags.DEFINE_float(
  'utilization',
  0.4,
  'Share of the peak FLOP/s that the model reaches.',
  lower_bound=1e-6,
  upper_bound=1,
)
_TOP = flags.DEFINE_integer('top', 12, 'Meshes to print.', lower_bound=1)
_CHECK = flags.DEFINE_bool(
  'check', False, 'Also compile each mesh that is printed.'
)
_RESULT = options.define_output('result', 'Write the result here, as JSON.')
_HEADER = (
  'mesh | state, MB | temporary, MB | GFLOP | sent, MB: data | fsdp | tensor | '
  'sequence | ms a step | fits'
)


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  config = entry.require(_CONFIG)
  configuration.validate(config)
  jax.config.update('jax_platforms', 'cpu')
  count, chips, kind = _DEVICES.value, None, _HARDWARE.value
  if _TOPOLOGY.value:
    if flags.FLAGS['devices'].present:
      raise ValueError(
        '--topology tells how many chips there are: leave out --devices.'
      )
    # XLA:TPU's programs are of no use to the next process.
    jax.config.update('jax_enable_compilation_cache', False)
    chips = topology.devices(_TOPOLOGY.value, _SLICES.value)
    count = len(chips)
    if not flags.FLAGS['hardware'].present:
      kind = _TOPOLOGY.value.partition(':')[0]
  else:
    needed = max(count if _CHECK.value else 1, 4)
    jax.config.update('jax_num_cpu_devices', needed)
  chip = hardware.find(kind)
  planner = plan.Planner(config, count, chips)
  choices = planner.rank(chip, _UTILIZATION.value, _SLICES.value)
  print(describe(models.build(config.model)[0]))
  print(f'{planner.batch} examples on {count} x {chip.name}')
  numbers = _print(planner, choices[: _TOP.value])
  best = choices[0]
  if not best.fits:
    print(
      f'No mesh fits the {chip.memory / 1e9:.0f} GB of a {chip.name}. Take '
      'more devices, a smaller batch, train.accumulate, or remat where the '
      'model has it.'
    )
  else:
    sizes = ' '.join(f'--config.mesh.{k}={n}' for k, n in best.sizes.items())
    print(f'best: {sizes}')
  report.save(
    _RESULT.value,
    numbers,
    configuration.to_json(config),
    started,
    devices=count,
    topology=_TOPOLOGY.value,
    slices=_SLICES.value,
    hardware=chip._asdict(),
    utilization=_UTILIZATION.value,
  )


def _print(planner: plan.Planner, choices: list[plan.Choice]) -> report.Numbers:
  """The table, line by line; returns its numbers."""
  more = ' | XLA: memory, MB | predicted / XLA' if _CHECK.value else ''
  print(f'| {_HEADER}{more} |')
  print('|---' + '|--:' * (9 + 2 * _CHECK.value) + '|')
  numbers: report.Numbers = {}
  for choice in choices:
    name, cost = mesh_lib.describe(choice.sizes), choice.cost
    cells = [name, _mb(cost.state), _mb(cost.temporary)]
    cells += [f'{cost.flops / 1e9:.3g}']
    cells += [_mb(cost.sent.get(axis, 0.0)) for axis in choice.sizes]
    cells += [f'{1e3 * choice.seconds:.3g}', 'yes' if choice.fits else 'no']
    numbers[f'{name}_predicted'] = (cost.memory, 'bytes')
    numbers[f'{name}_step'] = (choice.seconds, 's')
    if _CHECK.value:
      real = planner.compiled(choice.sizes)
      cells += [_mb(real.memory), f'{cost.memory / real.memory:.3f}']
      numbers[f'{name}_compiled'] = (real.memory, 'bytes')
    print(f'| {" | ".join(cells)} |', flush=True)
  return numbers


def _mb(size: Any) -> str:
  return f'{size / 1e6:.3g}'


if __name__ == '__main__':
  entry.run(main)
