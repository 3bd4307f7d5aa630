"""Model families, and how a config names them.

`build` turns the `model` section of a config into models. Every field of the
section besides `name` is an argument of the family's factory.
"""

import difflib
import functools
import inspect
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
_ORDERS = ('num_orders', 'orders_seed')
_ENSEMBLES: dict[Any, tuple[Callable[..., Any], tuple[str, ...]]] = {
  ardm: (functools.partial(any_order.ensemble, ardm), _ORDERS),
  made: (ensemble, ('num_masks', 'random_orders', 'mask_sampling')),
  nade: (eonade, _ORDERS),
  two_stream: (functools.partial(any_order.ensemble, two_stream), _ORDERS),
}
_COUPLING = 'coupling'  # of a categorical head, see `heads.categorical`
# How a config names a rank.
_ORDER = ('order', 'order_seed', 'order_block', 'order_groups')


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
  factory = FAMILIES[name]
  fields = list(inspect.signature(factory).parameters)
  allowed = [f for f in fields if f != 'rank'] + [_COUPLING]
  if 'rank' in fields:
    allowed += _ORDER
  elif rank is not None:
    raise ValueError(f'The model {name} has one order and takes no rank.')
  several, members = _ENSEMBLES.get(factory, (None, ()))
  allowed += members
  for field in options:
    if field not in allowed:
      raise ValueError(
        f'The model {name} has no field {field!r}{_hint(field, allowed)}'
      )
  if 'dtype' in options:
    options['dtype'] = jnp.dtype(options['dtype'])
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
