"""Why a checkpoint cannot be read: it is damaged, or the disk does not answer.

A damaged step is stepped over and moved aside; one that a disk, a network or a
full memory kept from being read is as good as before, and must stay. So damage
is only what is proved: a checksum, a description or a file that is not what was
written, while the disk gives every byte of the step.
"""

import errno
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from parallel_ar.distributed import multihost
from parallel_ar.training import bucket, disk
from parallel_ar.training.checkpoint_meta import BrokenCheckpoint, OtherRunError

# Seconds before the next try where the disk does not answer.
WAITS = (0.1, 0.5, 2.0)

# What tells of the names that were found, and not of the disk.
_NAMES = (
  errno.ENOENT,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.EINVAL,
  errno.ELOOP,
  errno.ENAMETOOLONG,
)
# TensorStore raises ValueError for all, with one of these at the front.
_OF_THE_DISK = re.compile(
  r'(UNKNOWN|PERMISSION_DENIED|ABORTED|RESOURCE_EXHAUSTED|UNAVAILABLE'
  r'|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAUTHENTICATED): '
)
_STATUS = re.compile('[A-Z]+(_[A-Z]+)*: ')  # these and all others
_VERDICTS = ('good', 'refused', 'damaged', 'unread')  # from best to worst


def judge(error: Exception | None, step: pathlib.Path) -> str:
  """What the error of a read means, in one word.

  Args:
    error: what was raised; None for nothing.
    step: directory that was read.

  Returns:
    'good'; 'refused' for a checkpoint of another run; 'damaged' where that is
    proved; 'unread' for all else.
  """
  if error is None:
    return 'good'
  if isinstance(error, OtherRunError):
    return 'refused'
  if any(_passes(one) for one in _chain(error)):
    return 'unread'
  try:
    (bucket if bucket.is_address(step) else disk).read_all(step)
  except OSError as problem:
    return 'unread' if _passes(problem) else 'damaged'
  return 'damaged'


def attempt(
  read: Callable[[], Any], step: pathlib.Path
) -> tuple[str, Any, Exception | None]:
  """Reads, and again where it may help; all processes alike.

  Damage is believed when it is seen twice, a disk that does not answer after
  `WAITS`.

  Returns:
    (the verdict of all processes, see `judge`, what was read, the error).
  """
  last, waits = '', list(WAITS)
  while True:
    found, problem = None, None
    try:
      found = read()
    except Exception as error:
      problem = error
    answers = multihost.gather('restore', judge(problem, step))
    verdict = max(answers, key=_VERDICTS.index)
    if verdict in ('good', 'refused') or (verdict == last == 'damaged'):
      return verdict, found, problem
    if verdict == 'unread':
      if not waits:
        return verdict, found, problem
      time.sleep(waits.pop(0))
    last = verdict


def of_storage(error: BaseException | None, place: pathlib.Path) -> bool:
  """Whether a disk, a network or a bucket raised an error, and no bug.

  Args:
    error: of a save.
    place: what was written lies there; orbax names it in its `ValueError`s.
  """
  while error is not None:
    if isinstance(error, OSError | BrokenCheckpoint) or bucket.of_client(error):
      return True
    words = str(error)
    said = _STATUS.match(words) or str(place) in words
    if isinstance(error, ValueError) and said:
      return True
    error = error.__cause__
  return False


def reason(error: Exception | None) -> str:
  """One short line of an error."""
  if error is None:
    return 'another process cannot read it'
  text = ' '.join(str(error).split()).partition(' [tensorstore')[0]
  if len(text) > 200:  # TensorStore tells the cause at the end
    text = f'{text[:60]} ... {text[-130:]}'
  return f'{type(error).__name__}: {text}'.removesuffix(': ')


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def _passes(error: BaseException) -> bool:
  """Whether a second try may succeed, so that this is no proof of damage."""
  if isinstance(error, MemoryError | TimeoutError | jax.errors.JaxRuntimeError):
    return True
  if isinstance(error, OSError):
    return error.errno is not None and error.errno not in _NAMES
  return bucket.of_client(error) or bool(_OF_THE_DISK.match(str(error)))
