"""Cells of the digits: two binarizations, 256 grey levels."""

from typing import Any

from configs.cells.cell import (
  Cell,
  Fields,
  independent,
  model,
  optimizer,
  schedule,
)

_ADAGRAD = optimizer('adagrad', 0.01, 'linear', end_factor=0.3)
_ADAM = optimizer('adam', 1e-3, 'cosine', warmup_steps=100)
_FAST = optimizer('adam', 0.1, 'cosine')
_MADE = model('made', order='random', direct=True)
_NADE = model('nade', hidden=500)


def _digits_of(source: str, **more: Any) -> Fields:
  fields = {'data.name': source, 'model.event': (28, 28, 1)}
  if source == 'mnist_dynamic':
    fields |= {'data.train_split': 'train+valid', 'data.valid_split': ''}
  return fields | more


def _binarized(source: str, epoch: int) -> dict[str, Cell]:
  """The cells that the two binarizations share."""
  dynamic = source == 'mnist_dynamic'
  own = _digits_of(source)
  last = {'train.keep_best': False} if dynamic else {}

  def cell(row: str, names: tuple[str, str], minutes: float, *parts: Fields):
    fields = own.copy()
    for part in (*parts, last):
      fields |= part
    return Cell(row, names[dynamic], minutes, fields)

  return {
    'independent': cell(
      'Independent Bernoulli',
      ('', ''),
      0.5,
      independent(784),
      _FAST,
      schedule(500, 1000, 4),
    ),
    'fvsbn': cell(
      'FVSBN',
      ('FVSBN', 'FVSBN (pytorch-generative)'),
      2,
      model('made', hidden=()),
      optimizer('adam', 0.01, 'cosine'),
      schedule(100, 30 * epoch, 10),
    ),
    'nade': cell(
      'NADE [500], raster order',
      ('NADE 1hl (fixed order)', 'NADE-500 (pytorch-generative)'),
      400,
      _NADE,
      _ADAM,
      schedule(100, 20 * epoch, 10, ema_decay=0.999),
    ),
    'made_500': cell(
      'MADE [500], 1 mask',
      ('MADE 1hl 500 units 1 mask', ''),
      6,
      _MADE,
      {'model.hidden': (500,)},
      _ADAGRAD,
      schedule(100, 100 * epoch, 20),
    ),
    'made_8000': cell(
      'MADE [8000], 1 mask',
      ('MADE 1hl (1 mask)', 'MADE 1x8000 1 mask (pytorch-generative)'),
      10,
      _MADE,
      {'model.hidden': (8000,)},
      _ADAGRAD,
      schedule(100, 30 * epoch, 30),
    ),
  }


FIXED = _binarized('bmnist_fixed', 500) | {
  'made_500_32': Cell(
    'MADE [500], 32 masks',
    '',
    15,
    _digits_of('bmnist_fixed')
    | _MADE
    | {'model.hidden': (500,), 'model.num_masks': 32}
    | {'model.random_orders': False}
    | _ADAGRAD
    | schedule(100, 100 * 500, 20),
  ),
  'made_8000_32': Cell(
    'MADE [8000], 32 masks',
    'MADE 1hl (32 masks)',
    20,
    _digits_of('bmnist_fixed')
    | _MADE
    | {'model.hidden': (8000,), 'model.num_masks': 32}
    | _ADAGRAD
    | schedule(100, 40 * 500, 10),
  ),
}


def _grey(source: str, published: str, full: str) -> dict[str, Cell]:
  """256 grey levels of 28 x 28 pixels."""
  fields: Fields = {'data.name': source, 'model.event': (28, 28, 1)}
  fields |= {'model.num_values': 256}
  fields |= {'data.train_split': 'train+valid', 'data.valid_split': ''}
  gated = model('gated_pixelcnn', features=32, layers=7, size=5)
  rule = optimizer('adam', 3e-3, 'cosine', warmup_steps=200, clip_norm=50.0)
  more = {'train.keep_best': False, 'evaluate.batch_size': 200}
  return {
    'gated_pixelcnn': Cell(
      'Gated PixelCNN, 7 layers of 32 channels, 48,000 images seen',
      published,
      12,
      fields | gated | rule | schedule(16, 3000, 6, ema_decay=0.99) | more,
    ),
    'gated_pixelcnn_full': Cell(
      'Gated PixelCNN, 7 layers of 64 channels, 150 epochs',
      published,
      1500,
      {},
      full,
    ),
  }


FIXED['pixelcnn'] = Cell(
  'PixelCNN, 7 blocks of 64 channels, 64,000 images seen',
  'PixelCNN',
  15,
  _digits_of('bmnist_fixed')
  | model('pixelcnn', features=64, layers=7, size=5, head_features=64)
  | optimizer('adam', 2e-3, 'cosine', warmup_steps=200, clip_norm=50.0)
  | schedule(16, 4000, 4, ema_decay=0.999)
  | {'evaluate.batch_size': 200},
)

_IMAGE_GPT = model('transformer', features=64, layers=8, heads=2, num_values=2)
_IMAGE_GPT |= {'model.positions': 'learned', 'model.remat': 'full'}
_IMAGE_GPT |= optimizer(
  'adam', 1e-3, 'cosine', warmup_steps=200, clip_norm=50.0
)
_IMAGE_GPT |= schedule(16, 12000, 6, ema_decay=0.999)

FIXED |= {
  f'made_8000_8000{suffix}': Cell(
    f'MADE [8000, 8000], {masks} mask{"s" * (masks > 1)}',
    f'MADE 2hl ({masks} mask{"s" * (masks > 1)})',
    600,
    _digits_of('bmnist_fixed')
    | _MADE
    | {'model.hidden': (8000, 8000), 'model.num_masks': masks}
    | _ADAGRAD
    | schedule(100, 100 * 500, 50),
  )
  for suffix, masks in (('', 1), ('_32', 32))
}
FIXED |= {
  'deep_nade': Cell(
    'DeepNADE [500, 500], 2 orders',
    'EoNADE 2hl (2 orderings)',
    40,
    _digits_of('bmnist_fixed')
    | model('ardm', network='mlp', features=500, layers=2, num_orders=2)
    | {'model.chunk': 56}
    | optimizer('adam', 1e-3, 'cosine', warmup_steps=200)
    | schedule(100, 150 * 500, 1),
  ),
  'transformer': Cell(
    'Transformer as ImageGPT, 8 x 64',
    '',
    400,
    _digits_of('bmnist_fixed') | _IMAGE_GPT,
  ),
  'pixelsnail': Cell(
    'PixelSNAIL, 4 blocks of 32 channels',
    '',
    200,
    {'data.name': 'bmnist_fixed', 'data.train_split': 'train'},
    'mnist_pixelsnail',
  ),
}
DYNAMIC = _binarized('mnist_dynamic', 600) | {
  'transformer': Cell(
    'Transformer as ImageGPT, 8 x 64',
    'ImageGPT 8x64 2 heads (pytorch-generative)',
    400,
    _digits_of('mnist_dynamic') | _IMAGE_GPT | {'train.keep_best': False},
  ),
  'pixelsnail': Cell(
    'PixelSNAIL, 4 blocks of 32 channels',
    'PixelSNAIL 8x64 (pytorch-generative)',
    200,
    {},
    'mnist_pixelsnail',
  ),
}

GREY = _grey(
  'mnist', 'Gated PixelCNN 7x64 dilated, 256-softmax', 'mnist8_gated_pixelcnn'
)
FASHION = _grey('fashion_mnist', '', 'fashion_gated_pixelcnn')
# A day of two cores has 1,440 minutes: these are for accelerators.
CIFAR = {
  'pixelcnn_pp': Cell(
    'PixelCNN++', 'PixelCNN++', 1e6, {}, 'cifar10_pixelcnn_pp'
  )
}
IMAGENET = {
  'gated_pixelcnn': Cell(
    'Gated PixelCNN',
    'Gated PixelCNN',
    1e6,
    {'data.name': 'imagenet32_old'},
    'imagenet32_gated_pixelcnn',
  )
}
