"""Slots over eight devices: the values and gradients of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from parallel_ar import likelihood, models, partition
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.layers import attention, scan, sharded

LENGTH, HEADS, SIZE = 48, 2, 4
PATTERNS = {
  'full': (sharded.Reach(), {}),
  'blocks': (sharded.Reach(block=3), {'block': 3}),
  'local': (sharded.Reach(window=8), {'window': 8}),
  'local in one part': (sharded.Reach(window=2), {'window': 2}),
  'strided': (sharded.Reach(stride=5), {'stride': 5}),
}


def _mesh(**sizes):
  return jax.set_mesh(mesh_lib.make(sizes))


def _agree(ours, theirs):
  scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6 * scale, rtol=0),
    ours,
    theirs,
  )


@pytest.mark.parametrize('name', PATTERNS)
@pytest.mark.parametrize('sizes', [{'sequence': 8}, {'data': 2, 'sequence': 4}])
def test_ring_attention(name, sizes):
  reach, options = PATTERNS[name]
  q, k, v, w = jax.random.normal(jax.random.key(0), (4, 2, LENGTH, HEADS, SIZE))
  plain = attention.block_causal_attention
  if reach.window:
    plain = attention.local_attention
  elif reach.stride > 1:
    plain = attention.strided_attention

  def value(ring, q, k, v):
    one = lambda q, k, v: (
      sharded.ring_attention(q, k, v, reach, chunk=4)
      if ring
      else plain(q, k, v, **options)
    )
    return (partition.vmap(one, 0, 2)(q, k, v) * w).sum()

  both = jax.jit(jax.value_and_grad(value, argnums=(1, 2, 3)), static_argnums=0)
  want = both(False, q, k, v)
  with _mesh(**sizes):
    got = both(True, q, k, v)
  _agree(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, want))


def test_a_part_never_leaves_its_device_whole():
  """No array of the compiled ring holds all keys, and blocks are skipped."""
  with _mesh(sequence=8):
    mesh = jax.sharding.get_mesh()
    at = NamedSharding(mesh, PartitionSpec('sequence'))
    x = jax.ShapeDtypeStruct((LENGTH, HEADS, SIZE), jnp.float32, sharding=at)
    ring = jax.jit(
      lambda q, k, v: sharded.ring_attention(q, k, v, sharded.Reach())
    )
    text = ring.lower(x, x, x).compile().as_text()
  assert 'collective-permute' in text and 'conditional' in text
  assert 'all-gather' not in text
  assert f'[{LENGTH},' not in text and f',{LENGTH},' not in text


def test_what_cannot_be_cut_is_refused():
  q = jnp.zeros((12, 1, 2))
  with _mesh(sequence=8):
    with pytest.raises(ValueError, match='12 slots .* sequence = 8'):
      sharded.ring_attention(q, q, q, sharded.Reach())
  with _mesh(sequence=4):
    with pytest.raises(ValueError, match='Groups of 2 .* 4 parts of 3'):
      sharded.ring_attention(q, q, q, sharded.Reach(block=2))


@pytest.mark.parametrize('method', ['scan', 'associative', 'chunked'])
def test_linear_recurrence(method):
  keys = jax.random.split(jax.random.key(1), 4)
  a = jax.random.uniform(keys[0], (2, 40, 3), minval=0.5, maxval=1.1)
  b, w = jax.random.normal(keys[1], (2, 2, 40, 3))
  start = jax.random.normal(keys[2], (2, 3))

  def value(run, a, b, start):
    one = lambda *args: run(*args, method, 4)
    return (partition.vmap(one, 0, 2)(a, b, start) * w).sum()

  both = jax.jit(jax.value_and_grad(value, argnums=(1, 2, 3)), static_argnums=0)
  want = both(scan.linear_recurrence, a, b, start)
  with _mesh(data=1, sequence=8):
    got = both(sharded.linear_recurrence, a, b, start)
  _agree(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, want))


def test_matrix_recurrence():
  a = 0.5 * jax.random.normal(jax.random.key(2), (24, 3, 3))
  b = jax.random.normal(jax.random.key(3), (24, 3))
  value = lambda run, a, b: (run(a, b) ** 2).sum()
  both = jax.jit(jax.value_and_grad(value, argnums=(1, 2)), static_argnums=0)
  want = both(scan.matrix_recurrence, a, b)
  with _mesh(sequence=8):
    got = both(sharded.matrix_recurrence, a, b)
  _agree(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, want))


@pytest.mark.parametrize('evaluation', ['deer', 'quasi_deer'])
def test_newton_over_parts(evaluation):
  """A GRU is solved over the slots of all devices, gradients too."""
  model = models.recurrent(
    event=(12,), num_values=3, cell='gru', features=6, evaluation=evaluation
  )
  params = model.init(jax.random.key(0))
  x = np.arange(24).reshape(2, 12) % 3
  value = lambda p: likelihood.log_prob(model, p, x).sum()
  both = jax.jit(jax.value_and_grad(value))
  want = both(params)
  with _mesh(data=2, sequence=4):
    got = both(params)
  _agree(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, want))


def test_a_plain_gru_says_what_to_choose():
  model = models.recurrent(event=(8,), num_values=3, cell='gru', features=4)
  params = model.init(jax.random.key(0))
  with _mesh(sequence=4), pytest.raises(ValueError, match="'quasi_deer'"):
    likelihood.log_prob(model, params, np.zeros((1, 8), np.int32))
