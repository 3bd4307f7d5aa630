"""Kinds of public models, each written anew as a tiny function."""

import jax
import jax.numpy as jnp

from parallel_ar import heads, model, order

WIDTH = 8


def _model(length, values, shapes, fn, **fields):
  """A record of fn(params, fed float[L, N]) -> logits float[L, V].

  fed[k] is the embedding of symbol k - 1, and of a start symbol at k = 0.
  """
  shapes = {'e': (values + 1, WIDTH), 'o': (WIDTH, values)} | shapes

  def init(key):
    keys = jax.random.split(key, len(shapes))
    draw = zip(sorted(shapes), keys, strict=True)
    return {n: jax.random.normal(k, shapes[n]) for n, k in draw}

  def conditionals(params, x, context):
    tokens = jnp.concatenate([jnp.full((1,), values, x.dtype), x[:-1]])
    return fn(params, params['e'][tokens], tokens) @ params['o']

  return model.from_function(
    conditionals,
    event=(length,),
    rank=order.raster(length),
    head=heads.categorical(values),
    init=init,
    **fields,
  )


def _norm(h):
  h = h - h.mean(-1, keepdims=True)
  return h / jnp.sqrt((h * h).mean(-1, keepdims=True) + 1e-6)


def _attend(h, params, mask, fill):
  scores = h @ params['q'] @ h.T / WIDTH**0.5
  return jax.nn.softmax(jnp.where(mask, scores, fill), -1) @ h


def gpt2(length=8, values=5):
  """Two pre-norm blocks of causal attention and a GELU layer."""

  def fn(params, h, tokens):
    mask = jnp.tril(jnp.ones((length, length), bool))
    for _ in range(2):
      h = h + _attend(_norm(h), params, mask, -1e9)
      h = h + jax.nn.gelu(_norm(h) @ params['w'])
    return _norm(h)

  shapes = {'q': (WIDTH, WIDTH), 'w': (WIDTH, WIDTH)}
  return _model(length, values, shapes, fn, name='gpt2')


def padded(length=8, values=5, window=None):
  """As in lm1b and haiku's example: symbol 0 pads, and is masked as a key.

  The start symbol is no padding, so no row is ever closed, but for a window.
  """

  def fn(params, h, tokens):
    i = jnp.arange(length)
    mask = (i[:, None] >= i[None]) & (tokens > 0)[None]
    if window is not None:
      mask &= i[:, None] - i[None] < window
    return h + _attend(h, params, mask, -1e9)

  return _model(length, values, {'q': (WIDTH, WIDTH)}, fn, name='padded')


def linear_attention(length=8, values=5):
  """Masked products of elu + 1, with a normaliser."""

  def fn(params, h, tokens):
    q, k = jax.nn.elu(h @ params['q']) + 1, jax.nn.elu(h @ params['w']) + 1
    att = jnp.tril(jnp.ones((length, length))) * (q @ k.T)
    return att @ h / (att.sum(-1, keepdims=True) + 1e-6)

  shapes = {'q': (WIDTH, WIDTH), 'w': (WIDTH, WIDTH)}
  return _model(length, values, shapes, fn, name='linear_attention')


def rg_lru(length=8, values=5):
  """A gated linear recurrence, by an associative scan."""

  def fn(params, h, tokens):
    log_a = -8 * jax.nn.softplus(params['p'])[None] * jax.nn.sigmoid(h)
    b = jnp.sqrt(-jnp.expm1(2 * log_a)) * (h @ params['q'])
    join = lambda s, t: (s[0] * t[0], s[1] * t[0] + t[1])
    return jax.lax.associative_scan(join, (jnp.exp(log_a), b))[1]

  shapes = {'p': (WIDTH,), 'q': (WIDTH, WIDTH)}
  return _model(length, values, shapes, fn, name='rg_lru')


def s4d(length=8, values=5):
  """A diagonal state space as a long convolution by padded FFT."""

  def fn(params, h, tokens):
    times = jnp.arange(length)[:, None]
    kernel = jnp.cos(times * params['p'][None])
    kernel *= jnp.exp(-jnp.exp(params['r'])[None] * times)
    spectrum = jnp.fft.rfft(h, 2 * length, 0) * jnp.fft.rfft(
      kernel, 2 * length, 0
    )
    return jax.nn.gelu(jnp.fft.irfft(spectrum, 2 * length, 0)[:length])

  shapes = {'p': (WIDTH,), 'r': (WIDTH,)}
  fields = {'name': 's4d', 'causality': 'rounding'}
  return _model(length, values, shapes, fn, **fields)


def lstm(length=8, values=5):
  """A scan over the symbols."""

  def fn(params, h, tokens):
    def step(carry, fed):
      gates = jnp.split(fed @ params['q'] + carry[0] @ params['w'], 4)
      i, f, o = (jax.nn.sigmoid(g) for g in gates[:3])
      cell = f * carry[1] + i * jnp.tanh(gates[3])
      out = o * jnp.tanh(cell)
      return (out, cell), out

    zero = jnp.zeros(WIDTH)
    return jax.lax.scan(step, (zero, zero), h)[1]

  shapes = {'q': (WIDTH, 4 * WIDTH), 'w': (WIDTH, 4 * WIDTH)}
  return _model(length, values, shapes, fn, name='lstm')


MODELS = (gpt2, padded, linear_attention, rg_lru, s4d, lstm)
