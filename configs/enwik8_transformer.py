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

from configs import text8_transformer


def get_config() -> ConfigDict:
  """The config."""
  config = text8_transformer.get_config()
  config.data.name = 'enwik8'
  config.data.vocabulary = 'bytes'
  config.model.num_values = 256
  config.model.num_classes = 256
  return config
