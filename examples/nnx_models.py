"""Kinds of public models in NNX, as their authors write them, and the glue."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import parallel_ar as par

WIDTH, HEADS, LAYERS = 16, 2, 2


def _rotated(h):
  """Rotary positions of float[B, L, heads, N]."""
  half = h.shape[-1] // 2
  angle = jnp.arange(h.shape[1])[:, None] / 10.0 ** jnp.arange(half)[None]
  cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
  a, b = h[..., :half], h[..., half:]
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


class GemmaBlock(nnx.Module):
  """Queries of several heads over one of keys, a soft cap, a gated GELU."""

  def __init__(self, rngs):
    size = WIDTH // HEADS
    linear = lambda a, b: nnx.Linear(a, b, use_bias=False, rngs=rngs)
    self.norms = nnx.List([nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(2)])
    self.query, self.keys = linear(WIDTH, WIDTH), linear(WIDTH, size)
    self.values, self.out = linear(WIDTH, size), linear(WIDTH, WIDTH)
    self.gate, self.up = linear(WIDTH, 2 * WIDTH), linear(WIDTH, 2 * WIDTH)
    self.down = linear(2 * WIDTH, WIDTH)

  def __call__(self, h):
    """float[B, L, WIDTH] -> the same."""
    a = self.norms[0](h)
    q = _rotated(self.query(a).reshape(*a.shape[:2], HEADS, -1))
    k = _rotated(self.keys(a)[:, :, None])[:, :, 0]
    scores = 50.0 * jnp.tanh(jnp.einsum('blhn,bmn->bhlm', q, k) / 50.0)
    mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None]
    shares = jax.nn.softmax(jnp.where(mask, scores, -2.4e38), -1)
    mixed = jnp.einsum('bhlm,bmn->blhn', shares, self.values(a))
    h = h + self.out(mixed.reshape(h.shape))
    m = self.norms[1](h)
    return h + self.down(jax.nn.gelu(self.gate(m)) * self.up(m))


class Gemma(nnx.Module):
  """As the Gemma of Flax's examples."""

  def __init__(self, vocabulary, rngs):
    self.embed = nnx.Embed(vocabulary, WIDTH, rngs=rngs)
    self.blocks = nnx.List([GemmaBlock(rngs) for _ in range(LAYERS)])
    self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)

  def __call__(self, tokens):
    """int[B, L] -> float[B, L, vocabulary]."""
    h = self.embed(tokens) * WIDTH**0.5
    for block in self.blocks:
      h = block(h)
    return 30.0 * jnp.tanh(self.embed.attend(self.norm(h)) / 30.0)


def gemma(length: int = 12, num_values: int = 7) -> par.AutoregressiveModel:
  """Gemma of Flax's examples."""
  head = par.heads.categorical(num_values)
  net = lambda rngs: Gemma(num_values + 1, rngs)
  return par.from_nnx(net, event=(length,), head=head, start=num_values)


class WaveNet(nnx.Module):
  """As artifex's: gated convolutions of dilation 1, 2 and 4, with skips."""

  def __init__(self, vocabulary, rngs):
    conv = lambda d: nnx.Conv(
      WIDTH,
      2 * WIDTH,
      (2,),
      kernel_dilation=(d,),
      padding='CAUSAL',
      rngs=rngs,
    )
    self.embed = nnx.Embed(vocabulary, WIDTH, rngs=rngs)
    self.gated = nnx.List([conv(2**n) for n in range(3)])
    self.skips = nnx.List(
      [nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(3)]
    )
    self.out = nnx.Linear(WIDTH, vocabulary, rngs=rngs)

  def __call__(self, tokens):
    """int[B, L] -> float[B, L, vocabulary]."""
    h, total = self.embed(tokens), 0.0
    for conv, skip in zip(self.gated, self.skips, strict=True):
      filtered, gate = jnp.split(conv(h), 2, -1)
      y = jnp.tanh(filtered) * jax.nn.sigmoid(gate)
      h, total = h + y, total + skip(y)
    return self.out(jax.nn.relu(total))


def wavenet(length: int = 12, num_values: int = 7) -> par.AutoregressiveModel:
  """WaveNet of artifex."""
  head = par.heads.categorical(num_values)
  net = lambda rngs: WaveNet(num_values + 1, rngs)
  return par.from_nnx(net, event=(length,), head=head, start=num_values)


def _taps(own):
  """float[3, 3, 1, 1]: what a pixel may read, and whether itself."""
  taps = np.ones((3, 3, 1, 1), np.float32)
  taps[1, 1 + own :] = taps[2] = 0
  return taps


class PixelCNN(nnx.Module):
  """As artifex's: masked convolutions, type A and then type B, residual."""

  def __init__(self, num_values, rngs):
    conv = lambda i, own: nnx.Conv(
      i,
      WIDTH,
      (3, 3),
      mask=np.broadcast_to(_taps(own), (3, 3, i, WIDTH)),
      rngs=rngs,
    )
    self.first = conv(1, False)
    self.rest = nnx.List([conv(WIDTH, True) for _ in range(LAYERS)])
    self.out = nnx.Conv(WIDTH, num_values, (1, 1), rngs=rngs)
    self.scale = 2.0 / (num_values - 1)

  def __call__(self, x):
    """int[B, H, W, 1] -> float[B, H, W, num_values]."""
    h = jax.nn.relu(self.first(x * self.scale - 1.0))
    for conv in self.rest:
      h = h + jax.nn.relu(conv(h))
    return self.out(h)


def pixelcnn(side: int = 4, num_values: int = 2) -> par.AutoregressiveModel:
  """PixelCNN of artifex, on images of one channel."""
  head, event = par.heads.categorical(num_values), (side, side, 1)
  net = lambda rngs: PixelCNN(num_values, rngs)
  call = lambda net, x, context: net(x)[..., None, :]
  return par.from_nnx(net, event=event, head=head, start=None, call=call)


MODELS = (gemma, wavenet, pixelcnn)
