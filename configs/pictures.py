"""PixelCNN++ on a folder of pictures of your own, all of one size.

Data: --config.data.path=FOLDER, with the folders train/, valid/ and test/ or
without (80 / 10 / 10 per cent); --config.data.size=32 scales them first. The
event is that of the pictures, grey or RGB.
Hardware: 2 CPU cores, for some hundred pictures of 32 x 32 pixels.
Expect: a start, not a table.
Command: ./run.sh train --config=configs/pictures.py --config.data.path=FOLDER
"""

from ml_collections import ConfigDict

from configs import digits_pixelcnn_pp


def get_config() -> ConfigDict:
  """The config: that of the digits, of another event."""
  config = digits_pixelcnn_pp.get_config()
  config.data.name = 'pictures'
  config.data.path = ''
  del config.model.event, config.model.num_values
  config.train.batch_size = 16
  return config
