"""A trace of a few training steps, for TensorBoard, XProf or Perfetto."""

import contextlib
import pathlib
from typing import Any

import jax

from parallel_ar.training import bucket

_NOTHING = contextlib.nullcontext()
_WARM_UP = 2  # steps that are left out: compilation, and one after it


class Profile:
  """Traces `steps` steps once the first ones are done; close it in `finally`.

  The trace lies in `directory`: plugins/profile/<time>/*.xplane.pb.
  """

  def __init__(self, directory: pathlib.Path, start: int, steps: int):
    """Traces nothing yet.

    Args:
      directory: of the trace.
      start: updates done before this process.
      steps: updates to trace; 0 traces none.
    """
    self._spool = None
    if bucket.is_address(directory) and steps:
      self._spool = bucket.Spool(directory)
    self.directory = self._spool.folder if self._spool else directory
    self._first = start + _WARM_UP + 1
    self._after = self._first + steps
    self._running = False
    self._wanted = steps > 0

  def step(self, at: int, done: Any) -> contextlib.AbstractContextManager:
    """Starts or stops the trace, and names the step that follows in it.

    Args:
      at: the update that follows, counted from 1.
      done: arrays of the update before; waited for at both ends of the trace,
        so that it holds whole steps.

    Returns:
      A context for the update.
    """
    if self._wanted and at == self._first:
      jax.block_until_ready(done)
      self.directory.mkdir(parents=True, exist_ok=True)
      jax.profiler.start_trace(str(self.directory))
      self._running = True
    elif self._running and at == self._after:
      jax.block_until_ready(done)
      self.close()
    if not self._wanted:
      return _NOTHING
    return jax.profiler.StepTraceAnnotation('train', step_num=at)

  def close(self) -> None:
    """Ends a trace that is running."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
    if self._spool is not None:
      self._spool.close()
