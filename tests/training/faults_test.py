"""Faults that need a process of their own: see docs/checkpoints.md."""

import signal
import time

import pytest

from tests.training import processes

pytestmark = pytest.mark.long


@pytest.fixture
def runs():
  every = processes.Processes()
  yield every
  every.close()


@pytest.mark.parametrize(
  'number',
  [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)],
)
def test_a_signal_during_compilation_leaves_at_once(runs, tmp_path, number):
  deep = f'model.hidden={(4,) * 60}'
  run = runs.start(tmp_path, 5, deep, JAX_ENABLE_COMPILATION_CACHE='false')
  processes.wait_until(
    (tmp_path / 'config.json').exists, run, 'start of the steps'
  )
  time.sleep(1.0)
  run.send_signal(number)
  said = processes.finish(run, 0)
  name = signal.Signals(number).name
  assert f'{name}: stopped before the first step' in said
  assert (tmp_path / 'metrics.jsonl').read_text() == ''
  assert list((tmp_path / 'checkpoints').iterdir()) == []


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(runs, tmp_path):
  words = (10, 'model.hidden=(3000,)')
  whole = runs.start(tmp_path / 'whole', *words)
  # A limit of 100 KiB on the size of a file stands for the disk.
  limit = ('bash', '-c', 'ulimit -f 100; exec "$@"', 'limited')
  full = runs.start(tmp_path / 'full', *words, prefix=limit)
  said = processes.finish(full, 1)
  assert 'The checkpoint of step 5 did not reach' in said
  assert 'look for a full disk' in said
  for of_orbax in ('Failed to run', 'Save Finalize', 'never retrieved'):
    assert of_orbax not in said
  assert list((tmp_path / 'full' / 'checkpoints').iterdir()) == []
  processes.finish(runs.start(tmp_path / 'full', *words))
  processes.finish(whole)
  processes.assert_same_end(tmp_path / 'full', tmp_path / 'whole')
