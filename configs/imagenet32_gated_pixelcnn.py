"""Gated PixelCNN on ImageNet at 32x32: colours as 256-way symbols.

Paper: van den Oord et al. 2016 (conditional image generation with PixelCNN
decoders): 3.83 bits/dim at 32x32 and 3.57 at 64x64, on the files that were
withdrawn in 2021. The files that can be fetched now are others, and bits on
them are no answer to those numbers (docs/data.md); for the old ones
  --config.data.name=imagenet32_old
and for 64x64
  --config.data.name=imagenet64 --config.model.event='(64,64,3)'
The network is about a tenth of the paper's.
Data: ./run.sh fetch --dataset=imagenet32; 3.9 GB of memory.
Hardware: GPUs, days.
Expect: not run here.
Command: ./run.sh train --config=configs/imagenet32_gated_pixelcnn.py \
    --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'imagenet32'
  config.data.train_split = 'train+valid'
  config.data.valid_split = ''
  config.model.name = 'gated_pixelcnn'
  config.model.event = (32, 32, 3)
  config.model.num_values = 256
  config.model.features = 192
  config.model.layers = 16
  config.model.size = 5
  config.model.head_features = 384
  config.model.dtype = 'bfloat16'
  config.optimizer.learning_rate = 3e-4
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 1000
  config.optimizer.clip_norm = 1000.0
  config.train.batch_size = 128
  config.train.steps = 200_000
  config.train.ema_decay = 0.9999
  config.train.checkpoint_every = 5000
  config.train.sample_every = 20000
  config.evaluate.batch_size = 128
  return config
