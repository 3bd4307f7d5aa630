"""A Transformer on a Markov chain of known entropy.

The chain has 4 states and sequences of 16 symbols; its exact entropy is
printed beside the model's nats, so the distance to the optimum is a number.
Hardware: 2 CPU cores, about a minute.
Expect: test nats within 1 % of the entropy of an example.
Command: ./run.sh train --config=configs/markov_transformer.py
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'markov'
  config.model.name = 'transformer'
  config.model.event = (16,)
  config.model.num_values = 4
  config.model.features = 32
  config.model.layers = 1
  config.model.heads = 2
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 100
  config.train.batch_size = 256
  config.train.steps = 1500
  return config
