"""Modules that are imported when somebody names them.

`import parallel_ar as par` takes a fraction of a second because training,
analysis and the families come later: `par.models.made(...)`, `par.load(...)`.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any


def modules_of(
  package: str, names: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
  """The `__getattr__` of a package that imports its modules by name.

  Args:
    package: its `__name__`.
    names: name -> the module of the package that has it.
  """

  def get(name: str) -> Any:
    if names is not None and name in names:
      module = importlib.import_module(f'{package}.{names[name]}')
      return getattr(module, name)
    full = f'{package}.{name}'
    if name.startswith('_') or importlib.util.find_spec(full) is None:
      raise AttributeError(f'module {package!r} has no attribute {name!r}')
    return importlib.import_module(full)

  return get
