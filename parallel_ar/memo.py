"""What is made of a record is made once.

A closure is equal to itself only. Where it is part of what a program was
compiled for, as the functions of a record and of a decode path are, one that is
made again compiles again.
"""

from collections.abc import Callable, Hashable
from typing import Any


def once(record: Any, key: Hashable, make: Callable[[], Any]) -> Any:
  """`make()` at the first call for this record and key, later the same object.

  It is kept on the record and goes with it: what is made of a record refers to
  it, so that a table of weak references to records would keep them for ever.
  """
  made = record.__dict__.setdefault('_made', {})
  if key not in made:
    made[key] = make()
  return made[key]
