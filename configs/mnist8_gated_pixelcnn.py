"""Gated PixelCNN on MNIST in its 256 grey levels.

Source of the comparison: UvA Deep Learning Tutorials, tutorial 12: 0.809
bits/dim on the test images with a softmax over 256 levels, 0.85 M parameters,
150 epochs. As there: seven gated layers of 3x3 kernels and 64 channels, Adam at
1e-3 falling by 0.99 an epoch, batches of 128. Its kernels are dilated (1, 2, 1,
4, 1, 2, 1), ours of size 5 see as far without; it holds out 5,000 images, we
10,000.
Data: MNIST, grey levels 0..255; ./run.sh fetch --dataset=mnist.
Hardware: a GPU, about ten minutes; 2 CPU cores, a day.
Expect: not run here.
Command: ./run.sh train --config=configs/mnist8_gated_pixelcnn.py \
    --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'mnist'
  config.model.name = 'gated_pixelcnn'
  config.model.event = (28, 28, 1)
  config.model.num_values = 256
  config.model.features = 64
  config.model.layers = 7
  config.model.size = 5
  config.model.head_features = 64
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = 'exponential'
  config.optimizer.decay_rate = 0.99
  config.optimizer.decay_steps = 390
  config.optimizer.clip_norm = 1000.0
  config.train.batch_size = 128
  config.train.steps = 150 * 390
  config.train.eval_every = 1950
  config.train.checkpoint_every = 1950
  config.train.keep_best = True
  config.evaluate.batch_size = 200
  return config
