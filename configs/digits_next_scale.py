"""Next-scale prediction on scikit-learn's 8x8 digits.

Paper: Tian et al. 2024, without its quantizer: the scales are the image's own.
No published number on this data; docs/gallery.md has ours beside the other
families, trained alike.
Data: 1297 / 200 / 300 images of 17 grey levels, inside scikit-learn.
Hardware: 2 CPU cores, about 80 s.
Expect: 2.085 bits/dim on the 300 test images.
Command: ./run.sh train --config=configs/digits_next_scale.py
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'digits'
  config.model.event = (8, 8, 1)
  config.model.num_values = 17
  config.model.name = 'next_scale'
  config.model.features = 48
  config.model.layers = 2
  config.model.heads = 4
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 50
  config.optimizer.clip_norm = 10.0
  config.train.batch_size = 64
  config.train.steps = 600
  config.train.ema_decay = 0.99
  config.train.eval_every = 100
  config.train.checkpoint_every = 200
  config.train.keep_best = True
  return config
