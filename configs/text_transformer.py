"""A small Transformer on the bytes of any text file.

Data: --config.data.path=FILE, cut into examples of 128 bytes, 90 / 5 / 5 per
cent in a row.
Hardware: 2 CPU cores, about ten minutes a thousand steps.
Expect: a smoke test of text, not a table: nats/byte falls below 1.9 on English
after a few thousand steps.
Command: ./run.sh train --config=configs/text_transformer.py \
    --config.data.path=FILE
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'text'
  config.data.path = ''
  config.data.length = 128
  config.model.name = 'transformer'
  config.model.event = (128,)
  config.model.num_values = 256
  config.model.features = 128
  config.model.layers = 4
  config.model.heads = 4
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 200
  config.optimizer.weight_decay = 0.01
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = 32
  config.train.steps = 5000
  return config
