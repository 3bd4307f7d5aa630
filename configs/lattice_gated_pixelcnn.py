"""A Gated PixelCNN on a two-dimensional lattice of known entropy.

Configurations of a 6 x 6 Ising lattice with free boundary and coupling 0.4; the
entropy of an example is exact, by transfer matrix.
Hardware: 2 CPU cores, about two minutes.
Expect: test nats within 2 % of the entropy of an example.
Command: ./run.sh train --config=configs/lattice_gated_pixelcnn.py
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'lattice'
  config.data.height = 6
  config.data.width = 6
  config.model.name = 'gated_pixelcnn'
  config.model.event = (6, 6, 1)
  config.model.features = 16
  config.model.layers = 4
  config.model.first_size = 5
  config.model.head_features = 16
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 50
  config.train.batch_size = 64
  config.train.steps = 1500
  config.evaluate.batch_size = 500
  return config
