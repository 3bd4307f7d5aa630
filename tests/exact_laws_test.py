"""Law 8 over every family, and in other environments."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar.exact import of_program, reference
from parallel_ar.testing import exact_laws
from parallel_ar.testing.case import make_case
from tests.conformance import cases
from tests.exact_test import ROOT, numpy_pass, whole

# What stops the families that cannot be made whole yet.
NOT_WHOLE = {
  'gru_deer': 'while (layers/deer.py:',
  'gru_quasi_deer': 'while (layers/deer.py:',
}
WHOLE = [name for name in cases.CASES if name not in NOT_WHOLE]


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """The programs of all families, and what NumPy computes of them."""
  directory = tmp_path_factory.mktemp('whole')
  for name in WHOLE:
    case, found = whole.__wrapped__(name)
    x, context = case.x[:4], jax.tree.map(lambda a: a[:4], case.context)
    reference.save(found.report.program, directory / f'{name}.npz')
    leaves = map(np.asarray, jax.tree.leaves(context))
    with (directory / f'{name}.integers').open('wb') as file:
      np.savez(file, x, numpy_pass(found, x, context), *leaves)
  return directory


# The suite's own process is that of the lowest level of optimization.
ENVIRONMENTS = {
  'optimized': ('as it is', ''),
  'one core': ('one core', '--xla_cpu_multi_thread_eigen=false'),
  'fast math': ('as it is', '--xla_cpu_enable_fast_math=true'),
  'SSE only': ('as it is', '--xla_cpu_max_isa=SSE4_2'),
  'eight devices': ('mesh', '--xla_force_host_platform_device_count=8'),
  'int32': ('int32', ''),
  'float64': ('float64', ''),
  'carriers of a GPU': ('gpu', ''),
  'carriers of a TPU': ('tpu', ''),
}


@pytest.mark.slow  # compiles every family once more, some minutes each
@pytest.mark.parametrize('name', ENVIRONMENTS)
def test_law_8_in_another_environment(written, name):
  how, flags = ENVIRONMENTS[name]
  done = subprocess.run(
    [sys.executable, '-m', 'tests.exact_elsewhere', str(written), how],
    cwd=ROOT,
    env=os.environ
    | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': flags}
    | {'JAX_ENABLE_X64': str(int(how == 'float64'))},
    capture_output=True,
    text=True,
  )
  assert not done.returncode, done.stderr[-2000:]
  assert json.loads(done.stdout) == dict.fromkeys(WHOLE, 0)


GOLDEN = ROOT / 'tests/golden/whole_1'


@pytest.mark.parametrize(
  'name', ['gated_label', 'transformer_random_order_label']
)
def test_programs_and_files_of_this_version_are_read_for_ever(name):
  """With every Python, JAX and compiler that runs it: nothing may change."""
  program = reference.load(GOLDEN / f'{name}.npz')
  found = of_program(program, cases.CASES[name]())
  with np.load(GOLDEN / f'{name}.integers.npz') as arrays:
    x, label, table = (arrays[n] for n in ('x', 'label', 'table'))
  assert (numpy_pass(found, x, label) == table).all()
  of = jax.jit(jax.vmap(found.model.conditionals, (None, 0, 0)))
  assert (np.asarray(of(found.params, x, label)) == table).all()
  for method in ('cached', 'lanes'):
    data = (GOLDEN / f'{name}.{method}').read_bytes()
    assert (reference.read(program, data, label) == x).all()
  pair = par.codec(found.model)
  assert (pair.decode(found.params, data, label).x == x).all()
  assert (
    par.codec(found.model, method='lanes', batch=2).encode(
      found.params, x, label
    )
    == data
  )


# Law 8, in the default run for a model of each kind of layer.
FAST = (
  'made_blocks_vector',
  'gated_label',
  'transformer_blocks_vector',
  'wavenet_label',
)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST))
    for name in cases.CASES
  ],
)
def test_law_8(name):
  case = make_case(cases.CASES[name](), name=name)
  line = exact_laws.portable(case)
  print(f'{name}: {line}')
  assert line.startswith('not whole') == (name in NOT_WHOLE)
  if name in NOT_WHOLE:
    assert NOT_WHOLE[name] in line
