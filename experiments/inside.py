"""Scripts inside one process, as a table of many small runs starts them."""

import contextlib
import importlib
import io
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from absl import flags
from absl.testing import flagsaver

from experiments import entry, hosts

# Modules whose flags every script has.
_SHARED = ('entry', 'options', 'leaving', hosts.__name__.rpartition('.')[2])


@contextlib.contextmanager
def imported(script: str, words: Sequence[str]) -> Iterator[ModuleType]:
  """The module of a script, its flags defined and not yet parsed.

  It is imported afresh, beside none of the other scripts, since two may define
  the same flag; afterwards all is as it was.

  Args:
    script: name of it below experiments/, such as 'tables/samplers'.
    words: its flags; sys.argv has them.
  """
  values, argv = flags.FLAGS, sys.argv
  modules = {n: m for n, m in sys.modules.items() if _is_script(n)}
  before = {name: _copied(value) for name, value in vars(values).items()}
  given = flagsaver.save_flag_values(values)
  for name in modules:
    del sys.modules[name]
  for name in list(values):
    holder = str(values.find_module_defining_flag(name))
    if _is_script(holder) or holder == argv[0]:
      delattr(values, name)
  sys.argv = [f'{script}.py', *words]
  try:
    yield importlib.import_module(f'experiments.{script.replace("/", ".")}')
  finally:
    sys.argv = argv
    # A library that was imported for the first time keeps its flags.
    where = values.find_module_defining_flag
    kept = {
      values[n]: str(where(n)) for n in values if not _is_script(str(where(n)))
    }
    vars(values).update(before)
    flagsaver.restore_flag_values(given, values)  # of the shared modules
    for flag, module in kept.items():
      if flag.name not in values and '.' not in flag.name:  # of no config
        values[flag.name] = flag
        values.register_flag_by_module(module, flag)
    for name in [n for n in sys.modules if _is_script(n)]:
      del sys.modules[name]
    sys.modules.update(modules)


def run(script: str, words: Sequence[str]) -> tuple[int, str]:
  """Runs a script to its end.

  Args:
    script: name of it below experiments/.
    words: its flags, and the word that its TAKES stands for.

  Returns:
    Exit code, and what it printed.

  Raises:
    ValueError: what the script refuses.
  """
  said, code = io.StringIO(), 0
  with imported(script, words) as module:
    rest = entry.parse(sys.argv)[1:]
    if rest:
      flags.FLAGS[module.TAKES.name].value = rest.pop(0)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
      try:
        module.main()
      except SystemExit as left:
        code = int(left.code or 0)
  return code, said.getvalue()


def _is_script(module: str) -> bool:
  inside = module.startswith('experiments.')
  shared = tuple(f'experiments.{name}' for name in (*_SHARED, 'inside'))
  return inside and module not in shared


def _copied(value: Any) -> Any:
  """A part of absl's registry, so that the part can change."""
  if isinstance(value, dict):
    return {key: _copied(item) for key, item in value.items()}
  return list(value) if isinstance(value, list) else value
