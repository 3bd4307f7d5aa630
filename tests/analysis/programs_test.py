"""The programs of a config, for devices that are here or only described."""

import importlib.util

import jax.numpy as jnp
import pytest

from experiments import tpu_compile
from parallel_ar.analysis import programs
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import topology
from parallel_ar.training import configuration


@pytest.fixture(scope='module')
def config():
  config = configuration.default_config()
  config.model.update(name='made', event=(5,), num_values=3, hidden=(40,))
  config.train.update(batch_size=8, ema_decay=0.9)
  return config


@pytest.fixture(scope='module')
def made(config):
  return programs.Programs(config)


SIZES = mesh_lib.fill({'data': 2, 'fsdp': 4}, 8)
NAMES = tpu_compile.configs()


@pytest.mark.parametrize('kind', programs.KINDS)
def test_each_is_compiled_for_a_mesh(made, kind):
  found = made.compile(kind, SIZES, 3)
  assert found.memory == found.arguments + found.temporary > 0
  sends = any(t.bytes > 100 for t in found.collectives.values())
  assert sends or kind != 'train'
  assert made.work(kind, 24) > made.work(kind, 8) > 0


def test_each_is_compiled_at_the_precision_that_it_runs_at(config):
  other = config.copy_and_resolve_references()
  other.train.precision, other.evaluate.precision = 'high', 'default'
  levels = {
    kind: programs.Programs(other).level(kind) for kind in programs.KINDS
  }
  assert levels.pop('train') == 'high'
  assert levels.pop('codec') == 'highest'  # whatever is asked for
  assert set(levels.values()) == {'default'}


def test_state_is_what_xla_takes_for_it(made):
  found = made.compile('train', SIZES, 3)
  results = 256  # the metrics and where they lie, at most
  assert 0 <= found.arguments - made.state_bytes(SIZES, 3) <= results
  assert made.state_bytes(SIZES, 3, tiled=True) > made.state_bytes(SIZES, 3)


def test_what_cannot_be_coded_is_refused(config):
  flow = configuration.default_config()
  flow.model.update(name='gaussian_made', event=(4,), hidden=(8,))
  made = programs.Programs(flow)
  assert made.batch(2)['x'].dtype == jnp.float32
  with pytest.raises(ValueError, match='no codec'):
    made.program('codec', None, 2)
  with pytest.raises(ValueError, match='expected some of train'):
    made.program('decode', None, 2)


def test_configs_that_differ_in_their_data_alone_are_compiled_once():
  case = {'config': 'mnist8_gated_pixelcnn', 'program': 'pass', 'mesh': ''}
  line = case | {'temporary': 7, 'commit': 'c'}
  fashion = case | {'config': 'fashion_gated_pixelcnn'}
  found = tpu_compile.twin(fashion, [line])
  assert found == line | {'same_as': 'mnist8_gated_pixelcnn'}
  for other in (
    case,
    fashion | {'program': 'train'},
    case | {'config': 'mnist_gated_pixelcnn'},
  ):
    assert tpu_compile.twin(other, [line]) is None


NEEDS_LIBTPU = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='needs libtpu (pip)'
)


@NEEDS_LIBTPU
@pytest.mark.parametrize('kind', programs.KINDS)
def test_xla_tpu_compiles_each(made, kind):
  found = made.compile(kind, SIZES, 3, topology.devices('v5e:2x4'))
  assert found.memory >= made.state_bytes(SIZES, 3, tiled=True) or (
    kind != 'train'
  )
  assert found.flops > 0


# Asked for its own topology in docs/scaling.md: eight v5e are too few.
TOO_LARGE = ('seven_billion_transformer',)


@pytest.mark.slow
@NEEDS_LIBTPU
@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
@pytest.mark.parametrize('kind', programs.KINDS)
@pytest.mark.parametrize('name', [n for n in NAMES if n not in TOO_LARGE])
def test_every_config_compiles_for_eight_v5e(name, kind, dtype):
  found = tpu_compile.ask(name, kind, dtype, 'v5e:2x4', 'data=-1')
  assert 'refused' not in found, found
  assert found['fits']
