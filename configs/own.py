"""A model, or data, of your own; every field from flags.

Model: any function that returns a `par.AutoregressiveModel`, its arguments are
flags: `--config.model.name=my.module:function --config.model.features=64`.
Data: any source, or a function that returns a `par.data.Dataset`.
Command: ./run.sh train --config=configs/own.py \
    --config.model.name=examples.mine:net \
    --config.data.name=examples.mine:walk --config.train.steps=200
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.optimizer.schedule = 'cosine'
  config.optimizer.clip_norm = 10.0
  config.train.ema_decay = 0.99
  config.train.eval_every = 100
  config.train.keep_best = True
  return config
