"""Code of one's own that a run names: which, whether it may run, what changed.

A config names a function as `my.module:function` in one of FIELDS. The run's
identity has a digest of each module (see `identity`), a start with another one
is refused like any other change, and a reader says which differ.
"""

from collections.abc import Mapping
from typing import Any

from parallel_ar import resolve

# section.field -> what a function that is named there may say it returns.
FIELDS: dict[str, tuple[str, ...]] = {
  'model.name': ('AutoregressiveModel',),
  'model.head': ('Head',),
  'data.name': ('Dataset',),
  'optimizer.name': ('GradientTransformation',),
  'optimizer.schedule': ('Schedule',),
}


def names(config: Any) -> dict[str, str]:
  """field -> the name of a function of one's own that a config has there.

  Args:
    config: a ConfigDict, or JSON data.
  """
  found = {}
  for path in FIELDS:
    section, field = path.split('.')
    fields = config.get(section)
    value = fields.get(field) if hasattr(fields, 'get') else None
    if isinstance(value, str) and resolve.is_own(value):
      found[path] = value
  return found


def digests(config: Any) -> dict[str, str]:
  """module -> digest, of all code of one's own that a config names."""
  return resolve.digests(names(config).values())


def trust(config: Any, where: Any) -> None:
  """Checks that what a record names may be called; imports nothing.

  Raises:
    ValueError: see `resolve.trust`.
  """
  for path, name in names(config).items():
    resolve.trust(name, FIELDS[path], where)


def changed(identity: Mapping[str, Any] | None, config: Any) -> list[str]:
  """Lines that tell which modules are not those that a run was made with."""
  there, here = (identity or {}).get('modules') or {}, digests(config)
  return [
    f'The module {module} is not the one that this run was trained with '
    f'({there[module][:8]} there, {here[module][:8]} here): its numbers may be '
    'those of another model or of other data.'
    for module in sorted(there.keys() & here.keys())
    if there[module] != here[module]
  ]
