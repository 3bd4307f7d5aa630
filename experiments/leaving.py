"""How a script leaves on Ctrl-C: at once, by one line, as a shell tool does.

Python hears a signal between two of its own instructions, and one of them may
be a compilation of minutes; what it raises then can arise in a callback of a
library, which drops it. So a thread hears SIGINT. It removes what is written
half, tells the child processes, prints one line and ends this process by the
signal itself: a shell shows 130, and leaves the loop that the script ran in,
which it does not for an exit code of 130.

This module is imported before JAX is, and needs the standard library only.
"""

import ctypes
import os
import pathlib
import select
import signal
import socket
import sys
import threading
import time
from types import FrameType

_WAIT_SECONDS = 20.0  # for children that save what they have
_LEAVING = threading.Lock()  # never released


def install() -> None:
  """Makes Ctrl-C end this process; only the first call does anything.

  Whoever installs another handler of SIGINT later, as a training does that has
  something to save, is left alone.
  """
  if '--multiprocessing-fork' in sys.orig_argv:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent tells the person
    return
  main = threading.current_thread() is threading.main_thread()
  if not main or signal.getsignal(signal.SIGINT) is _hear:
    return
  heard, end = socket.socketpair()
  end.setblocking(False)
  signal.signal(signal.SIGINT, _hear)
  signal.set_wakeup_fd(end.detach(), warn_on_full_buffer=False)
  threading.Thread(target=_listen, args=[heard], daemon=True).start()


def die(number: int) -> None:
  """Ends this process as a signal does by default, from any thread.

  Args:
    number: for example signal.SIGINT.
  """
  ctypes.CDLL(None).signal(number, None)  # Python allows the main thread only
  os.kill(os.getpid(), number)


def nobody_reads() -> bool:
  """Whether stdout is a pipe whose reader has gone, as that of `head` does."""
  poll = select.poll()
  try:
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
  except OSError:
    return False


def _hear(number: int, frame: FrameType | None) -> None:
  """The main thread's part: it does nothing more, wherever it is."""
  _leave()


def _listen(heard: socket.socket) -> None:
  while number := heard.recv(1):
    ours = signal.getsignal(signal.SIGINT) is _hear
    if number[0] == signal.SIGINT and ours:
      _leave()


def _leave() -> None:
  """Ends the process; returns in no thread."""
  if not _LEAVING.acquire(blocking=False):
    threading.Event().wait()  # another thread is about it
  _say(f'{_script()}: stopped by Ctrl-C.')
  writer = sys.modules.get('parallel_ar.training.run_directory')
  for draft in list(getattr(writer, 'DRAFTS', ())):
    draft.unlink(missing_ok=True)
  _stop_children()
  die(signal.SIGINT)


def _say(text: str) -> None:
  """One line, below a progress bar where there is one."""
  start = '\n' if os.isatty(2) else ''
  try:
    os.write(2, f'{start}{text}\n'.encode())
  except OSError:
    pass  # nobody listens


def _script() -> str:
  words = sys.orig_argv
  name = words[words.index('-m') + 1] if '-m' in words[:-1] else sys.argv[0]
  return pathlib.PurePath(name).name.removesuffix('.py').rpartition('.')[2]


def _stop_children() -> None:
  """Passes SIGINT on, and waits for those that do not ignore it (Linux)."""
  waiting = [child for child in _children() if not _ignores(child)]
  for child in waiting:
    try:
      os.kill(child, signal.SIGINT)
    except ProcessLookupError:
      pass
  end = time.monotonic() + _WAIT_SECONDS
  while time.monotonic() < end and any(map(_lives, waiting)):
    time.sleep(0.02)


def _children() -> list[int]:
  tasks = pathlib.Path('/proc/self/task').glob('*/children')
  try:
    return [int(child) for task in tasks for child in task.read_text().split()]
  except OSError:
    return []  # a thread ended meanwhile, or this kernel does not tell


def _status(process: int) -> dict[str, str]:
  try:
    text = pathlib.Path(f'/proc/{process}/status').read_text()
  except OSError:
    return {}
  return dict(
    line.split(':\t', 1) for line in text.splitlines() if ':\t' in line
  )


def _ignores(process: int) -> bool:
  """Whether it ignores SIGINT, as the resource tracker of Python does."""
  mask = int(_status(process).get('SigIgn', '0'), 16)
  return bool(mask >> (signal.SIGINT - 1) & 1)


def _lives(process: int) -> bool:
  return _status(process).get('State', 'Z')[0] not in 'ZX'
