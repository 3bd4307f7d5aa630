"""Functions that strangers bring: six positions, four symbols.

`OWN` are those that become whole numbers, `REFUSED` those that are refused.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

D, V, H = 6, 4, 8
OWN = {}
REFUSED = {}


def own(function):
  OWN[function.__name__] = function
  return function


def refused(function):
  REFUSED[function.__name__] = function
  return function


def w(*shape, seed=0):
  """Weights: the same whenever a function is traced."""
  a = np.random.default_rng([seed, *shape]).normal(size=shape)
  return jnp.asarray(a / np.sqrt(shape[0]) ** (len(shape) > 1), jnp.float32)


TABLE, OUT, EXPERTS = w(V + 1, H), w(H, V), w(3, H, H)
WQ, WK, WV = (w(H, H, seed=n) for n in range(3))
W1, W2, W3 = w(H, 2 * H), w(2 * H, H), w(H, 2 * H, seed=1)
SEEN = np.tril(np.ones((D, D), bool))


def before(x):
  return jnp.concatenate([jnp.full((1,), V, x.dtype), x[:-1]])


def emb(x):
  return TABLE[before(x)]


def rms(h):
  return h * lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-06)


def ln(h):
  return (h - h.mean(-1, keepdims=True)) / jnp.sqrt(
    h.var(-1, keepdims=True) + 1e-05
  )


def rope(h):
  half = h.shape[-1] // 2
  f = 1.0 / 10 ** (jnp.arange(half) / half)
  a = jnp.arange(D)[:, None] * f[None]
  a = a.reshape(D, *[1] * (h.ndim - 2), half)
  s, c = (jnp.sin(a), jnp.cos(a))
  x, y = jnp.split(h, 2, -1)
  return jnp.concatenate([x * c - y * s, x * s + y * c], -1)


def attend(h, heads=2, kv=2, bias=None, cap=None, qk=False, rot=False):
  n = H // heads
  q = (h @ WQ).reshape(D, heads, n)
  k = (h @ WK)[:, : kv * n].reshape(D, kv, n)
  v = (h @ WV)[:, : kv * n].reshape(D, kv, n)
  if qk:
    q, k = (rms(q), rms(k))
  if rot:
    q, k = (rope(q), rope(k))
  k, v = (jnp.repeat(a, heads // kv, 1) for a in (k, v))
  s = jnp.einsum('ihn,jhn->hij', q, k) / np.sqrt(n)
  if cap:
    s = cap * jnp.tanh(s / cap)
  if bias is not None:
    s = s + bias
  s = jnp.where(SEEN, s, -jnp.inf)
  return jnp.einsum('hij,jhn->ihn', jax.nn.softmax(s, -1), v).reshape(D, H)


@own
def gpt_rope(p, x, c):
  h = emb(x)
  h = h + attend(ln(h), rot=True)
  return (h + jax.nn.gelu(ln(h) @ W1) @ W2) @ OUT


@own
def gqa_swiglu(p, x, c):
  h = emb(x)
  h = h + attend(rms(h), 4, 2)
  g = rms(h)
  return (h + jax.nn.silu(g @ W1) * (g @ W3) @ W2) @ OUT


@own
def alibi_softcap_qk_norm(p, x, c):
  far = np.abs(np.arange(D)[:, None] - np.arange(D))
  bias = -far * np.array([0.5, 0.25])[:, None, None]
  return (emb(x) + attend(emb(x), bias=bias, cap=3.0, qk=True)) @ OUT


@own
def moe_top1(p, x, c):
  h = emb(x)
  g = jax.nn.softmax(h @ WQ[:, :3], -1)
  at = jnp.argmax(g, -1)
  y = jnp.einsum('dh,dhk->dk', h, EXPERTS[at])
  return (h + y * jnp.take_along_axis(g, at[:, None], 1)) @ OUT


@own
def moe_top2(p, x, c):
  h = emb(x)
  v, i = lax.top_k(h @ WQ[:, :3], 2)
  g = jax.nn.softmax(v, -1)
  mix = (jax.nn.one_hot(i, 3) * g[..., None]).sum(1)
  return (h + jnp.einsum('de,dh,ehk->dk', mix, h, EXPERTS)) @ OUT


@own
def mamba(p, x, c):
  h = emb(x)
  dt = jax.nn.softplus(h @ WQ)
  a = jnp.exp(-dt[..., None] * jnp.array([0.5, 1.0, 2.0]))
  b = (dt * h)[..., None] * jax.nn.sigmoid(h @ WK[:, :3])[:, None]
  join = lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])
  _, s = lax.associative_scan(join, (a, b))
  return (s * jnp.tanh(h @ WV[:, :3])[:, None]).sum(-1) * jax.nn.silu(h) @ OUT


@own
def lstm_scan(p, x, c):
  wide = w(H, 4 * H)
  back = w(H, 4 * H)

  def turn(s, h):
    i, g, fo, o = jnp.split(h @ wide + s[0] @ back, 4, -1)
    cc = jax.nn.sigmoid(fo + 1) * s[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    hh = jax.nn.sigmoid(o) * jnp.tanh(cc)
    return ((hh, cc), hh)

  return lax.scan(turn, (jnp.zeros(H), jnp.zeros(H)), emb(x))[1] @ OUT


@own
def rwkv(p, x, c):
  h = emb(x)
  k, v, r = (h @ WK, h @ WV, jax.nn.sigmoid(h @ WQ))
  d, u = (jnp.exp(-jnp.exp(w(H))), w(H))

  def turn(s, kv):
    k, v = kv
    a, b = s
    e = jnp.exp(u + k)
    out = (a + e * v) / (b + e)
    return ((d * a + jnp.exp(k) * v, d * b + jnp.exp(k)), out)

  return r * lax.scan(turn, (jnp.zeros(H), jnp.zeros(H)), (k, v))[1] @ OUT


@own
def linear_attention(p, x, c):
  h = emb(x)
  q, k, v = (jax.nn.elu(h @ WQ) + 1, jax.nn.elu(h @ WK) + 1, h @ WV)
  kv = jnp.cumsum(k[:, :, None] * v[:, None], 0)
  z = jnp.cumsum(k, 0)
  return (
    jnp.einsum('dk,dkv->dv', q, kv)
    / ((q * z).sum(-1, keepdims=True) + 1e-06)
    @ OUT
  )


@own
def cumprod_gates(p, x, c):
  h = emb(x)
  return jnp.cumprod(jax.nn.sigmoid(h @ WQ + 1), 0) * h @ OUT


@own
def decayed_sum(p, x, c):
  h = emb(x)
  return (jnp.exp(h @ WQ - lax.cumlogsumexp(h @ WQ, 0)) + h) @ OUT


def causal(h, kernel, by, groups=1):
  pad = (len(kernel) - 1) * by
  return lax.conv_general_dilated(
    h[None],
    kernel,
    (1,),
    [(pad, 0)],
    rhs_dilation=(by,),
    feature_group_count=groups,
    dimension_numbers=('NWC', 'WIO', 'NWC'),
  )[0]


@own
def wavenet(p, x, c):
  h = emb(x)
  for by in (1, 2):
    a, b = jnp.split(causal(h, w(2, H, 2 * H), by), 2, -1)
    h = h + jnp.tanh(a) * jax.nn.sigmoid(b)
  return causal(h, w(3, 2, H), 2, groups=4) @ OUT


@own
def pixelcnn(p, x, c):

  def masked(a, inputs, first):
    mask = np.ones((3, 3, inputs, H), np.float32)
    mask[1, first:] = mask[2] = 0
    kernel = mask * w(*mask.shape)
    names = 'NHWC', 'HWIO', 'NHWC'
    return jax.nn.relu(
      lax.conv_general_dilated(
        a, kernel, (1, 1), 'SAME', dimension_numbers=names
      )
    )

  h = masked(x.reshape(1, 2, 3, 1) / 3.0 - 0.5, 1, 1)
  h = h + masked(h, H, 2)
  return h.reshape(D, H) @ OUT


@own
def one_hot_tied(p, x, c):
  h = jax.nn.one_hot(before(x), V + 1) @ TABLE
  return (h + attend(h)) @ TABLE[:V].T


@own
def functions(p, x, c):
  h, n = emb(x) @ WQ, jax.nn
  each = [
    n.softplus, n.gelu, lambda a: n.gelu(a, False), n.silu, n.elu, n.mish,
    n.selu, n.sigmoid, n.relu6, n.hard_swish, n.log_sigmoid, n.squareplus,
    lax.erf, jnp.expm1, jnp.sign, jnp.floor, jnp.sinh, jnp.cosh, jnp.arctan,
    jnp.arcsinh, jnp.square, lambda a: jnp.log1p(jnp.abs(a)), lambda a: a**3,
    lambda a: lax.rsqrt(1 + a * a), lambda a: jnp.abs(a) ** 1.5,
    lambda a: 2.0**a, lambda a: jnp.clip(a, -1, 0.5), lambda a: a % 1.5,
    lambda a: jnp.where(a > 0, a, 0.1 * a), lambda a: a / (1 + jnp.abs(a)),
    lambda a: lax.lgamma(a + 5), lambda a: lax.digamma(a + 5), jnp.round,
    lambda a: lax.erf_inv(jnp.clip(a, -0.9, 0.9)),
  ]  # fmt: skip
  return 0.3 * sum(of(h) for of in each) @ OUT


@own
def choices(p, x, c):
  h, g = (emb(x), emb(x) @ WQ)
  y = (
    jnp.maximum(h, g)
    + jnp.minimum(h, 0.3)
    + jnp.where(h > g, h, -g)
    + jnp.clip(h, -jnp.abs(g), jnp.abs(g))
    + lax.cummin(h, 0)
    + lax.cummax(h, 0)
    + jnp.stack(jnp.unstack(h, axis=1)[::-1], 1)
  )
  y = y + lax.select_n(before(x)[:, None].repeat(H, 1) % 3, h, g, h + g)
  return y @ OUT + jnp.argmax(h, -1)[:, None] * 0.1


@own
def sorting(p, x, c):
  h = emb(x) @ WQ
  v, i = lax.top_k(h, 3)
  return (
    jnp.sort(h, -1) @ OUT
    + v @ OUT[:3]
    + TABLE[i[:, 0] % V] @ OUT
    + 0.1 * jnp.argsort(h, -1)[:, :V]
    + jnp.median(h, -1)[:, None]
  )


@own
def products(p, x, c):
  h = emb(x)
  return (
    jnp.prod(jnp.tanh(h) + 1.2, -1, keepdims=True) * (h @ OUT)
    + jnp.prod(
      jnp.where(SEEN[..., None], jax.nn.sigmoid(h)[None] + 0.3, 1.0), 1
    )
    @ OUT
  )


@own
def pooling(p, x, c):
  h = jnp.concatenate([jnp.zeros((2, H)), emb(x)])
  a = lax.reduce_window(h, -jnp.inf, lax.max, (3, 1), (1, 1), 'VALID')
  b = lax.reduce_window(h, 0.0, lax.add, (3, 1), (1, 1), 'VALID') / 3
  m = lax.reduce_window(emb(x), jnp.inf, lax.min, (1, 3), (1, 2), 'SAME')
  return (a + b) @ OUT + m @ OUT[: m.shape[1]]


@own
def scatters(p, x, c):
  h = emb(x)
  buf = jnp.zeros((D + 2, H)).at[2:].set(h).at[1].add(0.5)
  y = lax.dynamic_update_slice(buf, h[:1], (3, 0))
  d = lax.dynamic_slice(TABLE, (before(x)[0] % 2, 0), (2, H))
  r = jax.vmap(lambda i: lax.dynamic_slice(TABLE, (i, 0), (2, H)).sum(0))(
    before(x)
  )
  count = jnp.cumsum(jax.nn.one_hot(before(x), V + 1), 0)
  return (y[2:] * SEEN[:, :1] * 0 + r + d.sum(0)) @ OUT + jnp.log(
    1 + count[:, :V]
  )


@own
def mixture(p, x, c):
  h = emb(x) + attend(emb(x))
  g = jax.nn.log_softmax(h @ WQ[:, :3], -1)
  l = jax.nn.log_softmax((h @ W1[:, : 3 * V]).reshape(D, 3, V), -1)
  return jax.nn.logsumexp(g[..., None] + l, 1)


@own
def kv_write(p, x, c):

  def turn(s, ih):
    i, h = ih
    s = lax.dynamic_update_slice(s, h[None], (i, 0))
    return (s, jnp.tanh(s.sum(0) @ WQ))

  return lax.scan(turn, jnp.zeros((D, H)), (jnp.arange(D), emb(x)))[1] @ OUT


@own
def switch(p, x, c):
  h = emb(x)
  return (
    jax.vmap(
      lambda i, h: lax.switch(
        i % 3, [jnp.tanh, lambda a: a * 2, lambda a: a @ WQ], h
      )
    )(before(x), h)
    @ OUT
  )


@own
def signed_quotient(p, x, c):
  h = emb(x)
  return h @ WK / jnp.where(h > 0, h + 1, h - 1) @ OUT


@own
def retention(p, x, c):
  i = np.arange(D)
  d = np.where(i[:, None] >= i, 0.9 ** (i[:, None] - i), 0).astype('f')
  h = emb(x)
  y = h @ WQ @ (h @ WK).T * d @ (h @ WV)
  return ln(y.reshape(D, 2, -1)).reshape(D, H) * jax.nn.silu(h) @ OUT


@refused
def fft(p, x, c):
  return jnp.fft.irfft(jnp.fft.rfft(emb(x), axis=-1), axis=-1) @ OUT


@refused
def power(p, x, c):
  h = emb(x)
  return (jnp.abs(h) + 0.1) ** (h @ WQ) @ OUT


@refused
def open_loop(p, x, c):
  h = emb(x)
  return (
    lax.while_loop(lambda s: s.sum() < 3, lambda s: s * 2 + 1, jnp.abs(h)) @ OUT
  )


@refused
def open_kernel(p, x, c):
  h = emb(x)
  k = jnp.broadcast_to(h[0][None, :, None], (2, H, H))
  return (
    lax.conv_general_dilated(
      h[None], k, (1,), [(1, 0)], dimension_numbers=('NWC', 'WIO', 'NWC')
    )[0]
    @ OUT
  )
