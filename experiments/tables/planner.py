"""The planner beside XLA: memory, operations and traffic of many meshes.

  ./run.sh tables/planner --devices=8,64 --result=results/plan.json

For each config and mesh the prediction, which compiles for at most four
virtual devices, stands beside what XLA says of the whole mesh. Memory is what
one device holds: arguments, results that are not donated, and temporaries.
"""

import importlib
import time

import jax
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar.analysis import plan
from parallel_ar.distributed import mesh as mesh_lib

# Config -> meshes of 8 devices; those of 64 have 8 times the examples.
CASES = {
  'digits_made': ('data=8', 'fsdp=8', 'data=2,fsdp=4'),
  'digits_gated_pixelcnn': ('data=8', 'data=2,fsdp=4'),
  'digits_transformer': (
    'data=8',
    'fsdp=8',
    'data=2,tensor=4',
    'data=4,sequence=2',
  ),
  'digits_rg_lru': ('data=8', 'data=4,fsdp=2', 'data=2,tensor=4'),
}
_CONFIGS = flags.DEFINE_list('configs', list(CASES), 'Configs to plan for.')
_DEVICES = options.define_numbers('devices', [8, 64], 'Sizes of a cluster.')
_RESULT = options.define_output('result', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  counts = _DEVICES.value
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', max(*counts, 4))
  print(
    '| config | mesh | predicted, MB | XLA, MB | ratio | GFLOP | XLA | sent, '
    'MB | read from the program |'
  )
  print('|---|---|--:|--:|--:|--:|--:|--:|--:|')
  numbers: report.Numbers = {}
  for name in _CONFIGS.value:
    if name not in CASES:
      raise ValueError(
        f'--configs={name} is unknown; choose from {", ".join(CASES)}.'
      )
    for count in counts:
      config = importlib.import_module(f'configs.{name}').get_config()
      config.train.batch_size = 8 * count
      planner = plan.Planner(config, count)
      for mesh in CASES[name]:
        sizes = mesh_lib.fill(mesh_lib.parse(mesh), 8)
        sizes['data'] *= count // 8 or 1
        print(_line(name, planner, sizes, numbers), flush=True)
  ratios = [v for k, (v, _) in numbers.items() if k.endswith('ratio')]
  within = sum(abs(ratio - 1) <= 0.15 for ratio in ratios)
  print(f'{within} of {len(ratios)} meshes within 15 % of the compiled memory')
  numbers['within_15_percent'] = (within, 'meshes')
  numbers['meshes'] = (len(ratios), 'meshes')
  report.save(_RESULT.value, numbers, {}, started, devices=counts)


def _line(
  name: str,
  planner: plan.Planner,
  sizes: dict[str, int],
  numbers: report.Numbers,
) -> str:
  cost, real = planner.predict(sizes), planner.compiled(sizes)
  sent = sum(cost.sent.values())
  measured = sum(traffic.sent for traffic in real.collectives.values())
  ratio = cost.memory / real.memory
  key = f'{name}, {mesh_lib.describe(sizes)}'
  numbers[f'{key}: predicted'] = (cost.memory, 'bytes')
  numbers[f'{key}: compiled'] = (real.memory, 'bytes')
  numbers[f'{key}: ratio'] = (ratio, '')
  numbers[f'{key}: flops'] = (cost.flops, 'FLOP')
  numbers[f'{key}: flops compiled'] = (real.flops, 'FLOP')
  numbers[f'{key}: sent'] = (sent, 'bytes')
  numbers[f'{key}: sent compiled'] = (measured, 'bytes')
  return (
    f'| {name} | {mesh_lib.describe(sizes)} | {cost.memory / 1e6:.3f} | '
    f'{real.memory / 1e6:.3f} | {ratio:.3f} | {cost.flops / 1e9:.4f} | '
    f'{real.flops / 1e9:.4f} | {sent / 1e6:.3f} | {measured / 1e6:.3f} |'
  )


if __name__ == '__main__':
  entry.run(main)
