"""PixelCNN++ on CIFAR-10, the network of the paper.

Paper: Salimans, Karpathy, Chen, Kingma 2017: 2.92 bits/dim on the test images.
As in openai/pixel-cnn: three resolutions of five gated blocks down (and up),
160 features (the paper's text says 192), 10 logistics, concat_elu, dropout 0.5,
weight norm initialized from data, Adam at 1e-3 falling by 0.999995 an update,
128 images an update, an average of the parameters of decay 0.9995, 5,000 epochs
of all 50,000 training images. There 3.0 is reached after ten hours and 2.92
after five days on eight GPUs.
Data: ./run.sh fetch --dataset=cifar10; 50,000 / 10,000 images.
Hardware: several GPUs (--config.mesh.data=8), days; --config.model.remat=full
where memory is short.
Expect: not run here.
Command: ./run.sh train --config=configs/cifar10_pixelcnn_pp.py --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'cifar10'
  config.data.train_split = 'train+valid'
  config.data.valid_split = ''
  config.model.name = 'pixelcnn_pp'
  config.model.event = (32, 32, 3)
  config.model.num_values = 256
  config.model.num_mixtures = 10
  config.model.features = 160
  config.model.layers = 5
  config.model.resolutions = 3
  config.model.dropout = 0.5
  config.model.weight_norm = True
  config.model.remat = 'none'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = 'exponential'
  config.optimizer.decay_rate = 0.999995
  config.optimizer.decay_steps = 1
  config.optimizer.b1 = 0.95
  config.optimizer.b2 = 0.9995
  config.train.batch_size = 128
  config.train.steps = 5000 * 50_000 // 128
  config.train.ema_decay = 0.9995
  config.train.checkpoint_every = 5000
  config.train.sample_every = 20000
  config.evaluate.batch_size = 128
  return config
