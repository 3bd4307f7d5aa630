"""The host's side of the steps: batches ahead of them, and whose time passes.

A device waits for nobody if its next step is dispatched before the last has
ended, with a batch that lies on it by then. So a thread reads the batches and
puts them on the devices, two ahead; the loop dispatches a step while the one
before runs, and fetches numbers only where they are logged or a save waits for
them. On a CPU it waits for two steps at a time and dispatches two: a host that
wakes up finds other data in its caches, and takes three times as long. An
accelerator would be left one step only, so there it waits for each. What the
loop itself takes is what bounds the steps of a small model, and is measured as
CPU time of its thread:

  host = (thread_time at the end - at the begin - within `away`) / steps

Waiting for data or devices is not in it, nor that XLA's own threads take the
cores of a CPU from it. The thread of the batches is measured alike, apart.
"""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import jax

from parallel_ar.distributed import hardware
from parallel_ar.training import outcome
from parallel_ar.types import Array

_AHEAD = 2  # batches that lie ready beside the one of the step
_IN_FLIGHT = 2  # steps that are dispatched and not waited for


class Pace:
  """Batches, steps in flight and times of one run; close it in `finally`.

  Attributes:
    data_seconds: waited for batches since the last record.
    pending: (step, metrics, seen) of the last step, until it is fetched.
  """

  def __init__(self, load: Callable[[int], Any], stop: int, *, tokens: int):
    """Starts nothing yet.

    Args:
      load: index -> batch on the devices, a pure function. It is called in a
        thread, under the mesh in force now.
      stop: batches that the run has; none after them is read ahead.
      tokens: positions of a batch.
    """
    self._load, self._stop, self._tokens = load, stop, tokens
    self._mesh = jax.sharding.get_mesh()
    self._reading = 0.0  # seconds of the thread
    self._since = 0.0  # when the host's own time went on
    self._thread = futures.ThreadPoolExecutor(1, 'batches')
    self._batches: dict[int, futures.Future] = {}
    self._flight: collections.deque[Array] = collections.deque()
    self._together = 2 if jax.default_backend() == 'cpu' else 1
    self.pending: tuple[int, dict[str, Array], outcome.Seen] | None = None
    self.start(0)

  def batch(self, index: int) -> Any:
    """The batch of a step, from 0; those after it are read meanwhile."""
    for old in [i for i in self._batches if i < index]:
      del self._batches[old]
    for i in (index, *range(index + 1, min(index + 1 + _AHEAD, self._stop))):
      if i not in self._batches:
        self._batches[i] = self._thread.submit(self._read, i)
    ready = self._batches[index]
    if ready.done():  # a step spends as little as it can
      return ready.result()
    begin = time.monotonic()
    with self.away():
      batch = ready.result()
    self.data_seconds += time.monotonic() - begin
    return batch

  def dispatched(
    self, at: int, metrics: dict[str, Array], seen: outcome.Seen
  ) -> None:
    """Notes a step, and waits for the oldest where three are in flight.

    On a CPU for the two oldest.

    Args:
      at: its number.
      metrics: of the step, float[] each, not there yet perhaps.
      seen: after it.
    """
    self.pending = at, metrics, seen
    self._flight.append(metrics['loss_nats'])
    if len(self._flight) > _IN_FLIGHT:
      oldest = [self._flight.popleft() for _ in range(self._together)]
      with self.away():
        oldest[-1].block_until_ready()

  def fetch(self) -> tuple[int, dict[str, float], outcome.Seen]:
    """Takes the pending step off the devices, with a number for each array."""
    assert self.pending is not None
    at, metrics, seen = self.pending
    self.pending = None
    with self.away():
      metrics, seen = jax.device_get((metrics, seen))
    return at, {name: float(v) for name, v in metrics.items()}, seen

  @contextlib.contextmanager
  def away(self) -> Iterator[None]:
    """Leaves what is done inside out of the host's own time."""
    self._host += time.thread_time() - self._since
    try:
      yield
    finally:
      self._since = time.thread_time()

  def start(self, at: int, flops: float = math.nan) -> None:
    """Counts times from step `at` on.

    Args:
      at: updates done.
      flops: operations of one step, on all devices.
    """
    self._flops = flops
    self._restart(at)

  def rates(self, at: int, steps_per_second: float) -> dict[str, float]:
    """How fast the steps since the last call were; for the record of a step.

    Args:
      at: updates done.
      steps_per_second: of them.

    Returns:
      Numbers by name; the share is of the peak in bf16 (`hardware`), where the
      devices are in that table.
    """
    host = self._host + time.thread_time() - self._since
    read = self._reading - self._told
    steps = at - self._at
    flops = steps_per_second * self._flops
    peak = hardware.peak(jax.devices())
    found = {
      'steps_per_second': steps_per_second,
      'tokens_per_second': steps_per_second * self._tokens,
      'flops_per_second': flops,
      'share_of_peak': flops / peak if peak else math.nan,
      'data_wait_seconds': self.data_seconds,
      'host_seconds_per_step': host / steps if steps else math.nan,
      'read_seconds_per_step': read / steps if steps else math.nan,
    }
    self._restart(at)
    return found

  def _restart(self, at: int) -> None:
    self._at, self._host, self.data_seconds = at, 0.0, 0.0
    self._since = time.thread_time()
    self._told = self._reading

  def close(self) -> None:
    """Ends the thread; safe to call twice."""
    self._thread.shutdown(cancel_futures=True)
    self._batches.clear()

  def _read(self, index: int) -> Any:
    begin = time.thread_time()
    with jax.set_mesh(self._mesh):  # a mesh is in force in one thread
      batch = self._load(index)
    self._reading += time.thread_time() - begin
    return batch
