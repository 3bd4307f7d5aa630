"""PixelCNN++ on a folder of pictures of your own, all of one size.

Data: --config.data.path=FOLDER, with the folders train/, valid/ and test/ or
without (80 / 10 / 10 per cent); --config.data.size=32 scales them first. The
event is that of the pictures, grey or RGB.
Hardware: 2 CPU cores, for some hundred pictures of 32 x 32 pixels.
Expect: a start, not a table.
Command: ./run.sh train --config=configs/pictures.py --config.data.path=FOLDER
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'pictures'
  config.data.path = ''
  config.model.name = 'pixelcnn_pp'
  config.model.features = 24
  config.model.layers = 2
  config.model.resolutions = 2
  config.model.num_mixtures = 5
  config.optimizer.learning_rate = 2e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 50
  config.optimizer.clip_norm = 10.0
  config.train.batch_size = 16
  config.train.steps = 600
  config.train.ema_decay = 0.99
  config.train.eval_every = 100
  config.train.checkpoint_every = 200
  config.train.keep_best = True
  return config
