"""A Transformer on tiny Shakespeare, a character a symbol.

Source of the comparison: karpathy/nanoGPT, README: 1.88 nats a character on the
last 10 % with its CPU setting: 4 layers, 4 heads, width 128, windows of 64,
batches of 12, 2,000 updates, no dropout. As there: learned positions, AdamW
with b2 = 0.99, weight decay 0.1, gradients clipped at 1 a character, 100
updates of warm-up, a cosine from 1e-3 to 1e-4, training windows at any offset,
and the character before a window given, so that predictions read 1 to 64
characters.
That README's number is a mean over random windows; ours counts each character
once. Its larger setting (6 layers, 384, windows of 256, dropout 0.2, 5,000
updates: 1.47) has a dropout that this Transformer has not.
Data: ./run.sh fetch --dataset=shakespeare; 'valid' and 'test' are the same.
Hardware: 2 CPU cores, minutes.
Expect: 126.1 nats an example, 1.97 a character (nats / 64),
results/paper/shakespeare/transformer.json.
Command: ./run.sh train --config=configs/shakespeare_transformer.py \
    --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'shakespeare'
  config.data.length = 64
  config.data.previous = True
  config.data.hop = 1
  config.model.name = 'transformer'
  config.model.event = (64,)
  config.model.num_values = 65
  config.model.num_classes = 65
  config.model.features = 128
  config.model.layers = 4
  config.model.heads = 4
  config.model.positions = 'learned'
  config.model.tied = True
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 100
  config.optimizer.end_factor = 0.1
  config.optimizer.b2 = 0.99
  config.optimizer.weight_decay = 0.1
  config.optimizer.clip_norm = 64.0  # of 64 summed characters
  config.train.batch_size = 12
  config.train.steps = 2000
  config.train.eval_every = 500
  return config
