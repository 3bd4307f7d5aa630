"""Equinox modules as records."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Unpack

import jax

from parallel_ar import order
from parallel_ar.adapters.network import Fields, Network, call_with, make
from parallel_ar.head import Head
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array, ArrayLike, Context, Params, PRNGKey


def from_equinox(
  module: Any,
  *,
  event: jax.ShapeDtypeStruct | order.Shape,
  head: Head,
  start: float | None,
  rank: ArrayLike | None = None,
  batched: bool = False,
  call: Callable[[Any, Array, Context], Any] | None = None,
  train: Callable[[Any, Array, Context, PRNGKey], Any] | None = None,
  **fields: Unpack[Fields],
) -> AutoregressiveModel:
  """Makes a model of an Equinox module.

  Parameters are the module's inexact arrays, in a dict by their paths, such as
  'layers.0.weight'; all else is constant. It runs in inference mode.

  Args:
    module: how it is made, key -> module; or a module, whose own weights `init`
      then gives for every key.
    event: shape of one x (int32), or its ShapeDtypeStruct.
    head: family of the conditionals.
    start: what is fed before the first symbol, or None; see `from_apply`.
    rank: int[E], the order of generation; raster by default.
    batched: whether the module takes and gives a leading batch axis.
    call: (module, tokens, context) -> outputs, where it is called otherwise
      than `module(tokens)`, or `module(tokens, context)` with a context.
    train: (module, tokens, context, key) -> outputs with dropout, on the module
      as it was made; training minimises -log p(x) under it.
    **fields: further fields of the record, see `AutoregressiveModel`.

  Returns:
    The record.

  Raises:
    ImportError: Equinox is not installed.
    ValueError: the parts do not fit, or what is made is no module.
  """
  eqx = imported('equinox')
  fixed = isinstance(module, eqx.Module)
  make_it = (lambda key: module) if fixed else module
  shape = eqx.filter_eval_shape(make_it, jax.random.key(0))
  if not isinstance(shape, eqx.Module):
    raise ValueError(
      f'from_equinox takes key -> module; got {type(shape).__name__}. A module '
      'with a state, as eqx.nn.make_with_state makes it, is no function of its '
      'inputs: batch statistics leak between positions or examples.'
    )
  name = type(shape).__name__

  split = lambda key: eqx.partition(make_it(key), eqx.is_inexact_array)
  # XLA makes no weights where only the rest is asked for.
  rest = eqx.filter_jit(lambda: split(jax.random.key(0))[1])()
  weights = eqx.filter_eval_shape(lambda: split(jax.random.key(0))[0])
  paths, tree = jax.tree_util.tree_flatten_with_path(weights)
  names = [
    jax.tree_util.keystr(path, simple=True, separator='.') for path, _ in paths
  ]

  def init(key: PRNGKey, tokens: Array, context: Context) -> Params:
    return dict(zip(names, jax.tree.leaves(split(key)[0]), strict=True))

  def bound(params: Params) -> Any:
    weights = jax.tree.unflatten(tree, [params[name] for name in names])
    return eqx.combine(weights, rest)

  run = call or call_with

  def apply(params: Params, tokens: Array, context: Context) -> Any:
    return run(eqx.nn.inference_mode(bound(params)), tokens, context)

  def noisy(params: Params, tokens: Array, context: Context, key: PRNGKey):
    assert train is not None
    return train(bound(params), tokens, context, key)

  return make(
    Network(jax.jit(init), apply, noisy if train else None),
    event=event,
    head=head,
    start=start,
    rank=rank,
    batched=batched,
    fields={'name': name, **fields},
  )


def imported(name: str) -> ModuleType:
  """A framework that is an optional dependency.

  Raises:
    ImportError: it is not installed; the message says how it would be.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ImportError(
      f'{name} is not installed. It comes with the extra: '
      f"pip install 'parallel_ar[{name}]'"
    ) from error
