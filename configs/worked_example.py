"""The worked example: a causal Transformer, next-token cross-entropy.

512 classes, width 512, 8 heads, 6 layers, batches of 32 sequences of length
100, drawn from a Markov chain of 512 states whose entropy is known.
docs/worked_example.md sets its training step beside PyTorch's
nn.TransformerEncoder.
Hardware: 2 CPU cores, about a second a step.
Expect: the loss falls from log(512) = 6.24 nats a token towards the entropy.
Command: ./run.sh train --config=configs/worked_example.py
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'markov'
  config.data.num_values = 512
  config.data.length = 100
  config.model.name = 'transformer'
  config.model.event = (100,)
  config.model.num_values = 512
  config.model.features = 512
  config.model.layers = 6
  config.model.heads = 8
  config.model.positions = 'learned'
  config.optimizer.learning_rate = 3e-4
  config.optimizer.warmup_steps = 100
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = 32
  config.train.steps = 1000
  config.train.eval_every = 250
  config.train.checkpoint_every = 250
  return config
