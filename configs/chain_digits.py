"""A level of a chain of models on scikit-learn's 8x8 digits.

The pixels that a finer grid adds, given the finished coarser image: three
channels, each drawn at once for all cells of 2 x 2 pixels. With a Gated
PixelCNN of the 2 x 2 grid a sample takes at most 4 + 3 + 3 passes.
Paper: Reed et al. 2017 (the groups); van den Oord et al., Pixel recurrent
neural networks, 2016 (its multi-scale PixelRNN is such a chain).
Data: 1297 / 200 / 300 images of 17 grey levels, inside scikit-learn.
Hardware: 2 CPU cores, about 3 minutes for the chain and the full model.
Expect: results/chain_digits.json.
Command: ./run.sh tables/chain --config=configs/chain_digits.py
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'digits'
  config.data.stride = 1
  config.data.refine = True
  config.model.name = 'multiscale'
  config.model.event = (4, 4, 3)
  config.model.num_values = 17
  config.model.context_channels = 1
  config.model.order = 'channels'
  config.model.features = 24
  config.model.layers = 4
  config.model.head_features = 32
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
