"""Model families, and how a config names them.

`build` turns the `model` section of a config into models. Every field of the
section besides `name` is an argument of the family's factory.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from parallel_ar import order
from parallel_ar.model import AutoregressiveModel
from parallel_ar.models.gated_pixelcnn import gated_pixelcnn
from parallel_ar.models.made import ensemble, made
from parallel_ar.models.pixelcnn import pixelcnn
from parallel_ar.models.transformer import transformer

__all__ = [
  'build',
  'ensemble',
  'gated_pixelcnn',
  'made',
  'pixelcnn',
  'transformer',
]

FAMILIES: dict[str, Callable[..., AutoregressiveModel]] = {
  'gated_pixelcnn': gated_pixelcnn,
  'made': made,
  'pixelcnn': pixelcnn,
  'transformer': transformer,
}
_ENSEMBLE = ('num_masks', 'random_orders')  # fields of MADE's mask sets
_ORDER = ('order', 'order_seed', 'order_block')  # how a config names a rank


def build(config: Mapping[str, Any]) -> tuple[AutoregressiveModel, ...]:
  """Builds the models of a config's `model` section.

  Args:
    config: `name` of the family, the factory's arguments, and for families
      that take a rank `order`: 'raster', 'reverse', 'random' (with
      `order_seed`) or 'blocks' (with `order_block` positions each).

  Returns:
    One model, or the K mask sets of a MADE ensemble, which share params.

  Raises:
    ValueError: an unknown family or field, or fields that do not fit.
  """
  options = dict(config)
  name = options.pop('name', None)
  if name not in FAMILIES:
    raise ValueError(f'Unknown model {name!r}{_hint(name, list(FAMILIES))}')
  factory = FAMILIES[name]
  fields = list(inspect.signature(factory).parameters)
  allowed = [f for f in fields if f != 'rank']
  if 'rank' in fields:
    allowed += _ORDER
  if factory is made:
    allowed += _ENSEMBLE
  for field in options:
    if field not in allowed:
      raise ValueError(
        f'The model {name} has no field {field!r}{_hint(field, allowed)}'
      )
  if 'dtype' in options:
    options['dtype'] = jnp.dtype(options['dtype'])
  rank = _rank(options)
  if rank is not None:
    options['rank'] = rank
  if factory is made:
    return ensemble(**options)
  return (factory(**options),)


def _rank(options: dict[str, Any]) -> Any:
  """Takes the order fields out of the options and makes the rank of them."""
  kind, seed, block = (options.pop(f, None) for f in _ORDER)
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
    case _:
      kinds = ['raster', 'reverse', 'random', 'blocks']
      raise ValueError(f'Unknown order {kind!r}{_hint(kind, kinds)}')


def _hint(word: Any, words: list[str]) -> str:
  close = difflib.get_close_matches(str(word), words, 1)
  maybe = f' Did you mean {close[0]!r}?' if close else ''
  return f'.{maybe} Choose from: {", ".join(sorted(words))}.'
