"""A run that is killed and resumed ends with the bits of one that is not."""

import json
import signal

import pytest

from parallel_ar.training import interrupt, metrics
from tests.training import processes

pytestmark = pytest.mark.long
STEPS = 40


@pytest.fixture
def start():
  """Starts a run in its own process; all are dead after the test."""
  every = processes.Processes()
  yield lambda workdir: every.start(workdir, STEPS, 'pause=0.02')
  every.close()


def _records(workdir):
  records = metrics.read(workdir / 'metrics.jsonl')
  return [
    {k: v for k, v in r.items() if k not in metrics.TIMES} for r in records
  ]


def _stop(process, workdir, at, number):
  """Sends a signal after step `at`; returns the step that it stopped at."""
  processes.wait_for_step(process, workdir, at)
  process.send_signal(number)
  message = processes.finish(process, interrupt.EXIT_CODE)
  assert f'{signal.Signals(number).name}: stopped after step' in message
  stopped = int(message.partition('after step ')[2].partition(',')[0])
  assert (workdir / 'checkpoints' / str(stopped)).is_dir()
  assert at <= stopped < STEPS
  assert not (workdir / 'final.npz').exists()


def test_kill_and_terminate_then_resume_bit_for_bit(start, tmp_path):
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  uninterrupted = start(whole)

  first = start(broken)
  processes.wait_for_step(first, broken, 10)
  first.kill()
  first.wait()
  assert not (broken / 'final.npz').exists()

  _stop(start(broken), broken, 25, signal.SIGTERM)

  processes.finish(start(broken))
  processes.finish(uninterrupted)
  processes.assert_same_end(broken, whole)
  assert _records(broken) == _records(whole)
  steps = [r['step'] for r in _records(whole) if r['kind'] == 'train']
  assert steps == list(range(2, STEPS + 1, 2))
  saved = json.loads((broken / 'config.json').read_text())
  assert saved['train']['steps'] == STEPS
