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
_CONDITION = re.compile(r' while\(.*condition=%?([\w.\-]+)')
_CONSTANT = re.compile(r'= s32\[\]\S* constant\((\d+)\)')
_CHANNEL = re.compile(r'channel_id=(\d+)')
_GROUPS = re.compile(r'replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]*)\})')
_MESH = re.compile(r"replica_groups=mesh\[(.*?)\].*?\{('.*?)\}")
_AXIS = re.compile(r"'(\w+)'(?::\(\d+\)|=)?(\d*)")  # a size, or part of an axis
# What a TPU hands to its host, for the network between slices.
_BETWEEN = re.compile(
  r'= \((\w+\[[\d,]*\]).* recv\(.*_xla_megascale_target="\{([\d,:]+)\}x'
  r'.*_xla_megascale_transfer_type="(\w+)"'
)
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
    compiler knows it to run, or as its test compares a count with, else once;
    of a conditional every branch counts. What a TPU sends while it computes
    stands in several fusions, and counts once by its channel. What goes between
    its slices counts as what it is.
  """
  own: dict[str, list[tuple[str, int, int, str]]] = defaultdict(list)
  limits = _limits(text)
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
      kind, channel = op.group(2), _CHANNEL.search(line)
      size, name = _bytes(op.group(1)), channel.group(1) if channel else ''
      parts = _parts(kind, line, every)
      if here.startswith('all-reduce-scatter'):  # how a TPU scatters a sum
        kind, size = 'reduce-scatter', size // parts
      own[here].append((kind, size, parts, name))
    elif between := _BETWEEN.search(line):
      kind = between.group(3).lower().replace('_', '-')
      kind = kind if kind in KINDS else 'collective-permute'
      parts = _count(between.group(2))
      own[here].append((kind, _bytes(between.group(1)), parts, ''))
    for single, several in _CALLED.findall(line):
      times = _times(line, limits)
      for name in (single or several).split(','):
        calls[here].append((name.strip().lstrip('%'), times))
  total: dict[str, list[Any]] = defaultdict(lambda: [0, 0, 0.0])
  done: set[tuple[str, str, int]] = set()

  def visit(name: str, times: int) -> None:
    for kind, size, parts, channel in own[name]:
      same = channel, kind, size  # a channel serves others too
      if channel and same in done:
        continue
      done.add(same)
      total[kind][0] += times
      total[kind][1] += times * size
      total[kind][2] += times * on_the_wire(kind, size, parts)
    for called, trips in calls[name]:
      visit(called, times * trips)

  visit(entry, 1)
  return {kind: Traffic(*total[kind]) for kind in KINDS if kind in total}


def _limits(text: str) -> dict[str, int]:
  """Of each computation that compares with one constant alone: the constant."""
  found: dict[str, list[int]] = defaultdict(list)
  compares, here = set(), ''
  for line in text.splitlines():
    if start := _COMPUTATION.match(line):
      here = start.group(2)
    elif constant := _CONSTANT.search(line):
      found[here].append(int(constant.group(1)))
    elif 'direction=LT' in line and line.lstrip().startswith('ROOT'):
      compares.add(here)
  return {k: v[0] for k, v in found.items() if k in compares and len(v) == 1}


def _times(line: str, limits: dict[str, int]) -> int:
  """How often what a line calls is run: more than once for loops only."""
  if not (loop := _CONDITION.search(line)):
    return 1
  if trips := _TRIPS.search(line):
    return int(trips.group(1))
  return limits.get(loop.group(1), 1)


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


def _count(slices: str) -> int:
  """How many are named, as in '1,2,5:8'."""
  ranges = [part.split(':') for part in slices.split(',')]
  return sum(int(ends[-1]) - int(ends[0]) + 1 for ends in ranges)


def _bytes(shapes: str) -> int:
  total = 0
  for name, axes in _SHAPE.findall(shapes):
    digits = re.search(r'\d+', name)
    bits = _BITS.get(name) or int(digits.group() if digits else 0)
    count = math.prod(int(n) for n in axes.split(',') if n)
    total += count * bits // 8
  return total
