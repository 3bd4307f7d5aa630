"""What models share in which a pixel is one position, its channels inside."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from parallel_ar import heads, model, order
from parallel_ar.adapters import linen
from parallel_ar.decode import Decode
from parallel_ar.heads import discrete
from parallel_ar.heads.discretized_logistic import from_outputs
from parallel_ar.heads.discretized_logistic import num_outputs as of_mixtures
from parallel_ar.layers import embedding, gated
from parallel_ar.types import Array, Context, Dist, Params, PRNGKey


def encode(x: Array, num_values: int) -> Array:
  """Values within -1..1, and a channel of ones: float32[H, W, C + 1].

  The ones tell the border from a grey pixel.
  """
  image = embedding.encode(x, num_values, 'scaled')
  return jnp.concatenate([image, jnp.ones_like(image[..., :1])], -1)


def num_outputs(channels: int, num_values: int, num_mixtures: int) -> int:
  """Features that `to_dist` takes."""
  if num_mixtures:
    return of_mixtures(channels, num_mixtures)
  return discrete.num_logits(num_values)


def to_dist(
  out: Array, channels: int, num_values: int, num_mixtures: int
) -> Dist:
  """Parameters of the conditionals, of the last layer's output."""
  if num_mixtures:
    return from_outputs(out, channels, num_mixtures)
  out = out.astype(jnp.float32)
  return out if num_values == 2 else out[..., None, :]


def record(
  module: Any,
  *,
  event: Sequence[int],
  num_values: int,
  num_mixtures: int,
  num_classes: int,
  context_size: int,
  decode: Decode | None,
  name: str,
) -> model.AutoregressiveModel:
  """The record of a network over pixels in raster order.

  Without mixtures the head is Bernoulli or categorical. With `module.dropout`
  the objective is -log p(x) with units left out; with `module.weight_norm`
  parameters can be initialized from data.
  """
  head = discrete.of_values(num_values)
  if num_mixtures:
    head = heads.discretized_logistic(num_values, event[-1], num_mixtures)

  def objective(params: Params, x: Array, c: Context, key: PRNGKey) -> Array:
    rngs = {'dropout': key}
    dist = module.apply({'params': params}, x, c, rngs=rngs)
    return -head.log_prob(dist, x).sum()

  made = linen.from_linen(
    module,
    event=jax.ShapeDtypeStruct(tuple(event), jnp.int32),
    rank=order.raster(event[:2] if num_mixtures else event),
    head=head,
    context=embedding.context_spec(num_classes, context_size),
    decode=decode,
    objective=objective if module.dropout else None,
    name=name,
  )
  if not module.weight_norm:
    return made
  from_data = functools.partial(_from_data, made.init, module)
  return dataclasses.replace(made, init_from_data=from_data)


def _from_data(
  init: Any, module: Any, key: PRNGKey, x: Array, context: Context
) -> Params:
  """Parameters whose every layer has normalized outputs on x[B, *event]."""
  params = init(key)
  plain = module.clone(remat='none')

  def one(x: Array, context: Context) -> Params:
    _, new = plain.apply({'params': params}, x, context, mutable=['params'])
    return new['params']

  over = gated.EXAMPLES
  return jax.vmap(one, out_axes=None, axis_name=over)(x, context)


def value(event: Sequence[int], num_mixtures: int) -> Any:
  """Shape and dtype of the value of one position."""
  shape = tuple(event[2:]) if num_mixtures else ()
  return jax.ShapeDtypeStruct(shape, jnp.int32)


def check(
  name: str, event: Sequence[int], num_mixtures: int, dropout: float
) -> None:
  """Refuses what no model of pixels can be.

  Raises:
    ValueError: an event that is no image, several channels without a mixture,
      which is what chains them, or a rate outside [0, 1).
  """
  if len(event) != 3:
    raise ValueError(
      f'{name} takes an event (height, width, channels); got {tuple(event)}. '
      'Give grey images one channel: (height, width, 1).'
    )
  if event[2] > 1 and not num_mixtures:
    raise ValueError(
      f'{name} draws a pixel of {event[2]} channels at once, which needs the '
      'chain inside a mixture of logistics. Set num_mixtures, for example 10.'
    )
  if not 0 <= dropout < 1:
    raise ValueError(
      f'dropout is the rate of units left out, in [0, 1); got {dropout}.'
    )
