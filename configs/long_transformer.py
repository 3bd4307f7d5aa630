"""Twelve layers at length 8,192 in less than 8 GB.

Checkpoints keep the inputs of blocks (model.remat = 'full'), and attention of
such a length keeps no scores (layers/flash.py).
Data: a Markov chain of 16 states, so the optimum is known.
Hardware: 2 CPU cores, 30 s a step.
Expect: 1.7 GB for the whole process at its peak, 7.0 GB with remat = 'none';
results/train_memory.json, by ./run.sh tables/train_memory.
Command: ./run.sh train --config=configs/long_transformer.py
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'markov'
  config.data.num_values = 16
  config.data.length = 8192
  config.data.num_examples = 64
  config.model.name = 'transformer'
  config.model.event = (8192,)
  config.model.num_values = 16
  config.model.features = 256
  config.model.layers = 12
  config.model.heads = 8
  config.model.remat = 'full'
  config.optimizer.learning_rate = 3e-4
  config.optimizer.warmup_steps = 20
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = 1
  config.train.steps = 100
  config.train.log_every = 1
  config.train.eval_every = 0
  config.train.checkpoint_every = 50
  config.evaluate.batch_size = 1
  return config
