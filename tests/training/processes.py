"""Runs of `tiny_run` in processes of their own, to be killed."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 300  # seconds; a busy machine is slow


class Processes:
  """Starts runs; `close` ends what is left of them."""

  def __init__(self):
    self._all = []

  def start(self, workdir, steps, *words, prefix=(), **environment):
    workdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, '-m', 'tests.training.tiny_run']
    process = subprocess.Popen(
      [*prefix, *command, str(workdir), str(steps), *words],
      cwd=ROOT,
      env=os.environ | {'PYTHONPATH': str(ROOT)} | environment,
      stderr=subprocess.PIPE,
      text=True,
    )
    self._all.append(process)
    return process

  def start_job(self, count, workdir, *args, each=None, **environment):
    """As `start`, in `count` processes of one device that are one job.

    `each[i]` are further words for process i.
    """
    port, jobs = free_port(), []
    for i in range(count):
      place = {
        'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
        'JAX_NUM_PROCESSES': str(count),
        'JAX_PROCESS_ID': str(i),
        'JAX_NUM_CPU_DEVICES': '1',
      }
      words = (*args, *(each[i] if each else ()))
      jobs.append(self.start(workdir, *words, **(environment | place)))
    return jobs

  def close(self):
    for process in self._all:
      if process.poll() is None:
        process.kill()
      process.communicate()


def free_port():
  with socket.create_server(('', 0)) as server:
    return server.getsockname()[1]


def wait_until(holds, process, what):
  """Returns as soon as `holds()`; fails where the process ends before."""
  deadline = time.monotonic() + PATIENCE
  while time.monotonic() < deadline:
    if holds():
      return
    if process.poll() is not None:
      raise AssertionError(f'ended early: {process.communicate()[1]}')
    time.sleep(0.002)
  raise AssertionError(f'no {what} within {PATIENCE} s')


def wait_for_step(process, workdir, step):
  """Returns as soon as a checkpoint of `step` or later is complete."""

  def saved():
    found = (workdir / 'checkpoints').glob('*')
    return any(p.name.isdigit() and int(p.name) >= step for p in found)

  wait_until(saved, process, f'checkpoint of step {step}')


def finish(process, code=0):
  """Waits for the end; returns what the process said."""
  _, errors = process.communicate(timeout=PATIENCE)
  assert process.returncode == code, errors[-3000:]
  return errors


def final(workdir):
  """The leaves of the final state."""
  with np.load(workdir / 'final.npz') as file:
    return [file[name] for name in file.files]


def assert_same_end(one, other):
  """Both runs ended with the same bits."""
  ours, theirs = final(one), final(other)
  assert len(ours) == len(theirs) > 10
  for resumed, straight in zip(ours, theirs, strict=True):
    np.testing.assert_array_equal(resumed, straight)
