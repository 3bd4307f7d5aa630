"""Modules that are imported when somebody names them.

`import parallel_ar as par` takes a fraction of a second because training,
analysis and the families come later: `par.models.made(...)`,
`par.training.trained.load(...)`.
"""

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType


def modules_of(package: str) -> Callable[[str], ModuleType]:
  """The `__getattr__` of a package that imports its modules by name.

  Args:
    package: its `__name__`.
  """

  def get(name: str) -> ModuleType:
    full = f'{package}.{name}'
    if name.startswith('_') or importlib.util.find_spec(full) is None:
      raise AttributeError(f'module {package!r} has no attribute {name!r}')
    return importlib.import_module(full)

  return get
