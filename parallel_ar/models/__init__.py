"""Model families, and how a config names them.

`build` turns the `model` section of a config into models. Every field of the
section besides `name` is an argument of the family's factory.
"""

import collections.abc
import difflib
import functools
import inspect
import math
import numbers
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from parallel_ar import heads, order, transform
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
_COUPLING = 'coupling'  # of a categorical head, see `heads.categorical`
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
    name: a key of FAMILIES.

  Returns:
    field -> its annotation, such as int or Sequence[int].
  """
  factory = FAMILIES[name]
  found = {
    argument.name: argument.annotation
    for argument in inspect.signature(
      factory, eval_str=True
    ).parameters.values()
  }
  if found.pop('rank', None) is not None:
    found |= _ORDER
  if factory in _ENSEMBLES:
    found |= _ENSEMBLES[factory][1]
  return found | {_COUPLING: str}


def build(
  config: Mapping[str, Any], rank: ArrayLike | None = None
) -> tuple[AutoregressiveModel, ...]:
  """Builds the models of a config's `model` section.

  Args:
    config: `name` of the family, the factory's arguments, and for families
      that take a rank `order`: 'raster', 'reverse', 'random' (with
      `order_seed`), 'blocks' (with `order_block` positions each), 'channels'
      or 'multiscale' (with `order_groups` an octave).
      `coupling` is that of a categorical head.
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
  if name not in FAMILIES:
    raise ValueError(f'Unknown model {name!r}{_hint(name, list(FAMILIES))}')
  factory, allowed = FAMILIES[name], fields(name)
  if rank is not None and 'order' not in allowed:
    raise ValueError(f'The model {name} has one order and takes no rank.')
  for field, value in options.items():
    if field not in allowed:
      raise ValueError(
        f'The model {name} has no field {field!r}{_hint(field, list(allowed))}'
      )
    _check(field, value, allowed[field])
  several, members = _ENSEMBLES.get(factory, (None, {}))
  if 'dtype' in options:
    options['dtype'] = _dtype(options['dtype'])
  coupling = options.pop(_COUPLING, 'gumbel')
  named = _rank(options)
  if rank is not None:
    named = rank
    options = {f: v for f, v in options.items() if f not in members}
  many = several is not None and any(field in options for field in members)
  if named is not None:
    options['rank'] = named
  if many and several is not None:
    models = several(**options)
  else:
    models = (factory(**options),)
  return tuple(_coupled(model, coupling) for model in models)


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
  try:
    dtype = jnp.dtype(value)
  except TypeError:
    dtype = None
  if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f'config.model.dtype = {value!r}: expected bfloat16, float16, float32 or '
      'float64.'
    )
  return dtype


def _coupled(model: AutoregressiveModel, coupling: Any) -> AutoregressiveModel:
  """The model with another coupling of its categorical head."""
  if coupling == 'gumbel':
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
  close = difflib.get_close_matches(str(word), words, 1)
  maybe = f' Did you mean {close[0]!r}?' if close else ''
  return f'.{maybe} Choose from: {", ".join(sorted(words))}.'
