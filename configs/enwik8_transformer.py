"""A Transformer on enwik8, the bytes of Wikipedia's XML.

Paper: Al-Rfou et al. 2019: 1.11 bits a byte with 12 layers (44 M parameters)
and 1.06 with 64; Dai et al. 2019 (Transformer-XL): 1.06 with 12 layers and 0.99
with 24. Those are evaluated with 512 bytes and more before each prediction;
here an example's 512 bytes read 1 to 512 before them, so expect a number above.
The sizes of compressors are of all 100 million bytes and no answer to these.
Data: ./run.sh fetch --dataset=enwik8; 90 / 5 / 5 million bytes.
Hardware: a GPU, a day.
Expect: not run here; bits a byte are bits/dim.
Command: ./run.sh train --config=configs/enwik8_transformer.py --data_dir=data
"""

from ml_collections import ConfigDict

from parallel_ar.training import configuration


def get_config() -> ConfigDict:
  """The config."""
  config = configuration.default_config()
  config.data.name = 'enwik8'
  config.data.length = 512
  config.data.previous = True
  config.data.hop = 64
  config.data.vocabulary = 'bytes'
  config.model.name = 'transformer'
  config.model.event = (512,)
  config.model.num_values = 256
  config.model.num_classes = 256
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
  config.optimizer.clip_norm = 512.0  # of 512 summed bytes
  config.train.batch_size = 64
  config.train.steps = 200_000
  config.train.eval_every = 5000
  config.train.checkpoint_every = 5000
  config.train.keep_best = True
  return config
