"""Batches: for training a pure function of (seed, step), for evaluation padded.

Training order. Epoch e is the permutation pi_e of the N examples that (seed,
e) gives; the stream pi_0, pi_1, ... is cut into batches of B, so batch `step`
holds the positions step*B .. step*B + B - 1 of the stream. Nothing is dropped,
an epoch's end may fall inside a batch, every example is seen once an epoch,
and there is no state to save: to resume, ask for the next step.
"""

import functools
import math
import multiprocessing
import operator
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from parallel_ar.data import dataset
from parallel_ar.data.dataset import Dataset

Batch = dict[str, Any]


class Batches:
  """Training batches; `batches[step]` is a pure function of (seed, step).

  Attributes:
    dataset: where the examples come from.
    batch_size: B.
    seed: of the order and of the dynamic binarization.
  """

  def __init__(
    self,
    source: Dataset,
    batch_size: int,
    seed: int,
    narrow: bool = False,
    workers: int = 0,
  ):
    self.dataset = source
    self._workers = workers
    self._ahead: _Ahead | None = None
    self._dtype = dtype(source.num_values) if narrow else np.dtype(np.int32)
    self.batch_size = batch_size
    self.seed = seed
    # The elements of the grain dataset are whole batches of indices, not
    # examples. Its own shuffle and batch run Python code for each example:
    # 1.2 to 2.2 ms for 100 images of MNIST, on 2 cores; a permutation and one
    # gather take 0.05 ms, and are just as stateless.
    self._indices = _Indices(len(source), batch_size, seed)
    self._batches = grain.MapDataset.source(self._indices).map_with_index(
      self._gather
    )

  def __getitem__(self, step: int) -> Batch:
    """{'x': [B, *E], 'context': [B, ...] or None} of a step >= 0."""
    step = operator.index(step)
    if step < 0:
      raise ValueError(f'Training batches have steps >= 0, got {step}.')
    return self._made(step, None)

  def part(self, step: int, rows: np.ndarray) -> Batch:
    """Rows of the batch of a step: what one of several hosts reads.

    `batches.part(step, rows)` is `batches[step]` cut to `rows`, bit for bit, so
    the batch does not depend on how many hosts read it.

    Args:
      step: from 0.
      rows: int64[n], indices into the batch.

    Returns:
      As `batches[step]`, with n rows.
    """
    return self._made(operator.index(step), rows)

  def close(self) -> None:
    """Ends the processes that read ahead; safe to call twice."""
    if self._ahead is not None:
      self._ahead.close()
      self._ahead = None

  def _made(self, step: int, rows: np.ndarray | None) -> Batch:
    """A batch, or rows of it: made here, or ahead by other processes."""
    if self._workers and self._ahead is None:
      self._ahead = _Ahead(self, step, rows, self._workers)
    if self._ahead is not None and self._ahead.step == step:
      return self._ahead.take()
    return self._gather(step, self._indices[step], rows)

  def __iter__(self) -> Iterator[Batch]:
    return self.starting_at(0)

  def starting_at(self, step: int) -> Iterator[Batch]:
    """Batches step, step + 1, ... made ahead of time by one thread.

    Raises:
      ValueError: a step below 0.
    """
    if step < 0:
      raise ValueError(f'Training batches have steps >= 0, got {step}.')
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(self._batches[step:].to_iter_dataset(options))

  def _gather(
    self, step: int, indices: np.ndarray, rows: np.ndarray | None = None
  ) -> Batch:
    mine = indices if rows is None else indices[rows]
    if self.dataset.binarize:
      # A part has the bits of the whole batch, which are drawn at once.
      random = dataset.random_state('bits', self.seed, step)
      x = dataset.bernoulli(self.dataset.x[indices], random)
      x = x if rows is None else x[rows]
    else:
      x = self.dataset.x[mine]
    context = self.dataset.context
    return {
      'x': x.astype(self._dtype, copy=False),
      'context': None if context is None else context[mine],
    }


def dtype(num_values: int) -> np.dtype:
  """The narrowest of uint8, uint16 and int32 that holds 0..num_values-1."""
  if num_values <= 2**8:
    return np.dtype(np.uint8)
  return np.dtype(np.uint16 if num_values <= 2**16 else np.int32)


def batches(
  source: Dataset,
  batch_size: int,
  seed: int = 0,
  *,
  narrow: bool = False,
  workers: int = 0,
) -> Batches:
  """Training batches of a dataset, for ever.

  Args:
    source: the dataset; one with binarize='dynamic' gets fresh bits, keyed by
      (seed, step), in every batch.
    batch_size: B, at most the number of examples.
    seed: of the order, reshuffled every epoch, and of the bits.
    narrow: x of `dtype(num_values)`, which a device widens, and not int32.
    workers: processes that read ahead, from the first step that is asked for
      on, in turn; the batches are the same. For examples on disk: each process
      gets a copy of what lies in memory. Call `close` at the end.

  Returns:
    Batches.

  Raises:
    ValueError: a batch size that is not in 1..N, or a negative seed.
  """
  if not 1 <= batch_size <= len(source):
    raise ValueError(
      f'The {source.split!r} split of {source.name!r} has {len(source)} '
      f'examples, so a batch must have 1 to {len(source)} of them, got '
      f'{batch_size}. Choose a smaller batch or a larger source.'
    )
  if seed < 0:
    raise ValueError(f'The seed of the data must be >= 0, got {seed}.')
  return Batches(source, batch_size, seed, narrow, workers)


def padded_batches(
  source: Dataset, batch_size: int
) -> Iterator[tuple[Batch, np.ndarray]]:
  """`Padded` in turn, each batch with its mask: bool[B], True for examples."""
  batches = Padded(source, batch_size)
  return ((batches[i], batches.mask(i)) for i in range(len(batches)))


class Padded:
  """The whole split once, in its own order, in batches of one shape.

  The last batch is filled with copies of the last example.

  Attributes:
    batch_size: B.
  """

  def __init__(self, source: Dataset, batch_size: int, narrow: bool = False):
    """Draws the bits of a dynamically binarized source.

    Args:
      source: the dataset; grey levels are drawn once, from
        `dataset.EVALUATION_SEED`.
      batch_size: B >= 1.
      narrow: as in `batches`.

    Raises:
      ValueError: a batch size below 1.
    """
    if batch_size < 1:
      raise ValueError(
        f'A batch must have at least 1 example, got {batch_size}.'
      )
    self.batch_size = batch_size
    self._source = dataset.binarize_once(source)
    self._dtype = dtype(source.num_values) if narrow else np.dtype(np.int32)

  def __len__(self) -> int:
    return -(-len(self._source) // self.batch_size)

  def __getitem__(self, index: int) -> Batch:
    """{'x': [B, *E], 'context': [B, ...] or None}."""
    return self.part(index, np.arange(self.batch_size))

  def part(self, index: int, rows: np.ndarray) -> Batch:
    """Rows int64[n] of a batch, as `Batches.part`."""
    at = np.minimum(index * self.batch_size + rows, len(self._source) - 1)
    context = self._source.context
    return {
      'x': self._source.x[at].astype(self._dtype, copy=False),
      'context': None if context is None else context[at],
    }

  def mask(self, index: int) -> np.ndarray:
    """bool[B]: False where a batch is filled up."""
    rows = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
    return rows < len(self._source)


def steps_per_epoch(source: Dataset, batch_size: int) -> float:
  """N / B, the number of batches that show each example once, as a fraction."""
  return len(source) / batch_size


def num_steps(source: Dataset, batch_size: int, epochs: float) -> int:
  """Fewest steps that show at least `epochs` times N examples."""
  return math.ceil(epochs * len(source) / batch_size)


class _Ahead:
  """Batches, or the same rows of each, from a step on, made by processes.

  Attributes:
    step: of the batch that `take` gives next.
  """

  def __init__(
    self,
    batches: Batches,
    step: int,
    rows: np.ndarray | None,
    workers: int,
  ):
    self.step = step
    plain = Batches(batches.dataset, batches.batch_size, batches.seed)
    plain._dtype = batches._dtype
    made = grain.MapDataset.source(batches._indices).map_with_index(
      functools.partial(_part, plain, rows)
    )
    options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=2)
    self._batches = iter(made[step:].to_iter_dataset().mp_prefetch(options))

  def take(self) -> Batch:
    self.step += 1
    return next(self._batches)

  def close(self) -> None:
    self._batches.close()


def _part(
  batches: Batches, rows: np.ndarray | None, step: int, indices: np.ndarray
) -> Batch:
  _end_with_the_parent()
  return batches._gather(step, indices, rows)


@functools.cache
def _end_with_the_parent() -> None:
  """Ends this worker when the training dies, also by kill -9.

  Grain's workers would wait for ever for room in a queue that nobody reads.
  """
  parent = multiprocessing.parent_process()
  if parent is None:
    return

  def watch() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


class _Indices:
  """Batch `step` of the shuffled stream, as indices: int64[B].

  A random access source in the sense of grain, of unlimited length.
  """

  def __init__(self, num_examples: int, batch_size: int, seed: int):
    self._num_examples = num_examples
    self._batch_size = batch_size
    self._seed = seed
    self._epochs: dict[int, np.ndarray] = {}

  def __getstate__(self) -> dict[str, Any]:
    return vars(self) | {'_epochs': {}}

  def _order(self, epoch: int) -> np.ndarray:
    if epoch not in self._epochs:
      # Two epochs are kept: a batch may lie across the border of two.
      kept = {e: o for e, o in self._epochs.items() if e == epoch - 1}
      random = dataset.random_state('order', self._seed, epoch)
      self._epochs = kept | {epoch: random.permutation(self._num_examples)}
    return self._epochs[epoch]

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, step: int) -> np.ndarray:
    epoch, first = divmod(step * self._batch_size, self._num_examples)
    rows = self._order(epoch)[first : first + self._batch_size]
    missing = self._batch_size - len(rows)
    if missing:
      rows = np.concatenate([rows, self._order(epoch + 1)[:missing]])
    return rows
