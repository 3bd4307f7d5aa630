"""Times of programs that are run in turn.

On a machine that others use too, seconds say little: what two runs of one
program differ by is often more than what two programs differ by. The ratio of
two programs that ran within the same few seconds is far steadier. So every
round runs all programs, in turn forwards and backwards, so that a drift that
is linear in time hits both alike, and programs are compared round by round:

  r_k = first_k / second_k,   ratio = median_k r_k,   spread = quartiles of r_k

Nothing here knows of JAX: a program is a callable that returns when its work is
done. Work that is only dispatched (`jax.jit`) must be waited for inside.
"""

import os
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

QUIET_CORES = 0.3  # a round is quiet when others use less than this


class Rounds(NamedTuple):
  """What was measured, one entry for each program and round.

  Attributes:
    seconds: name -> float[rounds], wall seconds of one repetition.
    foreign: name -> float[rounds], cores that other processes kept busy
      meanwhile; nan where that cannot be told.
  """

  seconds: dict[str, np.ndarray]
  foreign: dict[str, np.ndarray]


class Summary(NamedTuple):
  """Median and quartiles of `size` values, in the unit of the values."""

  median: float
  low: float
  high: float
  size: int

  def text(self, scale: float = 1.0, digits: int = 2) -> str:
    """'median [low, high]' of the values times `scale`."""
    values = (self.median, self.low, self.high)
    median, low, high = (f'{scale * v:.{digits}f}' for v in values)
    return f'{median} [{low}, {high}]'


def in_turn(
  programs: Mapping[str, Callable[[], object]],
  *,
  rounds: int,
  warmup: int = 1,
  repeats: int = 1,
  clock: Callable[[], float] = time.perf_counter,
  foreign_clock: Callable[[], float | None] | None = None,
) -> Rounds:
  """Runs all programs in every round, and times each.

  Args:
    programs: name -> callable that returns when its work is done.
    rounds: number of timed rounds; odd ones run in reverse order.
    warmup: untimed runs of each program before the first round.
    repeats: runs of a program that one time is the mean of.
    clock: seconds.
    foreign_clock: CPU seconds that other processes have used so far, or None
      where that cannot be told; `foreign_seconds` of this process by default.

  Returns:
    Times and foreign load of every round.

  Raises:
    ValueError: no programs, or fewer than one round or repetition.
  """
  if not programs or rounds < 1 or repeats < 1 or warmup < 0:
    raise ValueError(
      'Timing needs at least one program, one round and one repetition; got '
      f'{len(programs)} programs, rounds={rounds}, repeats={repeats}, '
      f'warmup={warmup}.'
    )
  foreign_clock = foreign_clock or foreign_seconds
  for program in programs.values():
    for _ in range(warmup):
      program()
  seconds = {name: np.full(rounds, np.nan) for name in programs}
  foreign = {name: np.full(rounds, np.nan) for name in programs}
  names = list(programs)
  for k in range(rounds):
    for name in reversed(names) if k % 2 else names:
      others, start = foreign_clock(), clock()
      for _ in range(repeats):
        programs[name]()
      spent, after = clock() - start, foreign_clock()
      seconds[name][k] = spent / repeats
      if others is not None and after is not None and spent > 0:
        foreign[name][k] = (after - others) / spent
  return Rounds(seconds, foreign)


def summarize(values: ArrayLike) -> Summary:
  """Median and quartiles of a nonempty array of any shape."""
  flat = np.asarray(values, np.float64).reshape(-1)
  low, median, high = np.quantile(flat, [0.25, 0.5, 0.75])
  return Summary(float(median), float(low), float(high), flat.size)


def ratio(rounds: Rounds, first: str, second: str) -> Summary:
  """Summary of the time of `first` in units of that of `second`, by round.

  Args:
    rounds: of `in_turn`.
    first: name of the program above the line.
    second: name of the program below it.

  Returns:
    Median and quartiles of first_k / second_k.
  """
  return summarize(rounds.seconds[first] / rounds.seconds[second])


def quiet(rounds: Rounds, cores: float = QUIET_CORES) -> Rounds:
  """The rounds in which others used less than `cores` beside every program.

  Rounds whose foreign load is unknown count as quiet.
  """
  loads = np.stack(list(rounds.foreign.values()))
  keep = ~(loads >= cores).any(0)
  return Rounds(
    {name: values[keep] for name, values in rounds.seconds.items()},
    {name: values[keep] for name, values in rounds.foreign.items()},
  )


def foreign_seconds(
  own: Iterable[int] | None = None, root: str | os.PathLike[str] = '/proc'
) -> float | None:
  """CPU seconds that all but some processes have used since the machine began.

  Args:
    own: process ids to leave out; this process by default.
    root: where the kernel tells of processes.

  Returns:
    Seconds summed over cores, or None where there is no such file (the
    function reads Linux's), or one of `own` has ended.
  """
  own = (os.getpid(),) if own is None else own
  root = pathlib.Path(root)
  try:
    machine = root.joinpath('stat').read_text().split('\n', 1)[0].split()[1:]
    tick = os.sysconf('SC_CLK_TCK')
    # user, nice, system, idle, iowait, irq, softirq: neither idle nor stolen.
    busy = sum(int(v) for k, v in enumerate(machine[:7]) if k not in (3, 4))
    for pid in own:
      # utime and stime, counted from the end of the name in brackets.
      fields = root.joinpath(str(pid), 'stat').read_text().rpartition(')')[2]
      busy -= sum(int(v) for v in fields.split()[11:13])
  except (OSError, ValueError, IndexError):
    return None
  return busy / tick
