"""The losses of every mesh are those of one device."""

import functools

import jax
import numpy as np
import pytest

from parallel_ar import models
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.training import (
  configuration,
  datasets,
  evaluate,
  loop,
  metrics,
)

pytestmark = pytest.mark.long
STEPS = 10
EVENT = (4, 4, 1)
FAMILIES = {
  'made': {'hidden': (64,), 'direct': True},
  'transformer': {'num_values': 2, 'features': 32, 'layers': 1, 'heads': 4},
  'recurrent': {
    'num_values': 2,
    'cell': 'rg_lru',
    'evaluation': 'associative',
    'features': 32,
    'layers': 1,
  },
  'gated_pixelcnn': {'features': 16, 'layers': 1, 'head_features': 32},
  'pixelcnn': {'features': 32, 'layers': 1, 'head_features': 64},
  'pixelcnn_pp': {'num_values': 2, 'features': 16, 'layers': 1},
  'pixelsnail': {'features': 16, 'blocks': 1, 'residuals': 1},
  'multiscale': {'features': 16, 'layers': 1, 'head_features': 32},
  'next_scale': {'features': 32, 'layers': 2, 'heads': 4},
  'nade': {'hidden': 64},
  'wavenet': {'num_values': 2, 'features': 32, 'layers': 2},
  'ardm': {'features': 32, 'layers': 2},
  'two_stream': {'num_values': 2, 'features': 32, 'layers': 2},
  'transformer_xl': {
    'num_values': 2,
    'segment': 8,
    'memory': 8,
    'features': 32,
    'layers': 2,
  },
}
EVERY = [
  *((family, 'data=8') for family in FAMILIES),
  *((family, 'data=2,fsdp=4') for family in FAMILIES),
  ('transformer', 'data=2,tensor=4'),
  ('transformer', 'data=2,fsdp=2,tensor=2'),
  ('transformer', 'sequence=8'),
  ('transformer', 'fsdp=2,tensor=2,sequence=2'),
  ('recurrent', 'data=2,tensor=4'),
  ('recurrent', 'sequence=8'),
  ('recurrent', 'data=2,fsdp=2,sequence=2'),
]
# Every axis, alone or beside another.
FAST = {
  ('made', 'data=2,fsdp=4'),
  ('gated_pixelcnn', 'data=2,fsdp=4'),
  ('transformer', 'fsdp=2,tensor=2,sequence=2'),
  ('recurrent', 'sequence=8'),
}


def _config(family, mesh, **train):
  config = configuration.default_config()
  config.mesh.data = 1
  config.mesh.update(mesh_lib.parse(mesh))
  config.data.update(name='lattice', height=4, width=4, num_examples=64)
  config.model.update(name=family, event=EVENT, **FAMILIES[family])
  # A rate at which rounding stays rounding: training must not be chaotic.
  config.optimizer.update(name='adamw', learning_rate=1e-3, clip_norm=1.0)
  config.train.update(
    {
      'batch_size': 16,
      'steps': STEPS,
      'log_every': 1,
      'eval_every': 0,
      'checkpoint_every': STEPS,
      'ema_decay': 0.9,
      'tensorboard': False,
    }
    | train
  )
  return config


def _losses(workdir, config):
  summary = loop.train(config, workdir, progress=False)
  records = metrics.read(workdir / 'metrics.jsonl')
  return summary, np.array(
    [r['loss_nats'] for r in records if r['kind'] == 'train']
  )


@functools.cache
def _one_device(family, directory):
  return _losses(directory / family, _config(family, 'data=1'))[1]


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  return tmp_path_factory.mktemp('one_device')


@pytest.mark.parametrize(
  ('family', 'mesh'),
  [
    pytest.param(*c, marks=[] if c in FAST else pytest.mark.slow) for c in EVERY
  ],
)
def test_losses(family, mesh, tmp_path, directory):
  summary, losses = _losses(tmp_path, _config(family, mesh))
  assert len(losses) == STEPS
  worst = np.abs(losses / _one_device(family, directory) - 1).max()
  print(f'{family} on {mesh}: largest relative difference {worst:.1e}')
  assert worst < 1e-5
  # The state lies in parts where the mesh says so.
  sizes = mesh_lib.parse(mesh)
  parts = sizes.get('fsdp', 1) * sizes.get('tensor', 1)
  largest = max(jax.tree.leaves(summary.state.params), key=lambda p: p.size)
  shard = largest.addressable_shards[0].data
  assert len(largest.sharding.device_set) == 8
  assert shard.size in (largest.size // parts, largest.size // 4)


def test_every_family_is_here():
  gaussian = {'gaussian_made'}  # continuous values: another source
  assert set(models.FAMILIES) - gaussian == set(FAMILIES)


def test_micro_batches_are_spread_too(tmp_path, directory):
  config = _config('made', 'data=2,fsdp=2', accumulate=2, steps=5)
  _, losses = _losses(tmp_path, config)
  want = _one_device('made', directory)[:5]
  np.testing.assert_allclose(losses, want, rtol=1e-5)


def test_resume_and_validate_on_a_mesh(tmp_path):
  """Bit for bit on the same mesh, with a split that no mesh divides."""
  config = _config('made', 'fsdp=8', steps=6, eval_every=3, checkpoint_every=3)
  config.evaluate.batch_size = 9
  whole, _ = _losses(tmp_path / 'whole', config)
  config.train.steps = 3
  _losses(tmp_path / 'cut', config)
  config.train.steps = 6
  cut, _ = _losses(tmp_path / 'cut', config)
  jax.tree.map(np.testing.assert_array_equal, whole.state, cut.state)
  assert whole.valid_nats == cut.valid_nats


def test_the_step_is_compiled_once(tmp_path, caplog):
  """Also after a restore: its arrays lie where fresh ones would."""
  config = _config('made', 'data=2,fsdp=4', steps=3, checkpoint_every=3)
  for steps in (3, 6):
    config.train.steps = steps
    caplog.clear()
    with jax.log_compiles():
      _losses(tmp_path, config)
    compiled = [
      record.getMessage()
      for record in caplog.records
      if record.getMessage().startswith('Compiling jit(train_step)')
    ]
    assert len(compiled) == 1, compiled


def test_a_trace_and_the_rates(tmp_path):
  config = _config('made', 'data=1', steps=6)
  loop.train(config, tmp_path, progress=False, profile=2)
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))
  first, *later = metrics.read(tmp_path / 'metrics.jsonl')
  assert 'data_wait_seconds' in first and 'steps_per_second' not in first
  for record in later:
    if record['kind'] == 'train':
      rate = record['steps_per_second'] * 16 * 16
      assert record['tokens_per_second'] == pytest.approx(rate)
      assert record['data_wait_seconds'] >= 0
      assert record['host_seconds_per_step'] > 0
      assert record['flops_per_second'] > record['tokens_per_second']


def test_evaluation_counts_every_example_once():
  config = _config('made', 'data=8')
  (model,) = models.build(config.model)
  params = model.init(jax.random.key(0))
  data = datasets.load_split(config, 'test')
  alone = evaluate.evaluate([model], params, data, 9)
  with jax.set_mesh(mesh_lib.make(config.mesh)):
    spread = evaluate.evaluate([model], params, data, 9)
  assert spread.count == alone.count == len(data)
  np.testing.assert_allclose(spread.per_example, alone.per_example, rtol=1e-5)
