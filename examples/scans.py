"""Kinds of public models with a recurrence or a convolution; see `plain`."""

import jax
import jax.numpy as jnp

import parallel_ar as par
from examples.plain import GATED, ROTARY, WIDTH, model_of, rms, rotary_attention


def depthwise(h, taps, dilation=1):
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


def rg_lru(length: int = 8, num_values: int = 5) -> par.AutoregressiveModel:
  """A gated linear recurrence, by an associative scan."""

  def fn(params, h, tokens):
    log_a = -8 * jax.nn.softplus(params['p'])[None] * jax.nn.sigmoid(h)
    b = jnp.sqrt(-jnp.expm1(2 * log_a)) * (h @ params['q'])
    join = lambda s, t: (s[0] * t[0], s[1] * t[0] + t[1])
    return jax.lax.associative_scan(join, (jnp.exp(log_a), b))[1]

  shapes = {'p': (WIDTH,), 'q': (WIDTH, WIDTH)}
  return model_of(length, num_values, shapes, fn, name='rg_lru')


def griffin(length: int = 8, num_values: int = 5) -> par.AutoregressiveModel:
  """The gated linear recurrence, then attention to a window."""

  def fn(params, h, tokens):
    gate = jax.nn.sigmoid(rms(h) @ params['w'])
    log_a = -8 * jax.nn.softplus(params['p'])[None] * gate
    b = jnp.sqrt(-jnp.expm1(2 * log_a)) * (rms(h) @ params['g'])
    join = lambda s, t: (s[0] * t[0], s[1] * t[0] + t[1])
    h = h + jax.lax.associative_scan(join, (jnp.exp(log_a), b))[1]
    i = jnp.arange(length)
    mask = (i[:, None] >= i[None]) & (i[:, None] < i[None] + 3)
    return h + rotary_attention(rms(h), params, mask)

  shapes = ROTARY | GATED | {'p': (WIDTH,)}
  return model_of(length, num_values, shapes, fn, name='griffin')


def mamba(
  length: int = 8, num_values: int = 5, states: int = 3
) -> par.AutoregressiveModel:
  """A depthwise convolution, a selective scan and a gate."""

  def fn(params, h, tokens):
    u = jax.nn.silu(depthwise(rms(h), params['c']))
    step = jax.nn.softplus(u @ params['w'])
    into, out = u @ params['b'], u @ params['k']
    decay = jnp.exp(-step[..., None] * jnp.exp(params['a'])[None])
    drive = (step * u)[..., None] * into[:, None]
    join = lambda s, t: (s[0] * t[0], s[1] * t[0] + t[1])
    state = jax.lax.associative_scan(join, (decay, drive))[1]
    y = (state * out[:, None]).sum(-1) + u * params['p'][None]
    return h + y * jax.nn.silu(h @ params['g'])

  shapes = {'c': (4, WIDTH), 'a': (WIDTH, states), 'p': (WIDTH,)}
  shapes |= {'b': (WIDTH, states), 'k': (WIDTH, states)} | GATED
  return model_of(length, num_values, shapes, fn, name='mamba')


def s5(
  length: int = 8, num_values: int = 5, states: int = 3
) -> par.AutoregressiveModel:
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
  return model_of(length, num_values, shapes, fn, name='s5')


def convolved(h, kernel, size):
  """The product of two spectra of `size` samples: circular below 2 L."""
  spectrum = jnp.fft.rfft(h, size, 0) * jnp.fft.rfft(kernel, size, 0)
  return jax.nn.gelu(jnp.fft.irfft(spectrum, size, 0)[: len(h)])


def s4d(
  length: int = 8, num_values: int = 5, size: int | None = None
) -> par.AutoregressiveModel:
  """A diagonal state space as a long convolution by FFT, padded to `size`."""

  def fn(params, h, tokens):
    times = jnp.arange(length)[:, None]
    kernel = jnp.cos(times * params['p'][None])
    kernel *= jnp.exp(-jnp.exp(params['r'])[None] * times)
    return convolved(h, kernel, size or 2 * length)

  shapes = {'p': (WIDTH,), 'r': (WIDTH,)}
  fields = {'name': 's4d', 'causality': 'rounding'}
  return model_of(length, num_values, shapes, fn, **fields)


def s4(
  length: int = 8, num_values: int = 5, states: int = 4
) -> par.AutoregressiveModel:
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
    return convolved(h, kernel[:, None], 2 * length)

  fields = {'name': 's4', 'causality': 'rounding'}
  return model_of(length, num_values, {'p': (states,), 'r': ()}, fn, **fields)


def lstm(length: int = 8, num_values: int = 5) -> par.AutoregressiveModel:
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
  return model_of(length, num_values, shapes, fn, name='lstm')


def deer_gru(length: int = 6, num_values: int = 3) -> par.AutoregressiveModel:
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

  return model_of(length, num_values, dict(GATED), fn, name='deer_gru')


def wavenet(length: int = 8, num_values: int = 5) -> par.AutoregressiveModel:
  """Gated convolutions of dilation 1, 2 and 4, with residual sums."""

  def fn(params, h, tokens):
    for n in range(3):
      filtered = depthwise(h @ params['w'], params['a'], 2**n)
      gate = depthwise(h @ params['g'], params['c'], 2**n)
      h = h + (jnp.tanh(filtered) * jax.nn.sigmoid(gate)) @ params['k']
    return h

  shapes = GATED | {'a': (2, WIDTH), 'c': (2, WIDTH), 'k': (WIDTH, WIDTH)}
  return model_of(length, num_values, shapes, fn, name='wavenet')


MODELS = (rg_lru, griffin, mamba, s5, s4d, s4, lstm, deer_gru, wavenet)
