"""Models small enough to be checked by eye, for tests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import heads, model, order
from parallel_ar.decode import Blocks, Decode, Groups, from_blocks
from parallel_ar.model import Head


def sigmoid_net(event=(6,), rank=None, num_values=2, **fields):
  """logits_i = b_i + sum_{rank[j] < rank[i]} W_ij onehot(x_j)."""
  rank = order.raster(event) if rank is None else rank
  size, flat = rank.size, rank.reshape(-1)
  live = (flat[None, :] < flat[:, None])[:, :, None, None]

  def init(key):
    w, b = jax.random.split(key)
    shape = (size, size, num_values, num_values)
    return {
      'w': 2 * jax.random.normal(w, shape),
      'b': jax.random.normal(b, (size, num_values)),
    }

  def fn(params, x, context):
    hot = jax.nn.one_hot(x.reshape(-1), num_values)
    w = jnp.where(live, params['w'], 0)
    logits = params['b'] + jnp.einsum('ijvw,jw->iv', w, hot)
    if context is not None:
      logits = logits + context.sum()
    return logits.reshape(*rank.shape, num_values)

  return model.from_function(
    fn,
    event=event,
    rank=rank,
    head=heads.categorical(num_values),
    init=init,
    **{'name': 'sigmoid_net', **fields},
  )


def pair_head():
  """A position carries two bits (a, b), drawn jointly: dist = logits[E, 4]."""
  four = heads.categorical(4)
  split = lambda v: jnp.stack([v // 2, v % 2], -1)

  def chain(logits, x):
    p = jax.nn.softmax(logits, -1).reshape(*logits.shape[:-1], 2, 2)
    first = p.sum(-1)
    at = x[..., 0, None, None].astype(jnp.int32)
    row = jnp.take_along_axis(p, at, -2)[..., 0, :]
    return jnp.stack([first, row / row.sum(-1, keepdims=True)], -2)

  return Head(
    name='pair',
    num_values=2,
    log_prob=lambda dist, x: four.log_prob(dist, 2 * x[..., 0] + x[..., 1]),
    noise=four.noise,
    pick=lambda dist, noise: split(four.pick(dist, noise)),
    chain=chain,
  )


def pairs(length=4):
  """Vector-valued positions: the event has an axis beyond the rank."""
  rank = order.random(length, 2)
  live = (rank[None, :] < rank[:, None])[:, :, None, None]

  def fn(params, x, context):
    w = jnp.where(live, params['w'], 0)
    return params['b'] + jnp.einsum('ijvw,jw->iv', w, 2.0 * x - 1.0)

  return model.from_function(
    fn,
    event=(length, 2),
    rank=rank,
    head=pair_head(),
    init=lambda key: {
      'w': jnp.ones((length, length, 4, 2)),
      'b': jnp.ones((length, 4)),
    },
    name='pairs',
  )


def normal_head():
  """x = mean + noise; dist = mean[E]."""
  return Head(
    name='normal',
    num_values=None,
    log_prob=lambda mean, x: -0.5 * (x - mean) ** 2 - 0.5 * np.log(2 * np.pi),
    noise=lambda key, i: jax.random.normal(jax.random.fold_in(key, i)),
    pick=lambda mean, noise: mean + noise,
  )


def autoregression(length=5):
  """Continuous values: x_i = sum_j A_ij tanh(x_j) + noise."""
  live = np.tril(np.ones((length, length), bool), -1)

  def fn(params, x, context):
    return jnp.where(live, params['a'], 0) @ jnp.tanh(x)

  return model.from_function(
    fn,
    event=jax.ShapeDtypeStruct((length,), jnp.float32),
    rank=order.raster(length),
    head=normal_head(),
    init=lambda key: {'a': jnp.ones((length, length))},
    name='autoregression',
  )


WIDTH = 6


def recurrent(length=6, num_values=3, *, dtype=jnp.float32, forgetful=False):
  """A recurrent net with a decode path of its own.

    s_k = tanh(s_{k-1} R + embed[x_{k-1}]),   logits_k = s_k O

  The cache keeps every state, so that rewinding is free. `forgetful` keeps
  only the newest, which a rewind cannot bring back: a wrong decode.
  """

  def init(key):
    shapes = {
      'embed': (num_values, WIDTH),
      'turn': (WIDTH, WIDTH),
      'out': (WIDTH, num_values),
    }
    keys = jax.random.split(key, 3)
    return {
      n: jax.random.normal(k, shapes[n], dtype)
      for n, k in zip(shapes, keys, strict=True)
    }

  def step(params, state, symbol):
    return jnp.tanh(state @ params['turn'] + params['embed'][symbol])

  def fn(params, x, context):
    def body(state, symbol):
      return step(params, state, symbol), state @ params['out']

    start = jnp.zeros(WIDTH, params['out'].dtype)
    return jax.lax.scan(body, start, x)[1]

  def start_cache(params, context):
    rows = 1 if forgetful else length + 1
    return jnp.zeros((rows, WIDTH), params['out'].dtype)

  def extend(params, cache, k, previous):
    row = (lambda k: 0) if forgetful else (lambda k: k)

    def body(carry, symbol):
      cache, k = carry
      before = cache[row(jnp.maximum(k - 1, 0))]
      state = jnp.where(k > 0, step(params, before, symbol), before)
      cache = cache.at[row(k)].set(state)
      return (cache, k + 1), state @ params['out']

    (cache, _), logits = jax.lax.scan(body, (cache, k), previous)
    return logits, cache

  return model.AutoregressiveModel(
    event=jax.ShapeDtypeStruct((length,), jnp.int32),
    rank=order.raster(length),
    head=heads.categorical(num_values),
    init=init,
    conditionals=fn,
    decode=Decode(start_cache, extend, lambda cache, k: cache),
    name='recurrent',
  )


def pixelcnn_reads(event):
  """What a deep PixelCNN of 3 x 3 kernels reads: bool[D, D], the exact wedge.

  Each layer moves up by one row and sideways by at most one column, or to the
  left: (r - a, c + b) is read if b <= a, and what lies to the right of that
  line is the blind spot. At its own pixel a channel reads those before it.
  """
  place = np.stack(np.unravel_index(np.arange(np.prod(event)), event), -1)
  up = place[:, None, 0] - place[None, :, 0]
  right = place[None, :, 1] - place[:, None, 1]
  before = place[None, :, 2] < place[:, None, 2]
  here = (up == 0) & (right == 0)
  wedge = (up >= 0) & (right <= up) & ~here & ((up > 0) | (right < 0))
  return wedge | (here & before)


def _rows(conditionals, event, slots):
  """The blocks of a path that knows the event so far, and runs the pass."""
  size, width = len(slots), event[1]

  def by_slots(params, shared, row):
    x, context, start = shared
    x = jax.lax.dynamic_update_slice(x, row.astype(x.dtype), (start,))
    whole = jnp.zeros(size, x.dtype).at[slots].set(x).reshape(event)
    dist = conditionals(params, whole, context).reshape(size, -1)
    return jax.lax.dynamic_slice_in_dim(dist[slots], start, len(row))

  def begin(params, cache, b, previous):
    x, context = cache
    at = jnp.where(b > 0, (b - 1) * width, size)
    x = x.at[at + jnp.arange(width)].set(previous, mode='drop')
    return (x, context), (x, context, b * width)

  def extend(params, shared, inner, j, previous):
    at = jnp.where(j > 0, j - 1, len(inner))
    inner = inner.at[at].set(previous, mode='drop')
    return by_slots(params, shared, inner)[j], inner

  return Blocks(
    size=width,
    init=lambda params, context: (jnp.zeros(size, jnp.int32), context),
    begin=begin,
    conditionals=by_slots,
    start=lambda params, shared: jnp.zeros(width, jnp.int32),
    extend=extend,
  )


def everything(event=(2, 3), num_values=3):
  """A record with every function that a record can have, of a random order.

    logits_d = b_d + (sum_{known j} W_dj onehot(x_j)) + c

  Its decode path goes by blocks of rows, and by groups.
  """
  rank = order.random(event, 5)
  size, slots = rank.size, order.slots(rank)
  net = sigmoid_net(event, rank, num_values)
  context = jax.ShapeDtypeStruct((num_values,), jnp.float32)
  reads = rank.reshape(1, -1) < rank.reshape(-1, 1)

  def logits(params, x, context, reads):
    hot = jax.nn.one_hot(x.reshape(-1), num_values)
    w = params['w'] * reads[:, :, None, None]
    found = params['b'] + context[None] + jnp.einsum('ijvw,jw->iv', w, hot)
    return found.reshape(*event, num_values)

  def conditionals(params, x, context):
    return logits(params, x, context, reads)

  def given(params, x, context, slots, count):
    known = jnp.zeros(size, bool).at[slots].set(jnp.arange(size) < count)
    return logits(params, x, context, known[None].repeat(size, 0))

  blocks = _rows(conditionals, event, slots)
  value = jax.ShapeDtypeStruct((), jnp.int32)
  decode = from_blocks(blocks, value, size)._replace(
    resize=lambda cache, length: cache,
    groups=Groups(
      lambda params, context: context,
      lambda params, c, level, x: (conditionals(params, x, c), c),
    ),
  )

  def apply(params, x, context):
    known = params['w'].sum((1, 2, 3)) * jnp.cumsum(x.reshape(-1)[slots])
    return conditionals(params, x, context), jnp.roll(known, 1).at[0].set(0)

  def objective(params, x, context, key):
    dist = conditionals(params, x, context)
    bound = jax.random.uniform(key) - net.head.log_prob(dist, x).sum()
    return bound + (jnp.arange(size) * x.reshape(-1)).sum()

  def from_data(key, x, context):
    mean = jnp.arange(size) * x.reshape(len(x), -1).mean(0)
    params = net.init(key)
    return {**params, 'b': params['b'] + mean[:, None] + context.mean(0)[None]}

  return dataclasses.replace(
    net,
    conditionals=conditionals,
    context=context,
    decode=decode,
    features=model.Features(apply, lambda raw, slot: raw[slot][None]),
    objective=objective,
    init_from_data=from_data,
    conditionals_given=given,
    name='everything',
  )
