"""TPUs that are not here: their chips, and how arrays lie in their memory.

libtpu compiles for any topology on any Linux host (the extra `tpu-compile`), so
that a program can be asked what it needs before a pod is.
"""

import importlib.util
import itertools
import math
import os
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

# Without them libtpu asks the cloud which TPU this host has, and lets only one
# process load it, since it could hold the chips.
SETTINGS = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
_LANES, _ROWS, _LEAST = 128, 8, 512


def devices(topology: str, slices: int = 1) -> list[Any]:
  """The chips of a topology, for which programs can be compiled.

  Sets the environment variables that keep libtpu from looking for a TPU.

  Args:
    topology: kind and sides, such as 'v5e:2x4', 'v6e:8x8' or 'v5p:4x4x4'.
    slices: how many of them, with the slower network between.

  Returns:
    Devices that `mesh.make` takes; nothing can be run on them.

  Raises:
    ModuleNotFoundError: libtpu is not installed.
    ValueError: libtpu knows no such topology.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise ModuleNotFoundError(
      'The compiler of TPUs is not here: install the extra tpu-compile '
      "(PARALLEL_AR_EXTRAS=tpu-compile for run.sh; pip install -e '.[tpu-"
      "compile]' elsewhere). It needs no TPU."
    )
  import libtpu

  for name, value in SETTINGS.items():
    # JAX puts a warning there where it finds no TPU.
    if os.environ.get(name, 'WARNING').startswith('WARNING'):
      os.environ[name] = value
  os.environ.setdefault('TPU_LIBRARY_PATH', libtpu.get_library_path())
  try:
    # libtpu divides by the sides: of none it dies, and this process with it.
    if not re.fullmatch(r'\w+:[1-9]\d*(x[1-9]\d*){1,2}', topology):
      raise ValueError('it has another form')
    return list(
      topologies.get_topology_desc(
        topology, platform='tpu', num_slices=slices
      ).devices
    )
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    raise ValueError(
      f'--topology={topology}: libtpu knows no such topology. Expected a kind '
      'and the sides of its torus, such as v5e:2x4, v6e:8x8 or v5p:4x4x4. '
      f'({str(error)[:200]})'
    ) from error


def stored_bytes(shape: tuple[int, ...], dtype: Any) -> int:
  """Bytes that an array takes in the memory of a TPU, with its padding.

  Memory is laid out in tiles of 8 rows and 128 lanes: the last two axes of a
  layout are filled up to them (fewer rows where there are fewer, but as many as
  a word of 32 bits holds), and XLA takes the order of axes that wastes least. A
  kernel of shape [3, 3, 64, 64] takes twice its bytes, a bias at least 512.

  Args:
    shape: of the part on one chip.
    dtype: of its elements.
  """
  if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
    shape, dtype = (*shape, 2), np.uint32
  size = np.dtype(dtype).itemsize
  if math.prod(shape) == 0:
    return 0
  if len(shape) < 2:
    length = math.prod(shape)
    tile = min(1024, max(_LANES, 1 << (length - 1).bit_length()))
    return max(_LEAST, -(-length // tile) * tile * size)
  packed = max(1, 4 // size)  # rows in a word

  def taken(minor: int, second: int) -> int:
    rows, lanes = shape[second], shape[minor]
    tile = min(_ROWS, max(packed, 1 << (rows - 1).bit_length()))
    whole = -(-rows // tile) * tile * -(-lanes // _LANES) * _LANES
    return math.prod(shape) // (rows * lanes) * whole * size

  pairs = itertools.permutations(range(len(shape)), 2)
  return max(_LEAST, min(taken(minor, second) for minor, second in pairs))
