"""The directory of one run: who owns it, and how files in it are replaced.

config.json       the configuration of the run
metrics.jsonl     one record a line
checkpoints/      one directory a step
tensorboard/      scalars
samples/          grids, one PNG a step
"""

import json
import os
import pathlib
from typing import Any

from parallel_ar.training import configuration

PathLike = str | os.PathLike[str]


def changes(directory: PathLike, config: dict[str, Any]) -> list[str]:
  """What `config` changes of the run that lives in `directory`.

  A run may be continued with another schedule, length or data section, and
  says so. It may not become another model: its parameters would not fit.

  Args:
    directory: working directory, which need not exist.
    config: JSON form of the configuration, see `configuration.to_json`.

  Returns:
    Lines such as 'train.steps: 100 -> 200'; empty for a new directory.

  Raises:
    ValueError: the model section differs, or config.json cannot be read.
  """
  path = pathlib.Path(directory) / 'config.json'
  if not path.exists():
    return []
  try:
    old = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(
      f'{path} is not JSON ({error}), so nothing says which run lives there. '
      'Restore the file, or choose another working directory.'
    ) from error
  lines = configuration.differences(old, config)
  model = [line for line in lines if line.startswith('model')]
  if model:
    raise ValueError(
      f'{directory} holds a run of another model: {"; ".join(model)} (there -> '
      'here). Choose another working directory, or the config of that run.'
    )
  return lines


def replace(path: PathLike, text: str) -> None:
  """Writes a whole file or leaves the old one: no reader sees half of it."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  draft = path.with_name(f'{path.name}.{os.getpid()}.draft')
  with draft.open('w') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(draft, path)
