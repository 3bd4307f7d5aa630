"""Functions that one might bring: plain `jnp`, and no word about a cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import heads, order
from parallel_ar.model import AutoregressiveModel, from_function


def decayed_sum(length: int = 512, values: int = 5) -> AutoregressiveModel:
  """The README's own function: a sum over the past whose terms decay."""

  def init(key: Any) -> Any:
    w = jax.random.normal(key, (values, values))
    return {'w': w, 'decay': jnp.array(0.8)}

  def conditionals(params: Any, x: Any, context: Any) -> Any:
    seen = jax.nn.one_hot(x, values) @ params['w']
    age = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    return jnp.where(age > 0, params['decay'] ** age, 0) @ seen

  return _sequence('decayed sum', length, values, init, conditionals)


def gpt(
  length: int = 512,
  values: int = 256,
  width: int = 256,
  layers: int = 6,
  count: int = 8,
) -> AutoregressiveModel:
  """GPT-2 as one writes it: masked attention and a layer of 4 widths."""
  each = width // count

  def init(key: Any) -> Any:
    shapes = {'tokens': (values + 1, width), 'places': (length, width)}
    for n in range(layers):
      shapes |= {f'qkv{n}': (width, 3 * width), f'join{n}': (width, width)}
      shapes |= {f'up{n}': (width, 4 * width), f'down{n}': (4 * width, width)}
    keys = jax.random.split(key, len(shapes))
    return {
      name: jax.random.normal(k, shape) / shape[0] ** 0.5
      for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }

  def norm(h: Any) -> Any:
    h = h - h.mean(-1, keepdims=True)
    return h / jnp.sqrt((h * h).mean(-1, keepdims=True) + 1e-5)

  def attend(h: Any, qkv: Any) -> Any:
    split = lambda a: a.reshape(length, count, each).transpose(1, 0, 2)
    q, k, v = (split(a) for a in jnp.split(h @ qkv, 3, -1))
    mask = jnp.tril(jnp.ones((length, length), bool))
    scores = jnp.where(mask, q @ k.transpose(0, 2, 1) / each**0.5, -1e9)
    out = jax.nn.softmax(scores, -1) @ v
    return out.transpose(1, 0, 2).reshape(length, width)

  def conditionals(params: Any, x: Any, context: Any) -> Any:
    before = jnp.concatenate([jnp.full(1, values, x.dtype), x[:-1]])
    h = params['tokens'][before] + params['places']
    for n in range(layers):
      h = h + attend(norm(h), params[f'qkv{n}']) @ params[f'join{n}']
      h = h + jax.nn.gelu(norm(h) @ params[f'up{n}']) @ params[f'down{n}']
    return norm(h) @ params['tokens'][:-1].T * 0.2

  return _sequence('GPT', length, values, init, conditionals)


def convolutions(
  side: int = 28, values: int = 2, channels: int = 32, kernel: int = 7
) -> AutoregressiveModel:
  """An image by two masked convolutions: before the pixel, and with it."""
  middle = kernel // 2
  taps = np.zeros((2, kernel, kernel, 1, 1), np.float32)
  taps[:, :middle] = 1
  taps[:, middle, :middle] = 1
  taps[1, middle, middle] = 1

  def init(key: Any) -> Any:
    first, second, out = jax.random.split(key, 3)
    normal = jax.random.normal
    shapes = (kernel, kernel, 1, channels), (kernel, kernel, channels, channels)
    return {
      'first': normal(first, shapes[0]) / kernel,
      'second': normal(second, shapes[1]) / (kernel * channels**0.5),
      'out': normal(out, (channels, values)) / channels**0.5,
    }

  def conv(h: Any, weights: Any, taps: Any) -> Any:
    return jax.lax.conv_general_dilated(
      h[None],
      weights * taps,
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )[0]

  def conditionals(params: Any, x: Any, context: Any) -> Any:
    h = x[..., None] * 2.0 / (values - 1) - 1.0
    h = jax.nn.relu(conv(h, params['first'], taps[0]))
    h = jax.nn.relu(conv(h, params['second'], taps[1]))
    return h @ params['out']

  return from_function(
    conditionals,
    event=(side, side),
    rank=order.raster((side, side)),
    head=heads.categorical(values),
    init=init,
    name='two convolutions',
  )


def _sequence(
  name: str, length: int, values: int, init: Callable, conditionals: Callable
) -> AutoregressiveModel:
  return from_function(
    conditionals,
    event=(length,),
    rank=order.raster(length),
    head=heads.categorical(values),
    init=init,
    name=name,
  )
