"""Flags that many scripts share, checked when they are parsed.

What a flag cannot be, a script says before it works: an output that could not
be written after an hour, a list with a word among its numbers, a field of a
config that its model does not take.
"""

import ast
import collections
import math
import os
import pathlib
import re
import sys
import tempfile
import typing
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from experiments import config_file
from parallel_ar import models, resolve
from parallel_ar.training import (
  bucket,
  datasets,
  optimizer,
  rules,
  run_directory,
)

flags.disclaim_key_flags()  # --help shows a flag with the script that has it

# Flags for a directory that is read or written, or several.
DIRECTORIES = ('workdir', 'workdirs', 'coarse', 'draft', 'data_dir')
PICTURES = ('.png', '.svg', '.pdf')


def define_output(
  name: str, text: str, suffixes: Sequence[str] = (), *, grows: bool = False
) -> flags.FlagHolder:
  """A flag for a file to write, by default none.

  Args:
    name: of the flag.
    text: its help.
    suffixes: what the name of the file may end with; empty for anything.
    grows: it is written line by line, which a bucket cannot.
  """
  parser = _OutputParser(suffixes, grows)
  return flags.DEFINE(parser, name, None, text, serializer=_SERIALIZER)


def define_numbers(
  name: str,
  default: Sequence[float] | None,
  text: str,
  least: float = 1,
  kind: type[int] | type[float] = int,
) -> flags.FlagHolder:
  """A flag for numbers with commas between them, at least one.

  Args:
    name: of the flag.
    default: its value.
    text: its help.
    least: lower bound of each.
    kind: of each; int for whole numbers.
  """
  return flags.DEFINE(
    _NumbersParser(least, kind),
    name,
    default,
    text,
    serializer=_LIST_SERIALIZER,
  )


def define_name(
  name: str, default: str, known: Sequence[str], text: str
) -> flags.FlagHolder:
  """A flag for a name of the house, or `my.module:function`; see `resolve`.

  Args:
    name: of the flag.
    default: its value.
    known: the names of the house.
    text: its help.
  """
  return flags.DEFINE(
    _NameParser(known), name, default, text, serializer=_SERIALIZER
  )


def define_config(
  name: str = 'config',
  default: str | None = None,
  text: str = 'Config file; --config.section.field=value overrides it.',
  values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder:
  """A flag for a config file; every field can be set by a flag beside it.

  Also what the file leaves out: the arguments of the model's factory and of the
  data source.

  Args:
    name: of the flag.
    default: path of a file, see `with_files`.
    text: its help.
    values: where it is defined.
  """
  text += f' {default} without it.' * (default is not None)
  holder = config_flags.DEFINE_config_file(name, None, text, values)
  values[name].parser = _ConfigParser(name, default)
  return holder


def with_files(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
  """The words, and the config files that are the default of a flag not given.

  As words, since a file is checked with the fields that stand beside it: at
  its definition it would meet those of the file that is given.

  Args:
    values: flags that are not parsed yet.
    argv: the program and its words.
  """
  given = {w.lstrip('-').partition('=')[0] for w in argv[1:] if w[:1] == '-'}
  parsers = {name: values[name].parser for name in set(values) - given}
  files = [
    f'--{name}={parser.default}'
    for name, parser in parsers.items()
    if isinstance(parser, _ConfigParser) and parser.default is not None
  ]
  return [*argv[:1], *files, *argv[1:]]


def settle(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Checks what only whole flags show, and drops fields that nobody set.

  Args:
    values: parsed flags.
    argv: what they were parsed from.

  Raises:
    ValueError: a number is not finite, a tuple was given twice, or a directory
      is no path of this machine.
  """
  given = collections.Counter(word.partition('=')[0] for word in argv)
  for name in values:
    flag = values[name]
    if name in DIRECTORIES and isinstance(flag.value, str | list):
      flag.value = (
        [str(run_directory.resolve(path)) for path in flag.value]
        if isinstance(flag.value, list)
        else str(run_directory.resolve(flag.value))
      )
    times = given[f'--{name}']
    if isinstance(flag.parser, _ConfigParser) and flag.value is not None:
      flag.parser.drop_unset(flag.value)
    elif isinstance(flag, flags.MultiFlag) and '.' in name and times > 1:
      raise ValueError(
        f'--{name} was given {times} times: give it once, as in '
        f"'--{name}=(1, 2)'."
      )
    elif isinstance(flag.parser, flags.FloatParser):
      number = flag.value
      if number is not None and not abs(number) < float('inf'):
        raise ValueError(f'--{name}={number}: expected a finite number.')


_SERIALIZER: flags.ArgumentSerializer = flags.ArgumentSerializer()
_LIST_SERIALIZER: flags.ArgumentSerializer = flags.CsvListSerializer(',')


class _OutputParser(flags.ArgumentParser):
  """A path that can be written; '~' is the home directory."""

  def __init__(self, suffixes: Sequence[str], grows: bool):
    self.suffixes, self.grows = tuple(suffixes), grows

  def parse(self, argument: str) -> str:
    if not argument or argument.endswith('/'):
      raise ValueError('name a file, not a directory.')
    if self.grows:
      run_directory.local(argument)
    path = run_directory.resolve(argument)
    if not bucket.is_address(path) and path.is_dir():
      raise ValueError('name a file, not a directory.')
    if self.suffixes and path.suffix not in self.suffixes:
      raise ValueError(
        f'the name must end with {" or ".join(self.suffixes)}, which says what '
        'is written.'
      )
    check_writable(path)
    return str(path)

  def flag_type(self) -> str:
    return 'file to write'


def check_writable(path: str | os.PathLike[str]) -> None:
  """Tries a file in the directory of `path`, or where that will be made.

  Raises:
    ValueError: it cannot be written.
  """
  if bucket.is_address(path):
    return  # the first write says who may
  if pathlib.Path(path).is_dir():
    raise ValueError('name a file, not a directory.')
  if run_directory.is_stream(path):
    if not os.access(path, os.W_OK):
      raise ValueError(f'{path} cannot be written.')
    return
  folder = run_directory.behind_links(path).absolute().parent
  try:
    while not folder.exists():
      folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise ValueError(
      f'no file can be written in {folder}: {error.strerror}.'
    ) from error


class _NumbersParser(flags.ArgumentParser):
  """'1,2,3' as a list of numbers."""

  def __init__(self, least: float, kind: type[int] | type[float]):
    self.least, self.kind = least, kind

  def parse(self, argument: str | Sequence[float]) -> list[float]:
    words = argument.split(',') if isinstance(argument, str) else argument
    try:
      numbers = [self.kind(word) for word in words]
    except ValueError:
      numbers = []
    if not numbers or not all(self.least <= n < math.inf for n in numbers):
      whole = 'whole ' if self.kind is int else ''
      raise ValueError(
        f'expected {whole}numbers of at least {self.least}, with commas '
        'between them.'
      )
    return numbers

  def flag_type(self) -> str:
    return 'numbers'


class _NameParser(flags.ArgumentParser):
  """One of some names, or `my.module:function`."""

  def __init__(self, known: Sequence[str]):
    self.known = tuple(known)

  def parse(self, argument: str) -> str:
    if argument not in self.known and not resolve.is_own(argument):
      raise ValueError(
        f'expected one of {", ".join(self.known)}, or my.module:function.'
        f'{resolve.near(argument, self.known)}'
      )
    return argument

  def flag_type(self) -> str:
    return f'{"|".join(self.known)}|my.module:function'


class _ConfigParser(flags.ArgumentParser):
  """Path of a config file -> ConfigDict that also has the fields left out."""

  def __init__(self, name: str, default: str | None):
    self.name, self.default = name, default
    self._unset: list[tuple[str, str, Any]] = []

  def parse(self, argument: str) -> ConfigDict:
    config = config_file.load(self.name, argument)
    overrides = self._overrides()
    for section, name, known in _OPEN:
      self._fill(config, section, name, known, overrides)
    for path in overrides:
      _check_path(self.name, config, path)
    config.lock()
    return config

  def _overrides(self) -> dict[str, str]:
    """path -> text of the flags beside this one, the last of each."""
    found = {}
    pattern = re.compile(
      rf'--?(?:no)?{self.name}\.([^=]+)(?:=(.*))?', re.DOTALL
    )
    for word in sys.argv[1:]:
      if match := pattern.fullmatch(word):
        found[match.group(1)] = match.group(2) or ''
    return found

  def _fill(
    self,
    config: ConfigDict,
    section: str,
    field_of_name: str,
    known: Callable[[str], dict[str, Any]],
    overrides: dict[str, str],
  ) -> None:
    part = _at(config, section)
    if not isinstance(part, ConfigDict):
      return  # the validation of the config says what is missing
    name = overrides.get(field_of_name) or _at(config, field_of_name)
    if not name:
      return
    for field, annotation in known(name).items():
      if field not in part:
        with part.unlocked():
          part[field] = config_dict.placeholder(_type(annotation))
        self._unset.append((section, field, annotation))

  def drop_unset(self, config: ConfigDict) -> None:
    """Removes the fields that no flag has set; says what the others are."""
    for section, field, annotation in self._unset:
      part = _at(config, section) or ConfigDict()
      with part.unlocked():
        if field not in part:
          continue
        value = part[field]
        if value is None or annotation is Any:
          del part[field]
        if value is not None:
          part[field] = _literal(value) if annotation is Any else value
    self._unset = []

  def flag_type(self) -> str:
    return 'config file'


# section, the field that has a name, the fields of a name
_OPEN: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
  ('model', 'model.name', models.fields),
  ('data', 'data.name', datasets.fields),
  ('optimizer.options', 'optimizer.name', rules.options),
  (
    *('optimizer.schedule_options', 'optimizer.schedule'),
    optimizer.schedule_options,
  ),
  ('optimizer.mup_base', 'model.name', models.fields),
)


def _at(config: ConfigDict, path: str) -> Any:
  """The value of a field, or None where a section of its path is missing."""
  found: Any = config
  for part in path.split('.'):
    found = found.get(part) if isinstance(found, ConfigDict) else None
  return found


def _literal(text: Any) -> Any:
  """What a flag of an argument of unknown type means: a number, or text."""
  try:
    return ast.literal_eval(text) if isinstance(text, str) else text
  except (ValueError, SyntaxError):
    return text


def _type(annotation: Any) -> type:
  """The type that a flag of this argument is read as."""
  kind, inner = typing.get_origin(annotation), typing.get_args(annotation)
  if annotation in (bool, int, float, str):
    return annotation  # type: ignore[no-any-return]
  if isinstance(kind, type) and issubclass(kind, Sequence):
    return tuple
  for choice in inner:
    if choice in (bool, int, float):
      return choice  # type: ignore[no-any-return]
  return str  # Literal of names, a path, a dtype by its name


def _check_path(name: str, config: Any, path: str) -> None:
  """Refuses a field that there is not, with the nearest that there is."""
  parts, here = path.split('.'), config
  for depth, part in enumerate(parts):
    field = part.partition('[')[0]
    if not isinstance(here, ConfigDict) or field not in here:
      above = '.'.join([name, *parts[:depth]])
      known = list(here) if isinstance(here, ConfigDict) else []
      raise ValueError(
        f'{above} has no field {field!r}.{resolve.near(field, known)} It has: '
        f'{", ".join(sorted(known)) or "none"}.'
      )
    here = here[field]
