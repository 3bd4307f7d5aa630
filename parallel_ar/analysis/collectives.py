"""What devices send each other, read from a compiled program's text."""

import math
import re
from collections import defaultdict
from typing import Any, NamedTuple

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
_BITS = {'pred': 8, 's4': 4, 'u4': 4, 'bf16': 16, 'f16': 16}
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$')
_SHAPE = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]')
_CALLED = re.compile(
  r'(?:body|condition|calls|to_apply|true_computation|false_computation)='
  r'%?([\w.\-]+)|branch_computations=\{([^}]*)\}'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_GROUPS = re.compile(r'replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]*)\})')
_MESH = re.compile(r"replica_groups=mesh\[(.*?)\].*?\{('.*?)\}")
_AXIS = re.compile(r"'(\w+)'(?::\(\d+\)|=)?(\d*)")  # a size, or part of an axis
_OP = re.compile(rf'= (.*?) ({"|".join(KINDS)})(?:-start)?\(')


class Traffic(NamedTuple):
  """Calls and bytes of one kind of collective in one run of a program.

  Attributes:
    calls: how often it runs, loops counted.
    bytes: of its results on one device, summed over the calls.
    sent: bytes that one device sends for them, see `on_the_wire`.
  """

  calls: int
  bytes: int
  sent: float


def census(text: str) -> dict[str, Traffic]:
  """Collectives of a compiled program.

  Args:
    text: `compiled.as_text()`.

  Returns:
    Kind -> Traffic, of the kinds that occur. A loop counts as often as its
    compiler knows it to run, else once; of a conditional every branch counts.
  """
  own: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
  calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
  entry = here = ''
  devices = re.search(r'num_partitions=(\d+)', text)
  every = int(devices.group(1)) if devices else 1
  for line in text.splitlines():
    if start := _COMPUTATION.match(line):
      here = start.group(2)
      entry = here if start.group(1) else entry
      continue
    if op := _OP.search(line):
      kind = op.group(2)
      own[here].append((kind, _bytes(op.group(1)), _parts(kind, line, every)))
    for single, several in _CALLED.findall(line):
      trips = _TRIPS.search(line) if ' while(' in line else None
      times = int(trips.group(1)) if trips else 1
      for name in (single or several).split(','):
        calls[here].append((name.strip().lstrip('%'), times))
  total: dict[str, list[Any]] = defaultdict(lambda: [0, 0, 0.0])

  def visit(name: str, times: int) -> None:
    for kind, size, parts in own[name]:
      total[kind][0] += times
      total[kind][1] += times * size
      total[kind][2] += times * on_the_wire(kind, size, parts)
    for called, trips in calls[name]:
      visit(called, times * trips)

  visit(entry, 1)
  return {kind: Traffic(*total[kind]) for kind in KINDS if kind in total}


def on_the_wire(kind: str, size: float, parts: int) -> float:
  """Bytes that a device sends for a result of `size` bytes.

  On a ring of n devices: an all-reduce 2 (n - 1) / n of the array, an
  all-gather or all-to-all (n - 1) / n of it, a reduce-scatter n - 1 times its
  part, a permute its part (Patarasuk, Yuan 2009).
  """
  if parts == 1:
    return 0.0
  n = parts
  factor = {
    'all-reduce': 2 * (n - 1) / n,
    'all-gather': (n - 1) / n,
    'all-to-all': (n - 1) / n,
    'reduce-scatter': n - 1,
    'collective-permute': 1,
  }
  return factor[kind] * size


def _parts(kind: str, line: str, every: int) -> int:
  """Devices in one group of a collective; all where no groups are named."""
  if kind == 'collective-permute':
    return 2
  if named := _MESH.search(line):
    sizes = dict(_AXIS.findall(named.group(1)))
    axes = _AXIS.findall(named.group(2))
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  groups = _GROUPS.search(line)
  if groups is None:
    return every
  return int(groups.group(1) or len(groups.group(2).split(',')))


def _bytes(shapes: str) -> int:
  total = 0
  for name, axes in _SHAPE.findall(shapes):
    digits = re.search(r'\d+', name)
    bits = _BITS.get(name) or int(digits.group() if digits else 0)
    count = math.prod(int(n) for n in axes.split(',') if n)
    total += count * bits // 8
  return total
