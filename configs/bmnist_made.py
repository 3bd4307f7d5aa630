"""MADE on binarized MNIST, the fixed binarization: 1 hidden layer, 1 mask.

Paper: Germain, Gregor, Murray, Larochelle 2015, Table 6, "MADE 1hl (1 mask)",
[8000] units: 88.40 nats on the test set. As there: ReLU, one random order, one
set of uniformly drawn degrees, no direct connections, batches of 100,
Adagrad from a zero sum at rate 0.01, selection on the validation set. Here the
rate falls to zero within 18 epochs, where the paper waits for 30 epochs
without progress.
Data: the .amat files of Larochelle and Murray 2011, 50,000 / 10,000 / 10,000
images; ./run.sh fetch --dataset=bmnist_fixed.
Hardware: 2 CPU cores, about 20 minutes.
Expect: 89.8 nats on the test set, results/bmnist_made.json.
Command: ./run.sh train --config=configs/bmnist_made.py --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'bmnist_fixed'
  config.model.name = 'made'
  config.model.event = (28, 28, 1)
  config.model.order = 'random'
  config.model.hidden = (8000,)
  config.optimizer.name = 'adagrad'
  config.optimizer.learning_rate = 0.01
  config.optimizer.schedule = 'linear'
  config.train.batch_size = 100
  config.train.steps = 18 * 500
  config.train.eval_every = 500
  config.train.checkpoint_every = 500
  config.train.keep_best = True
  config.evaluate.batch_size = 500
  return config
