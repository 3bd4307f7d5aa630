"""Multiscale groups on binarized MNIST, the fixed binarization: 11 passes.

Paper: Reed et al. 2017, whose ImageNet 32 costs 0.12 bits/dim of the full model
(3.95 to 3.83); no number on MNIST. Two groups an octave: a sample of 784 pixels
takes at most 11 passes.
Data: ./run.sh fetch --dataset=bmnist_fixed.
Hardware: 2 CPU cores, about 15 minutes.
Expect: results/hierarchy_bmnist.json, beside a Gated PixelCNN of as many
parameters, steps and images.
Command: ./run.sh train --config=configs/bmnist_multiscale.py --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'bmnist_fixed'
  config.model.name = 'multiscale'
  config.model.event = (28, 28, 1)
  config.model.order = 'multiscale'
  config.model.order_groups = 2
  config.model.features = 32
  config.model.layers = 9
  config.model.head_features = 32
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 100
  config.optimizer.clip_norm = 10.0
  config.train.batch_size = 16
  config.train.steps = 3000
  config.train.ema_decay = 0.999
  config.train.eval_every = 3000
  config.train.checkpoint_every = 500
  config.evaluate.batch_size = 100
  return config
