"""What the planner knows of accelerators: published peaks, one line each.

Edit the table, or name a JSON file with the same fields (`load`). Sources:

  TPU v5e, v5p, v6e  Google Cloud, "TPU v5e", "TPU v5p", "TPU v6e": peak bf16,
                     capacity and bandwidth of HBM, interconnect per chip. That
                     one is given for both directions; half of it is here.
  A100               NVIDIA A100 80GB SXM data sheet; DGX A100: one 200 Gb/s
                     port a GPU.
  H100               NVIDIA H100 SXM data sheet (dense bf16); DGX H100: one
                     400 Gb/s port a GPU.

A peak is what no program reaches; `plan` takes a utilization beside it.
"""

import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple


class Hardware(NamedTuple):
  """One accelerator.

  Attributes:
    name: as in the table.
    flops: peak bf16 FLOP/s.
    memory: bytes.
    bandwidth: of the memory, bytes/s.
    link: bytes/s of a device to its neighbours, one direction.
    group: devices that `link` joins.
    network: bytes/s of a device beyond them.
  """

  name: str
  flops: float
  memory: float
  bandwidth: float
  link: float
  group: int
  network: float

  def fits(self, size: float) -> bool:
    """Whether a program of so many bytes fits: a tenth is the runtime's."""
    return size <= 0.9 * self.memory


TABLE: dict[str, Hardware] = {
  h.name: h
  for h in (
    Hardware('v5e', 197e12, 16e9, 800e9, 200e9, 256, 3.1e9),
    Hardware('v5p', 459e12, 95e9, 2765e9, 600e9, 8960, 6.25e9),
    Hardware('v6e', 918e12, 32e9, 1600e9, 400e9, 256, 12.5e9),
    Hardware('a100', 312e12, 80e9, 2039e9, 300e9, 8, 25e9),
    Hardware('h100', 989e12, 80e9, 3350e9, 450e9, 8, 50e9),
  )
}

# What JAX calls a device -> its line: the first of these that it begins with.
_KINDS = {
  'TPU v5 lite': 'v5e',
  'TPU v5e': 'v5e',
  'TPU v5': 'v5p',
  'TPU v6': 'v6e',
  'NVIDIA A100': 'a100',
  'NVIDIA H100 80GB HBM3': 'h100',  # SXM: the PCIe card is slower
}


def peak(devices: Sequence[Any]) -> float | None:
  """Peak bf16 FLOP/s of devices together; None where the table lacks them.

  Args:
    devices: of one kind, such as `jax.devices()`.
  """
  for kind, name in _KINDS.items():
    if devices[0].device_kind.startswith(kind):
      return TABLE[name].flops * len(devices)
  return None


def find(name: str) -> Hardware:
  """A line of the table, or of a JSON file.

  Args:
    name: 'v5e', 'v5p', 'v6e', 'a100', 'h100', or the path of a JSON file with
      the fields of Hardware.

  Returns:
    The Hardware.

  Raises:
    ValueError: neither, or a file with other fields or values.
  """
  if name.lower() in TABLE:
    return TABLE[name.lower()]
  if name.endswith('.json'):
    return load(name)
  raise ValueError(
    f'The hardware {name!r} is not in the table, which has {", ".join(TABLE)}. '
    f'A JSON file ({", ".join(Hardware._fields)}) can tell of other hardware.'
  )


def load(path: str | os.PathLike[str]) -> Hardware:
  """Hardware of a JSON file; see `find`."""
  try:
    fields = json.loads(pathlib.Path(path).read_text())
  except ValueError as error:
    raise ValueError(f'{path} is no JSON: {error}') from error
  if not isinstance(fields, dict) or set(fields) != set(Hardware._fields):
    holds = ', '.join(fields) if isinstance(fields, dict) else 'something else'
    raise ValueError(
      f'{path} must hold exactly the fields {", ".join(Hardware._fields)}; it '
      f'holds {holds}.'
    )
  for name, value in fields.items():
    whole = name == 'group'
    if name == 'name':
      right, expected = isinstance(value, str), 'a text'
    else:
      right = type(value) in ((int,) if whole else (int, float))
      right = right and 0 < value < math.inf
      expected = f'a {"whole" if whole else "finite"} number above 0'
    if not right:
      raise ValueError(f'{path}: {name} = {value!r}, expected {expected}.')
  return Hardware(**fields)
