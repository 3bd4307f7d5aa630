"""Meshes on the tori of real TPUs, and over several slices.

libtpu describes a topology where there is none. Where it is not installed, the
same coordinates are written down here, as far as they are a full box.
"""

import dataclasses
import importlib.util
import itertools
import math
import os

import jax
import numpy as np
import pytest

from configs import text_transformer
from parallel_ar.analysis import plan
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import topology as topology_lib
from parallel_ar.partition import AXES

_KINDS = {'v5e': 'TPU v5 lite', 'v6e': 'TPU v6 lite', 'v5p': 'TPU v5'}
_BOXES = {
  'v5e': ('2x4', '4x4', '8x8', '16x16'),
  'v6e': ('2x4', '4x4', '8x8', '16x16'),
  'v5p': ('2x2x2', '2x2x4', '4x4x4', '4x8x8'),
}
_TOPOLOGIES = [f'{kind}:{box}' for kind in _BOXES for box in _BOXES[kind]]


@dataclasses.dataclass(frozen=True)
class _Chip:
  id: int
  coords: tuple[int, ...]
  device_kind: str
  slice_index: int = 0
  platform: str = 'tpu'
  core_on_chip: int = 0
  process_index: int = 0


def _written(topology, slices=1):
  """The chips of a topology, as JAX's devices tell of them."""
  kind, box = topology.split(':')
  sides = [int(n) for n in box.split('x')]
  sides += [1] * (3 - len(sides))
  places = list(np.ndindex(*reversed(sides)))
  return [
    _Chip(s * len(places) + i, at[::-1], _KINDS[kind], s)
    for s in range(slices)
    for i, at in enumerate(places)
  ]


@pytest.fixture(scope='module')
def described():
  """(topology, slices) -> devices, as libtpu describes them."""
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip('libtpu describes topologies, and is not installed (pip)')
  with pytest.MonkeyPatch.context() as patch:
    for key in (*topology_lib.SETTINGS, 'TPU_LIBRARY_PATH'):
      patch.setenv(key, os.environ.get(key, ''))  # so that it is put back
      patch.delenv(key)
    yield topology_lib.devices


@pytest.fixture(scope='module')
def planned():
  """Devices -> meshes that the planner prints for a Transformer."""
  config = text_transformer.get_config()
  config.train.batch_size = 512
  config.model.update(heads=32, features=64, layers=1)

  def of(count):
    return list(plan.Planner(config, count).meshes())

  return of


def _shapes(count):
  sizes = [n for n in range(1, count + 1) if count % n == 0]
  return (
    shape
    for shape in itertools.product(sizes, repeat=4)
    if math.prod(shape) == count
  )


def _check(shape, devices, slices):
  """Each device once; `data` first over slices; a slice lies together."""
  grid = mesh_lib.arrange(shape, devices)
  assert grid.shape == shape
  assert {d.id for d in grid.flat} == {d.id for d in devices}
  if slices == 1:
    return
  at = np.vectorize(lambda d: d.slice_index)(grid)
  if shape[0] % slices == 0:
    parts = at.reshape(slices, -1)
    assert (parts == parts[:, :1]).all() and len(set(parts[:, 0])) == slices


class TestWritten:
  @pytest.mark.parametrize('topology', _TOPOLOGIES)
  def test_every_mesh_is_made(self, topology):
    devices = _written(topology)
    for shape in _shapes(len(devices)):
      _check(shape, devices, 1)

  @pytest.mark.parametrize('topology', ['v5e:2x4', 'v6e:4x4', 'v5p:2x2x4'])
  @pytest.mark.parametrize('slices', [2, 3])
  def test_every_mesh_on_slices(self, topology, slices):
    devices = _written(topology, slices)
    for shape in _shapes(len(devices)):
      _check(shape, devices, slices)

  def test_neighbours_of_the_innermost_axis_are_near(self):
    grid = mesh_lib.arrange((8, 1, 2, 1), _written('v6e:4x4'))
    for one, two in grid.reshape(8, 2):
      steps = np.abs(np.subtract(one.coords, two.coords))
      assert steps.sum() == 1

  def test_what_data_does_not_divide_goes_over_fsdp(self):
    devices = _written('v5e:2x4', 4)
    grid = mesh_lib.arrange((2, 16, 1, 1), devices)
    at = np.vectorize(lambda d: d.slice_index)(grid).reshape(2, 2, 8)
    assert (at == np.array([[0, 1], [2, 3]])[:, :, None]).all()

  def test_part_of_a_slice_is_said_to_be_slow(self):
    with pytest.warns(UserWarning, match='laid over 3 devices in the order'):
      grid = mesh_lib.arrange((3, 1, 1, 1), _written('v6e:4x4')[3:6])
    assert [d.id for d in grid.flat] == [3, 4, 5]

  def test_unequal_parts_of_slices_are_refused(self):
    devices = _written('v5e:2x4', 2)[:12]
    with pytest.raises(ValueError, match='take 4 of one and 8 of another'):
      mesh_lib.arrange((12, 1, 1, 1), devices)

  def test_hosts_of_gpus_keep_inner_axes_together(self):
    # JAX counts hosts of GPUs as slices; `fsdp` may go over them.
    gpus = [
      dataclasses.replace(d, platform='gpu', device_kind='H100')
      for d in _written('v5e:2x4', 2)
    ]
    grid = mesh_lib.arrange((1, 4, 4, 1), gpus[::-1])
    assert [d.id for d in grid.flat] == list(range(16))


class TestDescribed:
  @pytest.mark.parametrize('topology', _TOPOLOGIES)
  @pytest.mark.parametrize('slices', [1, 2])
  def test_every_mesh_of_the_planner(
    self, described, planned, topology, slices
  ):
    devices = described(topology, slices)
    meshes = planned(len(devices))
    assert len(meshes) > 3
    for sizes in meshes:
      mesh = mesh_lib.make(sizes, devices)
      assert dict(mesh.shape) == {axis: sizes[axis] for axis in AXES}
      _check(tuple(mesh.shape.values()), devices, slices)

  def test_what_is_written_here_is_what_libtpu_says(self, described):
    for topology in ('v6e:4x4', 'v5p:2x2x4'):
      told = lambda devices: {
        (tuple(d.coords), d.slice_index, d.device_kind) for d in devices
      }
      assert told(described(topology, 2)) == told(_written(topology, 2))

  def test_a_program_is_compiled_for_a_mesh(self, described):
    mesh = mesh_lib.make({'data': 2, 'fsdp': 8}, described('v6e:4x4'))
    spread = mesh_lib.batch_sharding(mesh)
    x = jax.ShapeDtypeStruct((32, 128), np.float32, sharding=spread)
    whole = mesh_lib.replicated(mesh)
    total = jax.jit(lambda x: x.sum(0), out_shardings=whole)
    assert 'all-reduce' in total.lower(x).compile().as_text()

  @pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'uint8'])
  def test_bytes_are_those_that_xla_lays_out(self, described, dtype):
    chip = jax.sharding.SingleDeviceSharding(described('v5e:2x4')[0])
    shapes = [(), (5,), (200,), (3000,), (7, 100), (300, 64), (1, 512)]
    shapes += [(3, 64, 5), (7, 7, 1, 48), (17, 130), (64, 300), (3, 3, 64, 64)]
    spec = lambda s: jax.ShapeDtypeStruct(s, dtype, sharding=chip)
    all_of_them = jax.jit(lambda *a: sum(x.astype('f4').sum() for x in a))
    made = all_of_them.lower(*map(spec, shapes)).compile()
    want = made.memory_analysis().argument_size_in_bytes
    ours = [topology_lib.stored_bytes(s, np.dtype(dtype)) for s in shapes]
    assert sum(ours) == want, dict(zip(shapes, ours, strict=True))


@pytest.mark.parametrize('text', ['v5e:0x4', 'v5e', 'v5e:', 'v5e:2x', 'v9:2x4'])
def test_what_is_no_topology_is_refused(described, text):
  with pytest.raises(ValueError, match='Expected a kind and the sides'):
    described(text)


def test_without_the_compiler_the_extra_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ModuleNotFoundError, match='extra tpu-compile'):
    topology_lib.devices('v5e:2x4')


def test_padding_of_layouts():
  # Rows of eight, lanes of 128, and a bias is a tile of its own.
  assert topology_lib.stored_bytes((3, 3, 64, 64), np.float32) == 294912
  assert topology_lib.stored_bytes((48,), np.float32) == 512
  assert topology_lib.stored_bytes((0, 4), np.float32) == 0
  assert topology_lib.stored_bytes((1, 512), 'uint8') == 2048  # four to a word
