"""A process that runs one program of a benchmark, and what it is told."""

import contextlib
import json
import math
import os
import pathlib
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from experiments import kernels


class Worker:
  """A program in a process of its own; see `worker`."""

  def __init__(self, name: str, spec: Mapping[str, Any]):
    """Starts the process; `wait` is for its first step."""
    self.name = name
    self._started = time.monotonic()
    print(f'{name} starts', file=sys.stderr, flush=True)
    command = (sys.executable, '-m', 'third_party.peers.worker')
    self._process = subprocess.Popen(
      (*command, json.dumps(spec)),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      bufsize=0,  # so that nothing is read that select does not see
      cwd=pathlib.Path(__file__).parents[2],
      env=_environment(spec),
    )
    self.pid = self._process.pid
    self.first_loss = float('nan')

  def wait(self, patience: float = math.inf) -> None:
    """Waits for its first step; a log that ends names who is waited for.

    Args:
      patience: seconds, after which the process is ended.

    Raises:
      RuntimeError: it ended, or was ended, before its first step.
    """
    print(f'waits for {self.name} ...', end='', file=sys.stderr, flush=True)
    try:
      self.first_loss = self._answer('value', time.monotonic() + patience)
    finally:
      taken = time.monotonic() - self._started
      print(f' {taken:.0f} s since its start', file=sys.stderr, flush=True)

  def run(self, steps: int) -> float:
    """Takes steps; returns the loss of the last one."""
    self._process.stdin.write(f'{steps}\n'.encode())
    return self._answer('value')

  def close(self) -> float:
    """Ends the process; returns its peak resident memory, bytes."""
    self._process.stdin.close()
    return self._answer('peak_bytes')

  def kill(self) -> None:
    """Ends the process at once."""
    self._process.kill()
    self._process.wait()
    self._process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()

  def _answer(self, key: str, deadline: float = math.inf) -> float:
    line = b' '
    while line:
      left = None if math.isinf(deadline) else deadline - time.monotonic()
      out = self._process.stdout
      if left is not None and not select.select([out], [], [], max(left, 0))[0]:
        self.kill()
        raise RuntimeError(
          f'{self.name!r} took no first step within --patience. Wait longer.'
        )
      line = out.readline()
      with contextlib.suppress(ValueError, KeyError, TypeError):
        return json.loads(line)[key]
    status = self._process.wait()
    self.kill()
    raise RuntimeError(
      f'The process of {self.name!r} ended with status {status} before it '
      'answered; what it said is above.'
    )


def _environment(spec: Mapping[str, Any]) -> dict[str, str]:
  """That of this process, with what the program or its platform asks for."""
  if platform := spec.get('platform'):
    # A GPU is shared by the processes: none may take its memory beforehand.
    own = {'JAX_PLATFORMS': platform, 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
    return os.environ | own
  if 'kernels' not in spec:
    return dict(os.environ)
  flags = os.environ.get('XLA_FLAGS', '').split()
  kept = [flag for flag in flags if not flag.startswith(kernels.FLAG)]
  return os.environ | {'XLA_FLAGS': ' '.join([*kept, spec['kernels']])}
