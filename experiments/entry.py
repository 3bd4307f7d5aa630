"""How every script starts and how it fails.

A mistake in a flag, a config, a file or a checkpoint ends with one paragraph on
stderr and exit code 1, and no traceback; `--traceback` shows where it arose.
"""

import errno
import functools
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments import hosts, leaving, options
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import multihost, sharding
from parallel_ar.training import bucket, interrupt, results

_TRACEBACK = flags.DEFINE_bool(
  'traceback', False, 'Show where an error arose, and not only what it says.'
)

# What the library raises on purpose; anything else is a bug and shows itself.
_TAUGHT = (
  ValueError,
  OSError,
  RuntimeError,
  ModuleNotFoundError,
  app.UsageError,
)
# ml_collections raises these for a wrong type in --config.
_PARSING = (*_TAUGHT, AttributeError, KeyError, TypeError, flags.Error)

_LAST_SECONDS = 2.0  # of process 0, after it has failed

# Of a file, by the system's number, what a person reads.
_OF_FILE = {
  errno.ENOENT: 'there is no such file or directory. Look at the path.',
  errno.EISDIR: 'this is a directory, where a file is expected.',
  errno.ENOTDIR: 'a part of this path is a file, and no directory.',
  errno.EACCES: 'you may not read or write here; look at its permissions.',
  errno.EPERM: 'you may not read or write here; look at its permissions.',
  errno.EROFS: 'nothing can be written here: the disk is read-only.',
  errno.ENOSPC: 'the disk is full. Make room, or name a place on another.',
  errno.EDQUOT: 'your quota is used up. Make room, or name another place.',
  errno.ENAMETOOLONG: 'the name is too long for this disk.',
  errno.ELOOP: 'its symbolic links lead in a circle.',
}
# What Python says of a flag that is no number -> what a person reads.
_PLAIN = {
  'invalid literal for int() with base 10:': 'expected a whole number, not',
  'could not convert string to float:': 'expected a number, not',
}


def run(
  main: Callable[[], None],
  *,
  connects: bool = False,
  takes: flags.FlagHolder | None = None,
) -> None:
  """Parses the flags, calls `main` and ends the process.

  Args:
    main: the script; takes no arguments, since flags are global.
    connects: it is one job with other processes, see `hosts.connect`; any other
      script runs in process 0 alone.
    takes: the flag that a word without a name is the value of.
  """
  leaving.install()
  begin = functools.partial(start, main, connects=connects, takes=takes)
  app.run(begin, flags_parser=parse)


def start(
  main: Callable[[], None],
  argv: Sequence[str],
  *,
  connects: bool = False,
  takes: flags.FlagHolder | None = None,
) -> None:
  """Calls `main` once the flags are parsed; a mistake ends the process."""
  words = list(argv[1:])
  if takes is not None and takes.value is None and words:
    flags.FLAGS[takes.name].value = words.pop(0)
  if words:
    _fail(
      ValueError(
        f'Unexpected arguments {" ".join(words)}: every option is a flag, '
        '--name=value. --help lists them.'
      )
    )
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # orbax tells every file it moves
  results.commit()  # of the code that starts now
  try:
    hosts.choose_platform()
    if not connects and not hosts.alone():
      return
    main()
    sys.stdout.flush()
  except interrupt.Interrupted as stop:
    if stop.number == signal.SIGINT:
      leaving.die(signal.SIGINT)
    raise
  except Exception as error:
    if not isinstance(error, _TAUGHT):
      if not bucket.of_client(error):
        raise
      error = bucket.told(error)
    if isinstance(error, BrokenPipeError) and leaving.nobody_reads():
      leaving.die(signal.SIGPIPE)
    if _TRACEBACK.value or isinstance(error, jax.errors.JaxRuntimeError):
      raise
    _fail(error)


def require(flag: flags.FlagHolder) -> Any:
  """The value of a flag that has no sensible default.

  Raises:
    ValueError: it was not given.
  """
  if flag.value is None:
    raise ValueError(f'--{flag.name} is needed. --help explains it.')
  return flag.value


def mesh(text: str | None, config: ConfigDict) -> Mesh:
  """The mesh of a flag such as 'data=4,fsdp=2', or else that of a run.

  Raises:
    ValueError: it does not fit the devices there are, or the family.
  """
  sizes = config.get('mesh', {'data': -1})
  try:
    made = mesh_lib.make(mesh_lib.parse(text) if text else sizes)
    sharding.check(config.model.name, made)
  except ValueError as error:
    if text:
      raise
    raise ValueError(
      f'{error} The mesh is that of the run; --mesh=data=-1 takes another.'
    ) from error
  return made


def parse(argv: list[str]) -> list[str]:
  """Parses the flags of a script; a mistake ends the process."""
  try:
    rest = flags.FLAGS(options.with_files(flags.FLAGS, argv))
    options.settle(flags.FLAGS, argv)
    return rest
  except _PARSING as error:
    if any(a.lstrip('-').startswith('traceback') for a in argv):
      raise
    _fail(error)
    raise  # not reached: _fail leaves


def _fail(error: Exception) -> None:
  text = str(error.args[0] if isinstance(error, KeyError) else error)
  if isinstance(error, AttributeError | KeyError | TypeError):
    text = f'the flag --config has a value that does not fit: {text}'
  if isinstance(error, OSError) and error.errno and error.filename is not None:
    if error.strerror == os.strerror(error.errno):  # said by no one here
      why = _OF_FILE.get(error.errno, f'{error.strerror}.')
      text = f'{error.filename}: {why}'
  for foreign, plain in _PLAIN.items():
    text = text.replace(foreign, plain)
  name = sys.argv[0].rpartition('/')[2].removesuffix('.py')
  paragraph = textwrap.fill(
    f'{name}: {text or type(error).__name__}',
    width=80,
    break_long_words=False,
    break_on_hyphens=False,
  )
  print(paragraph, file=sys.stderr, flush=True)
  if jax.distributed.is_initialized():
    # The usual exit waits for the other processes, which wait for this one.
    # Without process 0 JAX ends them; most are about to say what it has said.
    time.sleep(_LAST_SECONDS * multihost.coordinates())
    os._exit(1)
  sys.exit(1)
