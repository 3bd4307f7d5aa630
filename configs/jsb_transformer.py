"""The JSB chorales with the 88 keys independent given the eight frames before.

Paper: Bai, Kolter, Koltun 2018: TCN 8.10, GRU 8.43, LSTM 8.45 nats a frame;
Boulanger-Lewandowski, Bengio, Vincent 2012: RNN 8.71; all recalled, not
checked. As in those rows, all keys of a frame have one rank (`order_block`), so
that a pass reads the past and none of the frame; configs/jsb_nade.py models
the keys jointly. The Transformer's 88 slots are the keys, and its context is
the past, eight quarter notes.
Data: ./run.sh fetch --dataset=jsb; --config.data.skip=1 leaves out first
frames, as the TCN does.
Hardware: 2 CPU cores, minutes.
Expect: not run to its end yet; an example is a frame, so nats are nats a frame.
Command: ./run.sh train --config=configs/jsb_transformer.py --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'jsb'
  config.data.history = 8
  config.data.skip = 0
  config.model.name = 'transformer'
  config.model.event = (88,)
  config.model.num_values = 2
  config.model.order = 'blocks'
  config.model.order_block = 88
  config.model.context_size = 8 * 88
  config.model.features = 64
  config.model.layers = 2
  config.model.heads = 4
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.weight_decay = 0.1
  config.optimizer.clip_norm = 10.0
  config.train.batch_size = 64
  config.train.steps = 4000
  config.train.eval_every = 216
  config.train.checkpoint_every = 216
  config.train.keep_best = True
  config.train.patience = 8
  config.evaluate.batch_size = 500
  return config
