"""Signals that ask a run to stop: finish the step, save, leave.

SIGTERM (a preempted machine, `kill`, `docker stop`), SIGUSR1 (Slurm's
`--signal=USR1@120`) and SIGINT (Ctrl-C) are noted, and the run looks for them
after every step and before every batch of a validation. While it has nothing
new to save, that is before its first step is done, it leaves at once, even in
the middle of a compilation. The first two end with code 0, since a scheduler
starts the same command again; a person's Ctrl-C ends with 130, so that no
shell goes on with what comes next. A scheduler that takes 0 for the end of the
work gets another code instead of it, by `leave_with`.

With several processes, JAX's coordinator takes SIGTERM itself and tells the
hosts a step at which all of them stop; so SIGTERM is left alone there, and the
other two are passed on as SIGTERM.
"""

import ctypes
import itertools
import math
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 0  # the same command goes on; the run has a result.json when done
_AGAIN_SECONDS = 1.0  # a second Ctrl-C so late is a person who insists


_stop_code = EXIT_CODE
# JAX compares the numbers of the polls of all processes, which never fall.
_polls = itertools.count(1)


def leave_with(code: int) -> None:
  """Sets the exit code of a stop by SIGTERM or SIGUSR1, for this process."""
  global _stop_code
  _stop_code = code


class Interrupted(SystemExit):
  """A signal stopped the run after its state was saved.

  A SystemExit, so that an uncaught one ends the process: with 130 after SIGINT,
  else with that of `leave_with`, which is EXIT_CODE.

  Attributes:
    step: updates done, all of them saved.
    number: the signal.
  """

  def __init__(self, signal_name: str, step: int, directory: str):
    self.number = signal.Signals[signal_name]
    super().__init__(_exit_code(self.number))
    self.step = step
    self.message = (
      f'{signal_name}: stopped after step {step}, which is saved in '
      f'{directory}. The same command goes on from there.'
    )

  def __str__(self) -> str:
    return self.message


class StopSignals:
  """Notes the signals instead of dying; a context manager.

  A second SIGINT that comes a second later or more ends the process at once;
  a second of the others does what it always does. Outside the main thread,
  where Python allows no handlers, nothing is installed.

  Attributes:
    nothing_to_save: while it is a text, a signal prints it and ends the process
      at once; None while there is something to save. One process only.
  """

  SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

  def __init__(self, nothing_to_save: str | None = None):
    self.nothing_to_save = nothing_to_save
    self.received: str | None = None
    self._previous: dict[int, object] = {}
    self._end: socket.socket | None = None
    self._wakeup = -1

  def __enter__(self) -> 'StopSignals':
    if threading.current_thread() is not threading.main_thread():
      return self
    several = jax.distributed.is_initialized()
    for number in self.SIGNALS[several:]:
      note = _pass_on if several else self._note
      self._previous[number] = signal.signal(number, note)
    if not several:
      # Python runs its handlers between two of its own instructions, and a
      # compilation is one that takes minutes. This thread hears at once.
      heard, self._end = socket.socketpair()
      self._end.setblocking(False)
      self._wakeup = signal.set_wakeup_fd(
        self._end.fileno(), warn_on_full_buffer=False
      )
      threading.Thread(target=self._listen, args=[heard], daemon=True).start()
    return self

  def __exit__(self, *unused) -> None:
    self._restore()
    if self._end is not None:
      signal.set_wakeup_fd(self._wakeup)
      self._end.close()  # ends the thread, which closes the other end
      self._end = None

  def asked(self) -> str | None:
    """The signal that asks to stop now, or None.

    With several processes each of them must call this at the same places: they
    stop at the same call.
    """
    if not jax.distributed.is_initialized():
      return self.received
    if multihost_utils.reached_preemption_sync_point(next(_polls)):
      self.received = 'SIGTERM'
    return self.received

  def _listen(self, heard: socket.socket) -> None:
    asked = math.inf  # when the first SIGINT came
    with heard:
      while number := heard.recv(1):
        text, now = self.nothing_to_save, time.monotonic()
        if number[0] == signal.SIGINT and now - asked > _AGAIN_SECONDS:
          text = 'stopped at once. What was saved before is whole.'
        if number[0] == signal.SIGINT:
          asked = min(asked, now)
        if text is not None and number[0] in self.SIGNALS:
          name = signal.Signals(number[0]).name
          print(f'{name}: {text}', file=sys.stderr, flush=True)
          end(number[0])

  def _note(self, number: int, frame: FrameType | None) -> None:
    self.received = signal.Signals(number).name
    if number != signal.SIGINT:
      self._restore()

  def _restore(self) -> None:
    for number, handler in self._previous.items():
      if number == signal.SIGTERM and jax.distributed.is_initialized():
        continue  # JAX has taken it over meanwhile
      signal.signal(number, handler)  # type: ignore[arg-type]
    self._previous = {}


def end(number: int) -> None:
  """Ends this process at once: by SIGINT itself, else as Interrupted.

  A shell leaves a loop for a command that died of SIGINT, and not for one that
  exits with 130; it shows 130 for both.
  """
  if number == signal.SIGINT:
    ctypes.CDLL(None).signal(number, None)  # from any thread
    os.kill(os.getpid(), number)
  os._exit(_exit_code(number))


def _exit_code(number: int) -> int:
  return 128 + signal.SIGINT if number == signal.SIGINT else _stop_code


def _pass_on(number: int, frame: FrameType | None) -> None:
  os.kill(os.getpid(), signal.SIGTERM)
