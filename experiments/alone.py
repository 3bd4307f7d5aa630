"""Work in a process of its own: for its peak of memory, or its own devices."""

import multiprocessing
import pathlib
import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def run(what: str, function: Callable, *args: Any) -> Any:
  """What a function of a module returns in a new Python.

  Args:
    what: is measured, for the message.
    function: takes `args`, which are pickled, as what it returns.
    *args: its arguments.

  Returns:
    What it returned.

  Raises:
    RuntimeError: the process ended early, for example for want of memory.
  """
  context = multiprocessing.get_context('spawn')
  ours, theirs = context.Pipe(duplex=False)
  process = context.Process(target=_send, args=(theirs, function, args))
  process.start()
  theirs.close()
  try:
    return ours.recv()
  except EOFError as error:
    process.join()
    raise RuntimeError(
      f'The process of {what} ended with code {process.exitcode} before it had '
      'measured: its own message stands above; -9 means that memory ran out.'
    ) from error
  finally:
    process.join()


def _send(pipe: Connection, function: Callable, args: tuple) -> None:
  pipe.send(function(*args))


def peak() -> int:
  """Peak resident bytes of this process."""
  status = pathlib.Path('/proc/self/status')
  if status.exists():  # getrusage would tell of the parent too
    (line,) = [s for s in status.read_text().splitlines() if 'VmHWM' in s]
    return 1024 * int(line.split()[1])
  kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return kept * (1 if sys.platform == 'darwin' else 1024)
