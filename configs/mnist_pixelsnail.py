"""PixelSNAIL on dynamically binarized MNIST, sized for two CPU cores.

Paper: Chen et al. 2018, which has no number on this data.
Source of the comparison: EugenHotaj/pytorch-generative, README @d1f0a5ce, has
78.61 nats on the test set for 8 blocks of 2 residual blocks, 64 channels, keys
of 4 and values of 32 (0.9 M parameters) after 457 epochs on a GPU. This one is
smaller and sees five epochs: expect a number above that one.
Data: MNIST, 60,000 training images binarized afresh for every batch, test
images binarized once from a named seed; ./run.sh fetch --dataset=mnist.
Hardware: a GPU, or some hours on 2 CPU cores; not run to the end yet.
Command: ./run.sh train --config=configs/mnist_pixelsnail.py --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'mnist_dynamic'
  config.data.train_split = 'train+valid'
  config.data.valid_split = ''
  config.model.name = 'pixelsnail'
  config.model.event = (28, 28, 1)
  config.model.features = 32
  config.model.blocks = 4
  config.model.residuals = 2
  config.model.key_features = 8
  config.model.value_features = 32
  config.model.remat = 'full'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 200
  config.optimizer.clip_norm = 50.0
  config.train.batch_size = 16
  config.train.steps = 20000
  config.train.ema_decay = 0.999
  config.train.checkpoint_every = 1000
  config.train.sample_every = 5000
  config.evaluate.batch_size = 100
  return config
