"""A Transformer with local and strided attention on scikit-learn's 8x8 digits.

Paper: Child et al. 2019, section 4.2: window and stride are the width of the
image, so that a pixel reads the row before it and then its column, the causal
form of row and column (axial) attention; local windows as in Parmar et al. 2018
(Image Transformer). The axial attention of Ho et al. 2019 stops at the border
of a row, see docs/design/0006-families.md.
No published number on this data; docs/gallery.md has ours beside the other
families, trained alike.
Data: 1297 / 200 / 300 images of 17 grey levels, inside scikit-learn.
Hardware: 2 CPU cores, 10 to 20 s.
Expect: 1.911 bits/dim on the 300 test images.
Command: ./run.sh train --config=configs/digits_sparse_transformer.py
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'digits'
  config.model.event = (8, 8, 1)
  config.model.num_values = 17
  config.model.name = 'transformer'
  config.model.features = 48
  config.model.layers = 2
  config.model.heads = 4
  config.model.positions = 'learned'
  config.model.pattern = ('local', 'strided')
  config.model.window = 8
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
