"""The derived path by groups: one step draws all of a rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar import heads, model, order
from parallel_ar.decode import derive, levels
from parallel_ar.samplers import path

V, N = 3, 4


def _by_weights(p, x, rank):
  """Two rounds of sums over lower ranks, and over ranks up to one's own."""
  h = jnp.tanh((p['m'] * (rank[:, None] > rank[None])) @ p['e'][x])
  return (p['m'] * (rank[:, None] >= rank[None])) @ h


def _by_attention(p, x, rank):
  """A query knows its rank; keys are those of lower ranks, and a first one."""
  keys = jnp.concatenate([p['w'][:1], p['e'][x]])
  seen = np.append(-1, rank)[None] < rank[:, None]
  scores = jnp.where(seen, (p['w'][rank % N] @ p['w']) @ keys.T, -jnp.inf)
  return jax.nn.softmax(scores, -1) @ jnp.tanh(keys)


def _by_fft(p, x, rank):
  """An operation that is run in full at every step."""
  h = _by_weights(p, x, rank)
  return jnp.fft.irfft(jnp.fft.rfft(h, axis=0), len(h), 0)


def _net(function, sizes, seed=1):
  rank = order.tie(order.random(sum(sizes), seed), sizes)

  def init(key):
    shapes = {'e': (V, N), 'w': (N, N), 'm': (len(rank),) * 2, 'o': (N, V)}
    keys = jax.random.split(key, len(shapes))
    draw = zip(shapes.items(), keys, strict=True)
    return {n: jax.random.normal(k, s) for (n, s), k in draw}

  return model.from_function(
    lambda p, x, context: function(p, x, rank) @ p['o'],
    event=rank.shape,
    rank=rank,
    head=heads.categorical(V),
    init=init,
  )


@pytest.mark.parametrize(
  ('function', 'sizes'),
  [
    (_by_weights, (2, 1, 3, 1)),
    (_by_attention, (1, 5, 1, 2)),
    (_by_fft, (3, 1, 2)),
  ],
)
def test_a_function_of_ones_own(function, sizes):
  net = _net(function, sizes)
  assert 'groups agree' in par.check_decode(net, key=jax.random.key(2))
  params = net.init(jax.random.key(0))
  keys = jax.random.split(jax.random.key(1), 3)
  sample = par.cached(net)(params, keys)
  want = par.ancestral(net)(params, keys)
  np.testing.assert_array_equal(sample.x, want.x)
  assert (np.asarray(sample.info.steps) == len(sizes)).all()
  assert path.KINDS[int(sample.info.path)] == 'derived'
  assert f': {len(sizes)} steps draw' in str(par.explain_decode(net))


def test_groups_of_like_size_share_a_program():
  """Where one program for all would be much more work."""
  plan = lambda sizes: (
    levels.Levels(
      net := _net(_by_attention, sizes),
      jax.eval_shape(net.init, jax.random.key(0)),
    )._programs
  )
  ranks = [p.levels.tolist() for p in plan((1, 16, 1, 1, 15))]
  assert ranks == [[0, 2, 3], [1, 4]]
  assert len(plan((4, 3, 4))) == 1


def test_a_slot_that_seems_to_read_its_own_group():
  """Then slots come one after another; a total order has no groups."""

  def reads(p, x, rank):
    before = jnp.roll(p['e'][x], 1, 0).at[0].set(0)
    return _by_weights(p, x, rank) + (before - before)

  net = _net(reads, (2, 2, 1))
  net = model.from_function(
    lambda p, x, c: reads(p, x, order.tie(order.raster(5), [2, 2, 1])) @ p['o'],
    event=(5,),
    rank=order.tie(order.raster(5), [2, 2, 1]),
    head=heads.categorical(V),
    init=net.init,
  )
  found = derive.derive_decode(net)
  assert found is not par.recompute_decode(net) and found.groups is None
  params = net.init(jax.random.key(0))
  keys = jax.random.split(jax.random.key(1), 2)
  np.testing.assert_array_equal(
    par.cached(net)(params, keys).x, par.ancestral(net)(params, keys).x
  )
  assert derive.derive_decode(_net(_by_weights, (1, 1, 1))).groups is None
