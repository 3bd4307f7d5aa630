"""A run that is killed and resumed ends with the bits of one that is not."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from parallel_ar.training import interrupt, metrics

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 60
PATIENCE = 300  # seconds; a busy machine is slow


@pytest.fixture
def start():
  """Starts a run in its own process; all are dead after the test."""
  processes = []

  def start(workdir):
    workdir.mkdir(exist_ok=True)
    process = subprocess.Popen(
      [
        *(sys.executable, '-m', 'tests.training.tiny_run'),
        *(str(workdir), str(STEPS)),
      ],
      cwd=ROOT,
      env=os.environ | {'PYTHONPATH': str(ROOT)},
      stderr=subprocess.PIPE,
      text=True,
    )
    processes.append(process)
    return process

  yield start
  for process in processes:
    if process.poll() is None:
      process.kill()
    process.communicate()


def _wait_for(process, workdir, step):
  """Returns as soon as a checkpoint of `step` or later is complete."""
  deadline = time.monotonic() + PATIENCE
  while time.monotonic() < deadline:
    found = (workdir / 'checkpoints').glob('*')
    if any(p.name.isdigit() and int(p.name) >= step for p in found):
      return
    if process.poll() is not None:
      raise AssertionError(f'ended early: {process.communicate()[1]}')
    time.sleep(0.005)
  raise AssertionError(f'no checkpoint of step {step} within {PATIENCE} s')


def _finish(process):
  _, errors = process.communicate(timeout=PATIENCE)
  assert process.returncode == 0, errors


def _final(workdir):
  with np.load(workdir / 'final.npz') as file:
    return [file[name] for name in file.files]


def _records(workdir):
  records = metrics.read(workdir / 'metrics.jsonl')
  return [
    {k: v for k, v in r.items() if k != 'steps_per_second'} for r in records
  ]


def test_kill_and_terminate_then_resume_bit_for_bit(start, tmp_path):
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  uninterrupted = start(whole)

  first = start(broken)
  _wait_for(first, broken, 10)
  first.kill()
  first.wait()
  assert not (broken / 'final.npz').exists()

  second = start(broken)
  _wait_for(second, broken, 25)
  second.send_signal(signal.SIGTERM)
  _, message = second.communicate(timeout=PATIENCE)
  assert second.returncode == interrupt.EXIT_CODE, message
  assert 'SIGTERM: stopped after step' in message
  stopped = int(message.partition('after step ')[2].partition(',')[0])
  assert (broken / 'checkpoints' / str(stopped)).is_dir()
  assert stopped < STEPS

  _finish(start(broken))
  _finish(uninterrupted)
  ours, theirs = _final(broken), _final(whole)
  assert len(ours) == len(theirs) > 10
  for resumed, straight in zip(ours, theirs, strict=True):
    np.testing.assert_array_equal(resumed, straight)
  assert _records(broken) == _records(whole)
  steps = [r['step'] for r in _records(whole) if r['kind'] == 'train']
  assert steps == list(range(2, STEPS + 1, 2))
  saved = json.loads((broken / 'config.json').read_text())
  assert saved['train']['steps'] == STEPS
