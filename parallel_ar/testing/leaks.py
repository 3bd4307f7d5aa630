"""Models that are wrong on purpose. Each must be caught, and named rightly.

Every one is an easy mistake, made as small as it can be. A suite that lets one
of them pass proves nothing about the models that it passes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from parallel_ar import heads, model, order
from parallel_ar.layers import attention, conv, dense
from parallel_ar.types import Array, Context, Params, PRNGKey

LENGTH, WIDTH = 6, 8


class Leak(NamedTuple):
  """A mistake and what the audit must say of it.

  Attributes:
    name: of the model.
    mistake: what was done, and what should have been.
    build: makes the model.
    pair: (i, j), an output and a forbidden input that it certainly reads.
    laws: other laws that must reject it as well.
  """

  name: str
  mistake: str
  build: Callable[[], model.AutoregressiveModel]
  pair: tuple[int, int]
  laws: tuple[str, ...] = ('normalisation', 'one_pass')


def _shift(y_LN: Array) -> Array:
  """Slot k gets what stood at k - 1; zeros at the start."""
  return jnp.concatenate([jnp.zeros_like(y_LN[:1]), y_LN[:-1]])


def _sequence(
  name: str,
  body: Callable[[Params, Array], Array],
  *,
  rank: np.ndarray | None = None,
  causality: str = 'exact',
) -> model.AutoregressiveModel:
  """A binary model of 6 symbols: embed, body [L, N] -> [L, N], read out."""

  def init(key: PRNGKey) -> Params:
    shapes = {
      'embed': (2, WIDTH),
      'mix': (WIDTH, WIDTH),
      'place': (LENGTH, WIDTH),
      'out': (WIDTH, 1),
    }
    keys = jax.random.split(key, len(shapes))
    draw = zip(shapes, keys, strict=True)
    return {n: jax.random.normal(k, shapes[n]) for n, k in draw}

  def fn(params: Params, x: Array, context: Context) -> Array:
    del context
    y = body(params, params['embed'][x] + params['place'])
    y = jnp.tanh((y + params['place']) @ params['mix'])
    return (y @ params['out'])[:, 0]

  return model.AutoregressiveModel(
    event=jax.ShapeDtypeStruct((LENGTH,), jnp.int32),
    rank=order.raster(LENGTH) if rank is None else rank,
    head=heads.bernoulli(),
    init=init,
    conditionals=fn,
    causality=causality,  # type: ignore[arg-type]
    name=name,
  )


class _Stack(nn.Module):
  """Layers in turn with tanh between, on an image of -1 and 1."""

  layers: Sequence[Any]

  @nn.compact
  def __call__(self, x: Array, context: Context) -> Array:
    del context
    y = 2.0 * x - 1.0
    for layer in self.layers[:-1]:
      y = jnp.tanh(layer(y))
    return self.layers[-1](y).reshape(x.shape)


def _image(
  name: str, event: tuple[int, ...], *layers: nn.Module
) -> model.AutoregressiveModel:
  return model.from_linen(
    _Stack(layers),
    event=event,
    rank=order.raster(event),
    head=heads.bernoulli(),
    name=name,
  )


def _made_same_degree() -> model.AutoregressiveModel:
  rank, hidden = np.arange(LENGTH), np.arange(12) % (LENGTH - 1)
  return _image(
    'made_same_degree',
    (LENGTH,),
    dense.MaskedDense(rank, hidden),
    dense.MaskedDense(hidden, rank),
  )


def _first_layer_type_b() -> model.AutoregressiveModel:
  first, last = conv.MaskedConv(WIDTH, 3, 'B'), nn.Dense(1)
  return _image('first_layer_type_b', (2, 3, 1), first, last)


def _rows_with_own() -> model.AutoregressiveModel:
  first, last = conv.RowsAbove(WIDTH, 3, 'B'), nn.Dense(1)
  return _image('rows_with_own', (2, 3, 1), first, last)


def _channels_mixed() -> model.AutoregressiveModel:
  first = conv.MaskedConv(9, 3, 'A', channels=3)
  second = conv.MaskedConv(9, 3, 'B', channels=1)
  groups = dense.channel_degrees(9, 3), np.arange(3)
  last = dense.MaskedDense(*groups)
  return _image('channels_mixed', (1, 2, 3), first, second, last)


def _attend(y: Array, mask: Any, hidden_score: float) -> Array:
  scores = y @ y.T / WIDTH**0.5
  if mask is not None:
    scores = scores + jnp.where(mask, 0, hidden_score)
  return jax.nn.softmax(scores, -1) @ y


def _attention_unmasked(params: Params, y: Array) -> Array:
  return _attend(_shift(y) @ params['mix'], None, 0.0)


def _attention_masked_softly(params: Params, y: Array) -> Array:
  mask = np.tril(np.ones((LENGTH, LENGTH), bool))
  return _attend(_shift(y) @ params['mix'], mask, -10.0)


def _shift_forgotten(params: Params, y: Array) -> Array:
  y = (y @ params['mix']).reshape(LENGTH, 2, WIDTH // 2)
  y = attention.block_causal_attention(y, y, y)
  return y.reshape(LENGTH, WIDTH)


def _softmax_over_the_sequence(params: Params, y: Array) -> Array:
  weights = jax.nn.softmax(y @ params['out'], 0)
  return _shift(jnp.cumsum(weights * y, 0))


def _norm_over_time(params: Params, y: Array) -> Array:
  del params
  y = jnp.cumsum(_shift(y), 0)
  return (y - y.mean(0, keepdims=True)) / (y.std(0, keepdims=True) + 1e-3)


def _pooled_over_time(params: Params, y: Array) -> Array:
  return _shift(y) + (y @ params['mix']).max(0, keepdims=True)


def _sorted_over_time(params: Params, y: Array) -> Array:
  del params
  return _shift(jnp.cumsum(jnp.sort(y, 0), 0))


def _fft_wraps_around(params: Params, y: Array) -> Array:
  kernel = jnp.exp(-jnp.arange(LENGTH) / 2.0)[:, None]
  spectrum = jnp.fft.rfft(_shift(y), axis=0) * jnp.fft.rfft(kernel, axis=0)
  return jnp.fft.irfft(spectrum, LENGTH, axis=0)


def _padded_on_both_sides(params: Params, y: Array) -> Array:
  del params
  y = jnp.pad(_shift(y), ((1, 1), (0, 0)))
  return y[:-2] + 2 * y[1:-1] - y[2:]


def _causal_by_slot(params: Params, y: Array) -> Array:
  del params
  return jnp.cumsum(_shift(y), 0)


def _head_over_positions() -> model.AutoregressiveModel:
  right = heads.bernoulli()
  center = lambda logits: logits - logits.mean()
  wrong = right._replace(
    name='bernoulli of centred logits',
    log_prob=lambda logits, x: right.log_prob(center(logits), x),
    pick=lambda logits, noise: right.pick(center(logits), noise),
  )
  causal = _sequence('head_over_positions', _causal_by_slot)
  return model.from_function(
    causal.conditionals,
    event=causal.event,
    rank=causal.rank,
    head=wrong,
    init=causal.init,
    name='head_over_positions',
  )


GALLERY = (
  Leak(
    'made_same_degree',
    'Outputs read hidden units of degree <= their rank; it must be <.',
    _made_same_degree,
    (0, 0),
  ),
  Leak(
    'first_layer_type_b',
    'The first convolution keeps its own pixel; it must be of type A.',
    _first_layer_type_b,
    (0, 0),
  ),
  Leak(
    'rows_with_own',
    "The vertical stack starts with its own row, and so with the row's end.",
    _rows_with_own,
    (0, 1),
  ),
  Leak(
    'channels_mixed',
    'A convolution after the first forgets the channel groups at its centre.',
    _channels_mixed,
    (0, 1),
  ),
  Leak(
    'shift_forgotten',
    'Attention is causal, but slot k is fed its own symbol, unshifted.',
    lambda: _sequence('shift_forgotten', _shift_forgotten),
    (0, 0),
  ),
  Leak(
    'attention_unmasked',
    'Inputs are shifted, but every slot attends to all.',
    lambda: _sequence('attention_unmasked', _attention_unmasked),
    (0, 1),
  ),
  Leak(
    'attention_masked_softly',
    'Scores of the future get -10 instead of minus infinity: a leak of 1e-5.',
    lambda: _sequence('attention_masked_softly', _attention_masked_softly),
    (0, 1),
    (),  # too small for a tolerance; this is why bits are compared
  ),
  Leak(
    'softmax_over_the_sequence',
    'Weights of a causal sum share one normaliser over the whole sequence.',
    lambda: _sequence('softmax_over_the_sequence', _softmax_over_the_sequence),
    (1, 2),
  ),
  Leak(
    'norm_over_time',
    'Activations are normalised over positions instead of features.',
    lambda: _sequence('norm_over_time', _norm_over_time),
    (0, 1),
  ),
  Leak(
    'pooled_over_time',
    'A summary of the whole sequence is added to every slot.',
    lambda: _sequence('pooled_over_time', _pooled_over_time),
    (0, 0),
  ),
  Leak(
    'sorted_over_time',
    'Features are sorted along the sequence before a causal sum.',
    lambda: _sequence('sorted_over_time', _sorted_over_time),
    (1, 5),
  ),
  Leak(
    'fft_wraps_around',
    'A convolution by FFT is not padded, so that its end enters its start.',
    lambda: _sequence(
      'fft_wraps_around', _fft_wraps_around, causality='rounding'
    ),
    (0, 4),
  ),
  Leak(
    'padded_on_both_sides',
    "A convolution is padded evenly ('SAME') instead of on the left.",
    lambda: _sequence('padded_on_both_sides', _padded_on_both_sides),
    (0, 0),
  ),
  Leak(
    'causal_by_slot',
    'Positions are tied in pairs, but masks and shifts go by single slots.',
    lambda: _sequence(
      'causal_by_slot', _causal_by_slot, rank=order.blocks(LENGTH, 2)
    ),
    (1, 0),
    ('one_pass',),  # as a model in raster order it is normalised
  ),
  Leak(
    'order_ignored',
    'The rank says last to first; the network goes first to last.',
    lambda: _sequence(
      'order_ignored', _causal_by_slot, rank=order.reverse(order.raster(LENGTH))
    ),
    (5, 0),
    ('one_pass',),  # as above
  ),
  Leak(
    'head_over_positions',
    'The network is causal; the head subtracts the mean over positions.',
    _head_over_positions,
    (0, 1),
  ),
)


def unnormalised() -> model.AutoregressiveModel:
  """A causal model whose head forgets the normaliser; law 2 must reject it."""
  right = _sequence('unnormalised', _causal_by_slot)
  head = heads.bernoulli()._replace(
    name='bernoulli without its normaliser',
    log_prob=lambda logits, x: logits * x,
  )
  return model.from_function(
    right.conditionals,
    event=right.event,
    rank=right.rank,
    head=head,
    init=right.init,
    name='unnormalised',
  )
