"""Names: of the house, or `my.module:function` of anyone's own.

Wherever a config or a flag takes a name (family, source, head, optimizer,
schedule, sampler, forecaster), a function of one's own is taken too. Its module
is looked for from the working directory, and in what is installed, and it is
called as those of the house are.

The same name in the record of a run may come from a stranger. `trust` looks at
the source before anything is imported: a record reaches only code of one's own,
and functions that say what they return. `digests` tells whether that code
is what it was.
"""

import ast
import contextlib
import difflib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import pathlib
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_HOUSE = pathlib.Path(__file__).parent
# Beside the package in a checkout: code of the house, which a record of anyone
# has no business in.
_BESIDE = ('experiments', 'configs', 'tests', 'third_party')
_HOW = 'or name a function of your own, as my.module:function'


def is_own(name: Any) -> bool:
  """Whether a name is of the form `my.module:function`."""
  return isinstance(name, str) and ':' in name


def find(name: Any, known: Mapping[str, Any], what: str) -> Any:
  """What a name stands for.

  Args:
    name: a key of `known`, or `my.module:function`.
    known: those of the house.
    what: kind of thing, for messages, such as 'model'.

  Returns:
    The value of `known`, or what the module holds.

  Raises:
    ValueError: no such name, module or function, or the import failed.
  """
  if is_own(name):
    return _imported(name, what)
  if not isinstance(name, str) or name not in known:
    raise ValueError(
      f'Unknown {what} {name!r}.{near(name, known)} Choose from: '
      f'{", ".join(sorted(known))}; {_HOW}.'
    )
  return known[name]


def near(word: Any, words: Iterable[str]) -> str:
  """' Did you mean ...?' for the nearest of `words`, or ''."""
  close = difflib.get_close_matches(str(word), [str(w) for w in words], 1)
  return f' Did you mean {close[0]!r}?' if close else ''


def parameters(function: Any) -> dict[str, inspect.Parameter]:
  """The arguments of a function, with annotations that are no strings.

  Raises:
    ValueError: it has no signature.
  """
  try:
    return dict(inspect.signature(function, eval_str=True).parameters)
  except (NameError, TypeError, AttributeError, SyntaxError):
    return dict(inspect.signature(function).parameters)


def annotation(argument: inspect.Parameter) -> Any:
  """The annotation of an argument, else the type of its default, or Any."""
  if argument.annotation is not argument.empty:
    return argument.annotation
  known = (
    argument.default is not argument.empty and argument.default is not None
  )
  return type(argument.default) if known else Any


def call(
  name: Any, what: str, function: Any, /, *args: Any, **options: Any
) -> Any:
  """What a function returns; one's own is checked and fails in one sentence.

  Args:
    name: of it; those of the house are only called.
    what: kind of thing, for messages.
    function: what `find` gave.
    *args: of it.
    **options: of it.

  Raises:
    ValueError: a function of one's own takes other arguments, or raised.
  """
  if not is_own(name):
    return function(*args, **options)
  try:
    inspect.signature(function).bind(*args, **options)
  except TypeError as error:
    raise ValueError(
      f'The {what} {name} is called with {_shown(args, options)}, but it takes '
      f'{inspect.signature(function)}: {error}.'
    ) from error
  try:
    return function(*args, **options)
  except Exception as error:
    raise ValueError(f'The {what} {name} raised {_told(error)}.') from error


def returned(name: Any, what: str, found: Any, kind: type, how: str) -> Any:
  """`found`, where it is of the kind that a function of one's own must give.

  Args:
    name: of the function.
    what: kind of thing.
    found: what it returned.
    kind: what it must be.
    how: makes one, such as 'par.from_function(...)'.

  Raises:
    ValueError: it is something else.
  """
  if not isinstance(found, kind):
    raise ValueError(
      f'The {what} {name} must be a function that returns {kind.__name__}, '
      f'such as {how} makes; it gives {type(found).__name__}.'
    )
  return found


def trust(name: str, kinds: tuple[str, ...], where: Any) -> None:
  """Checks that a record may have a function of this name called.

  Nothing is imported. Code of one's own is what lies neither in Python, nor in
  its packages, nor in this project; in other code the function must be defined
  with an annotation that says what it returns.

  Args:
    name: `my.module:function`.
    kinds: what it may say that it returns, such as ('Dataset',).
    where: the record, for the message.

  Raises:
    ValueError: it may not, or is not there.
  """
  module, attribute = _parts(name, 'function')
  path, node = _definition(module, attribute)
  if path is None:
    raise ValueError(f'{where} names {name}, but {_absent(module)}')
  annotation = getattr(node, 'returns', None)
  says = '' if annotation is None else ast.unparse(annotation)
  if not _mine(path) and not any(kind in says for kind in kinds):
    raise ValueError(
      f'{where} names {name}, of {path}, which is no code of your own and does '
      f'not say that it returns a {kinds[0]}. A record of anyone could have '
      f'any function called: annotate it (-> {kinds[0]}), or train with a '
      'function of your own that calls it.'
    )


def digests(names: Iterable[str]) -> dict[str, str]:
  """SHA-256 of the code behind names, by module.

  Args:
    names: those that are not `my.module:function` are passed over.

  Returns:
    module -> 32 hexadecimal digits, of its file; also of the modules of one's
    own that it imports, and they.
  """
  found: dict[str, str] = {}
  waiting = [name.partition(':')[0] for name in names if is_own(name)]
  while waiting:
    module = waiting.pop()
    path = None if module in found else _file(module)
    if path is None:
      continue
    found[module] = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    if _mine(path):
      waiting += [m for m in _imports(module, path) if _mine(_file(m))]
  return dict(sorted(found.items()))


def _imported(name: str, what: str) -> Any:
  """What `my.module:function` stands for."""
  module, attribute = _parts(name, what)
  if module == '__main__':
    raise ValueError(
      f'The {what} {name} is of this session only: a run must find it again. '
      'Write it into a file, mine.py, and name mine:function.'
    )
  with _from_here():
    try:
      holder = importlib.import_module(module)
    except ModuleNotFoundError as error:
      missing = str(error.name)
      if module == missing or module.startswith(f'{missing}.'):
        raise ValueError(f'The {what} {name}: {_absent(module)}') from error
      raise ValueError(
        f'The {what} {name}: its module imports {missing}, which is not '
        'installed here.'
      ) from error
    except Exception as error:
      raise ValueError(
        f'The {what} {name}: importing {module} raised {_told(error)}.'
      ) from error
  found = getattr(holder, attribute, None)
  if found is None:
    public = [n for n in vars(holder) if not n.startswith('_')]
    raise ValueError(
      f'The {what} {name}: {module} ({holder.__dict__.get("__file__")}) has no '
      f'{attribute!r}.{near(attribute, public)}'
    )
  return found


def _parts(name: str, what: str) -> tuple[str, str]:
  module, _, attribute = name.partition(':')
  right = all(part.isidentifier() for part in module.split('.'))
  if not right or module.endswith('.py') or not attribute.isidentifier():
    hint = ' Name the module, not its file.' if module.endswith('.py') else ''
    raise ValueError(
      f'The {what} {name!r} names no module and function of it, as '
      f'my.module:function does, where my/module.py is found from here.{hint}'
    )
  return module, attribute


def _absent(module: str) -> str:
  files = pathlib.Path.cwd().glob('*.py')
  return (
    f'no module {module} is found from {os.getcwd()} or in what is installed.'
    f'{near(module, [file.stem for file in files])} PYTHONPATH can name other '
    'folders.'
  )


@contextlib.contextmanager
def _from_here() -> Iterator[None]:
  """Modules are found from the working directory too, and first."""
  here = os.getcwd()
  if here in sys.path or ('' in sys.path):
    yield
    return
  sys.path.insert(0, here)
  importlib.invalidate_caches()
  try:
    yield
  finally:
    sys.path.remove(here)


def _file(module: str) -> pathlib.Path | None:
  """The source of a module, without importing it or its packages."""
  first, *rest = module.split('.')
  try:
    with _from_here():
      spec = importlib.util.find_spec(first)
    for part in rest:
      first = f'{first}.{part}'
      places = spec.submodule_search_locations if spec else None
      if places is None:
        return None
      spec = importlib.machinery.PathFinder.find_spec(first, list(places))
  except (ImportError, ValueError):  # a name without a specification
    return None
  if spec is None or spec.origin is None:
    return None
  path = pathlib.Path(spec.origin)
  return path.resolve() if path.is_file() else None


def _mine(path: pathlib.Path | None) -> bool:
  """Whether a file is neither Python's, nor a package's, nor this project's."""
  if path is None or {'site-packages', 'dist-packages'} & set(path.parts):
    return False
  python = {sysconfig.get_path(p) for p in ('stdlib', 'platstdlib')}
  house = (_HOUSE, *(_HOUSE.parent / name for name in _BESIDE))
  others = [*(pathlib.Path(p).resolve() for p in python), *house]
  return not any(path.is_relative_to(other) for other in others)


def _tree(path: pathlib.Path) -> ast.Module:
  try:
    return ast.parse(path.read_bytes())
  except (SyntaxError, ValueError, RecursionError):
    return ast.Module([], [])


def _absolute(node: ast.ImportFrom, module: str, path: pathlib.Path) -> str:
  """The module that `from ... import` names, seen from `module`."""
  if not node.level:
    return node.module or ''
  package = module.split('.')
  if path.name != '__init__.py':
    package = package[:-1]
  package = package[: len(package) - node.level + 1]
  return '.'.join([*package, *filter(None, [node.module])])


def _imports(module: str, path: pathlib.Path) -> Iterator[str]:
  """Modules that a source names in its imports, and their packages."""
  for node in ast.walk(_tree(path)):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = _absolute(node, module, path)
      names = [base, *(f'{base}.{alias.name}' for alias in node.names)]
    for name in names:
      parts = name.split('.')
      yield from ('.'.join(parts[:k]) for k in range(1, len(parts) + 1))


def _definition(
  module: str, name: str, depth: int = 8
) -> tuple[pathlib.Path | None, ast.AST | None]:
  """Where a name of a module is defined, through what the module imports."""
  path = _file(module)
  if path is None:
    return None, None
  for node in reversed(list(_statements(_tree(path)))):
    match node:
      case ast.FunctionDef() | ast.ClassDef() if node.name == name:
        return path, node
      case ast.ImportFrom() if depth:
        for alias in node.names:
          if (alias.asname or alias.name) == name:
            base = _absolute(node, module, path)
            return _definition(base, alias.name, depth - 1)
  return path, None


def _statements(node: Any) -> Iterator[ast.AST]:
  """The statements of a module that are in no function and no class."""
  for field in ('body', 'handlers', 'orelse', 'finalbody'):
    for inner in getattr(node, field, []):
      yield inner
      if not isinstance(inner, ast.FunctionDef | ast.ClassDef):
        yield from _statements(inner)


def _shown(args: tuple, options: dict[str, Any]) -> str:
  words = [type(arg).__name__ for arg in args]
  return f'({", ".join([*words, *(f"{k}={v!r}" for k, v in options.items())])})'


def _told(error: Exception) -> str:
  """'TypeError: ... (mine.py, line 3)'."""
  if isinstance(error, SyntaxError):
    at = f'{pathlib.Path(str(error.filename)).name}, line {error.lineno}'
    return f'{type(error).__name__}: {error.msg} ({at})'
  frames = [
    frame
    for frame in traceback.extract_tb(error.__traceback__)
    if os.path.exists(frame.filename)
    and _mine(pathlib.Path(frame.filename).resolve())
  ]
  at = ''
  if frames:
    name = pathlib.Path(frames[-1].filename).name
    at = f' ({name}, line {frames[-1].lineno})'
  return f'{type(error).__name__}: {str(error).rstrip(".")}{at}'
