"""How arrays lie on the mesh in force: the names of its axes, and constraints.

A mesh has four axes, any of size 1:

  data      examples, with a copy of the parameters in each part
  fsdp      examples too, with a part of the parameters in each
  tensor    heads and hidden features of one example
  sequence  slots of one example

Models are written for one example and name the axes of their activations with
`constrain`; the batch axis, which a model never sees, is named where the batch
appears. Without a mesh, or on one device, nothing here does anything.

The mesh is the one of `jax.set_mesh`. Under `with mesh:` there is none.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from parallel_ar.types import Array

AXES = ('data', 'fsdp', 'tensor', 'sequence')
BATCH = ('data', 'fsdp')
STACKS = 'stacks'  # parameters below it have a leading axis, over layers


def axis_size(*names: str) -> int:
  """Product of the sizes of axes of the mesh in force; 1 without a mesh."""
  shape = jax.sharding.get_abstract_mesh().shape
  size = 1
  for name in names:
    size *= shape.get(name, 1)
  return size


def constrain(x: Array, *names: Any) -> Array:
  """Asks the compiler to lay out an array over the mesh in force.

  Args:
    x: any array.
    *names: for each axis of `x` the mesh axis, or axes, that it is spread
      over, or None for an axis that is whole on every device. A name whose
      size does not divide the axis is left out.

  Returns:
    `x`, constrained where the mesh has more than one device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, fit(x.shape, names, mesh.shape))


def alone(function: Callable) -> Callable:
  """The function, which sees no mesh, whatever mesh is in force.

  A function of others may name axes of a mesh of its own, in annotations of
  its parameters for example. Under ours they would be unknown, or mean what
  they should not; where there is no mesh they ask for nothing.
  """

  @functools.wraps(function)
  def hidden(*args: Any, **options: Any) -> Any:
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
      return function(*args, **options)

  return hidden


def batch(tree: Any) -> Any:
  """Spreads the leading axis of every leaf over `data` and `fsdp`."""
  return jax.tree.map(
    lambda leaf: constrain(leaf, BATCH, *(None,) * (leaf.ndim - 1)), tree
  )


def over_slots(y_LN: Array, cache: Any, features: str | None = None) -> Array:
  """Spreads the slots of a pass over `sequence`.

  Args:
    y_LN: float[L, N, ...], L slots.
    cache: None in a pass; the few slots of a decode step are left whole.
    features: the mesh axis of N.

  Returns:
    `y_LN`, constrained.
  """
  slots = 'sequence' if cache is None else None
  return constrain(y_LN, slots, features, *(None,) * (y_LN.ndim - 2))


def vmap(fn: Callable, in_axes: Any, size: int) -> Callable:
  """`jax.vmap` whose batch is spread over `data` and `fsdp` all the way.

  Every constraint inside `fn` then names the axes of the batch too, so that
  the compiler gathers parameters and not activations.

  Args:
    fn: of one example.
    in_axes: of `jax.vmap`.
    size: B, the number of examples.

  Returns:
    The function of a batch.
  """
  parts = axis_size(*BATCH)
  spread = parts > 1 and size % parts == 0
  names = BATCH if spread else None
  return jax.vmap(fn, in_axes, spmd_axis_name=names)


def fit(shape: tuple[int, ...], names: Any, sizes: Any) -> PartitionSpec:
  """The spec of an array, without names that do not divide its axes.

  Args:
    shape: of the array.
    names: for each axis a name, names or None; missing ones are None.
    sizes: name -> size of the axis of the mesh.

  Returns:
    The PartitionSpec.
  """
  kept = []
  for length, name in zip(shape, names, strict=False):
    each = (name,) if isinstance(name, str) else (name or ())
    count = 1
    for part in each:
      count *= sizes.get(part, 1)
    kept.append(name if count > 1 and length % count == 0 else None)
  return PartitionSpec(*kept)
