"""The mesh of a run: four sizes from the `mesh` section of a config.

  data * fsdp * tensor * sequence = devices

`partition` says what the axes mean. An axis of size -1 takes the devices that
the others leave. Neighbours of an inner axis are neighbours in the machine:
`arrange` lays the mesh over the torus of a TPU slice, and `data` over slices.
"""

import collections
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from parallel_ar.distributed import multihost
from parallel_ar.partition import AXES, BATCH


def fill(sizes: Mapping[str, int], count: int) -> dict[str, int]:
  """The four sizes, with -1 filled in.

  Args:
    sizes: axis -> size; axes that are missing have size 1.
    count: devices there are.

  Returns:
    axis -> size >= 1, in the order of `AXES`.

  Raises:
    ValueError: an unknown axis, a size that is neither -1 nor positive, more
      than one -1, or sizes that do not fit the devices.
  """
  if unknown := set(sizes) - set(AXES):
    raise ValueError(
      f'A mesh has the axes {", ".join(AXES)}; got {sorted(unknown)}.'
    )
  full = {name: int(sizes.get(name, 1)) for name in AXES}
  shown = ', '.join(f'{name}={size}' for name, size in full.items())
  if any(size < 1 and size != -1 for size in full.values()):
    raise ValueError(f'The sizes of a mesh are -1 or at least 1; got {shown}.')
  open_axes = [name for name, size in full.items() if size == -1]
  if len(open_axes) > 1:
    raise ValueError(
      f'Only one axis of a mesh can be -1, for what the others leave; got '
      f'{shown}.'
    )
  fixed = int(np.prod([size for size in full.values() if size > 0]))
  if open_axes:
    if count % fixed:
      raise ValueError(
        f'The mesh {shown} asks for groups of {fixed} devices, which do not '
        f'divide the {count} there are. Change a size in config.mesh.'
      )
    full[open_axes[0]] = count // fixed
  elif fixed > count:
    raise ValueError(
      f'The mesh {shown} asks for {fixed} devices; there are {count}. Set one '
      'of the sizes in config.mesh to -1, or to less. For virtual devices on a '
      'CPU set XLA_FLAGS=--xla_force_host_platform_device_count=8 and NPROC=32.'
    )
  return full


def make(
  sizes: Mapping[str, int] | None = None,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """A mesh with automatic partitioning; put it in force with `jax.set_mesh`.

  Args:
    sizes: see `fill`; all devices on `data` by default.
    devices: all devices by default.

  Returns:
    The mesh. If the sizes ask for fewer devices than there are, it has the
    first ones.

  Raises:
    ValueError: see `fill`; or a mesh over several processes that leaves
      devices out, and with them a process.
  """
  if devices is None:
    devices = jax.devices()
  full = fill({'data': -1} if sizes is None else sizes, len(devices))
  shape = tuple(full.values())
  count = int(np.prod(shape))
  if jax.process_count() > 1 and count != len(devices):
    raise ValueError(
      f'The mesh {full} uses {count} of {len(devices)} devices, and a process '
      'without one would wait for ever. Set a size in config.mesh to -1.'
    )
  placed = arrange(shape, devices[:count])
  return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 4)


def arrange(shape: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
  """The devices in the form of a mesh, so that its inner axes are near.

  Within a TPU slice a logical axis may take parts of several axes of the torus
  (most meshes of a v5p or v6e exist only so). Between slices there is a slow
  network, over which `data` goes, and `fsdp` and so on only with what `data`
  does not divide. GPUs and CPUs are taken in the order of their ids, which
  keeps inner axes on one host.

  Args:
    shape: sizes of the four axes.
    devices: as many as their product.

  Returns:
    object[shape], the devices.

  Raises:
    ValueError: slices of unequal numbers of devices.
  """
  slices = collections.defaultdict(list)
  for device in devices:
    tpu = device.platform == 'tpu'
    slices[getattr(device, 'slice_index', 0) if tpu else 0].append(device)
  if len(counts := {len(part) for part in slices.values()}) > 1:
    raise ValueError(
      f'A mesh of {len(devices)} devices on {len(slices)} slices must take '
      f'equally many of each, and would take {min(counts)} of one and '
      f'{max(counts)} of another. Set a size in config.mesh to -1: all.'
    )
  outer = over_slices(shape, len(slices))
  inner = [size // n for size, n in zip(shape, outer, strict=True)]
  parts = [_torus(inner, slices[i]) for i in sorted(slices)]
  grid = np.stack(parts).reshape(*outer, *inner)
  # Of each axis the slices, then the devices within one.
  grid = grid.transpose([a for i in range(len(shape)) for a in (i, i + 4)])
  return grid.reshape(shape)


def over_slices(shape: Sequence[int], slices: int) -> list[int]:
  """In how many slices the parts of each axis lie: `data` first.

  Args:
    shape: sizes of the four axes.
    slices: how many there are; they divide the product of the sizes.

  Returns:
    int[4], divisors of the sizes whose product is `slices`.
  """
  outer = []
  for size in shape:
    outer.append(math.gcd(size, slices))
    slices //= outer[-1]
  return outer


def _torus(shape: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
  """The devices of one slice in the form of a mesh; see `arrange`."""
  try:
    return mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
  except (AssertionError, NotImplementedError, ValueError) as error:
    # No box of the torus, such as three of its devices, or an unknown torus:
    # any order is right, and some are slow.
    warnings.warn(
      f'The mesh {tuple(shape)} was laid over {len(devices)} devices in the '
      'order of their ids, which need not be neighbours: collectives may be '
      f'slow. ({str(error)[:100]})',
      stacklevel=2,
    )
    placed = np.empty(len(devices), object)
    placed[:] = sorted(devices, key=lambda device: device.id)
    return placed.reshape(shape)


def parse(text: str) -> dict[str, int]:
  """The sizes that a flag names, such as 'data=4,fsdp=2'.

  Raises:
    ValueError: text of another form.
  """
  sizes = {}
  for part in filter(None, text.split(',')):
    name, _, size = part.partition('=')
    try:
      sizes[name.strip()] = int(size)
    except ValueError as error:
      raise ValueError(
        f'--mesh={text}: expected axes and sizes such as data=4,fsdp=2, with '
        f'the axes {", ".join(AXES)}.'
      ) from error
  return sizes


def place(batch: Any) -> Any:
  """Puts a batch on the devices of the mesh in force, or on the default one.

  Args:
    batch: tree of arrays with one leading axis B, the same on every process.

  Returns:
    The tree, spread over `data` and `fsdp` where they divide B, else whole on
    every device.
  """
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return jax.device_put(batch)
  leaves = jax.tree.leaves(batch)
  whole = any(leaf.shape[0] % batch_parts(mesh) for leaf in leaves)
  where = replicated(mesh) if whole else batch_sharding(mesh)

  def put(leaf: Any) -> jax.Array:
    if jax.process_count() == 1:
      return jax.device_put(leaf, where)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      words = put(np.asarray(jax.random.key_data(leaf)))
      return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    leaf = np.asarray(leaf)
    # Every process takes its rows, and need not ask the others for theirs.
    return jax.make_array_from_callback(leaf.shape, where, leaf.__getitem__)

  return jax.tree.map(put, batch)


def place_batch(batches: Any, step: int) -> Any:
  """`place(batches[step])`; of several processes each reads its own rows only.

  Args:
    batches: `data.pipeline.Batches` or `Padded`, with the latter's size a
      multiple of `round_up`.
    step: from 0.
  """
  if jax.process_count() == 1:
    return place(batches[step])
  where = batch_sharding(jax.sharding.get_mesh())
  read = lambda rows: batches.part(step, rows)
  return multihost.spread(read, batches.batch_size, where)


def round_up(size: int) -> int:
  """The next size of a batch that the mesh in force divides."""
  mesh = jax.sharding.get_mesh()
  parts = 1 if mesh.empty else batch_parts(mesh)
  return -(-size // parts) * parts


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The leading axis over `data` and `fsdp`, the rest whole."""
  return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_parts(mesh: Mesh) -> int:
  """Parts that a batch is cut into; it must be a multiple of them."""
  return int(np.prod([mesh.shape[name] for name in BATCH]))


def check_batch(mesh: Mesh, size: int, what: str) -> None:
  """Checks that a batch can be spread over the mesh.

  Args:
    mesh: the mesh.
    size: examples of the batch.
    what: the field that says so, for the message.

  Raises:
    ValueError: the parts of the batch do not divide it.
  """
  parts = batch_parts(mesh)
  if size % parts:
    near = parts * max(1, round(size / parts))
    raise ValueError(
      f'{what} = {size} examples cannot be spread over data * fsdp = {parts} '
      f'devices: it must be a multiple of {parts}, such as {near}. Change it, '
      'or name a smaller mesh, such as config.mesh.data=1.'
    )


def describe(sizes: Mapping[str, int]) -> str:
  """'data 4, fsdp 2': axes above 1."""
  axes = [f'{name} {size}' for name, size in sizes.items() if size > 1]
  return ', '.join(axes) or 'one device'
