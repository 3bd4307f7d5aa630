"""Model families, and how a config names them.

`build` turns the `model` section of a config into models. `name` is that of a
family or `my.module:function` (see `resolve`), and every other field of the
section an argument of its factory.
"""

import collections.abc
import dataclasses
import functools
import math
import numbers
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from parallel_ar import heads, order, partition, resolve, transform
from parallel_ar.head import Head
from parallel_ar.model import AutoregressiveModel
from parallel_ar.models import any_order
from parallel_ar.models.ardm import ardm
from parallel_ar.models.gated_pixelcnn import gated_pixelcnn
from parallel_ar.models.made import ensemble, made
from parallel_ar.models.maf import (
  flow_inverse,
  flow_log_prob,
  gaussian_made,
  maf,
)
from parallel_ar.models.multiscale import multiscale
from parallel_ar.models.nade import eonade, nade
from parallel_ar.models.next_scale import next_scale
from parallel_ar.models.pixelcnn import pixelcnn
from parallel_ar.models.pixelcnn_pp import pixelcnn_pp
from parallel_ar.models.pixelsnail import pixelsnail
from parallel_ar.models.recurrent import recurrent
from parallel_ar.models.transformer import transformer
from parallel_ar.models.transformer_xl import transformer_xl
from parallel_ar.models.two_stream import two_stream
from parallel_ar.models.wavenet import wavenet
from parallel_ar.types import ArrayLike

__all__ = [
  'any_order',
  'ardm',
  'build',
  'ensemble',
  'eonade',
  'fields',
  'flow_inverse',
  'flow_log_prob',
  'gated_pixelcnn',
  'gaussian_made',
  'made',
  'maf',
  'multiscale',
  'nade',
  'next_scale',
  'pixelcnn',
  'pixelcnn_pp',
  'pixelsnail',
  'recurrent',
  'transformer',
  'transformer_xl',
  'two_stream',
  'wavenet',
]

FAMILIES: dict[str, Callable[..., AutoregressiveModel]] = {
  'ardm': ardm,
  'gated_pixelcnn': gated_pixelcnn,
  'gaussian_made': gaussian_made,
  'made': made,
  'multiscale': multiscale,
  'nade': nade,
  'next_scale': next_scale,
  'pixelcnn': pixelcnn,
  'pixelcnn_pp': pixelcnn_pp,
  'pixelsnail': pixelsnail,
  'recurrent': recurrent,
  'transformer': transformer,
  'transformer_xl': transformer_xl,
  'two_stream': two_stream,
  'wavenet': wavenet,
}
# Families with members that share params: how they are built, and the fields.
_ORDERS: dict[str, Any] = {'num_orders': int, 'orders_seed': int}
_MASKS: dict[str, Any] = {
  'num_masks': int,
  'random_orders': bool,
  'mask_sampling': bool,
}
_ENSEMBLES: dict[Any, tuple[Callable[..., Any], dict[str, Any]]] = {
  ardm: (functools.partial(any_order.ensemble, ardm), _ORDERS),
  made: (ensemble, _MASKS),
  nade: (eonade, _ORDERS),
  two_stream: (functools.partial(any_order.ensemble, two_stream), _ORDERS),
}
# Of every model: the coupling of a categorical head, and another head.
_HEAD_FIELDS = {'coupling': str, 'head': str}
_HEADS: dict[str, Callable[..., Head]] = {
  'bernoulli': lambda num_values: heads.bernoulli(),
  'categorical': heads.categorical,
  'discretized_logistic': heads.discretized_logistic,
}
# How a config names a rank.
_ORDER = {
  'order': str,
  'order_seed': int,
  'order_block': int,
  'order_groups': int,
}
# Whole numbers of which there is at least one; of others there may be none.
_SIZES = {
  *('event', 'features', 'heads', 'hidden', 'layers', 'size', 'first_size'),
  *('num_values', 'blocks', 'window', 'segment', 'stacks', 'resolutions'),
  *('num_components', 'num_masks', 'num_orders', 'order_block'),
  *('head_features', 'key_features', 'value_features', 'skip_features'),
}


def fields(name: str) -> dict[str, Any]:
  """What the `model` section of a config may hold for a family, by type.

  Args:
    name: a key of FAMILIES, or `my.module:function`.

  Returns:
    field -> its annotation, such as int or Sequence[int]; where a function of
    one's own has none, the type of its default, or Any.
  """
  factory = _factory(name)
  found = {
    argument.name: resolve.annotation(argument)
    for argument in resolve.parameters(factory).values()
    if argument.kind is not argument.VAR_KEYWORD
  }
  if found.pop('rank', None) is not None:
    found |= _ORDER
  if name in FAMILIES and factory in _ENSEMBLES:
    found |= _ENSEMBLES[factory][1]
  return _HEAD_FIELDS | found


def build(
  config: Mapping[str, Any], rank: ArrayLike | None = None
) -> tuple[AutoregressiveModel, ...]:
  """Builds the models of a config's `model` section.

  Args:
    config: `name` of the family or `my.module:function`, the factory's
      arguments, and for those that take a rank `order`: 'raster', 'reverse',
      'random' (with `order_seed`), 'blocks' (with `order_block` positions
      each), 'channels' or 'multiscale' (with `order_groups` an octave).
      `coupling` is that of a categorical head; `head` another head for the
      same dist, by name or `my.module:function`, called with num_values, with
      which training minimises -log p.
    rank: int[E], instead of the order that the config names. Families trained
      on all orders (ardm, two_stream) serve every rank with the same params.

  Returns:
    One model, or the members of an ensemble, which share params: the mask
    sets of MADE (`num_masks`), the orders of NADE, ardm and two_stream
    (`num_orders`).

  Raises:
    ValueError: an unknown family or field, or fields that do not fit.
  """
  options = dict(config)
  name = options.pop('name', None)
  factory = _factory(name)
  allowed, open_ended = fields(name), _is_open(factory)
  if rank is not None and 'order' not in allowed:
    raise ValueError(f'The model {name} has one order and takes no rank.')
  for field, value in options.items():
    if field not in allowed and not open_ended:
      raise ValueError(
        f'The model {name} has no field {field!r}{_hint(field, list(allowed))}'
      )
    _check(field, value, allowed.get(field, Any))
  house = name in FAMILIES
  if house:
    _complete(name, factory, options)
  several, members = _ENSEMBLES.get(factory if house else None, (None, {}))
  if 'dtype' in options:
    options['dtype'] = _dtype(options['dtype'])
  taken = () if house else resolve.parameters(factory)
  coupling, head = (
    None if field in taken else options.pop(field, None)
    for field in _HEAD_FIELDS
  )
  named = _rank(options)
  if rank is not None:
    named = rank
    options = {f: v for f, v in options.items() if f not in members}
  many = several is not None and any(field in options for field in members)
  if named is not None:
    options['rank'] = named
  if many and several is not None:
    models = several(**options)
  elif house:
    models = (factory(**options),)
  else:
    models = _own(name, factory, options)
  return tuple(_headed(_coupled(m, coupling), head) for m in models)


def _factory(name: Any) -> Callable[..., Any]:
  """What makes the models of a name; a model of one's own is made already."""
  found = resolve.find(name, FAMILIES, 'model')
  if isinstance(found, AutoregressiveModel):
    return lambda: found
  if not callable(found):
    resolve.returned(name, 'model', found, AutoregressiveModel, _MAKES)
  return found


def _complete(
  name: str, factory: Callable[..., Any], options: dict[str, Any]
) -> None:
  """Refuses options without what a family's factory needs."""
  for field, argument in resolve.parameters(factory).items():
    if argument.default is argument.empty and field not in options:
      raise ValueError(
        f'config.model.{field} is missing, which {name} needs; only train '
        'takes the event and num_values from the data.'
      )


_MAKES = 'par.from_function(...)'


def _own(
  name: str, factory: Callable[..., Any], options: dict[str, Any]
) -> tuple[AutoregressiveModel, ...]:
  """The models that a function of one's own makes.

  They see no mesh: the names of axes in annotations of theirs are not ours.
  """
  made = resolve.call(name, 'model', partition.alone(factory), **options)
  several = made if isinstance(made, tuple | list) and made else [made]
  for model in several:
    resolve.returned(name, 'model', model, AutoregressiveModel, _MAKES)
  return tuple(_alone(model) for model in several)


def _alone(model: AutoregressiveModel) -> AutoregressiveModel:
  """The model whose functions see no mesh."""
  parts = {
    field.name: getattr(model, field.name)
    for field in dataclasses.fields(model)
    if field.name not in ('event', 'rank', 'head', 'context')
  }
  hide = lambda leaf: partition.alone(leaf) if callable(leaf) else leaf
  return dataclasses.replace(model, **jax.tree.map(hide, parts))


def _is_open(factory: Callable[..., Any]) -> bool:
  """Whether a factory takes any field."""
  arguments = resolve.parameters(factory).values()
  return any(argument.kind is argument.VAR_KEYWORD for argument in arguments)


def _check(field: str, value: Any, annotation: Any) -> None:
  """Refuses a value of another type, and sizes below 1."""
  kind, choices = typing.get_origin(annotation), typing.get_args(annotation)
  several = kind is collections.abc.Sequence
  scalar = choices[0] if several else annotation
  if typing.get_origin(scalar) is typing.Literal:
    names = typing.get_args(scalar)
    expected, fits = 'one of ' + ', '.join(names), lambda v: v in names
  elif scalar is int:
    least = int(field in _SIZES)
    whole = lambda v: isinstance(v, numbers.Integral) and int(v) >= least
    expected = f'a whole number of at least {least}'
    fits = lambda v: whole(v) and not isinstance(v, bool)
  elif scalar is float:
    expected = 'a finite number'
    fits = lambda v: isinstance(v, numbers.Real) and math.isfinite(v)
  elif scalar in (bool, str):
    expected, fits = scalar.__name__, lambda v: isinstance(v, scalar)
  else:
    return
  if several and isinstance(value, list | tuple):
    right = all(map(fits, value))
  else:
    right = not several and fits(value)
  if not right:
    raise ValueError(
      f'config.model.{field} = {value!r}: expected '
      f'{"a tuple, each " if several else ""}{expected}.'
    )


def _dtype(value: Any) -> Any:
  """The dtype that a network computes in."""
  known = ['bfloat16', 'float16', 'float32']
  # Without it JAX computes in float32, with a warning.
  if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
    known.append('float64')
  try:
    dtype = jnp.dtype(value)
  except TypeError:
    dtype = None
  if dtype is None or dtype.name not in known:
    raise ValueError(
      f'config.model.dtype = {value!r}: expected bfloat16, float16 or float32, '
      'or with JAX_ENABLE_X64=1 float64.'
    )
  return dtype


def _coupled(model: AutoregressiveModel, coupling: Any) -> AutoregressiveModel:
  """The model with another coupling of its categorical head."""
  if coupling in (None, 'gumbel'):
    return model
  if not model.head.name.startswith('categorical'):
    raise ValueError(
      f'config.model.coupling = {coupling!r}, but the head of {model.name} is '
      f'{model.head.name}: only categorical heads have a choice.'
    )
  assert model.head.num_values is not None
  head = heads.categorical(model.head.num_values, coupling)
  # Another pick of the same law: what training minimises stays.
  return transform.wrap(model, head=head, objective=model.objective)


def _headed(model: AutoregressiveModel, name: Any) -> AutoregressiveModel:
  """The model whose dist another head reads."""
  if name is None:
    return model
  make = resolve.find(name, _HEADS, 'head')
  head = resolve.call(name, 'head', make, model.head.num_values)
  resolve.returned(name, 'head', head, Head, 'par.heads.categorical(V)')
  return transform.wrap(model, head=head)


def _rank(options: dict[str, Any]) -> Any:
  """Takes the order fields out of the options and makes the rank of them."""
  kind, seed, block, groups = (options.pop(f, None) for f in _ORDER)
  event = options.get('event', ())
  match kind:
    case None | 'raster':
      return None
    case 'reverse':
      return order.reverse(order.raster(event))
    case 'random':
      return order.random(event, seed or 0)
    case 'blocks':
      return order.blocks(event, block or 1)
    case 'channels':
      return order.channels(event)
    case 'multiscale':
      return order.multiscale(event, groups or 3)
    case _:
      kinds = [
        'raster',
        'reverse',
        'random',
        'blocks',
        'channels',
        'multiscale',
      ]
      raise ValueError(f'Unknown order {kind!r}{_hint(kind, kinds)}')


def _hint(word: Any, words: list[str]) -> str:
  known = ', '.join(sorted(words))
  return f'.{resolve.near(word, words)} Choose from: {known}.'
