"""A Transformer of 7.05 billion parameters, for a pod: to be compiled.

35 layers of width 4,096 over 4,096 bytes, in bfloat16: layers in a scan,
checkpoints that keep the inputs of blocks, the attention of the platform. One
device holds a 256th of the state (`fsdp`).
Paper: the sizes of Touvron et al. 2023 (LLaMA 7B), without its gates.
Data: ./run.sh fetch --dataset=enwik8; far too little for such a model. It is
here for its program: `./run.sh tpu_compile` says that it fits a slice of 256
TPU v5p, what it sends, and how fast it could be.
Hardware: TPU v5p, 4 x 8 x 8.
Expect: not run here; docs/scaling.md has what the compiler says.
Command: ./run.sh train --config=configs/seven_billion_transformer.py \
    --data_dir=data --platform=tpu
"""

from ml_collections import ConfigDict

from configs import enwik8_transformer


def get_config() -> ConfigDict:
  """The config."""
  config = enwik8_transformer.get_config()
  config.data.length = 4096
  config.model.event = (4096,)
  config.model.features = 4096
  config.model.layers = 35
  config.model.heads = 32
  config.model.remat = 'full'
  config.model.scan_layers = True
  config.model.attention_kernel = 'auto'
  config.model.dtype = 'bfloat16'
  config.mesh.data = 1
  config.mesh.fsdp = -1
  config.optimizer.clip_norm = 4096.0  # of 4096 summed bytes
  config.train.batch_size = 1024
  config.train.ema_decay = 0.0
  return config
