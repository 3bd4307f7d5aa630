r"""Which mesh trains a config best, without the cluster.

The training step is compiled, not run, on meshes of one, two and four devices
(the probes): virtual ones of a CPU, or described chips, for which XLA:TPU
compiles. What they say is extended to the meshes in question:

  memory  = state(mesh) + batch(mesh) + temporary(mesh)
  state   exact: shapes and specs are known for any mesh, and the tiles of a
          TPU's memory (`topology.stored_bytes`)
  temporary(mesh) = t(b) prod_axes r_axis(n, b),   r = t_axis(n, b) / t(b)

with b the examples of one device; t(b) is linear between two probes, and
t_axis(n, b) is p + q / n through probes at n = 2 and 4 (a replica of `data`
costs the same whatever their number). Parameters that n does not divide are
whole on every device: of them `fsdp` costs what `data` does. Bytes of
collectives extend alike.
Operations are counted from the jaxpr and shared by all devices. The step takes

  max(FLOPs / (peak utilization), bytes / bandwidth) + wire bytes / link

seconds: nothing overlaps, so it is a cautious figure, for ranking meshes.
`compiled` is what XLA says of the mesh itself, to check a prediction by.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from parallel_ar.analysis import collectives, programs
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import sharding
from parallel_ar.distributed.hardware import Hardware
from parallel_ar.partition import AXES

_PROBES = {'data': (2,), 'fsdp': (2, 4), 'tensor': (2, 4), 'sequence': (2, 4)}
# What these axes have cut already, an axis need not send.
_CUT_BY = {
  'data': ('fsdp', 'tensor'),
  'fsdp': ('tensor',),
  'tensor': ('sequence',),
  'sequence': ('tensor',),
}
_NONE = collectives.Traffic(0, 0, 0.0)


class Cost(NamedTuple):
  """What one device does in one step.

  Attributes:
    state: bytes of parameters, averages, moments and the batch.
    temporary: bytes of everything else at the fullest moment.
    flops: floating-point operations.
    traffic: bytes that pass through its memory.
    sent: axis of the mesh -> bytes that it sends.
  """

  state: float
  temporary: float
  flops: float
  traffic: float
  sent: dict[str, float]

  @property
  def memory(self) -> float:
    """Bytes in all."""
    return self.state + self.temporary


class Choice(NamedTuple):
  """A mesh, what it costs, and how long a step takes (seconds)."""

  sizes: dict[str, int]
  cost: Cost
  compute: float
  communication: float
  fits: bool

  @property
  def seconds(self) -> float:
    """Seconds of one step."""
    return self.compute + self.communication


@dataclasses.dataclass(frozen=True)
class _Line:
  """A quantity that is linear in the examples of a device, from two probes.

  Where it falls it ends at the second one: a compiler may need less for more
  examples, once it lays them out otherwise, but not less and less.
  """

  low: tuple[int, float]
  high: tuple[int, float]

  def at(self, b: float) -> float:
    (x, y), (u, v) = self.low, self.high
    if v < y:
      b = min(b, u)
    return max(y + (v - y) * (b - x) / (u - x), 0.0)


class Planner:
  """Predicts the cost of meshes for one config; makes its probes once."""

  def __init__(
    self, config: ConfigDict, devices: int, chips: Sequence[Any] | None = None
  ):
    """Makes nothing yet.

    Args:
      config: of a run; `train.accumulate` micro-batches are planned one by one.
      devices: of the cluster.
      chips: what is compiled for, such as `topology.devices('v5e:2x4')`; by
        default the devices of JAX here.
    """
    self._chips = chips
    self._tiled = chips is not None and chips[0].platform == 'tpu'
    self.devices = devices
    self.batch = config.train.batch_size // config.train.accumulate
    self._config = config
    self._program = programs.Programs(config)
    small = max(1, self.batch // devices)
    self._sizes = small, 2 * small
    self._probes: dict[tuple[str, int], list[programs.Compiled]] = {}

  def meshes(self) -> Iterator[dict[str, int]]:
    """Every mesh of all devices that the config can be trained on."""
    model = self._config.model
    length = self._program.models[0].num_positions
    family = sharding.FAMILIES.get(model.name, sharding.Family())
    for shape in itertools.product(_divisors(self.devices), repeat=4):
      sizes = dict(zip(AXES, shape, strict=True))
      able = all(
        sizes[a] == 1 or a in family.axes for a in ('tensor', 'sequence')
      )
      if (
        math.prod(shape) == self.devices
        and able
        and self.batch % (sizes['data'] * sizes['fsdp']) == 0
        and length % sizes['sequence'] == 0
        and model.get('heads', 4) % sizes['tensor'] == 0
      ):
        yield sizes

  def predict(self, sizes: dict[str, int]) -> Cost:
    """The cost of a mesh, from the probes.

    Args:
      sizes: axis -> devices, all four.

    Returns:
      A Cost.
    """
    b = self.batch // (sizes['data'] * sizes['fsdp'])
    temporary = self._at('', 1, b, lambda c: c.temporary)
    traffic = self._at('', 1, b, lambda c: c.traffic)
    alone = max(temporary, 1.0), max(traffic, 1.0)
    sent = {}
    for axis in AXES:
      n = sizes[axis]
      if n == 1:
        continue
      temporary *= self._at(axis, n, b, lambda c: c.temporary) / alone[0]
      traffic *= self._at(axis, n, b, lambda c: c.traffic) / alone[1]
      sent[axis] = self._sent(axis, sizes, b)
    return Cost(
      self._program.state_bytes(sizes, b, self._tiled),
      temporary,
      self._flops / self.devices,
      traffic,
      sent,
    )

  def rank(
    self, hardware: Hardware, utilization: float = 0.4, slices: int = 1
  ) -> list[Choice]:
    """All meshes, the fastest that fits first.

    Args:
      hardware: of every device.
      utilization: share of the peak that matrix products reach.
      slices: equal parts of the devices with the slower network between, or
        more where a group of the hardware is smaller; they divide `devices`.

    Returns:
      Choices; those that do not fit the memory come last.

    Raises:
      ValueError: no mesh of all devices divides the batch, or no such slices.
    """
    if slices < 1 or self.devices % slices:
      raise ValueError(
        f'{self.devices} devices are no {slices} equal slices: they are those '
        'of all slices together.'
      )
    least = -(-self.devices // hardware.group)
    groups = next(
      n for n in _divisors(self.devices) if n >= least and n % slices == 0
    )
    found = []
    for sizes in self.meshes():
      cost = self.predict(sizes)
      compute = max(
        cost.flops / (hardware.flops * utilization),
        cost.traffic / hardware.bandwidth,
      )
      wait = sum(
        size / (hardware.link if inside else hardware.network)
        for size, inside in _links(cost.sent, sizes, groups)
      )
      fits = hardware.fits(cost.memory)
      found.append(Choice(sizes, cost, compute, wait, fits))
    if not found:
      near = self.devices * max(1, round(self.batch / self.devices))
      raise ValueError(
        f'No mesh of {self.devices} devices suits a batch of {self.batch}: '
        'data * fsdp must divide it, and tensor and sequence, which some '
        'families take, the heads and slots. Change the devices, or '
        f'config.train.batch_size to {near * self._config.train.accumulate}.'
      )
    return sorted(
      found, key=lambda c: (not c.fits, c.seconds, -c.sizes['data'])
    )

  def compiled(self, sizes: dict[str, int]) -> programs.Compiled:
    """What XLA says of the mesh; needs so many devices."""
    return self.compile(sizes, self.batch // (sizes['data'] * sizes['fsdp']))

  def compile(self, sizes: dict[str, int], local: int) -> programs.Compiled:
    """Compiles the step: a probe, or a mesh that a prediction is checked by."""
    return self._program.compile('train', sizes, local, self._chips)

  @functools.cached_property
  def _flops(self) -> float:
    return self._program.work('train', self.batch)

  def _probe(self, axis: str, n: int) -> list[programs.Compiled]:
    """The step on `n` devices of one axis, for both sizes of a batch."""
    if (axis, n) not in self._probes:
      sizes = dict.fromkeys(AXES, 1) | ({axis: n} if axis else {})
      self._probes[axis, n] = [self.compile(sizes, b) for b in self._sizes]
    return self._probes[axis, n]

  def _at(self, axis: str, n: int, b: float, what: Any) -> float:
    """A quantity on n devices of an axis, b examples on each."""

    def line(parts: int) -> float:
      low, high = self._probe(axis, parts)
      points = zip(self._sizes, (what(low), what(high)), strict=True)
      return _Line(*points).at(b)

    counts = _PROBES.get(axis, (1,))
    if self._chips is not None:
      most = len(self._chips)
      counts = tuple(dict.fromkeys(min(c, most) for c in counts))
    if len(counts) == 1 or n == counts[0]:
      return line(counts[0])
    few, many = (line(count) for count in counts)
    q = (few - many) / (1 / counts[0] - 1 / counts[1])
    value = max(few + q * (1 / n - 1 / counts[0]), 0.0)
    if axis == 'fsdp' and (probed := self._program.cut(counts[1])):
      share = min(1.0, self._program.cut(n) / probed)
      value = share * value + (1 - share) * self._at('data', n, b, what)
    return value

  def _sent(self, axis: str, sizes: dict[str, int], b: float) -> float:
    """Bytes that a device sends along an axis."""
    total = 0.0
    for kind in collectives.KINDS:
      size = self._at(
        axis,
        sizes[axis],
        b,
        lambda c, kind=kind: c.collectives.get(kind, _NONE).bytes,
      )
      total += collectives.on_the_wire(kind, size, sizes[axis])
    return total / math.prod(sizes[other] for other in _CUT_BY[axis])


def _links(
  sent: dict[str, float], sizes: dict[str, int], groups: int
) -> Iterator[tuple[float, bool]]:
  """(bytes, whether they stay within a group): see `distributed.mesh`."""
  outer = mesh_lib.over_slices(tuple(sizes.values()), groups)
  for axis, parts in zip(sizes, outer, strict=True):
    if axis in sent:
      yield sent[axis], parts == 1


def _divisors(count: int) -> list[int]:
  return [n for n in range(1, count + 1) if count % n == 0]
