"""Config files: what they return, or what is wrong in which line."""

import importlib.util
import pathlib
import traceback

from ml_collections import ConfigDict


def load(name: str, argument: str) -> ConfigDict:
  """What `get_config` of a file returns.

  Args:
    name: of the flag.
    argument: path of the file, and perhaps an argument behind a colon.

  Raises:
    ValueError: says what the file lacks, and where it fails.
  """
  file, _, part = argument.partition(':')
  path = pathlib.Path(file)
  if not path.is_file():
    raise ValueError(
      f'there is no such file as {file}. The configs of this project are in '
      'configs/; the path is relative to the repository.'
    )
  if path.suffix != '.py':
    raise ValueError(
      'a config is a Python file with get_config(), such as those in configs/. '
      'The config.json of a run is its record; scripts with --workdir read it.'
    )
  spec = importlib.util.spec_from_file_location(f'{name}_config', path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    make = getattr(module, 'get_config', None)
    if make is None:
      raise ValueError('it has no function get_config().')
    config = make(*([part] if part else []))
    if not isinstance(config, ConfigDict):
      raise ValueError(
        f'get_config() returned {type(config).__name__}; expected a ConfigDict '
        'such as configuration.default_config() returns.'
      )
  except Exception as error:
    raise ValueError(_where(error, path)) from error
  return config


def _where(error: Exception, path: pathlib.Path) -> str:
  """What a file raised, and in which of its lines."""
  if isinstance(error, SyntaxError):
    return f'line {error.lineno} is no Python: {error.msg}.'
  if isinstance(error, ValueError):
    return str(error)
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if pathlib.Path(frame.filename).resolve() == path.resolve()
  ]
  place = f'line {lines[-1]}: ' if lines else ''
  return f'{place}{type(error).__name__}: {error}'
