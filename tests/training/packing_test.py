"""A state as few arrays: the same leaves, places and bits."""

import collections

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import sharding
from parallel_ar.training import outcome, state, step
from parallel_ar.training.packing import Packing
from tests.training import tiny
from tests.training.loop_test import _config

_KEY = jax.random.key(0)


def _made(mesh, largest, *, cut=()):
  """A state with leaves of every kind, and its packing."""

  def create():
    params = {
      'a': jnp.arange(5, dtype=jnp.float32),
      'large': jnp.ones((4, 6)),
      'half': jnp.full((2, 3), 0.5, jnp.bfloat16),
      'none': jnp.zeros((0, 3)),
    }
    opt_state = (jnp.int32(7), jax.random.key(3), jnp.asarray(2.0))
    return state.TrainState(jnp.int32(3), params, None, opt_state)

  shapes = jax.eval_shape(create)
  assert jax.eval_shape(lambda: jnp.asarray(2.0)).weak_type
  whole = mesh_lib.replicated(mesh)
  place = lambda path, _: (
    NamedSharding(mesh, PartitionSpec(None, 'data'))
    if path[-1] in map(jax.tree_util.DictKey, cut)
    else whole
  )
  places = jax.tree_util.tree_map_with_path(place, shapes)
  packing = Packing(shapes, places, whole, largest=largest)
  return jax.jit(create, out_shardings=places)(), packing


def _same(made, want):
  assert jax.tree.structure(made) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(want), strict=True):
    assert (a.dtype, a.shape, a.sharding) == (b.dtype, b.shape, b.sharding)
    chex.assert_trees_all_equal(*map(_numbers, (a, b)))


def _numbers(a):
  keys = jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)
  return np.asarray(jax.random.key_data(a) if keys else a)


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize(
  ('largest', 'cut', 'vectors'),
  [(20, (), 2), (24, (), 2), (24, ('large',), 2), (0, (), 0)],
)
def test_there_and_back(largest, cut, vectors, compiled):
  mesh = mesh_lib.make({'data': 2})
  made, packing = _made(mesh, largest, cut=cut)
  pack, unpack = packing.pack, packing.unpack
  if compiled:
    pack = jax.jit(pack, out_shardings=packing.places)
    unpack = jax.jit(unpack, out_shardings=packing.state_places)
  packed = pack(made)
  assert len(packed.vectors) == vectors  # of float32 and of int32
  _same(unpack(packed), made)
  assert jax.tree.structure(packing.template) == jax.tree.structure(made)
  if vectors:
    sizes = sorted(vector.size for vector in packed.vectors)
    alone = 24 if largest < 24 or cut else 0
    assert sizes == [2, 5 + 24 - alone]


def test_the_step_of_a_run_has_the_bits_of_its_leaves():
  config = _config()
  config.optimizer.name = 'adam'
  config.train.ema_decay = 0.9
  models = (tiny.fvsbn(event=(4, 3, 1)),)
  rule, create = state.of_config(config, models[0])
  shapes = jax.eval_shape(create, _KEY)
  mesh = mesh_lib.make({'data': 1})
  places = sharding.state_shardings(shapes, 'fvsbn', mesh)
  whole = mesh_lib.replicated(mesh)
  given = config, models, rule, shapes, places
  run, packing = step.of_config(*given, whole)
  plain = jax.jit(
    step.make_train_step(
      models, rule, schedule=lambda t: 0.1, ema_decay=0.9, seed=config.seed
    )
  )
  x = np.random.default_rng(0).integers(0, 2, (3, 4, 3, 1), np.uint8)
  batch = {'x': x, 'context': None}
  with jax.set_mesh(mesh):
    seen = jax.jit(outcome.nothing_seen, out_shardings=whole)()
    want = jax.jit(create, out_shardings=places)(_KEY)
    packed = packing.pack(want)
    kinds = collections.Counter(v.dtype.name for v in packed.vectors)
    assert kinds == {'float32': 1, 'int32': 1} and not packed.others
    for _ in range(3):
      want, _ = plain(want, batch)
      packed, seen, _ = run(packed, seen, batch)
  _same(packing.unpack(packed), want)
