"""What the compiler of TPUs says of a config's programs, without a TPU.

  ./run.sh tpu_compile --configs=digits_made,text_transformer --topology=v5e:2x4
  ./run.sh tpu_compile --configs=all --lines=runs/tpu.jsonl \
      --result=results/tpu_compile.json

The training step, one pass, the cached sampler (by the model's own path or the
derived one) and the codec's pass are compiled by XLA:TPU for the chips of a
topology, and nothing runs. It needs the extra tpu-compile. A line says the
memory of a chip, its operations, the bytes it moves and sends, and the time
that these take at the chip's published peaks (`distributed/hardware.py`) with
nothing overlapped: a bound, no measurement.

--lines keeps every line in a file; what is there already is not compiled again,
so that a sweep of hours can be stopped and goes on. Configs that differ in
their data alone are compiled once ('same_as'). Examples a chip are those of the
config's batch on the mesh, and for samples and codec --samples at most.
"""

import json
import math
import pathlib
import time
from collections.abc import Iterable
from typing import Any

import jax
from absl import flags

from experiments import entry, fitting, options
from experiments.tables import report
from parallel_ar import models, precision, target
from parallel_ar.analysis import programs
from parallel_ar.distributed import hardware, topology
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.training import configuration, results

_CONFIGS = flags.DEFINE_list(
  'configs',
  ['all'],
  'Names of files in configs/, or all of them, or paths of .py files.',
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', 'v5e:2x4', 'Kind of TPU and sides of its torus.'
)
_MESHES = flags.DEFINE_list(
  'meshes',
  ['data=-1'],
  'Meshes, with a colon between axes: data=2:fsdp=4,data=-1.',
)
_PROGRAMS = flags.DEFINE_list(
  'programs', list(programs.KINDS), 'Which programs.'
)
_DTYPES = flags.DEFINE_list(
  'dtypes', ['bfloat16', 'float32'], 'Of the networks, where they take one.'
)
_SAMPLES = flags.DEFINE_integer(
  'samples', 16, 'Events a chip, at most, of sampler and codec.', lower_bound=1
)
_LINES = options.define_output(
  'lines', 'Keep a line a program in this file.', grows=True
)
_RESULT = options.define_output('result', 'Write the result here, as JSON.')

# Not models: doors for models and pictures of one's own, and cells of tables.
_NO_MODELS = ('own', 'paper', 'pictures')
_HEADER = (
  'config | program | dtype | topology | mesh | arguments, MB | temporary, MB |'
  ' GFLOP | GB moved | MB sent | ms at the peaks | fits'
)


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  jax.config.update('jax_platforms', 'cpu')
  # XLA:TPU's programs are of no use to the next process.
  jax.config.update('jax_enable_compilation_cache', False)
  lines = _read(_LINES.value)
  print(f'| {_HEADER} |')
  print('|---|---|---|---|---' + '|--:' * 6 + '|---|')
  for case in _cases():
    key = ' '.join(case.values())
    if key not in lines:
      told = twin(case, lines.values()) or ask(**case)
      lines[key] = {'commit': results.commit()} | told | case
      if _LINES.value:
        with open(_LINES.value, 'a') as file:
          file.write(json.dumps(lines[key]) + '\n')
    print(_row(lines[key]), flush=True)
  report.save(_RESULT.value, _numbers(lines), {}, started, lines=lines)


def twin(
  case: dict[str, str], lines: Iterable[dict[str, Any]]
) -> dict[str, Any] | None:
  """The line of a config that differs in its data alone, whose program it is.

  Args:
    case: what is asked.
    lines: those that are there.

  Returns:
    That line, with the config it is of as 'same_as', or None.
  """
  of = lambda name: {**configuration.to_json(_config(name)), 'data': None}
  for line in lines:
    other = line['config']
    if case | {'config': other} != {name: line[name] for name in case}:
      continue
    if other != case['config'] and of(other) == of(case['config']):
      return {'same_as': other} | line
  return None


def _cases() -> list[dict[str, str]]:
  """What is asked, the least work first where all configs are."""
  names = _CONFIGS.value
  if names == ['all']:
    names = sorted(configs(), key=_elements)
  unknown = set(_PROGRAMS.value) - set(programs.KINDS)
  if unknown:
    raise ValueError(
      f'--programs={",".join(sorted(unknown))}: expected some of '
      f'{", ".join(programs.KINDS)}.'
    )
  return [
    {
      'config': name,
      'program': program,
      'dtype': dtype,
      'topology': _TOPOLOGY.value,
      'mesh': mesh,
    }
    for name in names
    for mesh in _MESHES.value
    for program in _PROGRAMS.value
    for dtype in _DTYPES.value
    if dtype == 'float32' or _takes_dtype(name)
  ]


def configs() -> list[str]:
  """Names of the files in configs/ that name a model."""
  folder = pathlib.Path(__file__).parents[1] / 'configs'
  files = sorted(path.stem for path in folder.glob('*.py'))
  return [n for n in files if n not in ('__init__', *_NO_MODELS)]


def _elements(name: str) -> float:
  """A rough size of a training step: positions of a batch by its network."""
  config = _config(name)
  event = math.prod(config.model.get('event', (1,)))
  layers = config.model.get('layers', 1) * config.model.get('blocks', 1)
  return event * layers * config.train.batch_size


def _config(name: str) -> Any:
  return fitting.read(name if name.endswith('.py') else f'configs/{name}.py')


def _takes_dtype(name: str) -> bool:
  return 'dtype' in models.fields(_config(name).model.name)


def ask(
  config: str, program: str, dtype: str, topology: str, mesh: str
) -> dict[str, Any]:
  """Compiles one program; what XLA refuses is told and not raised.

  Args:
    config: name of a file in configs/, or path of another.
    program: one of `programs.KINDS`.
    dtype: of the network, where it takes one.
    topology: kind of TPU and sides of its torus.
    mesh: axes and sizes, with colons between.

  Returns:
    JSON data of one chip: bytes, operations, seconds, whether it fits; or what
    was `refused`.
  """
  fields = _config(config)
  if _takes_dtype(config):
    fields.model.dtype = dtype
  configuration.validate(fields)
  chip, chips = hardware.find(topology.partition(':')[0]), _chips(topology)
  sizes = mesh_lib.fill(mesh_lib.parse(mesh.replace(':', ',')), len(chips))
  parts = sizes['data'] * sizes['fsdp']
  local = -(-fields.train.batch_size // fields.train.accumulate // parts)
  if program in ('cached', 'codec'):
    local = min(local, _SAMPLES.value)
  begin = time.monotonic()
  try:
    made = programs.Programs(fields)
    work = made.work(program, local * parts) / math.prod(sizes.values())
    found = made.compile(program, sizes, local, chips)
  except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
    return {'refused': f'{type(error).__name__}: {str(error)[:400]}'}
  level = made.level(program)
  with target.on('tpu'):
    products = precision.products(level)
  # XLA counts what a loop does once; what is traced says how often it runs.
  trips = max(1.0, work / max(found.flops, 1.0))
  compute = work / chip.flops
  moved = trips * found.traffic / chip.bandwidth
  return {
    'examples_a_chip': local,
    'precision': f'{level}: {products}',
    'arguments': found.arguments,
    'temporary': found.temporary,
    'fits': chip.fits(found.memory),
    'flops': work,
    'flops_xla': found.flops,
    'traffic_xla': found.traffic,
    'collectives': {k: list(v) for k, v in found.collectives.items()},
    'sent': found.sent,
    'seconds': max(compute, moved) + found.sent / chip.link,
    'compute_seconds': compute,
    'asked_for': round(time.monotonic() - begin, 1),
  }


_KNOWN: dict[str, Any] = {}


def _chips(name: str) -> list[Any]:
  if name not in _KNOWN:
    _KNOWN[name] = topology.devices(name)
  found: list[Any] = _KNOWN[name]
  return found


def _read(path: str | None) -> dict[str, dict[str, Any]]:
  """The lines of a file, by what was asked."""
  if path is None or not pathlib.Path(path).is_file():
    return {}
  found = {}
  for text in pathlib.Path(path).read_text().splitlines():
    line = json.loads(text)
    names = ('config', 'program', 'dtype', 'topology', 'mesh')
    found[' '.join(line[name] for name in names)] = line
  return found


def _row(line: dict[str, Any]) -> str:
  cells = [line[k] for k in ('config', 'program', 'dtype', 'topology')]
  cells.append(line['mesh'])
  if 'refused' in line:
    return f'| {" | ".join(cells)} | {line["refused"][:120]} |'
  cells += [
    f'{line["arguments"] / 1e6:.3g}',
    f'{line["temporary"] / 1e6:.3g}',
    f'{line["flops"] / 1e9:.3g}',
    f'{line["traffic_xla"] / 1e9:.3g}',
    f'{line["sent"] / 1e6:.3g}',
    f'{1e3 * line["seconds"]:.3g}',
    'yes' if line['fits'] else 'no',
  ]
  return f'| {" | ".join(cells)} |'


def _numbers(lines: dict[str, dict[str, Any]]) -> report.Numbers:
  compiled = [line for line in lines.values() if 'refused' not in line]
  return {
    'asked': (len(lines), 'programs'),
    'compiled': (len(compiled), 'programs'),
    'fit': (sum(line['fits'] for line in compiled), 'programs'),
  }


if __name__ == '__main__':
  entry.run(main)
