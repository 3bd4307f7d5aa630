"""The derived decode of small causal functions, one or two a primitive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from parallel_ar import heads, model, models, order, samplers
from parallel_ar.analysis import explain
from parallel_ar.decode import derive
from parallel_ar.decode.schedule import NotCausal
from parallel_ar.testing import decode_laws

L, N, V = 7, 6, 4  # slots, features, symbols


def _shift(h, n=1):
  return jnp.pad(h, ((n, 0), (0, 0)))[: len(h)]


def _combine(join, h):
  return jax.lax.associative_scan(join, h)


def _conv(h, kernel, **options):
  """Over float[L, N]."""
  return lax.conv_general_dilated(
    h[None], kernel, dimension_numbers=('NWC', 'WIO', 'NWC'), **options
  )[0]


def _transposed(h, p):
  """Halves the length, and doubles it by a transposed convolution."""
  half = _conv(h, p['k'], window_strides=(2,), padding=[(2, 0)])
  return _conv(
    half, p['k'], window_strides=(1,), padding=[(2, 1)], lhs_dilation=(2,)
  )[:L]


def _attend(h, mask, p):
  scores = jnp.where(mask, h @ p['w'] @ h.T, -jnp.inf)
  return jax.nn.softmax(scores, -1) @ h


def _flash(h, p):
  """Attention by chunks of keys, each added to a running softmax."""
  size, pad = 3, -L % 3
  keys = jnp.pad(h, ((0, pad), (0, 0))).reshape(-1, size, N)
  at = jnp.arange(L)[:, None]

  def add(n, carry):
    out, total, most = carry
    mask = n * size + jnp.arange(size)[None] <= at
    scores = jnp.where(mask, h @ p['w'] @ keys[n].T, -1e30)
    new = jnp.maximum(most, scores.max(-1, keepdims=True))
    share, old = jnp.exp(scores - new), jnp.exp(most - new)
    total = total * old + share.sum(-1, keepdims=True)
    return out * old + share @ keys[n], total, new

  first = jnp.zeros((L, N)), jnp.zeros((L, 1)), jnp.full((L, 1), -1e30)
  out, total, _ = lax.fori_loop(0, len(keys), add, first)
  return out / total


def _rnn(h, p):
  """Its turn gives what the state before it says, and takes the item."""
  turn = lambda s, u: (jnp.tanh(s @ p['w'] + u), s @ p['w'])
  return lax.scan(turn, jnp.ones(N), h)[1]


def _layers(h, p):
  """A scan over layers, each of them causal in the slots."""
  turn = lambda h, w: (jnp.tanh(jnp.cumsum(h @ w, 0)), h[:, :1])
  h, first = lax.scan(turn, h, jnp.stack([p['w'], p['v']]))
  return h + first.sum(0)


def _last_of_pairs(h, p):
  """A look-up whose places are computed."""
  best = jnp.argmax(h @ p['w'], -1)
  return jnp.take_along_axis(h, best[:, None], -1) + p['w'][best]


def _branch(h, p):
  return lax.cond(p['w'].sum() > 0, lambda h: h * 2, lambda h: -h, h)


CUMULATED = (lax.cumsum, lax.cummax, lax.cummin, lax.cumlogsumexp)
# Of h[k], which may read the values before slot k, its own row included.
FUNCTIONS = {
  'cumulated': lambda h, p: sum(f(h) for f in CUMULATED),
  'cumulated_by_pairs': lambda h, p: sum(
    jnp.repeat(f(h)[::2], 2, 0)[:L] for f in CUMULATED
  ),
  'cumprod': lambda h, p: lax.cumprod(jnp.tanh(h)),
  'reversed_twice': lambda h, p: lax.cumsum(h[::-1], reverse=True)[::-1],
  'along_features': lambda h, p: lax.cumsum(h, 1, reverse=True),
  'interleaved': lambda h, p: (
    lax.pad(h[: (L + 1) // 2], 0.0, [(0, 0, 1), (0, 0, 0)]) * 0.5 + _shift(h)
  ),
  'strided': lambda h, p: jnp.repeat(h[::2], 2, 0)[:L],
  'split_and_joined': lambda h, p: jnp.concatenate(
    [jnp.split(h, [2, 5])[n] for n in (0, 1, 2)][:2] + [h[5:] * 2]
  ),
  'moved': lambda h, p: (
    jnp.roll(h, 2, 1).T.reshape(2, 3, L).transpose(2, 1, 0).reshape(L, N)
  ),
  'stacked': lambda h, p: (
    jnp.stack([h, _shift(h)], 1).mean(1) + jnp.tile(h[:, :2], (1, 3))
  ),
  'looked_up': _last_of_pairs,
  'named': lambda h, p: jax.checkpoint(
    lambda h: checkpoint_name(lax.cumsum(h), 'sums')
  )(h),
  'searched': lambda h, p: h * jnp.searchsorted(p['m'][0].sort(), h),
  'at_known_places': lambda h, p: h[np.r_[0, 0 : L - 1]][
    :, np.r_[N - 1, 0 : N - 1]
  ],
  'written': lambda h, p: h.at[2:5].set(_shift(h, 2)[2:5]).at[1].add(3.0),
  'updated': lambda h, p: lax.dynamic_update_slice(h, h[2:4] * 2, (3, 0)),
  'sliced_by_a_parameter': lambda h, p: (
    lax.dynamic_slice(h, (0, p['n']), (L, 2)).sum(1, keepdims=True) + h
  ),
  'sorted_features': lambda h, p: jnp.sort(h, -1) + lax.top_k(h, N)[0],
  'attention': lambda h, p: _attend(h, np.tri(L, dtype=bool), p),
  'window_of_attention': lambda h, p: _attend(
    h, np.tri(L, dtype=bool) & ~np.tri(L, k=-3, dtype=bool), p
  ),
  'masked_product': lambda h, p: (np.tri(L, k=-1) * p['m']) @ h,
  'chunks_of_attention': _flash,
  'wide': lambda h, p: _conv(h, p['k'], window_strides=(1,), padding=[(2, 0)]),
  'dilated': lambda h, p: _conv(
    h, p['k'], window_strides=(1,), padding=[(6, 0)], rhs_dilation=(3,)
  ),
  'grouped': lambda h, p: _conv(
    h,
    p['k'][:, :2],
    window_strides=(1,),
    padding=[(2, 0)],
    feature_group_count=3,
  ),
  'coarse_and_back': _transposed,
  'masked_taps': lambda h, p: _conv(
    h,
    p['k'] * np.array([1, 1, 0], np.float32)[:, None, None],
    window_strides=(1,),
    padding='SAME',
  ),
  'tree': lambda h, p: _combine(
    lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]), (jnp.tanh(h), h)
  )[1],
  'recurrence': _rnn,
  'layers': _layers,
  'branch': _branch,
  'branch_by_slot': lambda h, p: jax.vmap(
    lambda row: lax.cond(row[0] > 0, jnp.sin, jnp.cos, row)
  )(h),
  'convolved_by_fft': lambda h, p: jnp.fft.irfft(
    jnp.fft.rfft(h, 2 * L, 0) * jnp.fft.rfft(p['m'][:, :1], 2 * L, 0), 2 * L, 0
  )[:L],
  'wide_by_fft': lambda h, p: jnp.fft.irfft(
    jnp.fft.rfft(jnp.tile(h, (1, 100)), 2 * L, 0) * 2, 2 * L, 0
  )[:L, :N],  # large enough to be left out at idle steps
  'solved': lambda h, p: jax.scipy.linalg.solve_triangular(
    jnp.eye(L) + np.tri(L, k=-1) * p['m'], h, lower=True
  ),
}
IN_FULL = {'convolved_by_fft', 'wide_by_fft', 'solved'}


def _model(function, rank=None):
  def init(key):
    shapes = {'e': (V + 1, N), 'w': (N, N), 'v': (N, N), 'k': (3, N, N)}
    shapes |= {'m': (L, L), 'o': (N, V)}
    keys = jax.random.split(key, len(shapes))
    draw = zip(shapes.items(), keys, strict=True)
    return {n: jax.random.normal(k, s) for (n, s), k in draw} | {
      'n': jnp.int32(3)
    }

  def conditionals(p, x, context):
    tokens = jnp.concatenate([jnp.full((1,), V, x.dtype), x[:-1]])
    return jnp.tanh(function(p['e'][tokens], p)) @ p['o']

  return model.from_function(
    conditionals,
    event=(L,),
    rank=order.raster(L) if rank is None else rank,
    head=heads.categorical(V),
    init=init,
  )


def _differences(made, blocks):
  """Between the derived path and the pass, by block of the partition."""
  params = made.init(jax.random.key(3))
  x = jax.random.randint(jax.random.key(4), made.event.shape, 0, V)
  slots = order.slots(made.rank)
  want = made.conditionals(params, x, None).reshape(len(slots), -1)[slots]
  values = x.reshape(-1)[slots]
  before = jnp.concatenate([values[:1] * 0 + 9, values[:-1]])
  path = derive.derive_decode(made)
  extend = jax.jit(path.extend)
  for size in blocks:
    cache, got = jax.jit(path.init)(params, None), []
    for k in range(0, len(slots), size):
      dist, cache = extend(params, cache, k, before[k : k + size])
      got.append(dist)
    yield float(np.abs(np.concatenate(got) - want).max())


@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_derived_path_is_the_pass(name):
  made = _model(FUNCTIONS[name])
  assert max(_differences(made, (1, 3))) < 1e-4
  found = explain.explain_decode(made)
  assert not found.recomputed
  assert bool(found.in_full) == (name in IN_FULL), str(found)


def test_a_pass_that_reads_its_future_is_recomputed():
  made = _model(lambda h, p: h + h.sum(0, keepdims=True))
  with pytest.raises(NotCausal):
    derive.Derived(made, jax.eval_shape(made.init, jax.random.key(0)))
  found = explain.explain_decode(made)
  assert found.recomputed and 'one full pass' in str(found)


def test_a_step_of_attention_reads_no_more_than_it_must():
  found = explain.explain_decode(_model(FUNCTIONS['attention']))
  assert found.steps * found.step < 3 * found.one_pass
  kept = [o for o in found.operations if o.kept]
  assert kept and all(o.part[0] == 1 for o in kept)
  assert 'rules_test.py' in str(found)


def test_every_entry_is_right_when_it_is_due():
  """Not the outputs alone: all arrays of the program, at every step."""
  made = _model(FUNCTIONS['tree'])
  plan = derive.derived(made)
  params = made.init(jax.random.key(0))
  x = jax.random.randint(jax.random.key(1), (L,), 0, V)
  known = plan.once(params, None) | {plan.x: x}
  for op in plan.ready.ops:
    values = [v.value if v.value is not None else known[v] for v in op.inputs]
    known.update(zip(op.outputs, op.bind(*values), strict=True))
  cache, seen = plan.init(params, None), 0
  before = jnp.concatenate([x[:1], x[:-1]])
  for k in range(L):
    _, cache = plan.extend(params, cache, k, before[k : k + 1])
    for v, a in zip(plan.kept, cache.kept, strict=True):
      due = plan.schedule.of(v)
      if v is plan.x or due is None or v in plan.layouts:
        continue
      low = tuple(
        slice(lo, lo + n)
        for (lo, _), n in zip(plan.borders[v], v.shape, strict=True)
      )
      here = np.broadcast_to(due <= k, v.shape)
      np.testing.assert_allclose(a[low][here], known[v][here], atol=1e-5)
      seen += int(here.sum())
  assert seen > 100


@pytest.mark.parametrize('order_of', ['permuted', 'tied'])
def test_other_orders(order_of):
  rank = np.array([3, 0, 5, 1, 6, 2, 4])
  if order_of == 'tied':
    rank = rank // 2
  weights = (rank[:, None] > rank[None]).astype(np.float32)

  def conditionals(p, x, context):
    h = p['e'][x]
    return jnp.tanh((weights * p['m']) @ h) @ p['o']

  made = _model(FUNCTIONS['attention'])
  made = model.from_function(
    conditionals,
    event=(L,),
    rank=rank,
    head=heads.categorical(V),
    init=made.init,
  )
  assert max(_differences(made, (1, 2))) < 1e-5


def _mixed_rows(h, p):
  """A quarter of the rows is due, and a frame has no room for all of them."""
  return h + jnp.einsum('ij,jwn->iwn', np.tri(4, k=-1) * p['m'][:4, :4], h)


def _chained(h, p):
  """Features of three channels, each of the channels up to its own."""
  live = np.arange(N)[:, None] // 2 <= np.arange(N) // 2
  h = jnp.tanh(h.mean(3).repeat(2, -1) @ jnp.where(live, p['w'], 0))
  h = jnp.tanh(h @ jnp.where(live, p['v'], 0)).reshape(*h.shape[:2], 3, 2)
  return jnp.tile(h, N // 2)


@pytest.mark.parametrize(
  ('event', 'mix'), [((4, 3), _mixed_rows), ((2, 3, 3), _chained)]
)
def test_images(event, mix):
  flat = _model(lambda h, p: h)

  def conditionals(p, x, context):
    before = jnp.pad(x.reshape(-1), (1, 0), constant_values=V)[:-1]
    return mix(p['e'][before.reshape(event)], p) @ p['o']

  made = model.from_function(
    conditionals,
    event=event,
    rank=order.raster(event),
    head=heads.categorical(V),
    init=flat.init,
  )
  print(decode_laws.check_decode(made, tolerance=1e-5))
  if mix is _chained:  # of a third of the columns, all are made
    steps = derive.derived(made).plan.instructions
    products = [i.made[0] for i in steps if i.op.name == 'dot_general']
    assert len(products) == 3 and all(c[2] is None for c in products[:2])


@pytest.mark.parametrize('evaluation', ['scan', 'chunked'])
def test_parameters_in_another_precision(evaluation):
  net = models.recurrent(
    event=(5,), num_values=3, features=8, evaluation=evaluation
  )
  params = jax.tree.map(
    lambda p: p.astype('bfloat16'), net.init(jax.random.key(0))
  )
  keys = jax.random.split(jax.random.key(1), 4)
  got = samplers.cached(net)(params, keys)
  want = samplers.ancestral(net)(params, keys)
  np.testing.assert_array_equal(got.x, want.x)
