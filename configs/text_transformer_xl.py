"""A Transformer-XL on the bytes of any text file.

Paper: Dai et al. 2019, Table 2 and 3: 0.99 bits/char on enwik8 with 277 M
parameters and 1.08 on text8. This config is such a network at the size of two
CPU cores, on examples of 512 bytes: segments of 64 with a memory of 64.
Data: --config.data.path=FILE, 90 / 5 / 5 per cent in a row.
Hardware: 2 CPU cores; 4,096 bytes a step, as in configs/text_transformer.py.
Expect: a smoke test of text, not a table: no run of ours stands behind a number
yet. docs/any_order.md has what the memory costs and saves.
Command: ./run.sh train --config=configs/text_transformer_xl.py \
    --config.data.path=FILE
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'text'
  config.data.path = ''
  config.data.length = 512
  config.model.name = 'transformer_xl'
  config.model.event = (512,)
  config.model.num_values = 256
  config.model.segment = 64
  config.model.memory = 64
  config.model.features = 128
  config.model.layers = 4
  config.model.heads = 4
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 200
  config.optimizer.weight_decay = 0.01
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = 8
  config.train.steps = 5000
  return config
