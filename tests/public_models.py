"""Kinds of public models, each written anew as a tiny function."""

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import heads, model, order

WIDTH = 8


def _drawer(shapes):
  """A function of a key: normal parameters of these shapes."""

  def init(key):
    keys = jax.random.split(key, len(shapes))
    draw = zip(sorted(shapes), keys, strict=True)
    return {n: jax.random.normal(k, shapes[n]) for n, k in draw}

  return init


def model_of(length, values, shapes, fn, **fields):
  """A record of fn(params, fed float[L, N]) -> logits float[L, V].

  fed[k] is the embedding of symbol k - 1, and of a start symbol at k = 0.
  """
  shapes = {'e': (values + 1, WIDTH), 'o': (WIDTH, values)} | shapes

  def conditionals(params, x, context):
    tokens = jnp.concatenate([jnp.full((1,), values, x.dtype), x[:-1]])
    return fn(params, params['e'][tokens], tokens) @ params['o']

  return model.from_function(
    conditionals,
    event=(length,),
    rank=order.raster(length),
    head=heads.categorical(values),
    init=_drawer(shapes),
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
  return model_of(length, values, shapes, fn, name='gpt2')


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

  return model_of(length, values, {'q': (WIDTH, WIDTH)}, fn, name='padded')


def linear_attention(length=8, values=5):
  """Masked products of elu + 1, with a normaliser."""

  def fn(params, h, tokens):
    q, k = jax.nn.elu(h @ params['q']) + 1, jax.nn.elu(h @ params['w']) + 1
    att = jnp.tril(jnp.ones((length, length))) * (q @ k.T)
    return att @ h / (att.sum(-1, keepdims=True) + 1e-6)

  shapes = {'q': (WIDTH, WIDTH), 'w': (WIDTH, WIDTH)}
  return model_of(length, values, shapes, fn, name='linear_attention')


def rg_lru(length=8, values=5):
  """A gated linear recurrence, by an associative scan."""

  def fn(params, h, tokens):
    log_a = -8 * jax.nn.softplus(params['p'])[None] * jax.nn.sigmoid(h)
    b = jnp.sqrt(-jnp.expm1(2 * log_a)) * (h @ params['q'])
    join = lambda s, t: (s[0] * t[0], s[1] * t[0] + t[1])
    return jax.lax.associative_scan(join, (jnp.exp(log_a), b))[1]

  shapes = {'p': (WIDTH,), 'q': (WIDTH, WIDTH)}
  return model_of(length, values, shapes, fn, name='rg_lru')


def _convolved(h, kernel, size):
  """The product of two spectra of `size` samples: circular below 2 L."""
  spectrum = jnp.fft.rfft(h, size, 0) * jnp.fft.rfft(kernel, size, 0)
  return jax.nn.gelu(jnp.fft.irfft(spectrum, size, 0)[: len(h)])


def s4d(length=8, values=5, size=None):
  """A diagonal state space as a long convolution by FFT, padded to `size`."""

  def fn(params, h, tokens):
    times = jnp.arange(length)[:, None]
    kernel = jnp.cos(times * params['p'][None])
    kernel *= jnp.exp(-jnp.exp(params['r'])[None] * times)
    return _convolved(h, kernel, size or 2 * length)

  shapes = {'p': (WIDTH,), 'r': (WIDTH,)}
  fields = {'name': 's4d', 'causality': 'rounding'}
  return model_of(length, values, shapes, fn, **fields)


def s4(length=8, values=5, states=4):
  """HiPPO's matrix, diagonal plus low rank: its poles by eigh, then its kernel.

  The kernel is the inverse transform of the generating function at the roots of
  unity, with Woodbury's formula for the part of rank 1.
  """

  def fn(params, h, tokens):
    low = jnp.sqrt(jnp.arange(states) + 0.5)
    skew = jnp.tril(jnp.outer(low, low), -1)
    poles, basis = jnp.linalg.eigh(-1j * (skew.T - skew))
    low = basis.conj().T @ (low + 0j)
    roots = jnp.exp(-2j * jnp.pi * jnp.arange(length) / length)
    g = 2.0 / jnp.exp(params['r']) * (1 - roots) / (1.001 + roots)
    shares = 1 / (g[:, None] - (-0.5 + 1j * poles)[None])
    into = basis.conj().T @ (params['p'] + 0j)
    term = lambda a, b: shares @ (a.conj() * b)
    all_ = term(into, low)
    all_ = all_ - term(into, low) * term(low, low) / (1 + term(low, low))
    kernel = jnp.fft.ifft(2 / (1.001 + roots) * all_).real
    return _convolved(h, kernel[:, None], 2 * length)

  fields = {'name': 's4', 'causality': 'rounding'}
  return model_of(length, values, {'p': (states,), 'r': ()}, fn, **fields)


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
  return model_of(length, values, shapes, fn, name='lstm')


def _rms(h):
  return h / jnp.sqrt((h * h).mean(-1, keepdims=True) + 1e-6)


def _rotate(h):
  """Rotary positions of float[L, N]."""
  half = h.shape[-1] // 2
  angle = jnp.arange(len(h))[:, None] / 10.0 ** jnp.arange(half)[None]
  a, b = h[:, :half], h[:, half:]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def _rotary_attention(h, params, mask, cap=None):
  """Two heads of queries, and one of keys and values."""
  keys = _rotate(h @ params['k'])
  heads_ = []
  for query in jnp.split(h @ params['q'], 2, -1):
    scores = _rotate(query) @ keys.T / 2.0
    scores = scores if cap is None else cap * jnp.tanh(scores / cap)
    shares = jax.nn.softmax(jnp.where(mask, scores, -2.4e38), -1)
    heads_.append(shares @ (h @ params['v']))
  return jnp.concatenate(heads_, -1)


_ROTARY = {'q': (WIDTH, WIDTH), 'k': (WIDTH, 4), 'v': (WIDTH, 4)}
_GATED = {'w': (WIDTH, WIDTH), 'g': (WIDTH, WIDTH)}


def gemma(length=8, values=5):
  """RMSNorm, rotary multi-query attention, gated GELU, soft caps."""

  def fn(params, h, tokens):
    mask = jnp.tril(jnp.ones((length, length), bool))
    h = h * WIDTH**0.5
    h = h + _rotary_attention(_rms(h), params, mask, cap=50.0)
    gate = jax.nn.gelu(_rms(h) @ params['g'], approximate=True)
    h = h + gate * (_rms(h) @ params['w'])
    return 30.0 * jnp.tanh(_rms(h) / 30.0)

  return model_of(length, values, _ROTARY | _GATED, fn, name='gemma')


def llama(length=8, values=5):
  """RMSNorm, rotary attention, SwiGLU, the mask added to the scores."""

  def fn(params, h, tokens):
    mask = jnp.tril(jnp.ones((length, length), bool))
    for _ in range(2):
      h = h + _rotary_attention(_rms(h), params, mask)
      h = h + jax.nn.silu(_rms(h) @ params['g']) * (_rms(h) @ params['w'])
    return _rms(h)

  return model_of(length, values, _ROTARY | _GATED, fn, name='llama')


def griffin(length=8, values=5):
  """The gated linear recurrence, then attention to a window."""

  def fn(params, h, tokens):
    gate = jax.nn.sigmoid(_rms(h) @ params['w'])
    log_a = -8 * jax.nn.softplus(params['p'])[None] * gate
    b = jnp.sqrt(-jnp.expm1(2 * log_a)) * (_rms(h) @ params['g'])
    join = lambda s, t: (s[0] * t[0], s[1] * t[0] + t[1])
    h = h + jax.lax.associative_scan(join, (jnp.exp(log_a), b))[1]
    i = jnp.arange(length)
    mask = (i[:, None] >= i[None]) & (i[:, None] < i[None] + 3)
    return h + _rotary_attention(_rms(h), params, mask)

  shapes = _ROTARY | _GATED | {'p': (WIDTH,)}
  return model_of(length, values, shapes, fn, name='griffin')


def _depthwise(h, taps, dilation=1):
  """Causal convolution of float[L, N], each channel by its own taps[K, N]."""
  return jax.lax.conv_general_dilated(
    h[None],
    taps[:, None],
    window_strides=(1,),
    padding=[(dilation * (len(taps) - 1), 0)],
    rhs_dilation=(dilation,),
    dimension_numbers=('NWC', 'WIO', 'NWC'),
    feature_group_count=h.shape[-1],
  )[0]


def mamba(length=8, values=5, states=3):
  """A depthwise convolution, a selective scan and a gate."""

  def fn(params, h, tokens):
    u = jax.nn.silu(_depthwise(_rms(h), params['c']))
    step = jax.nn.softplus(u @ params['w'])
    into, out = u @ params['b'], u @ params['k']
    decay = jnp.exp(-step[..., None] * jnp.exp(params['a'])[None])
    drive = (step * u)[..., None] * into[:, None]
    join = lambda s, t: (s[0] * t[0], s[1] * t[0] + t[1])
    state = jax.lax.associative_scan(join, (decay, drive))[1]
    y = (state * out[:, None]).sum(-1) + u * params['p'][None]
    return h + y * jax.nn.silu(h @ params['g'])

  shapes = {'c': (4, WIDTH), 'a': (WIDTH, states), 'p': (WIDTH,)}
  shapes |= {'b': (WIDTH, states), 'k': (WIDTH, states)} | _GATED
  return model_of(length, values, shapes, fn, name='mamba')


def s5(length=8, values=5, states=3):
  """A complex diagonal state space, by an associative scan."""

  def fn(params, h, tokens):
    poles = -jnp.exp(params['r']) + 1j * params['p']
    decay = jnp.exp(poles * 0.1)
    drive = h @ (params['b'] + 1j * params['k']) * ((decay - 1) / poles)[None]
    join = lambda s, t: (s[0] * t[0], s[1] * t[0] + t[1])
    decays = jnp.broadcast_to(decay, drive.shape)
    state = jax.lax.associative_scan(join, (decays, drive))[1]
    return jax.nn.gelu(2 * (state @ (params['c'] + 0j)).real + h)

  shapes = {'r': (states,), 'p': (states,), 'c': (states, WIDTH)}
  shapes |= {'b': (WIDTH, states), 'k': (WIDTH, states)}
  return model_of(length, values, shapes, fn, name='s5')


def mlstm(length=8, values=5):
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

  shapes = _GATED | {'p': (WIDTH,), 'r': (WIDTH,)}
  return model_of(length, values, shapes, fn, name='mlstm')


def deer_gru(length=6, values=3):
  """A gated recurrence by Newton, a linear scan each, until nothing moves."""

  def fn(params, h, tokens):
    def cell(state, fed):
      gate = jax.nn.sigmoid(fed @ params['w'] + state)
      return gate * state + (1 - gate) * jnp.tanh(fed @ params['g'] + state)

    join = lambda s, t: (s[0] * t[0], s[1] * t[0] + t[1])

    def newton(carry):
      guess, _, n = carry
      before = jnp.pad(guess[:-1], ((1, 0), (0, 0)))
      value, a = jax.jvp(lambda s: cell(s, h), (before,), (1 + 0 * before,))
      new = jax.lax.associative_scan(join, (a, value - a * before))[1]
      return new, jnp.abs(new - guess).max(), n + 1

    moves = lambda carry: (carry[1] > 1e-6) & (carry[2] < 20)
    start = (jnp.zeros_like(h), jnp.float32(jnp.inf), 0)
    return jax.lax.while_loop(moves, newton, start)[0]

  return model_of(length, values, dict(_GATED), fn, name='deer_gru')


def wavenet(length=8, values=5):
  """Gated convolutions of dilation 1, 2 and 4, with residual sums."""

  def fn(params, h, tokens):
    for n in range(3):
      filtered = _depthwise(h @ params['w'], params['a'], 2**n)
      gate = _depthwise(h @ params['g'], params['c'], 2**n)
      h = h + (jnp.tanh(filtered) * jax.nn.sigmoid(gate)) @ params['k']
    return h

  shapes = _GATED | {'a': (2, WIDTH), 'c': (2, WIDTH), 'k': (WIDTH, WIDTH)}
  return model_of(length, values, shapes, fn, name='wavenet')


def maf(length=6, hidden=10):
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

  return model.from_function(
    conditionals,
    event=jax.ShapeDtypeStruct((length,), jnp.float32),
    rank=order.raster(length),
    head=heads.gaussian_mixture(1),
    init=_drawer(shapes),
    name='maf',
  )


def pixelcnn(side=3, values=3, channels=4):
  """Masked 3x3 convolutions of an image, type A and then type B."""
  shapes = {
    'a': (3, 3, 1, channels),
    'b': (3, 3, channels, channels),
    'o': (channels, values),
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

  return model.from_function(
    conditionals,
    event=(side, side, 1),
    rank=order.raster((side, side, 1)),
    head=heads.categorical(values),
    init=_drawer(shapes),
    name='pixelcnn',
  )


MODELS = (
  (gpt2, padded, linear_attention, rg_lru, s4d, lstm)
  + (s4, gemma, llama, griffin, mamba, s5, mlstm, deer_gru)
  + (wavenet, maf, pixelcnn)
)
