"""help() of every public name, and of what it returns, says what one needs.

Of a function: every array that goes in or comes out has its shape, a float its
unit, and what it raises itself stands under Raises. Where there is a section
Args, it names all arguments. Of a record: every array among its fields.
"""

import ast
import collections
import importlib
import inspect
import pkgutil
import re
import textwrap

import jax
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar.types import Array, ArrayLike, PRNGKey
from tests import toys

# int[B, *event], key[B], [H, W, 3], 'leaves with leading axis B', a PRNG key.
SHAPE = re.compile(
  r'\w\[[^\]]*\]|\[[A-Z*n\d][^\]]*\]|\b(shapes?|scalars?|leaves|PRNG key)\b'
)
UNIT = re.compile(
  r'\b(nats|bits?|seconds?|bytes?|operations|fraction|share|rates?|factor|'
  r'number|probability|change|level|epoch)\b',
  re.IGNORECASE,
)
ARRAY = re.compile(r'\b(Array|ArrayLike|ndarray|PRNGKey)\b')
SECTION = re.compile(r'(Args|Attributes|Returns|Raises|Yields|References):')
ENTRY = re.compile(r'  \*{0,2}(\w+(?:, \w+)*): ?(.*)')


def sections(text):
  """Heading -> its lines; those before the first are 'head'."""
  found, at = collections.defaultdict(str), 'head'
  for line in inspect.cleandoc(text).splitlines():
    match = SECTION.fullmatch(line)
    at = match.group(1) if match else at
    found[at] += '' if match else f'{line}\n'
  return found


def entries(text):
  """Name -> what a section of arguments or attributes tells of it."""
  found, at = {}, []
  for line in text.splitlines():
    if match := ENTRY.match(line):
      at = match.group(1).split(', ')
      found |= dict.fromkeys(at, match.group(2))
    else:
      found |= {name: f'{found[name]} {line.strip()}' for name in at}
  return found


def raised(function):
  """Whether the body of a function raises, apart from functions inside it."""
  tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
  waiting, inner = list(tree.body[0].body), ast.FunctionDef | ast.Lambda
  while waiting:
    node = waiting.pop()
    if isinstance(node, inner | ast.ClassDef):
      continue
    if isinstance(node, ast.Raise) and node.exc is not None:
      error = ast.unparse(node.exc)
      if error[0].isupper() and not error.startswith('AssertionError'):
        return True
    waiting += ast.iter_child_nodes(node)
  return False


def lacks(function):
  """What the docstring of a function does not say."""
  text = inspect.getdoc(function)
  if not text:
    return ['a docstring']
  told, missing = sections(text), []
  if told['head'].startswith('See `'):  # as the protocol that it follows
    return []
  args, signature = entries(told['Args']), inspect.signature(function)
  for name, argument in signature.parameters.items():
    if name in ('self', 'cls') or name.startswith('_'):
      continue
    kind = str(argument.annotation)
    array = ARRAY.search(kind) and 'Callable' not in kind
    if told['Args'] and name not in args:
      missing.append(f'{name} under Args')
    elif array and not SHAPE.search(args.get(name, told['head'])):
      missing.append(f'the shape of {name}')
  gives, returned = str(signature.return_annotation), told['Returns']
  array = ARRAY.search(gives) and 'Callable' not in gives
  if array and not SHAPE.search(returned + told['head']):
    missing.append('the shape of what it returns')
  if re.search(r'\bfloat\b', gives) and not UNIT.search(
    returned + told['head']
  ):
    missing.append('the unit of what it returns')
  if not told['Raises'] and raised(function):
    missing.append('Raises')
  return missing


def parts(name, thing):
  """(name, what it lacks) of a function, or of a class and its methods."""
  if not inspect.isclass(thing):
    yield name, lacks(thing)
    return
  told = entries(sections(inspect.getdoc(thing) or '')['Attributes'])
  fields = getattr(thing, '__annotations__', {})
  yield (
    name,
    [
      f'the shape of the field {field}'
      for field, kind in fields.items()
      if re.fullmatch(r'([\w.]+\.)?(Array|ndarray)( \| None)?', _shown(kind))
      and not field.startswith('_')
      and not SHAPE.search(told.get(field, ''))
    ]
    + (['a docstring'] if not thing.__doc__ else []),
  )
  for key, method in vars(thing).items():
    method = getattr(method, '__func__', getattr(method, 'fget', method))
    if inspect.isfunction(method) and not key.startswith('_'):
      yield f'{name}.{key}', lacks(method)


def _shown(kind):
  return kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))


def public():
  """(name, function or class) of all that help() may be asked of."""
  found = {}
  for name in par.__all__:
    thing = getattr(par, name)
    found |= _members(name, thing) if inspect.ismodule(thing) else {name: thing}
  for package in (par.models, par.data, par.analysis.static):
    short = package.__name__.partition('.')[2]
    found |= {f'{short}.{n}': getattr(package, n) for n in package.__all__}
  for package in (par.analysis, par.data, par.training):
    for module in pkgutil.iter_modules(package.__path__):
      path = f'{package.__name__}.{module.name}'
      found |= _members(path.partition('.')[2], importlib.import_module(path))
  return {n: thing for n, thing in found.items() if callable(thing)}


def _members(name, module):
  own = lambda thing: getattr(thing, '__module__', None) == module.__name__
  return {
    f'{name}.{key}': thing
    for key, thing in vars(module).items()
    if not key.startswith('_')
    and (inspect.isfunction(thing) or inspect.isclass(thing))
    and own(thing)
  }


def test_every_public_name():
  named = [part for item in public().items() for part in parts(*item)]
  assert len(named) > 400
  wrong = [f'{name}: {", ".join(what)}' for name, what in named if what]
  assert not wrong, '\n'.join(['help() does not say:', *wrong])


def test_what_factories_return():
  """Samplers, a codec and its functions, a record, and its decode path."""
  model = toys.sigmoid_net()
  made = [
    par.ancestral(model),
    par.fixed_point(model),
    par.cached(model),
    par.window(model),
    par.speculative(model, model),
    par.rejection(model, model),
    *par.codec(model)[:2],
  ]
  for thing in made:
    assert not lacks(thing), (thing, lacks(thing))
    text = inspect.getdoc(thing)
    for word in ('Args:', 'Returns:', 'Raises:', 'context'):
      assert word in text, (thing, word)
  for thing in (model, model.head, par.derive_decode(model)):
    fields = type(thing).__annotations__
    told = entries(sections(inspect.getdoc(thing))['Attributes'])
    assert set(fields) <= set(told), (type(thing), set(fields) - set(told))
  sample = par.fixed_point(model)(
    model.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 2)
  )
  for thing in (sample, sample.info):
    told = entries(sections(inspect.getdoc(thing))['Attributes'])
    for field, value in thing._asdict().items():
      assert field in told
      if isinstance(value, jax.Array | np.ndarray):
        assert SHAPE.search(told[field]), (field, told[field])


def _wrong(x: Array, key: PRNGKey, rate: float) -> Array:
  """Draws from x.

  Args:
    x: the events.
    key: of the draws.
  """
  if rate < 0:
    raise ValueError('a rate')
  return x


def _right(x: ArrayLike, key: PRNGKey) -> float:
  """The nats of a draw.

  Args:
    x: int[B, *event].
    key: PRNG key of the draws.
  """
  return 0.0


def _bare(x: Array) -> float:
  """How large it is."""
  return 0.0


class _Record:
  """Numbers."""

  x: Array


@pytest.mark.parametrize(
  ('thing', 'expected'),
  [
    (
      _wrong,
      [
        *('the shape of x', 'the shape of key', 'rate under Args'),
        *('the shape of what it returns', 'Raises'),
      ],
    ),
    (_right, []),
    (_bare, ['the shape of x', 'the unit of what it returns']),
    (_Record, ['the shape of the field x']),
    (lambda x: x, ['a docstring']),
  ],
)
def test_what_is_not_said_is_noticed(thing, expected):
  assert [what for _, found in parts('', thing) for what in found] == expected
