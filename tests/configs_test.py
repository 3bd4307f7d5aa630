"""Configs of public data: each fits its data, on stand-in files.

The files have the true formats and a few examples; of each family a tiny model
takes two steps on them, and is evaluated.
"""

import importlib

import jax
import numpy as np
import pytest

from parallel_ar import models
from parallel_ar.data import rgb
from parallel_ar.training import configuration, datasets, evaluate, loop
from tests.data import tiny_files

TRANSFORMER = {'features': 8, 'layers': 1, 'heads': 2}
CONVOLUTION = {'features': 6, 'layers': 1, 'size': 3, 'head_features': 6}
# config -> fields of a tiny model, and of a short event where it is text.
CONFIGS = {
  'cifar10_pixelcnn_pp': {
    'features': 4,
    'layers': 1,
    'resolutions': 1,
    'num_mixtures': 1,
    'weight_norm': False,  # another program to compile
  },
  'enwik8_transformer': TRANSFORMER,
  'fashion_gated_pixelcnn': CONVOLUTION,
  'imagenet32_gated_pixelcnn': CONVOLUTION | {'first_size': 3},
  'jsb_nade': {'hidden': 5},
  'jsb_transformer': TRANSFORMER,
  'mnist8_gated_pixelcnn': CONVOLUTION | {'dtype': 'bfloat16'},
  'shakespeare_transformer': TRANSFORMER,
  'text8_transformer': TRANSFORMER,
}
TRAINED = (
  'cifar10_pixelcnn_pp',
  'enwik8_transformer',
  'jsb_nade',
  'mnist8_gated_pixelcnn',
)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  random = np.random.RandomState(0)
  tiny_files.write_mnist(folder / 'mnist')
  tiny_files.write_mnist(folder / 'fashion_mnist')
  tiny_files.write_cifar10(folder)
  tiny_files.write_imagenet(folder)
  letters = np.frombuffer(b' abcdefghijklmnopqrstuvwxyz', np.uint8)
  words = letters[random.randint(0, 27, 30_000)].tobytes()
  (folder / 'text8.zip').write_bytes(tiny_files.zipped(text8=words))
  (folder / 'enwik8').write_bytes(words)
  some = np.arange(32, 97).astype(np.uint8)  # 65 kinds, as the true file
  text = some[random.randint(0, 65, 5_000)].tobytes()
  (folder / 'tinyshakespeare.txt').write_bytes(text)
  rolls = [random.randint(0, 2, (n, 88)).astype(np.uint8) for n in (5, 3)]
  cells = {f'{split}data': rolls for split in ('train', 'valid', 'test')}
  (folder / 'JSB_Chorales.mat').write_bytes(tiny_files.chorales(**cells))
  return folder


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_is_ready_for_its_data(name, data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(rgb, 'HELD_OUT', {'cifar10': 5, 'imagenet': 5})
  config = importlib.import_module(f'configs.{name}').get_config()
  config.data.verify = False
  config.mesh.data = 1
  config.model.update(CONFIGS[name])
  if len(config.model.event) == 3:  # an image: every eighth pixel
    height, width, channels = config.model.event
    config.data.stride = 8
    config.model.event = (-(-height // 8), -(-width // 8), channels)
  if 'length' in config.data:
    assert config.model.event == (config.data.length,)
    config.data.length = 7
    config.model.event = (7,)
  config.train.update(
    batch_size=2, steps=2, log_every=1, eval_every=0, checkpoint_every=0
  )
  config.train.update(keep_best=False, patience=0, sample_every=0)
  config.train.tensorboard = False
  if name in TRAINED:
    run = loop.train(config, tmp_path, data_dir=data_dir, progress=False)
    test = datasets.load_split(config, 'test', data_dir)
    found = evaluate.evaluate(run.models, run.params, test, 3)
    assert found.count == len(test) > 0
    assert 0 < found.bits_per_dim < 20
  else:
    configuration.validate(config)
    model = models.build(config.model)[0]
    assert jax.eval_shape(model.init, jax.random.key(0))
    train, _ = datasets.load_for_training(config, data_dir)
    for data in train, datasets.load_split(config, 'test', data_dir):
      assert len(data)
      datasets.check_fit(model, data)
