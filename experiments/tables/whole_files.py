"""A file of a model in whole numbers, read in other environments.

  ./run.sh tables/whole_files --workdir=runs/bmnist_made --data_dir=data \
      --pythons=/path/to/python3.11 --out=results/whole_files.json

Encodes test images of a run, lowered to whole numbers, and decodes the file in
processes of their own: other numbers of cores, XLA_FLAGS, 8 devices with the
batch spread over them, 64-bit mode, other Pythons with their own JAX, and
without JAX (a file of the first images). Each also computes the frequencies of
64 images in batches of 64 and 7. Then samples are drawn by the derived cache in
batches of 1, 7 and 64. All integers are compared.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import entry, options
from experiments.tables import report
from parallel_ar import coding, exact, models, samplers
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.exact import Exact, load, of_program, save
from parallel_ar.training import configuration, trained, whole

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of a run.')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Directory of data files.')
_COUNT = flags.DEFINE_integer('count', 1000, 'Images.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 50, 'Images at a time.', lower_bound=1)
_NUMPY = flags.DEFINE_integer(
  'numpy', 20, 'Images that NumPy decodes; 0 leaves it out.', lower_bound=0
)
_INTEGERS = flags.DEFINE_integer(
  'integers', 10**6, 'Sampled integers, at least.', lower_bound=0
)
_BITS = options.define_numbers('bits', [8, 10], 'Weights, activations.')
_PYTHONS = flags.DEFINE_list('pythons', [], 'Other interpreters with JAX.')
_OUT = options.define_output('out', 'Write the result here, as JSON.')
_READ = flags.DEFINE_string('read', None, 'Of a process: decode what is here.')

_PASSES = 64
_FLAGS = {
  'one thread': '--xla_cpu_multi_thread_eigen=false',
  'fast math': '--xla_cpu_enable_fast_math=true',
  'no optimization': '--xla_backend_optimization_level=0',
  'SSE only': '--xla_cpu_max_isa=SSE4_2',
  '8 devices': '--xla_force_host_platform_device_count=8',
}
_ROOT = pathlib.Path(__file__).parents[2]


def main() -> None:
  """Runs the script."""
  if _READ.value:
    print(json.dumps(_read(pathlib.Path(_READ.value))))
    return
  started = time.monotonic()
  run = trained.load(entry.require(_WORKDIR))
  weights, activations = map(int, _BITS.value)
  bits: Any = {'weight_bits': weights, 'activation_bits': activations}
  shown = whole.examples(run, 64, _DATA_DIR.value)
  found = exact(run.model, run.params, *shown, **bits)
  data = run.load_split('test', _DATA_DIR.value)
  x = np.asarray(whole.first(data, _COUNT.value).x)
  x = x.astype(run.model.event.dtype)
  print('| where | integers | different |\n|---|--:|--:|')
  numbers: report.Numbers = {}
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    size = _write(found, x, root)
    rows = [_in_numpy(root, x)] if _NUMPY.value else []
    for row in (*_environments(root), *rows, *_samples(found)):
      where, (different, of) = row
      print(f'| {where} | {of} | {different} |', flush=True)
      numbers[f'{where}: different'] = different, 'integers'
      numbers[f'{where}: integers'] = of, 'integers'
  numbers['bytes of the file'] = size, 'bytes'
  config = {
    'model': configuration.to_json(run.config)['model'],
    'bits': [weights, activations],
  }
  report.save(_OUT.value, numbers, config, started, count=len(x))


def _write(found: Exact, x: np.ndarray, root: pathlib.Path) -> int:
  """What other processes read; the bytes of the file."""
  pair = coding.codec(found.model, method='lanes', batch=_BATCH.value)
  data = pair.encode(found.params, x)
  (root / 'file.par').write_bytes(data)
  if _NUMPY.value:
    few = pair.encode(found.params, x[: _NUMPY.value])
    (root / 'few.par').write_bytes(few)
  save(found.report.program, root / 'program.npz')
  np.save(root / 'x.npy', x)
  np.save(root / 'passes.npy', _frequencies(found, x[:_PASSES], _PASSES))
  return len(data)


def _frequencies(found: Exact, x: np.ndarray, batch: int) -> np.ndarray:
  of = jax.jit(jax.vmap(found.model.conditionals, (None, 0, None)))
  parts = range(0, len(x), batch)
  rows = [np.asarray(of(found.params, x[n : n + batch], None)) for n in parts]
  return np.concatenate(rows)


def _read(root: pathlib.Path) -> tuple[int, int]:
  """Of a process: how many integers differ, and of how many."""
  config = trained.read_config(entry.require(_WORKDIR))
  like, *_ = models.build(config.model)
  found = of_program(load(root / 'program.npz'), like)
  x = np.load(root / 'x.npy')
  count = jax.device_count()
  with contextlib.ExitStack() as stack:
    if count > 1:
      stack.enter_context(jax.set_mesh(mesh_lib.make({'data': count})))
    pair = coding.codec(found.model, method='lanes')
    data = (root / 'file.par').read_bytes()
    pairs = [(x, pair.decode(found.params, data).x)]
  want = np.load(root / 'passes.npy')
  pairs += [(want, _frequencies(found, x[:_PASSES], n)) for n in (_PASSES, 7)]
  wrong = sum(int((a != np.asarray(b)).sum()) for a, b in pairs)
  return wrong, sum(a.size for a, _ in pairs)


def _environments(root: pathlib.Path) -> Iterator[tuple[str, Any]]:
  """Every other process, and what it found."""
  cores = sorted(os.sched_getaffinity(0))
  yield 'here again', _child(root, {})
  if len(cores) > 1:
    os.sched_setaffinity(0, cores[:1])  # a child inherits it
    try:
      yield 'one core', _child(root, {})
    finally:
      os.sched_setaffinity(0, cores)
  for name, value in _FLAGS.items():
    yield name, _child(root, {'XLA_FLAGS': value})
  yield '64 bits', _child(root, {'JAX_ENABLE_X64': '1'})
  for python in _PYTHONS.value:
    said = 'import sys, jax; print(sys.version.split()[0], jax.__version__)'
    out = subprocess.run(
      [python, '-c', said], capture_output=True, text=True, check=True
    )
    version, own = out.stdout.split()
    yield f'Python {version}, JAX {own}', _child(root, {}, python)


def _child(
  root: pathlib.Path, settings: dict[str, str], python: str = sys.executable
) -> tuple[int, int]:
  """What a process says that reads the file."""
  environment = os.environ | {'PYTHONPATH': str(_ROOT)} | settings
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  done = subprocess.run(
    [
      *(python, '-m', 'experiments.tables.whole_files'),
      *(f'--read={root}', f'--workdir={_WORKDIR.value}'),
    ],
    cwd=_ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )
  if done.returncode:
    raise ValueError(f'{python}, {settings} failed: {done.stderr[-400:]}')
  different, of = json.loads(done.stdout.splitlines()[-1])
  return different, of


def _in_numpy(root: pathlib.Path, x: np.ndarray) -> tuple[str, Any]:
  """The first images, by a process that has no JAX."""
  (root / 'jax.py').write_text('raise ImportError("no JAX here")')
  path = f'{root}:{_ROOT / "parallel_ar" / "exact"}'
  subprocess.run(
    [sys.executable, '-m', 'reference', 'program.npz', 'few.par', 'few.npy'],
    cwd=root,
    env=os.environ | {'PYTHONPATH': path},
    stdout=subprocess.DEVNULL,
    check=True,
  )
  want = x[: _NUMPY.value]
  different = int((np.load(root / 'few.npy') != want).sum())
  return f'NumPy, {len(want)} images', (different, want.size)


def _samples(found: Exact) -> Iterator[tuple[str, Any]]:
  """Samples of the same keys in batches of 64, 7 and 1."""
  dims = found.model.num_dims
  count = -(-_INTEGERS.value // dims)
  if not count:
    return
  keys = jax.random.split(jax.random.key(0), count)
  draw = jax.jit(samplers.cached(found.model))

  def drawn(batch: int) -> np.ndarray:
    wide = np.arange(-(-count // batch) * batch) % count
    rows = wide.reshape(-1, batch)
    x = [np.asarray(draw(found.params, keys[row]).x) for row in rows]
    return np.concatenate(x)[:count]

  want = drawn(64)
  for batch in (7, 1):
    different = int((drawn(batch) != want).sum())
    yield f'samples, batch {batch} and 64', (different, want.size)


if __name__ == '__main__':
  entry.run(main)
