"""Kinds of public models as functions in plain jnp, tiny and written anew.

`scans` has those with a recurrence. Each is a model for the scripts, and its
arguments are flags: --config.model.name=examples.plain:llama
"""

import jax
import jax.numpy as jnp
import numpy as np

import parallel_ar as par

WIDTH = 8


def drawer(shapes):
  """A function of a key: normal parameters of these shapes."""

  def init(key):
    keys = jax.random.split(key, len(shapes))
    draw = zip(sorted(shapes), keys, strict=True)
    return {n: jax.random.normal(k, shapes[n]) for n, k in draw}

  return init


def model_of(length, num_values, shapes, fn, **fields):
  """A record of fn(params, fed float[L, N], tokens int[L]) -> float[L, N].

  fed[k] is the embedding of symbol k - 1, and of a start symbol at k = 0.
  """
  shapes = {'e': (num_values + 1, WIDTH), 'o': (WIDTH, num_values)} | shapes

  def apply(params, tokens):
    return fn(params, params['e'][tokens], tokens) @ params['o']

  head = par.heads.categorical(num_values)
  fields |= {'head': head, 'start': num_values, 'batched': False}
  return par.from_apply(apply, drawer(shapes), event=(length,), **fields)


def _norm(h):
  h = h - h.mean(-1, keepdims=True)
  return h / jnp.sqrt((h * h).mean(-1, keepdims=True) + 1e-6)


def _attend(h, params, mask, fill):
  scores = h @ params['q'] @ h.T / WIDTH**0.5
  return jax.nn.softmax(jnp.where(mask, scores, fill), -1) @ h


def gpt2(length: int = 8, num_values: int = 5) -> par.AutoregressiveModel:
  """Two pre-norm blocks of causal attention and a GELU layer."""

  def fn(params, h, tokens):
    mask = jnp.tril(jnp.ones((length, length), bool))
    for _ in range(2):
      h = h + _attend(_norm(h), params, mask, -1e9)
      h = h + jax.nn.gelu(_norm(h) @ params['w'])
    return _norm(h)

  shapes = {'q': (WIDTH, WIDTH), 'w': (WIDTH, WIDTH)}
  return model_of(length, num_values, shapes, fn, name='gpt2')


def padded(
  length: int = 8, num_values: int = 5, window: int | None = None
) -> par.AutoregressiveModel:
  """As in lm1b and haiku's example: symbol 0 pads, and is masked as a key.

  The start symbol is no padding, so no row is ever closed, but for a window.
  """

  def fn(params, h, tokens):
    i = jnp.arange(length)
    mask = (i[:, None] >= i[None]) & (tokens > 0)[None]
    if window is not None:
      mask &= i[:, None] - i[None] < window
    return h + _attend(h, params, mask, -1e9)

  return model_of(length, num_values, {'q': (WIDTH, WIDTH)}, fn, name='padded')


def linear_attention(
  length: int = 8, num_values: int = 5
) -> par.AutoregressiveModel:
  """Masked products of elu + 1, with a normaliser."""

  def fn(params, h, tokens):
    q, k = jax.nn.elu(h @ params['q']) + 1, jax.nn.elu(h @ params['w']) + 1
    att = jnp.tril(jnp.ones((length, length))) * (q @ k.T)
    return att @ h / (att.sum(-1, keepdims=True) + 1e-6)

  shapes = {'q': (WIDTH, WIDTH), 'w': (WIDTH, WIDTH)}
  return model_of(length, num_values, shapes, fn, name='linear_attention')


def rms(h):
  """RMSNorm without weights."""
  return h / jnp.sqrt((h * h).mean(-1, keepdims=True) + 1e-6)


def rotate(h):
  """Rotary positions of float[L, N]."""
  half = h.shape[-1] // 2
  angle = jnp.arange(len(h))[:, None] / 10.0 ** jnp.arange(half)[None]
  a, b = h[:, :half], h[:, half:]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def rotary_attention(h, params, mask, cap=None):
  """Two heads of queries, and one of keys and num_values."""
  keys = rotate(h @ params['k'])
  heads_ = []
  for query in jnp.split(h @ params['q'], 2, -1):
    scores = rotate(query) @ keys.T / 2.0
    scores = scores if cap is None else cap * jnp.tanh(scores / cap)
    shares = jax.nn.softmax(jnp.where(mask, scores, -2.4e38), -1)
    heads_.append(shares @ (h @ params['v']))
  return jnp.concatenate(heads_, -1)


ROTARY = {'q': (WIDTH, WIDTH), 'k': (WIDTH, 4), 'v': (WIDTH, 4)}
GATED = {'w': (WIDTH, WIDTH), 'g': (WIDTH, WIDTH)}


def gemma(length: int = 8, num_values: int = 5) -> par.AutoregressiveModel:
  """RMSNorm, rotary multi-query attention, gated GELU, soft caps."""

  def fn(params, h, tokens):
    mask = jnp.tril(jnp.ones((length, length), bool))
    h = h * WIDTH**0.5
    h = h + rotary_attention(rms(h), params, mask, cap=50.0)
    gate = jax.nn.gelu(rms(h) @ params['g'], approximate=True)
    h = h + gate * (rms(h) @ params['w'])
    return 30.0 * jnp.tanh(rms(h) / 30.0)

  return model_of(length, num_values, ROTARY | GATED, fn, name='gemma')


def llama(length: int = 8, num_values: int = 5) -> par.AutoregressiveModel:
  """RMSNorm, rotary attention, SwiGLU, the mask added to the scores."""

  def fn(params, h, tokens):
    mask = jnp.tril(jnp.ones((length, length), bool))
    for _ in range(2):
      h = h + rotary_attention(rms(h), params, mask)
      h = h + jax.nn.silu(rms(h) @ params['g']) * (rms(h) @ params['w'])
    return rms(h)

  return model_of(length, num_values, ROTARY | GATED, fn, name='llama')


def mlstm(length: int = 8, num_values: int = 5) -> par.AutoregressiveModel:
  """The parallel form of xLSTM's matrix memory, stabilised by a maximum."""

  def fn(params, h, tokens):
    forget = jnp.cumsum(jax.nn.log_sigmoid(h @ params['p']))
    decay = forget[:, None] - forget[None] + (h @ params['r'])[None]
    mask = jnp.tril(jnp.ones((length, length), bool))
    decay = jnp.where(mask, decay, -jnp.inf)
    most = decay.max(-1, keepdims=True)
    att = (h @ params['w']) @ (h @ params['g']).T * jnp.exp(decay - most)
    total = jnp.maximum(jnp.abs(att.sum(-1, keepdims=True)), jnp.exp(-most))
    return h + att @ h / (total + 1e-6)

  shapes = GATED | {'p': (WIDTH,), 'r': (WIDTH,)}
  return model_of(length, num_values, shapes, fn, name='mlstm')


def maf(length: int = 6, hidden: int = 10) -> par.AutoregressiveModel:
  """Two masked layers to the mean and log deviation of a Gaussian."""
  degrees = np.arange(hidden) % (length - 1)
  into = degrees[:, None] >= np.arange(length)[None]
  out = np.arange(length)[:, None] > degrees[None]
  out_of = (length, hidden)
  shapes = {'m': out_of, 's': out_of, 'a': (hidden, length), 'b': (hidden,)}

  def conditionals(params, x, context):
    y = jax.nn.relu((params['a'] * into) @ x + params['b'])
    mean, scale = (params['m'] * out) @ y, (params['s'] * out) @ y
    dist = jnp.zeros(length), mean, jnp.tanh(scale)
    return tuple(leaf[:, None] for leaf in dist)

  return par.from_function(
    conditionals,
    event=jax.ShapeDtypeStruct((length,), jnp.float32),
    rank=par.order.raster(length),
    head=par.heads.gaussian_mixture(1),
    init=drawer(shapes),
    name='maf',
  )


def pixelcnn(
  side: int = 3, num_values: int = 3, channels: int = 4
) -> par.AutoregressiveModel:
  """Masked 3x3 convolutions of an image, type A and then type B."""
  shapes = {
    'a': (3, 3, 1, channels),
    'b': (3, 3, channels, channels),
    'o': (channels, num_values),
  }

  def conv(x, kernel, own):
    taps = np.ones((3, 3, 1, 1), np.float32)
    taps[1, 1 + own :] = taps[2] = 0
    return jax.lax.conv_general_dilated(
      x[None],
      kernel * taps,
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )[0]

  def conditionals(params, x, context):
    y = jax.nn.relu(conv(x * 2.0 - 1.0, params['a'], own=False))
    y = y + jax.nn.relu(conv(y, params['b'], own=True))
    return (y @ params['o'])[:, :, None]

  return par.from_function(
    conditionals,
    event=(side, side, 1),
    rank=par.order.raster((side, side, 1)),
    head=par.heads.categorical(num_values),
    init=drawer(shapes),
    name='pixelcnn',
  )


MODELS = (gpt2, padded, linear_attention, gemma, llama, mlstm, maf, pixelcnn)
