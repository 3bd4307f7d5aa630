"""Checksums of arrays that do not depend on how these are sharded.

With the bits of a leaf as words b_0, b_1, ... of 32 bits in row-major order,

  c = ( sum_i b_i u_i mod 2^32 , sum_i b_i v_i mod 2^32 )

where the weights u_i, v_i are odd and differ from place to place. Addition
modulo 2^32 is associative, so any mesh, any host and any order of summation
give the same c; and an odd weight has an inverse, so a change of one word
always changes c. Two unrelated changes cancel with probability about 2^-63.

The sums are taken where the array lies: nothing is gathered.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar.training import state as state_lib
from parallel_ar.types import Array


def checksums(tree: Any) -> dict[str, str]:
  """Path -> 16 hex digits of every leaf.

  Args:
    tree: arrays of any dtype but PRNG keys, sharded in any way.

  Returns:
    A dict by `jax.tree_util.keystr` of the path.
  """
  return hex_digits(tree, words(tree))


def words(tree: Any) -> Array:
  """uint32[leaves, 2]: the checksums, to be traced inside a jitted function."""
  leaves = jax.tree.leaves(tree)
  if not leaves:
    return jnp.zeros((0, 2), jnp.uint32)
  return jnp.stack([_leaf(leaf) for leaf in leaves])


def hex_digits(tree: Any, values: Array) -> dict[str, str]:
  """The result of `words`, `values` uint32[leaves, 2], by path."""
  paths = [key for key, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
  return {
    jax.tree_util.keystr(path): f'{int(one):08x}{int(two):08x}'
    for path, (one, two) in zip(paths, np.asarray(values), strict=True)
  }


def _look(items: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
  sums = {name: words(tree) for name, tree in items.items()}
  return state_lib.all_finite(items), sums


@functools.cache
def _look_from(place: jax.sharding.Sharding | None) -> Callable[..., Any]:
  """`_look`, compiled, with a result that every process can read."""
  return jax.jit(_look, out_shardings=place)


def inspect(items: dict[str, Any]) -> tuple[bool, dict[str, dict[str, str]]]:
  """Whether all is finite, and the checksums of every item.

  Args:
    items: name -> tree of arrays, sharded in any way.
  """
  places = [leaf.sharding for leaf in jax.tree.leaves(items)]
  meshes = [p.mesh for p in places if isinstance(p, jax.sharding.NamedSharding)]
  whole = jax.sharding.PartitionSpec()
  place = jax.sharding.NamedSharding(meshes[0], whole) if meshes else None
  finite, sums = jax.device_get(_look_from(place)(items))
  names = {k: hex_digits(items[k], v) for k, v in sums.items()}
  return bool(finite), names


def _leaf(leaf: Any) -> Array:
  bits = _bits(jnp.asarray(leaf))
  place = jnp.zeros(bits.shape, jnp.uint32)
  for axis in range(bits.ndim):
    stride = math.prod(bits.shape[axis + 1 :]) % 2**32
    index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    place = place + index * jnp.uint32(stride)
  mixed = place ^ (place >> 15)
  one = (place * jnp.uint32(2654435761)) | jnp.uint32(1)
  two = (mixed * jnp.uint32(2246822519) + jnp.uint32(0x9E3779B9)) | jnp.uint32(
    1
  )
  sums = [jnp.sum(bits * weight, dtype=jnp.uint32) for weight in (one, two)]
  return jnp.stack(sums)


def _bits(leaf: Array) -> Array:
  """The leaf as uint32; 64-bit numbers get a last axis of 2."""
  if jnp.iscomplexobj(leaf):
    leaf = jnp.stack([leaf.real, leaf.imag], -1)
  if leaf.dtype == jnp.bool_:
    return leaf.astype(jnp.uint32)
  bits = leaf.dtype.itemsize * 8
  if jnp.issubdtype(leaf.dtype, jnp.integer):
    bits = jnp.iinfo(leaf.dtype).bits
  if bits < 8:
    return leaf.astype(jnp.int8).astype(jnp.uint32)
  word = {8: jnp.uint8, 16: jnp.uint16}.get(bits, jnp.uint32)
  return jax.lax.bitcast_convert_type(leaf, word).astype(jnp.uint32)
