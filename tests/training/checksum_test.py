"""Checksums: of the bits alone, on any mesh, and no change goes unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from parallel_ar.training import checksum

DTYPES = ['float32', 'bfloat16', 'float16', 'int32', 'uint8', 'int8', 'bool']


def _sum(leaf):
  (value,) = checksum.checksums({'a': leaf}).values()
  return value


def _values(dtype, shape=(5, 6)):
  values = np.random.RandomState(0).randn(*shape) * 20
  return jnp.asarray(values if dtype != 'bool' else values > 0, dtype)


def _by_hand(words, mask=2**32 - 1):
  one = two = 0
  for i, word in enumerate(words):
    mixed = i ^ (i >> 15)
    one += word * (i * 2654435761 & mask | 1)
    two += word * (mixed * 2246822519 + 0x9E3779B9 & mask | 1)
  return f'{one & mask:08x}{two & mask:08x}'


def test_is_the_sum_that_the_docstring_says():
  leaf = _values('float32')
  words = np.asarray(leaf).reshape(-1).view(np.uint32)
  assert _sum(leaf) == _by_hand([int(word) for word in words])
  half = _values('bfloat16')
  words = np.asarray(half).reshape(-1).view(np.uint16)
  assert _sum(half) == _by_hand([int(word) for word in words])
  assert _sum(jnp.int32(-7)) == _by_hand([2**32 - 7])
  assert _sum(jnp.zeros((0, 3))) == _by_hand([])


@pytest.mark.parametrize('dtype', DTYPES)
def test_every_single_change_is_seen(dtype):
  leaf = np.asarray(_values(dtype))
  raw = leaf.reshape(-1).view(np.uint8)
  bits = 1 if dtype == 'bool' else 8  # a bool has one bit that means something
  changed = []
  for i in range(raw.size):
    for bit in range(bits):
      other = raw.copy()
      other[i] ^= 1 << bit
      changed.append(other.view(leaf.dtype).reshape(leaf.shape))
  sums = jax.jit(jax.vmap(checksum.words))(np.stack(changed))
  honest = np.asarray(checksum.words([jnp.asarray(leaf)]))
  assert len(changed) == raw.size * bits
  assert not (np.asarray(sums) == honest).all(-1).any()


def test_places_and_paths_count():
  leaf = np.arange(1.0, 31.0, dtype=np.float32)
  assert _sum(leaf) != _sum(leaf[::-1])
  swapped = leaf.copy()
  swapped[[3, 17]] = swapped[[17, 3]]
  assert _sum(leaf) != _sum(swapped)
  # The shape is in the layout of a checkpoint, and not in the sum.
  assert _sum(leaf) == _sum(leaf.reshape(5, 6))
  tree = {'a': [leaf, leaf * 2], 'b': jnp.int32(3)}
  assert list(checksum.checksums(tree)) == ["['a'][0]", "['a'][1]", "['b']"]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_any_mesh_gives_the_same(dtype):
  leaf = _values(dtype, (16, 24))
  mesh = jax.make_mesh((4, 2), ('a', 'b'), axis_types=(AxisType.Auto,) * 2)
  specs = [(), ('a',), (None, 'a'), ('a', 'b'), (('b', 'a'),), (None, 'b')]
  places = [NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs]
  sums = [_sum(jax.device_put(leaf, place)) for place in places]
  assert set(sums) == {_sum(leaf)}
