"""Models of sequences that are wrong on purpose, for `leaks`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import heads, model, order
from parallel_ar.layers import attention
from parallel_ar.types import Array, Context, Params, PRNGKey

LENGTH, WIDTH = 6, 8


def shift(y_LN: Array) -> Array:
  """Slot k gets what stood at k - 1; zeros at the start."""
  return jnp.concatenate([jnp.zeros_like(y_LN[:1]), y_LN[:-1]])


def sequence(
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


def _attend(y: Array, mask: Any, hidden_score: float) -> Array:
  scores = y @ y.T / WIDTH**0.5
  if mask is not None:
    scores = scores + jnp.where(mask, 0, hidden_score)
  return jax.nn.softmax(scores, -1) @ y


def attention_unmasked(params: Params, y: Array) -> Array:
  """Every slot attends to all."""
  return _attend(shift(y) @ params['mix'], None, 0.0)


def attention_masked_softly(params: Params, y: Array) -> Array:
  """Future scores get -10."""
  mask = np.tril(np.ones((LENGTH, LENGTH), bool))
  return _attend(shift(y) @ params['mix'], mask, -10.0)


def attention_masked_by_zero(params: Params, y: Array) -> Array:
  """Future scores are multiplied by 0, and exp(0) = 1 is a weight."""
  y = shift(y) @ params['mix']
  scores = jnp.tril(jnp.ones((LENGTH, LENGTH))) * (y @ y.T)
  return jax.nn.softmax(scores / WIDTH**0.5, -1) @ y


def shift_forgotten(params: Params, y: Array) -> Array:
  """Causal attention on unshifted inputs."""
  y = (y @ params['mix']).reshape(LENGTH, 2, WIDTH // 2)
  y = attention.block_causal_attention(y, y, y)
  return y.reshape(LENGTH, WIDTH)


def softmax_over_the_sequence(params: Params, y: Array) -> Array:
  """One normaliser for all slots."""
  weights = jax.nn.softmax(y @ params['out'], 0)
  return shift(jnp.cumsum(weights * y, 0))


def norm_over_time(params: Params, y: Array) -> Array:
  """Mean and variance over the sequence."""
  del params
  y = jnp.cumsum(shift(y), 0)
  return (y - y.mean(0, keepdims=True)) / (y.std(0, keepdims=True) + 1e-3)


def pooled_over_time(params: Params, y: Array) -> Array:
  """The maximum over the sequence, added to every slot."""
  return shift(y) + (y @ params['mix']).max(0, keepdims=True)


def sorted_over_time(params: Params, y: Array) -> Array:
  """Sorted along the sequence."""
  del params
  return shift(jnp.cumsum(jnp.sort(y, 0), 0))


def fft_wraps_around(params: Params, y: Array) -> Array:
  """A circular convolution."""
  kernel = jnp.exp(-jnp.arange(LENGTH) / 2.0)[:, None]
  spectrum = jnp.fft.rfft(shift(y), axis=0) * jnp.fft.rfft(kernel, axis=0)
  return jnp.fft.irfft(spectrum, LENGTH, axis=0)


def padded_on_both_sides(params: Params, y: Array) -> Array:
  """A convolution centred on the slot before."""
  del params
  y = jnp.pad(shift(y), ((1, 1), (0, 0)))
  return y[:-2] + 2 * y[1:-1] - y[2:]


def causal_by_slot(params: Params, y: Array) -> Array:
  """Causal in raster order."""
  del params
  return jnp.cumsum(shift(y), 0)


def dropped_by_the_data(params: Params, y: Array) -> Array:
  """Dropout whose seed is a hash of the example."""
  del params
  seed = jax.lax.bitcast_convert_type(y.sum(), jnp.uint32)
  kept = jax.random.bernoulli(jax.random.key(seed), 0.8, y.shape)
  return jnp.cumsum(shift(y), 0) * kept


def routed_over_tokens(params: Params, y: Array) -> Array:
  """An expert that chooses its tokens from the whole sequence."""
  y = shift(y)
  scores = (y @ params['mix'])[:, 0]
  y = jnp.cumsum(y, 0)
  best, tokens = jax.lax.top_k(scores, LENGTH - 1)
  dispatch = jax.nn.one_hot(tokens, LENGTH)
  share = jax.nn.softmax(best)[:, None]
  worked_on = share * jnp.tanh(dispatch @ y @ params['mix'])
  return y + dispatch.T @ worked_on


def scanned_from_the_end(params: Params, y: Array) -> Array:
  """A recurrence from the last slot to the first."""

  def step(h: Array, y: Array) -> tuple[Array, Array]:
    h = jnp.tanh(h @ params['mix'] + y)
    return h, h

  return jax.lax.scan(step, jnp.zeros(WIDTH), shift(y), reverse=True)[1]


def _is_one(params: Params, y: Array) -> Array:
  """bool[L], which symbols are 1, as a mask that is made of the data."""
  zero, one = params['embed']
  own = y - params['place'] - (zero + one)[None] / 2
  return own @ (one - zero) > 0


def masked_by_the_data(params: Params, y: Array) -> Array:
  """Attention to all slots that hold a 1; the causal mask is forgotten."""
  return _attend(shift(y), _is_one(params, shift(y))[None], -1e9)


def closed_by_the_data(params: Params, y: Array) -> Array:
  """Causal attention to what holds a 1; a row without one is even over all."""
  y = shift(y)
  lower = np.tril(np.ones((LENGTH, LENGTH), bool))
  return _attend(y, lower & _is_one(params, y)[None], -1e9)


def zero_times_infinity(params: Params, y: Array) -> Array:
  """A causal sum of logs by a mask of zeros: where log is -inf, that is nan."""
  logs = jnp.log(_is_one(params, y).astype(y.dtype))
  total = (np.tril(np.ones((LENGTH, LENGTH)), -1) * logs[None]).sum(1)
  return shift(y) + jnp.nan_to_num(total, nan=1.0, neginf=-4.0)[:, None]


def branch_on_the_end(params: Params, y: Array) -> Array:
  """A branch that the last symbol chooses."""
  past = jnp.cumsum(shift(y), 0)
  last = _is_one(params, y)[-1]
  return jax.lax.cond(last, lambda y: y, lambda y: 1 - y, past)


def switch_by_the_count(params: Params, y: Array) -> Array:
  """A branch for each remainder of the number of ones."""
  past = jnp.cumsum(shift(y), 0)
  count = _is_one(params, y).sum() % 2
  return jax.lax.switch(count, [lambda y: y, lambda y: y - 2], past)


def any_over_the_sequence(params: Params, y: Array) -> Array:
  """Another sum if there is a 1 anywhere; random events nearly all have one."""
  past = jnp.cumsum(shift(y), 0)
  return jnp.where(_is_one(params, y).any(), past, -past - 1)


def gated_by_the_next(params: Params, y: Array) -> Array:
  """A product with a gate that stands one slot too early."""
  gate = jnp.append(_is_one(params, y)[1:], True)
  return jnp.cumsum(shift(y), 0) * gate[:, None] + shift(y)


def fft_low_pass(params: Params, y: Array) -> Array:
  """Frequencies cut off: every slot then reads all."""
  del params
  spectrum = jnp.fft.rfft(shift(y), axis=0)
  kept = np.arange(LENGTH // 2 + 1) < 2
  return jnp.fft.irfft(spectrum * kept[:, None], LENGTH, axis=0)


def fft_of_gates(params: Params, y: Array) -> Array:
  """A spectrum times gates that are learned, some of them closed."""
  gates = jax.nn.relu(params['place'][: LENGTH // 2 + 1] - 0.5)
  spectrum = jnp.fft.rfft(shift(y), axis=0)
  return jnp.fft.irfft(spectrum * gates, LENGTH, axis=0)


def median_over_time(params: Params, y: Array) -> Array:
  """The median over the sequence is taken off."""
  del params
  past = jnp.cumsum(shift(y), 0)
  middle = slice(LENGTH // 2, LENGTH // 2 + 1)
  return past - jnp.sort(past, 0)[middle]


def scaled_by_the_range(params: Params, y: Array) -> Array:
  """Divided by the range over the sequence."""
  del params
  past = jnp.cumsum(shift(y), 0)
  return past / (1.0 + past.max(0, keepdims=True) - past.min(0, keepdims=True))


def rolled_around(params: Params, y: Array) -> Array:
  """Shifted by a roll, which feeds the last symbol to the first slot."""
  del params
  return jnp.cumsum(jnp.roll(y, 1, 0), 0)
