"""Gated PixelCNN on Fashion-MNIST in its 256 grey levels.

No autoregressive model has a published number on this data that we know of; the
one to stand beside is a flow's, Glow, 2.958 bits/dim on the test images
(Nalisnick et al. 2019, Figure 1; recalled, not checked). The network and its
training are those of configs/mnist8_gated_pixelcnn.py.
Data: Fashion-MNIST; ./run.sh fetch --dataset=fashion_mnist.
Hardware: a GPU, about ten minutes; 2 CPU cores, a day.
Expect: not run here.
Command: ./run.sh train --config=configs/fashion_gated_pixelcnn.py \
    --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'fashion_mnist'
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
