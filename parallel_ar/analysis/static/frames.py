"""Which line of the user's made an operation, below any framework.

A frame belongs to a framework if its file lies in the directory of that module
as it was imported, wherever that is: a path of the user's own may hold any of
their names.
"""

import functools
import os
import sys
import sysconfig
from typing import Any

_NAMES = (
  'absl beartype chex einops equinox flax haiku jax jaxlib jaxtyping numpy '
  'optax penzai transformers typeguard'
).split()


def of_framework(path: str) -> bool:
  """Whether a file is one of a framework or of Python itself."""
  return os.path.abspath(path).startswith(_directories())


def _directories() -> tuple[str, ...]:
  loaded = tuple(name for name in _NAMES if name in sys.modules)
  return _of_modules(loaded)


@functools.lru_cache
def _of_modules(names: tuple[str, ...]) -> tuple[str, ...]:
  found = []
  for name in names:
    file = getattr(sys.modules[name], '__file__', None)
    if file:
      found.append(os.path.dirname(os.path.abspath(file)) + os.sep)
  python = os.path.abspath(sysconfig.get_paths()['stdlib']) + os.sep
  # Packages are installed below Python's own files, and are not its own.
  own = (os.path.join(python, name) for name in os.listdir(python))
  found += [path for path in own if 'site-packages' not in path]
  return tuple(found)


def place_of(eqn: Any) -> tuple[str, str]:
  """('file.py:line', function) of the user's line that made an operation.

  The innermost frame that is no framework's; where all are, the innermost.
  """
  trace = getattr(eqn.source_info, 'traceback', None)
  frames = [] if trace is None else list(trace.frames)
  own = [f for f in frames if not of_framework(f.file_name)]
  here = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'check.py')
  mine = [f for f in own if os.path.abspath(f.file_name) != here]
  for frame in (mine or own or frames)[:1]:
    folder, file = os.path.split(frame.file_name.replace('\\', '/'))
    shown = f'{os.path.basename(folder)}/{file}' if folder else file
    name = frame.function_name.split('.')[-1]
    return f'{shown}:{frame.line_num}', name
  return 'unknown', 'unknown'
