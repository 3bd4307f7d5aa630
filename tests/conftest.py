"""Settings of every test, made before JAX is imported."""

import gc
import itertools
import os
import pathlib
import shlex
import subprocess
import sys

# Eight virtual devices on fewer cores deadlock once 32 steps are in flight,
# unless XLA is told of that many threads.
os.environ.setdefault('NPROC', '32')


def _settings_of_run_sh() -> dict[str, str]:
  """What run.sh would export, for those who call pytest directly."""
  root = pathlib.Path(__file__).parents[1]
  script = 'source ./run.sh; export_settings "$0"; print_settings "$0"'
  try:
    lines = subprocess.run(
      ['bash', '-c', script, sys.executable],
      cwd=root,
      capture_output=True,
      text=True,
      check=True,
    ).stdout.splitlines()
  except (OSError, subprocess.CalledProcessError):
    return {}  # no bash, or no settings: the tests are slower, not different
  words = [shlex.split(n)[1] for n in lines if n.startswith('export')]
  return dict(word.split('=', 1) for word in words)


if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  os.environ.update(_settings_of_run_sh())

# Half of a cold run is LLVM optimising programs that run for a millisecond. The
# laws hold for every program, so the default run leaves that out; CI tries them
# at full optimisation too, on the other pins (CONTRIBUTING.md).
_LEVEL = '--xla_backend_optimization_level'
_FLAGS = os.environ.get('XLA_FLAGS', '')
if 'PARALLEL_AR_OPTIMIZED' not in os.environ and _LEVEL not in _FLAGS:
  os.environ['XLA_FLAGS'] = f'{_FLAGS} {_LEVEL}=0'.strip()

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
flags.FLAGS.mark_as_parsed()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
  """Long tests begin first: no worker is left alone with one at the end."""
  items.sort(key=lambda item: item.get_closest_marker('long') is None)


def pytest_collection_finish():
  """Leaves what was imported out of the collections of garbage to come."""
  gc.collect()
  gc.freeze()


_MOST_MAPS = 30_000  # Linux gives a process 65,530
_TESTS = itertools.count(1)


@pytest.fixture(autouse=True)
def _few_programs():
  """Forgets compiled programs before they use up the process's memory maps.

  Each takes about four, and a process that has no more is aborted by XLA. To
  count them takes 10 ms, so it is done after every 16th test.
  """
  yield
  maps = pathlib.Path('/proc/self/maps')
  if next(_TESTS) % 16 or not maps.exists():
    return
  if maps.read_bytes().count(b'\n') > _MOST_MAPS:
    jax.clear_caches()
