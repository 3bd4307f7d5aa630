"""Models made from models, by ONE function that knows what a record holds."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import order
from parallel_ar.memo import once
from parallel_ar.model import AutoregressiveModel, Head
from parallel_ar.types import ArrayLike, Dist, Params

# What every function of a record takes and gives; '' where there is none. Of
# these kinds `wrap` changes:
#   params       parameters
#   x, batch     one event, and a batch of them
#   dist         conditionals by position; slot_dist: slot after slot
#   positions    int[D], the position of each slot of an order that is data
_BLOCKS = {
  'size': '',
  'init': 'params context -> cache',
  'begin': 'params cache block previous -> cache shared',
  'conditionals': 'params shared row -> slot_dist',
  'start': 'params shared -> inner',
  'extend': 'params shared inner slot previous -> slot_dist inner',
}
_GROUPS = {
  'init': 'params context -> cache',
  'extend': 'params cache level x -> dist cache',
}
_DECODE = {
  'init': 'params context -> cache',
  'extend': 'params cache slot previous -> slot_dist cache',
  'rewind': 'cache slot -> cache',
  'resize': 'cache length -> cache',
  'blocks': _BLOCKS,
  'groups': _GROUPS,
}
_FEATURES = {
  'apply': 'params x context -> dist raw',
  'at': 'raw slot -> vector',
}
_RECORD = {
  'event': '',
  'rank': '',
  'head': '',
  'init': 'key -> params',
  'conditionals': 'params x context -> dist',
  'context': '',
  'decode': _DECODE,
  'features': _FEATURES,
  'objective': 'params x context key -> nats',
  'init_from_data': 'key batch context -> params',
  'conditionals_given': 'params x context positions count -> dist',
  'causality': '',
  'whole': '',
  'name': '',
}


def wrap(
  model: AutoregressiveModel,
  *,
  params: tuple[Callable[[Params], Params], Callable[[Params], Params]]
  | None = None,
  positions: np.ndarray | None = None,
  dist: Callable[[Dist], Dist] | None = None,
  head: Head | None = None,
  **fields: Any,
) -> AutoregressiveModel:
  """The model whose functions read or give something else.

  Every function of the record is changed alike, those of its decode path and of
  its features too; what does not change keeps its identity. A training
  objective bounds the likelihood of the old conditionals, so that it goes where
  `dist` or `head` are others.

  Args:
    model: the model.
    params: (new -> old, old -> new) parameters.
    positions: int[D], a permutation: position d of the new event is position
      positions[d] of the old one. Slots of a rank with ties change places, so
      that a decode path and features are kept for a total order only.
    dist: old -> new conditionals, for any number of positions.
    head: the family of the new conditionals.
    **fields: of the new record, instead of those found here.

  Returns:
    The record.

  Raises:
    TypeError: the record has a field that is not known here, which a new model
      would share with the old one, wrongly perhaps.
  """
  takes: dict[str, Callable] = {}
  gives: dict[str, Callable] = {}
  if params is not None:
    takes['params'], gives['params'] = params
  if dist is not None:
    gives |= {'dist': dist, 'slot_dist': dist}
  if positions is not None:
    inverse = np.argsort(positions)
    gather = lambda leaf, at: _gather(leaf, at, model.rank.ndim)
    takes['x'] = lambda z: gather(z, inverse)
    takes['batch'] = jax.vmap(takes['x'])
    takes['positions'] = lambda slots: jnp.asarray(positions)[slots]
    change = dist or (lambda old: old)
    by_position = lambda leaf: gather(leaf, positions)
    gives['dist'] = lambda old: jax.tree.map(by_position, change(old))
    fields = {'rank': by_position(model.rank), **fields}
    if model.depth < model.num_positions:
      fields = {'decode': None, 'features': None, **fields}
  if dist is not None or head is not None:
    fields = {'objective': None, **fields}
  if head is not None:
    fields = {'head': head, **fields}
  return dataclasses.replace(
    model, **{**_changed(model, _RECORD, takes, gives), **fields}
  )


def with_temperature(
  model: AutoregressiveModel, temperature: float
) -> AutoregressiveModel:
  """Another model, whose every conditional is tempered.

    q(x) = prod_i q(x_i | x_<i),   q(x_i | x_<i) prop. to p(x_i | x_<i)^(1/T)

  This changes the model: its likelihood is that of q, and q is not the
  tempered joint p(x)^(1/T) / Z, whose normaliser couples all positions. A
  temperature is a constant of its programs: each compiles anew, once.

  Args:
    model: p.
    temperature: T > 0; below 1 sharpens, above 1 flattens.

  Raises:
    ValueError: T is not positive and finite, or the head has no tempering.
  """
  float32 = np.finfo(np.float32)
  if not float(float32.tiny) <= temperature <= float(float32.max):
    raise ValueError(
      f'temperature must be positive and finite, also as a float32; got '
      f'{temperature}. For the greedy limit use a small one, such as 1e-4.'
    )
  temper = model.head.temper
  if temper is None:
    raise ValueError(
      f'The head {model.head.name} of {model.name} defines no `temper`, so '
      'its conditionals cannot be tempered.'
    )

  def make() -> AutoregressiveModel:
    return wrap(
      model,
      dist=lambda dist: temper(dist, temperature),
      name=f'{model.name} at temperature {temperature:g}',
    )

  return once(model, ('temperature', float(temperature)), make)


def permute(
  model: AutoregressiveModel, positions: ArrayLike
) -> AutoregressiveModel:
  """The same model with its positions renamed.

  Position d of the new event z shows position positions[d] of the old event
  x: z = x[positions] on flattened positions, and the rank goes along. A
  transposed raster order of an image model, for example.

  Args:
    model: model of x.
    positions: int[D], a permutation of 0..D-1.

  Returns:
    A model of z with the same event shape, depth and probabilities.

  Raises:
    ValueError: `positions` is no permutation of 0..D-1.
  """
  order.permutation(positions, model.rank.shape)  # checks them
  flat = np.asarray(positions).reshape(-1)
  make = lambda: wrap(model, positions=flat, name=f'permuted {model.name}')
  return once(model, ('permuted', *flat.tolist()), make)


def _gather(leaf: Any, index: np.ndarray, axes: int) -> Any:
  """Rows `index` of an array whose first axes are positions."""
  flat = leaf.reshape((index.size, *leaf.shape[axes:]))
  return flat[index].reshape(leaf.shape)


def _changed(part: Any, table: dict, takes: dict, gives: dict) -> dict:
  """The fields of a record, or of a part of one, as functions of the new kind.

  Raises:
    TypeError: the fields are not those of the table.
  """
  found = getattr(part, '_fields', None)
  if found is None:
    found = [field.name for field in dataclasses.fields(part)]
  if unknown := set(found) ^ set(table):
    raise TypeError(
      f'{type(part).__name__} and transform.wrap do not agree on '
      f'{sorted(unknown)}. Say there what each of its functions takes and '
      'gives; a field that is only copied would be that of another model.'
    )

  def change(old: Any, kind: Any) -> Any:
    if old is None or kind == '':
      return old
    if isinstance(kind, dict):
      return old._replace(**_changed(old, kind, takes, gives))
    return _composed(old, kind, takes, gives)

  return {name: change(getattr(part, name), table[name]) for name in found}


def _composed(
  function: Callable, signature: str, takes: dict, gives: dict
) -> Callable:
  """`function` between the maps of its arguments and of its results."""
  before, after = (
    [maps.get(kind) for kind in side.split()]
    for maps, side in zip((takes, gives), signature.split('->'), strict=True)
  )
  if not any(before + after):
    return function

  def apply(changes: list, values: Any) -> tuple:
    pairs = zip(changes, values, strict=True)
    return tuple(change(v) if change else v for change, v in pairs)

  def composed(*args: Any) -> Any:
    out = function(*apply(before, args))
    return apply(after, out) if len(after) > 1 else apply(after, (out,))[0]

  return composed
