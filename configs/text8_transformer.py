"""A Transformer on text8, 27 symbols.

Paper: Al-Rfou et al. 2019: 1.18 bits a character with 12 layers (44 M
parameters) and 1.13 with 64; Dai et al. 2019 (Transformer-XL): 1.08. Those are
evaluated with the 512 characters (and more) before each prediction; here an
example's 512 characters read 1 to 512 before them, so expect a number above.
Discrete diffusion and ARDM report windows of 256: --config.data.length=256
--config.model.event='(256,)', 1.35 for one order and 1.43 for all of them
(Hoogeboom et al. 2022), without the character before (`previous`).
Data: ./run.sh fetch --dataset=text8; 90 / 5 / 5 million characters.
Hardware: a GPU, a day.
Expect: not run here; bits a character are bits/dim.
Command: ./run.sh train --config=configs/text8_transformer.py --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'text8'
  config.data.length = 512
  config.data.previous = True
  config.data.hop = 64
  config.model.name = 'transformer'
  config.model.event = (512,)
  config.model.num_values = 27
  config.model.num_classes = 27
  config.model.features = 512
  config.model.layers = 12
  config.model.heads = 8
  config.model.dtype = 'bfloat16'
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 6e-4
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_steps = 2000
  config.optimizer.end_factor = 0.1
  config.optimizer.b2 = 0.98
  config.optimizer.weight_decay = 0.01
  config.optimizer.clip_norm = 512.0  # of 512 summed characters
  config.train.batch_size = 64
  config.train.steps = 200_000
  config.train.eval_every = 5000
  config.train.checkpoint_every = 5000
  config.train.keep_best = True
  return config
