"""A Transformer on a mixture of three Markov chains of known law.

Which chain drew a sequence is not told, so the model has to infer it from what
came before. Sequences of 10 symbols of 3 values: the 59,049 events can be
enumerated, so entropy and KL are exact.
Hardware: 2 CPU cores, about half a minute.
Expect: test nats within 1 % of the entropy of an example.
Command: ./run.sh train --config=configs/mixture_transformer.py
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'mixture'
  config.model.name = 'transformer'
  config.model.event = (10,)
  config.model.num_values = 3
  config.model.features = 32
  config.model.layers = 2
  config.model.heads = 2
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 100
  config.train.batch_size = 256
  config.train.steps = 1500
  return config
