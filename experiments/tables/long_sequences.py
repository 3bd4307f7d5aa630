"""One long sequence over several devices: exactness and memory per device.

  ./run.sh tables/long_sequences --length=16384 --devices=8

A Transformer (ring attention) and an RG-LRU (scan in parts) evaluate all
conditionals of one sequence on 1, 2, ... devices of the axis `sequence`. Memory
is what XLA's compiled program says of one device; on a CPU the devices are
virtual and share the cores, so times are not printed.
"""

import time
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import likelihood, models
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.testing import case as cases

_LENGTH = flags.DEFINE_integer(
  'length', 16384, 'Slots of the sequence.', lower_bound=1
)
_DEVICES = flags.DEFINE_integer(
  'devices', 8, 'Most devices; a power of two.', lower_bound=1
)
_FEATURES = flags.DEFINE_integer(
  'features', 32, 'Width of the networks.', lower_bound=1
)
_LAYERS = flags.DEFINE_integer(
  'layers', 2, 'Blocks of the networks.', lower_bound=1
)
_RESULT = options.define_output('result', 'Write the result here, as JSON.')


def _models() -> dict[str, Any]:
  common: dict[str, Any] = {
    'event': (_LENGTH.value,),
    'num_values': 16,
    'features': _FEATURES.value,
    'layers': _LAYERS.value,
  }
  return {
    'transformer': models.transformer(**common, heads=2, remat='full'),
    'rg_lru': models.recurrent(
      **common, cell='rg_lru', evaluation='chunked', remat='full'
    ),
  }


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  if _DEVICES.value & (_DEVICES.value - 1) or _LENGTH.value % _DEVICES.value:
    raise ValueError(
      f'--devices={_DEVICES.value} must be a power of two that divides '
      f'--length={_LENGTH.value}.'
    )
  jax.config.update('jax_num_cpu_devices', max(_DEVICES.value, 1))
  rows, numbers = [], {}
  for name, model in _models().items():
    alone: dict[str, Any] = {}
    count = 1
    while count <= _DEVICES.value:
      row = _measure(model, count)
      alone = alone or row
      for what in ('pass', 'gradient'):
        row[f'{what} share'] = row[what] / alone[what]
        numbers[f'{name}_{count}_{what}'] = (row[what], 'bytes')
      row['difference'] = float(np.abs(row['nats'] - alone['nats']).max())
      numbers[f'{name}_{count}_difference'] = (row['difference'], 'nats')
      rows.append(_line(name, count, row))
      count *= 2
    numbers[f'{name}_largest_term'] = (
      float(np.abs(alone['nats']).max()),
      'nats',
    )
  print(
    '| model | devices | a pass, MB a device | of one | its gradient, MB | of '
    'one | largest difference of a conditional, nats |'
  )
  print('|---|--:|--:|--:|--:|--:|--:|')
  print('\n'.join(rows))
  report.save(
    _RESULT.value,
    numbers,
    {},
    started,
    length=_LENGTH.value,
    features=_FEATURES.value,
    layers=_LAYERS.value,
    memory='temporary bytes of one device, compiled.memory_analysis()',
  )


def _measure(model: Any, count: int) -> dict[str, Any]:
  """Temporary memory of one of `count` devices, and the conditionals."""
  params = cases.random_params(model, gain=1.0)
  x = np.random.default_rng(0).integers(16, size=(1, _LENGTH.value))
  terms = lambda p, x: likelihood.log_prob_terms(model, p, x)
  total = lambda p, x: terms(p, x).sum()
  with jax.set_mesh(mesh_lib.make({'sequence': count})):
    mesh = jax.sharding.get_mesh()
    placed = jax.device_put((params, x), mesh_lib.replicated(mesh))
    one_pass = jax.jit(terms).lower(*placed).compile()
    gradient = jax.jit(jax.grad(total)).lower(*placed).compile()
    return {
      'pass': _temporary(one_pass),
      'gradient': _temporary(gradient),
      'nats': np.asarray(one_pass(*placed)),
    }


def _temporary(program: Any) -> int:
  return program.memory_analysis().temp_size_in_bytes


def _line(name: str, count: int, row: dict[str, Any]) -> str:
  cells = [name, str(count)]
  for what in ('pass', 'gradient'):
    share = f'1 / {1 / row[f"{what} share"]:.2f}'
    cells += [f'{row[what] / 1e6:.2f}', share]
  return f'| {" | ".join(cells)} | {row["difference"]:.1e} |'


if __name__ == '__main__':
  entry.run(main)
