"""Two-stream attention (XLNet) on scikit-learn's 8x8 digits.

Paper: Yang et al. 2019 (language; no likelihood table); the order-agnostic
Transformer in Table 1 of Hoogeboom et al. 2022 has text8 (1.64 bits/char).
No published number on this data; docs/gallery.md has ours beside the other
families, docs/any_order.md any order and any known pixels.
Data: 1297 / 200 / 300 images of 17 grey levels, inside scikit-learn.
Hardware: 2 CPU cores, 200 s on a busy machine.
Expect: 1.965 bits/dim on the 300 test images, in raster order.
Command: ./run.sh train --config=configs/digits_two_stream.py
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'digits'
  config.model.event = (8, 8, 1)
  config.model.num_values = 17
  config.model.name = 'two_stream'
  config.model.features = 64
  config.model.layers = 3
  config.model.heads = 4
  config.optimizer.learning_rate = 2e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 100
  config.optimizer.clip_norm = 10.0
  config.train.batch_size = 64
  config.train.steps = 1000
  config.train.ema_decay = 0.99
  config.train.eval_every = 250
  config.train.checkpoint_every = 250
  config.train.keep_best = True
  return config
