"""NADE on the JSB chorales: the 88 keys jointly, given the eight frames before.

Paper: Boulanger-Lewandowski, Bengio, Vincent 2012: RNN-NADE 5.83 nats a frame
(5.56 with Hessian-free training), RNN-RBM 6.27, NADE without a past 7.19; Bai,
Kolter, Koltun 2018: TCN 8.10, GRU 8.43, LSTM 8.45, with the keys independent
given the past. Here the past is eight quarter notes, not a recurrent state.
  --config.data.history=0 --config.model.context_size=0     no past, as NADE
  --config.data.skip=1                            no first frames, as the TCN
The numbers of the papers are recalled, not checked.
Data: ./run.sh fetch --dataset=jsb; 13,807 / 4,602 / 4,725 frames.
Hardware: 2 CPU cores, minutes.
Expect: 5.93 nats a frame (an example is a frame), results/paper/jsb/nade.json.
Command: ./run.sh train --config=configs/jsb_nade.py --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'jsb'
  config.data.history = 8
  config.data.skip = 0
  config.model.name = 'nade'
  config.model.event = (88,)
  config.model.hidden = 200
  config.model.context_size = 8 * 88
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 0.1
  config.train.batch_size = 64
  config.train.steps = 6000
  config.train.eval_every = 216
  config.train.checkpoint_every = 216
  config.train.keep_best = True
  config.train.patience = 8
  config.evaluate.batch_size = 500
  return config
