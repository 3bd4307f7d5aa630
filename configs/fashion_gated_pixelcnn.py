"""Gated PixelCNN on Fashion-MNIST in its 256 grey levels.

No autoregressive model has a published number on this data that we know of; the
one to stand beside is a flow's, Glow, 2.958 bits/dim on the test images
(Nalisnick et al. 2019, Figure 1; recalled, not checked). The network and its
training are those of configs/mnist8_gated_pixelcnn.py.
Data: Fashion-MNIST; ./run.sh fetch --dataset=fashion_mnist.
Hardware: a GPU, about ten minutes; 2 CPU cores, a day.
Expect: not run here.
Command: ./run.sh train --config=configs/fashion_gated_pixelcnn.py \
    --data_dir=data
"""

from ml_collections import ConfigDict

from configs import mnist8_gated_pixelcnn


def get_config() -> ConfigDict:
  """The config."""
  config = mnist8_gated_pixelcnn.get_config()
  config.data.name = 'fashion_mnist'
  return config
