"""Signals that ask a run to stop: finish the step, save, leave."""

import signal
import threading
from types import FrameType

EXIT_CODE = 75  # "try again later": the same command goes on where it stopped


class Interrupted(SystemExit):
  """A signal stopped the run after its state was saved.

  A SystemExit, so that an uncaught one ends the process with EXIT_CODE.

  Attributes:
    step: updates done, all of them saved.
  """

  def __init__(self, signal_name: str, step: int, directory: str):
    super().__init__(EXIT_CODE)
    self.step = step
    self.message = (
      f'{signal_name}: stopped after step {step}, which is saved in '
      f'{directory}. The same command goes on from there.'
    )

  def __str__(self) -> str:
    return self.message


class StopSignals:
  """Notes SIGTERM and SIGINT instead of dying; a context manager.

  The second signal does what it always does. Outside the main thread, where
  Python allows no handlers, nothing is installed.
  """

  _SIGNALS = (signal.SIGTERM, signal.SIGINT)

  def __init__(self):
    self.received: str | None = None
    self._previous = {}

  def __enter__(self) -> 'StopSignals':
    if threading.current_thread() is threading.main_thread():
      for number in self._SIGNALS:
        self._previous[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *unused) -> None:
    self._restore()

  def _note(self, number: int, frame: FrameType | None) -> None:
    self.received = signal.Signals(number).name
    self._restore()

  def _restore(self) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)
    self._previous = {}
