"""Where parameters and the state of a run lie on the mesh.

A leaf is placed by the first rule of its family whose regular expression is
found in its path; what no rule matches is cut along its longest axis that
`fsdp` divides (ZeRO stage 3; Rajbhandari et al. 2020). Averages and the
optimizer's moments lie where their parameters lie.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from parallel_ar import partition
from parallel_ar.types import Params

# Leaves with fewer elements are whole everywhere: to gather one costs the
# latency of a message and saves next to nothing.
MIN_SIZE = 1024


class Rule(NamedTuple):
  """Axes of the mesh for the axes of the leaves whose path matches."""

  pattern: str
  names: tuple[str | None, ...]


class Family(NamedTuple):
  """How the models of a family can be spread.

  Attributes:
    rules: tried in turn; the rest falls to `fsdp`.
    axes: of the mesh that the family can use beside `data` and `fsdp`.
  """

  rules: Sequence[Rule] = ()
  axes: tuple[str, ...] = ()


# Megatron's pairs (Shoeybi et al. 2019): a product that is cut by its columns,
# then one that is cut by its rows, and one sum over `tensor` after both.
_MLP = (
  Rule(r'up/kernel$', ('fsdp', 'tensor')),
  Rule(r'up/bias$', ('tensor',)),
  Rule(r'down/kernel$', ('tensor', 'fsdp')),
  Rule(r'logits/kernel$', ('fsdp', 'tensor')),
  Rule(r'logits/bias$', ('tensor',)),
)
FAMILIES: dict[str, Family] = {
  'transformer': Family(
    (
      Rule(r'att/qkv/kernel$', ('fsdp', 'tensor')),
      Rule(r'att/qkv/bias$', ('tensor',)),
      Rule(r'att/out/kernel$', ('tensor', 'fsdp')),
      *_MLP,
    ),
    ('tensor', 'sequence'),
  ),
  'recurrent': Family(
    (
      Rule(r'recurrence/gates/kernel$', ('fsdp', 'tensor')),
      Rule(r'recurrence/gates/bias$', ('tensor',)),
      Rule(r'recurrence/decay$', ('tensor',)),
      Rule(r'block_\d+/out/kernel$', ('tensor', 'fsdp')),
      *_MLP,
    ),
    ('tensor', 'sequence'),
  ),
}


AnyMesh = Mesh | AbstractMesh


def check(family: str, mesh: AnyMesh) -> None:
  """Checks that a family can use the axes of a mesh.

  Raises:
    ValueError: `tensor` or `sequence` is above 1 and the family cannot use it.
  """
  able = FAMILIES.get(family, Family()).axes
  for name in ('tensor', 'sequence'):
    if mesh.shape[name] > 1 and name not in able:
      others = [f for f, has in FAMILIES.items() if name in has.axes]
      raise ValueError(
        f'config.mesh.{name} = {mesh.shape[name]}, but the family {family} is '
        f'spread over data and fsdp only: set it to 1. {name} is for '
        f'{" and ".join(others)}.'
      )


def param_specs(params: Params, family: str, mesh: AnyMesh) -> Any:
  """The PartitionSpec of every parameter.

  Args:
    params: arrays, or their shapes.
    family: name of the family; one without rules is cut by `fsdp` alone.
    mesh: the mesh.

  Returns:
    A tree of PartitionSpec.
  """
  rules = FAMILIES.get(family, Family()).rules

  def spec(path: Any, leaf: Any) -> PartitionSpec:
    name = _name(path)
    stacked = partition.STACKS in name.split('/')
    for rule in rules:
      names = (None,) * stacked + rule.names
      if re.search(rule.pattern, name) and len(names) == len(leaf.shape):
        return partition.fit(leaf.shape, names, mesh.shape)
    inner = _fsdp(leaf.shape[stacked:], mesh.shape['fsdp'])
    return PartitionSpec(*(None,) * stacked, *inner) if inner else inner

  return jax.tree_util.tree_map_with_path(spec, params)


def param_shardings(params: Params, family: str, mesh: AnyMesh) -> Any:
  """As `param_specs`, a tree of NamedSharding."""
  specs = param_specs(params, family, mesh)
  return jax.tree.map(
    lambda spec: NamedSharding(mesh, spec),
    specs,
    is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
  )


def state_shardings(state: Any, family: str, mesh: AnyMesh) -> Any:
  """Where every leaf of a TrainState lies.

  Args:
    state: `training.state.TrainState`, or its shapes.
    family: name of the family.
    mesh: the mesh.

  Returns:
    A TrainState of NamedSharding. A leaf of the optimizer whose path ends with
    that of a parameter, and whose shape is its shape, lies where that
    parameter lies; all others are whole on every device.
  """
  specs = param_specs(state.params, family, mesh)
  leaves = jax.tree_util.tree_flatten_with_path(state.params)[0]
  flat = jax.tree.leaves(
    specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)
  )
  places = [
    (_keys(path), leaf.shape, spec)
    for (path, leaf), spec in zip(leaves, flat, strict=True)
  ]

  def place(path: Any, leaf: Any) -> NamedSharding:
    keys = _keys(path)
    found, depth = PartitionSpec(), 0
    for param, shape, spec in places:
      ends = keys[len(keys) - len(param) :] == param
      if ends and shape == leaf.shape and len(param) > depth:
        found, depth = spec, len(param)
    return NamedSharding(mesh, found)

  return jax.tree_util.tree_map_with_path(place, state)


def with_shardings(shapes: Any, shardings: Any) -> Any:
  """ShapeDtypeStructs that say where the arrays lie, for a restore."""
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=place
    ),
    shapes,
    shardings,
  )


def bytes_per_device(tree: Any, shardings: Any) -> int:
  """Bytes that the arrays of a tree take on the fullest device."""
  total = 0
  for leaf, place in zip(
    jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True
  ):
    shape = place.shard_shape(leaf.shape)
    total += int(np.prod(shape)) * np.dtype(leaf.dtype).itemsize
  return total


def _fsdp(shape: tuple[int, ...], parts: int) -> PartitionSpec:
  fits = [k for k, n in enumerate(shape) if n % parts == 0]
  if parts == 1 or not fits or np.prod(shape) < MIN_SIZE:
    return PartitionSpec()
  axis = max(fits, key=lambda k: shape[k])
  return PartitionSpec(*(None,) * axis, 'fsdp')


def _keys(path: Any) -> tuple[str, ...]:
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _name(path: Any) -> str:
  return '/'.join(_keys(path))
