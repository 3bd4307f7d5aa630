"""The planner beside XLA: memory, operations and traffic of many meshes.

  ./run.sh tables/planner --devices=8,64 --result=results/plan.json
  ./run.sh tables/planner --topology=v5e:2x4 --kept=runs/plan.jsonl \
      --result=results/plan_tpu.json

For each config and mesh the prediction, which compiles for at most four
virtual devices, stands beside what XLA says of the whole mesh. Memory is what
one device holds: arguments, results that are not donated, and temporaries.
With --topology both are what XLA:TPU says (the extra tpu-compile), and every
mesh of the slice is tried, and the result has memory and operations. --kept
keeps what it said, and asks no more for it.
"""

import importlib
import json
import pathlib
import time
from typing import Any

import jax
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar.analysis import collectives, plan, programs
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import topology
from parallel_ar.training import results

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
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'Compile for these chips, in place of --devices.'
)
_KEPT = options.define_output(
  'kept', 'Keep a line for each compiled program in this file.', grows=True
)
_RESULT = options.define_output('result', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  counts, chips = _DEVICES.value, None
  jax.config.update('jax_platforms', 'cpu')
  if _TOPOLOGY.value:
    chips = topology.devices(_TOPOLOGY.value)
    counts = [len(chips)]
    jax.config.update('jax_enable_compilation_cache', False)
  else:
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
      planner = _Planner(name, config, count, chips)
      meshes = list(planner.meshes()) if chips else _chosen(name, count)
      for sizes in meshes:
        print(_line(name, planner, sizes, numbers), flush=True)
  ratios = [v for k, (v, _) in numbers.items() if k.endswith('ratio')]
  for percent in (15, 20):
    within = sum(abs(ratio - 1) <= percent / 100 for ratio in ratios)
    print(f'{within} of {len(ratios)} meshes within {percent} % of the memory')
    numbers[f'within_{percent}_percent'] = (within, 'meshes')
  numbers['meshes'] = (len(ratios), 'meshes')
  where = {'devices': counts, 'topology': _TOPOLOGY.value}
  report.save(_RESULT.value, numbers, {}, started, **where)


def _chosen(name: str, count: int) -> list[dict[str, int]]:
  """Those of CASES, on more devices."""
  meshes = [mesh_lib.fill(mesh_lib.parse(mesh), 8) for mesh in CASES[name]]
  for sizes in meshes:
    sizes['data'] *= count // 8 or 1
  return meshes


class _Planner(plan.Planner):
  """A planner that asks XLA once for a program, whenever it is started."""

  def __init__(self, name: str, *args: Any):
    super().__init__(*args)
    self._name = name
    self._known = {}
    path = pathlib.Path(_KEPT.value or '')
    for text in path.read_text().splitlines() if path.is_file() else ():
      line = json.loads(text)
      sent = line['collectives']
      line['collectives'] = {
        k: collectives.Traffic(*v) for k, v in sent.items()
      }
      key, _ = line.pop('key'), line.pop('commit')
      self._known[key] = programs.Compiled(**line)

  def compile(self, sizes: dict[str, int], local: int) -> programs.Compiled:
    """As it is known, or as it is then kept."""
    shape = 'x'.join(str(n) for n in sizes.values())
    key = f'{self._name} {_TOPOLOGY.value} {shape} {local}'
    if key not in self._known:
      found = self._known[key] = super().compile(sizes, local)
      line = {'key': key, 'commit': results.commit()} | found._asdict()
      if _KEPT.value:
        with open(_KEPT.value, 'a') as file:
          file.write(json.dumps(line) + '\n')
    return self._known[key]


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
  if _TOPOLOGY.value is None:
    numbers[f'{key}: sent'] = (sent, 'bytes')
    numbers[f'{key}: sent compiled'] = (measured, 'bytes')
  return (
    f'| {name} | {mesh_lib.describe(sizes)} | {cost.memory / 1e6:.3f} | '
    f'{real.memory / 1e6:.3f} | {ratio:.3f} | {cost.flops / 1e9:.4f} | '
    f'{real.flops / 1e9:.4f} | {sent / 1e6:.3f} | {measured / 1e6:.3f} |'
  )


if __name__ == '__main__':
  entry.run(main)
