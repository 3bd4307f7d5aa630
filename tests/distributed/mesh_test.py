"""Meshes, where parameters lie, and constraints that the compiler sees."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from parallel_ar import likelihood, models, partition
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import sharding
from parallel_ar.training import state as state_lib


class TestSizes:
  def test_minus_one_takes_the_rest(self):
    assert mesh_lib.fill({'data': -1, 'tensor': 2}, 8) == {
      'data': 4,
      'fsdp': 1,
      'tensor': 2,
      'sequence': 1,
    }

  @pytest.mark.parametrize(
    ('sizes', 'words'),
    [
      ({'data': 3, 'fsdp': -1}, 'groups of 3 devices'),
      ({'data': 16}, '16 devices; there are 8.*NPROC'),
      ({'data': -1, 'fsdp': -1}, 'Only one axis'),
      ({'data': 0}, '-1 or at least 1'),
      ({'batch': 2}, "axes data, fsdp.*'batch'"),
    ],
  )
  def test_refuses(self, sizes, words):
    with pytest.raises(ValueError, match=words):
      mesh_lib.fill(sizes, 8)

  def test_flag(self):
    assert mesh_lib.parse('data=4,fsdp=2') == {'data': 4, 'fsdp': 2}
    with pytest.raises(ValueError, match='data=4,fsdp=2'):
      mesh_lib.parse('4x2')

  def test_fewer_devices_than_there_are(self):
    mesh = mesh_lib.make({'data': 2})
    assert mesh.size == 2 and mesh_lib.make().size == jax.device_count()
    assert mesh_lib.describe(mesh.shape) == 'data 2'

  def test_a_batch_that_does_not_fit(self):
    with pytest.raises(ValueError, match=r'batch = 20.*8 devices.*such as 16'):
      mesh_lib.check_batch(mesh_lib.make(), 20, 'batch')

  def test_a_family_that_cannot(self):
    mesh = mesh_lib.make({'tensor': 2})
    with pytest.raises(ValueError, match='made is spread over data and fsdp'):
      sharding.check('made', mesh)
    sharding.check('transformer', mesh)


def _transformer():
  return models.transformer(
    event=(16,), num_values=6, features=32, layers=2, heads=4
  )


def _state(model):
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  create = lambda key: state_lib.create(model, tx, key, ema=True)
  return create, jax.eval_shape(create, jax.random.key(0))


class TestPlaces:
  def test_a_transformer(self):
    mesh = mesh_lib.make({'fsdp': 2, 'tensor': 4})
    create, shapes = _state(_transformer())
    places = sharding.state_shardings(shapes, 'transformer', mesh)
    block = jax.tree.map(lambda s: s.spec, places.params['block_0'])
    assert block['att']['qkv']['kernel'] == P('fsdp', 'tensor')
    assert block['down']['kernel'] == P('tensor', 'fsdp')
    assert block['norm_att']['scale'] == P()  # small: whole everywhere
    # Moments and the average lie where their parameters lie.
    moments = [
      leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(places.opt_state)
      if 'qkv' in jax.tree_util.keystr(path)
    ]
    assert [m.spec for m in moments] == [P('fsdp', 'tensor')] * 4
    assert places.ema['block_1']['up']['kernel'].spec == P('fsdp', 'tensor')
    # Born there, each device with its part only.
    state = jax.jit(create, out_shardings=places)(jax.random.key(0))
    kernel = state.opt_state[1][0].mu['block_0']['att']['qkv']['kernel']
    assert kernel.addressable_shards[0].data.shape == (16, 24)
    plain = jax.jit(create)(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, state, plain)

  def test_the_fallback_cuts_the_longest_axis(self):
    mesh = mesh_lib.make({'fsdp': 8})
    params = {
      'a': jax.ShapeDtypeStruct((3, 40, 24), jnp.float32),
      'odd': jax.ShapeDtypeStruct((101, 33), jnp.float32),
      'small': jax.ShapeDtypeStruct((8,), jnp.float32),
    }
    specs = sharding.param_specs(params, 'gated_pixelcnn', mesh)
    assert specs == {'a': P(None, 'fsdp'), 'odd': P(), 'small': P()}

  def test_bytes_fall_with_the_parts(self):
    _, shapes = _state(_transformer())
    sizes = []
    for parts in (1, 8):
      mesh = mesh_lib.make({'fsdp': parts})
      places = sharding.state_shardings(shapes, 'transformer', mesh)
      sizes.append(sharding.bytes_per_device(shapes, places))
    assert sizes[0] / 8 < sizes[1] < sizes[0] / 6


class TestConstraints:
  """Present in the text that the compiler is given, and only with a mesh."""

  def lower(self, model, sizes):
    params = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((8, *model.event.shape), jnp.int32)
    fn = jax.jit(lambda p, x: likelihood.log_prob(model, p, x))
    with jax.set_mesh(mesh_lib.make(sizes)):
      return fn.lower(params, x).as_text()

  @pytest.mark.parametrize('family', ['transformer', 'recurrent'])
  def test_are_there(self, family):
    model = _transformer()
    if family == 'recurrent':
      model = models.recurrent(event=(16,), num_values=6, features=32)
    text = self.lower(model, {'data': 2, 'tensor': 2, 'sequence': 2})
    found = re.findall(r'sdy.sharding_constraint .*?<@mesh, (\[.*?\])>', text)
    found = [f for f in found if '"' in f]  # those of loops name no axis
    whole = [f for f in found if '{"sequence"}, {"tensor"}' in f]
    assert len(found) >= 6 and whole
    # The batch that the model never sees is named in every one of them.
    assert all('{"data"' in f for f in found), found
    assert 'sharding_constraint' not in self.lower(model, {'data': 1})

  def test_a_name_that_does_not_divide_is_left_out(self):
    sizes = {'data': 2, 'fsdp': 2, 'tensor': 3}
    spec = partition.fit((8, 7, 6), (('data', 'fsdp'), 'data', 'tensor'), sizes)
    assert spec == P(('data', 'fsdp'), None, 'tensor')
