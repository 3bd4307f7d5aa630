"""Where the numbers of a run go.

metrics.jsonl is the record: one JSON object a line, written and flushed line
by line, so it survives a kill; in a bucket it is sent before each checkpoint
and now and then. A resumed run first cuts it back to the step it
resumes from; no step is told twice. TensorBoard scalars are a view of the same
records, and a progress bar (on a terminal) or plain lines tell a person.
"""

import contextlib
import datetime
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from parallel_ar.distributed import multihost
from parallel_ar.training import boards, bucket, disk, run_directory
from parallel_ar.types import Params

PathLike = str | os.PathLike[str]


# Of a record: what differs between two runs of the same bits.
TIMES = (
  'steps_per_second',
  'tokens_per_second',
  'flops_per_second',
  'share_of_peak',
  'data_wait_seconds',
  'host_seconds_per_step',
  'read_seconds_per_step',
)


_COLUMNS = 100
# Of a record: what a line on stderr tells, by its short name.
_SHOWN = {
  'loss_nats': 'loss',
  'nats': 'nats',
  'standard_error': '+-',
  'bits_per_dim': 'bits/dim',
  'grad_norm': '|grad|',
  'steps_per_second': 'steps/s',
  'share_of_peak': 'of peak',
  'host_seconds_per_step': 'host s',
}


class MetricWriter:
  """Writes the records of a run; close it in `finally`.

  A record is {'step', 'kind', <name>: <number>...}; names carry their units.
  Numbers that JSON lacks are written as the strings 'NaN', 'Infinity' and
  '-Infinity', which `float` reads back.
  """

  def __init__(
    self,
    directory: PathLike,
    *,
    start: int,
    steps: int,
    tensorboard: bool = True,
    wandb: str = '',
    histograms: bool = False,
    facts: Mapping[str, str] | None = None,
    progress: bool | None = None,
  ):
    """Opens the files, and cuts back what lies after `start`.

    Args:
      directory: working directory of the run.
      start: updates done before this process; 0 for a new run.
      steps: updates of the whole run.
      tensorboard: whether to write for TensorBoard, see `boards`.
      wandb: project at Weights & Biases; '' for none.
      histograms: whether boards get the parameters beside sample grids.
      facts: what boards tell of the run, 'config' as JSON and 'model'.
      progress: True for a bar, False for silence, None for a bar on a
        terminal and plain lines elsewhere.

    Raises:
      ImportError: what a board needs is not installed.
    """
    self._spool = None
    if bucket.is_address(directory):
      self._spool = bucket.Spool(bucket.place(directory))
      self._spool.fetch('metrics.jsonl')
      directory = self._spool.folder
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / 'metrics.jsonl'
    truncate(path, start)
    self._steps = steps
    self._lines = progress is None and not sys.stderr.isatty()
    self._clock = (time.monotonic(), start)
    self._rate = math.nan
    self._bar = None
    self._histograms = histograms
    self._boards = boards.opened(
      directory, start, tensorboard=tensorboard, wandb=wandb, facts=facts
    )
    if progress or (progress is None and not self._lines):
      self._bar = _bar(start, steps)
    self._path = path
    self._file = path.open('a', buffering=1)

  def write(self, kind: str, step: int, values: dict[str, float]) -> None:
    """Writes one record.

    Args:
      kind: 'train' or 'valid'.
      step: updates done.
      values: numbers by name.
    """
    values = {name: v for name, v in values.items() if not _unknown(name, v)}
    record = {'step': step, 'kind': kind}
    record |= {name: _json_number(value) for name, value in values.items()}
    self._keep_name()
    self._file.write(json.dumps(record) + '\n')
    if self._spool is not None:
      self._spool.send_soon()
    for name, value in values.items():
      if math.isfinite(value):  # TensorBoard draws no others, and warns
        for board in self._boards:
          board.scalar(f'{kind}/{name}', value, step)
    if self._lines or kind != 'train':
      self.say(self._line(kind, step, values))

  def _line(self, kind: str, step: int, values: dict[str, float]) -> str:
    """What a person is told of a record: what fits, the first names first."""
    begin = f'step {step}/{self._steps} {kind}: '
    line, left = begin, self._left(step)
    for field, name in _SHOWN.items():
      more = f'{", " * (line != begin)}{name} {values.get(field, 0):.5g}'
      if field in values and len(line + more + left) <= _COLUMNS:
        line += more
    return line + left

  def show(self, step: int, picture: pathlib.Path, params: Params) -> None:
    """Gives the boards a sample grid, and histograms where they are wanted."""
    asked = params if self._histograms else None
    boards.show(self._boards, step, picture, asked)

  def sync(self) -> None:
    """Waits until the records are on the disk: a power cut leaves them."""
    if self._spool is not None:
      for board in self._boards:
        board.flush()
      self._spool.send()
      return
    with contextlib.suppress(FileNotFoundError):
      disk.sync(self._path)

  def _keep_name(self) -> None:
    """Begins the file again where it was removed under the run."""
    if os.path.exists(self._path):
      return
    print(
      f'{self._path} was removed under this run: its records so far are gone, '
      'and it begins again.',
      file=sys.stderr,
      flush=True,
    )
    self._file.close()
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._file = self._path.open('a', buffering=1)

  def _left(self, step: int) -> str:
    """', ETA h:mm:ss' from the last rate, where there is one."""
    if not self._rate > 0 or step >= self._steps:
      return ''
    seconds = round((self._steps - step) / self._rate)
    return f', ETA {datetime.timedelta(seconds=seconds)}'

  def start_clock(self, step: int) -> None:
    """Starts the rate after the first step, whose time is compilation."""
    self._clock = (time.monotonic(), step)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves the time of what is done inside out of the rate."""
    begin = time.monotonic()
    try:
      yield
    finally:
      then, step = self._clock
      self._clock = (then + time.monotonic() - begin, step)

  def rate(self, step: int) -> float:
    """Steps per second since the last call; nan where nothing was timed."""
    now, (then, before) = time.monotonic(), self._clock
    self._clock = (now, step)
    timed = step > before and now > then
    self._rate = (step - before) / (now - then) if timed else math.nan
    return self._rate

  def advance(self, step: int, values: dict[str, float] | None = None) -> None:
    """Moves the progress bar, if there is one, to `step`."""
    if self._bar is None:
      return
    if values is not None:
      nats, bits = values['loss_nats'], values['bits_per_dim']
      told = f'{nats:.3f} nats, {bits:.4f} bits/dim'
      self._bar.set_postfix_str(told, refresh=False)
    self._bar.update(step - self._bar.n)

  def say(self, text: str) -> None:
    """Tells a person one line, above the bar where there is one."""
    if self._bar is not None:
      self._bar.write(text, file=sys.stderr)
    elif self._lines:
      print(text, file=sys.stderr, flush=True)

  def close(self) -> None:
    """Flushes and closes everything; safe to call twice."""
    self._file.close()
    if self._bar is not None:
      self._bar.close()
    for board in self._boards:
      board.close()
    self._boards = []
    if self._spool is not None:
      self._spool.close()


class SilentWriter(MetricWriter):
  """Of a process that is not the first: keeps the clock and writes nothing."""

  def __init__(self, start: int):
    """Starts the clock.

    Args:
      start: updates done before this process.
    """
    self._clock = (time.monotonic(), start)
    self._rate = math.nan
    self._lines, self._bar, self._boards = False, None, []
    self._histograms = False

  def sync(self) -> None:
    """Nothing."""

  def write(self, kind: str, step: int, values: dict[str, float]) -> None:
    """Does nothing: process 0 has the same values."""

  def close(self) -> None:
    """Does nothing."""


def writer(directory: PathLike, **options: Any) -> MetricWriter:
  """The writer of this process; of several, the first one writes."""
  if multihost.is_first():
    return MetricWriter(directory, **options)
  return SilentWriter(options['start'])


def truncate(path: PathLike, step: int) -> None:
  """Drops the records after `step`, and a last line that was cut off.

  Args:
    path: a metrics.jsonl, which need not exist.
    step: last step to keep.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return
  kept = [record for record in read(path) if record['step'] <= step]
  lines = [json.dumps(record) + '\n' for record in kept]
  run_directory.replace(path, ''.join(lines))


def read(path: PathLike) -> list[dict[str, Any]]:
  """The records of a metrics.jsonl; a line that was cut off is left out.

  Raises:
    ValueError: a line that no run writes; it is named.
  """
  records = []
  lines = bucket.content(path).splitlines()
  for number, line in enumerate(lines, 1):
    try:
      record = json.loads(line)
    except ValueError:
      if number < len(lines) and not _torn(lines[number - 1 :]):
        _refuse(path, number)
      break  # a kill in the middle of a line, or a power cut
    if not isinstance(record, dict) or not isinstance(record.get('step'), int):
      _refuse(path, number)
    records.append(record)
  return records


def _torn(lines: list[bytes]) -> bool:
  """Whether nothing that a run writes follows a torn line."""
  return not any(line.startswith(b'{"step"') for line in lines[1:])


def _refuse(path: PathLike, number: int) -> NoReturn:
  raise ValueError(
    f'Line {number} of {path} is no record of a run. Remove that line, or move '
    'the file away: the parameters do not hang on it, and the run goes on.'
  )


def _unknown(name: str, value: float) -> bool:
  """Whether it is a rate of no time yet, or the error of one example."""
  return name in (*TIMES, 'standard_error') and math.isnan(value)


def _json_number(value: float) -> float | str:
  if isinstance(value, float) and not math.isfinite(value):
    return {math.inf: 'Infinity', -math.inf: '-Infinity'}.get(value, 'NaN')
  return value


def _bar(start: int, steps: int) -> Any:
  import tqdm

  return tqdm.tqdm(
    initial=start, total=steps, unit='step', dynamic_ncols=True, smoothing=0.1
  )
