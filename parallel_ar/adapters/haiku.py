"""Haiku functions as records."""

from collections.abc import Callable
from typing import Any, Unpack

import jax
from jax.interpreters import partial_eval

from parallel_ar import order
from parallel_ar.adapters.equinox import imported
from parallel_ar.adapters.network import Fields, Network, call_with, make
from parallel_ar.head import Head
from parallel_ar.model import AutoregressiveModel
from parallel_ar.types import Array, ArrayLike, Context, Params, PRNGKey


def from_haiku(
  function: Any,
  *,
  event: jax.ShapeDtypeStruct | order.Shape,
  head: Head,
  start: float | None,
  rank: ArrayLike | None = None,
  batched: bool = True,
  train: Callable[[Array, Context], Any] | None = None,
  **fields: Unpack[Fields],
) -> AutoregressiveModel:
  """Makes a model of a function that uses Haiku's modules.

  Args:
    function: tokens -> outputs, or (tokens, context) -> outputs, as it is given
      to `hk.transform`; or what that makes of it.
    event: shape of one x (int32), or its ShapeDtypeStruct.
    head: family of the conditionals.
    start: what is fed before the first symbol, or None; see `from_apply`.
    rank: int[E], the order of generation; raster by default.
    batched: whether the function takes and gives a leading batch axis.
    train: (tokens, context) -> outputs with dropout, with the same parameters;
      training minimises -log p(x) under it.
    **fields: further fields of the record, see `AutoregressiveModel`.

  Returns:
    The record.

  Raises:
    ImportError: Haiku is not installed.
    ValueError: the parts do not fit, or the function has a state or draws
      random numbers that its outputs depend on.
  """
  hk = imported('haiku')
  name = getattr(function, '__name__', type(function).__name__)
  if isinstance(function, hk.Transformed):
    function, name = hk.with_empty_state(function), 'haiku'
  transformed = isinstance(function, hk.TransformedWithState)
  run = (
    function
    if transformed
    else hk.transform_with_state(lambda *args: call_with(function, *args))
  )

  def args(tokens: Array, context: Context) -> tuple:
    whole = not transformed or context is not None
    return (tokens, context) if whole else (tokens,)

  def init(key: PRNGKey, tokens: Array, context: Context) -> Params:
    params, state = run.init(key, *args(tokens, context))
    if state:
      raise ValueError(
        f'{name} has a state in {sorted(state)}; a model may own only '
        'parameters. Batch statistics and mutable caches leak state between '
        'positions or examples.'
      )
    return params

  def apply(params: Params, tokens: Array, context: Context) -> Any:
    # Dropout asks for a key even at rate 0.
    with_key = lambda key: run.apply(params, {}, key, *args(tokens, context))[0]
    _no_dropout(name, with_key)
    return with_key(jax.random.key(0))

  def noisy(params: Params, tokens: Array, context: Context, key: PRNGKey):
    loud = hk.transform(train)
    return loud.apply(params, key, tokens, context)

  return make(
    Network(jax.jit(init), apply, noisy if train else None),
    event=event,
    head=head,
    start=start,
    rank=rank,
    batched=batched,
    fields={'name': name if name != '<lambda>' else 'haiku', **fields},
  )


def _no_dropout(name: str, function: Callable[[PRNGKey], Any]) -> None:
  """Refuses a function of a key that draws with it.

  Raises:
    ValueError: its outputs depend on the key.
  """
  key = jax.eval_shape(lambda: jax.random.key(0))
  traced = jax.make_jaxpr(function)(key).jaxpr
  # A scan of Haiku carries a key that its body may leave alone.
  _, used = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
  if any(used):
    raise ValueError(
      f'the outputs of {name} depend on a random key: give the function without'
      ' dropout, and the one with dropout as train='
    )
