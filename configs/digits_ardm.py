"""An order-agnostic model (ARDM) on scikit-learn's 8x8 digits.

Paper: Hoogeboom et al. 2022, at most 2.69 bits/dim on CIFAR-10. DeepNADE (Uria
et al. 2014) is --config.model.network=mlp --config.model.features=500.
No published number on this data; docs/gallery.md has ours beside the other
families, docs/any_order.md what a budget of steps costs.
Data: 1297 / 200 / 300 images of 17 grey levels, inside scikit-learn.
Hardware: 2 CPU cores, 160 s on a busy machine.
Expect: 2.012 bits/dim on the 300 test images, in raster order.
Command: ./run.sh train --config=configs/digits_ardm.py
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'digits'
  config.model.event = (8, 8, 1)
  config.model.num_values = 17
  config.model.name = 'ardm'
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
