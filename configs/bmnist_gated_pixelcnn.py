"""Gated PixelCNN on binarized MNIST, the fixed binarization: for samplers.

The network of the sampling tables, 7 gated layers of 32 channels. A good model
is harder to sample in few passes than a bad one, so the likelihood stands
beside every such table.
Data: the .amat files of Larochelle and Murray 2011, 50,000 / 10,000 / 10,000
images; ./run.sh fetch --dataset=bmnist_fixed.
Hardware: 2 CPU cores, about 20 minutes (2.6 epochs).
Expect: 81.4 nats on the test set, results/bmnist_gated_pixelcnn.json.
Command: ./run.sh train --config=configs/bmnist_gated_pixelcnn.py \
    --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'bmnist_fixed'
  config.data.stride = 1
  config.model.name = 'gated_pixelcnn'
  config.model.event = (28, 28, 1)
  config.model.features = 32
  config.model.layers = 7
  config.model.size = 7
  config.model.head_features = 32
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 200
  config.optimizer.clip_norm = 50.0
  config.train.batch_size = 16
  config.train.steps = 8000
  config.train.ema_decay = 0.999
  config.train.eval_every = 8000
  config.train.checkpoint_every = 1000
  config.evaluate.batch_size = 200
  return config
