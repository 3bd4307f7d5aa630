"""Every cell of the paper tables: --config=configs/paper.py:TABLE/CELL.

`./run.sh tables/paper` prints the tables, their missing cells and what those
cost; `--run` runs them. What a table is compared with, and from where, is in
third_party/published/; docs/tables.md has the tables.
Data: that of the cell, `data.name`; docs/data.md says how to get it.
Hardware: 2 CPU cores, `minutes` of the cell.
Expect: the number of results/paper/TABLE/CELL.json.
Command: ./run.sh train --config=configs/paper.py:uci_dna/made \
    --data_dir=data --result=results/paper/uci_dna/made.json
"""

import importlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from parallel_ar.training import configuration

Fields = dict[str, Any]

# Fields of a model that its data decides.
_OF_THE_DATA = ('event', 'num_values', 'num_classes', 'context_size')


class Cell(NamedTuple):
  """One run of a table.

  Attributes:
    row: what the table calls it.
    published: the model of third_party/published/TABLE.csv that it repeats, or
      '' where none has been published.
    minutes: of the run on two CPU cores that do nothing else.
    fields: what differs from `default_config`, or from the base, as
      'section.field': value; a 'model.name' here replaces the base's model but
      for its event, values and contexts.
    base: the config of configs/ to start from, if any.
  """

  row: str
  published: str
  minutes: float
  fields: Fields
  base: str = ''


def _schedule(batch: int, steps: int, evals: int, **more: Any) -> Fields:
  every = steps // evals
  fields = {
    'train.batch_size': batch,
    'train.steps': steps,
    'train.eval_every': every,
    'train.checkpoint_every': every,
    'train.keep_best': True,
    'evaluate.batch_size': 500,
  }
  return fields | {f'train.{name}': value for name, value in more.items()}


def _optimizer(name: str, rate: float, schedule: str, **more: Any) -> Fields:
  fields = {'name': name, 'learning_rate': rate, 'schedule': schedule} | more
  return {f'optimizer.{name}': value for name, value in fields.items()}


def _model(name: str, **more: Any) -> Fields:
  return {f'model.{field}': v for field, v in ({'name': name} | more).items()}


def _independent(dims: int) -> Fields:
  """All positions share a rank, and so nothing is read."""
  return _model('made', hidden=(), order='blocks', order_block=dims)


_ADAGRAD = _optimizer('adagrad', 0.01, 'linear', end_factor=0.3)
_ADAM = _optimizer('adam', 1e-3, 'cosine', warmup_steps=100)
_FAST = _optimizer('adam', 0.1, 'cosine')
_MADE = _model('made', order='random', direct=True)
# Kernels as the authors have them; where there are 8000 units these learn more
# slowly, and 30 epochs are too few for them.
_PAPER = {'model.kernel_init': 'cropped'}
_NADE = _model('nade', hidden=500)


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
      _independent(784),
      _FAST,
      _schedule(500, 1000, 4),
    ),
    'fvsbn': cell(
      'FVSBN',
      ('FVSBN', 'FVSBN (pytorch-generative)'),
      2,
      _model('made', hidden=()),
      _optimizer('adam', 0.01, 'cosine'),
      _schedule(100, 30 * epoch, 10),
    ),
    'nade': cell(
      'NADE [500], raster order',
      ('NADE 1hl (fixed order)', 'NADE-500 (pytorch-generative)'),
      400,
      _NADE,
      _ADAM,
      _schedule(100, 20 * epoch, 10, ema_decay=0.999),
    ),
    'made_500': cell(
      'MADE [500], 1 mask',
      ('MADE 1hl 500 units 1 mask', ''),
      6,
      _MADE,
      {'model.hidden': (500,)},
      _ADAGRAD,
      _schedule(100, 100 * epoch, 20),
    ),
    'made_8000': cell(
      'MADE [8000], 1 mask',
      ('MADE 1hl (1 mask)', 'MADE 1x8000 1 mask (pytorch-generative)'),
      10,
      _MADE,
      {'model.hidden': (8000,)},
      _ADAGRAD,
      _schedule(100, 30 * epoch, 30),
    ),
  }


_MNIST_FIXED = _binarized('bmnist_fixed', 500) | {
  'made_500_32': Cell(
    'MADE [500], 32 masks',
    '',
    15,
    _digits_of('bmnist_fixed')
    | _MADE
    | {'model.hidden': (500,), 'model.num_masks': 32}
    | {'model.random_orders': False}
    | _ADAGRAD
    | _schedule(100, 100 * 500, 20),
  ),
  'made_8000_32': Cell(
    'MADE [8000], 32 masks',
    'MADE 1hl (32 masks)',
    20,
    _digits_of('bmnist_fixed')
    | _MADE
    | {'model.hidden': (8000,), 'model.num_masks': 32}
    | _ADAGRAD
    | _schedule(100, 40 * 500, 10),
  ),
}


def _uci(
  dims: int, source: str, epoch: int, eps: float, fvsbn: Fields | None = None
) -> dict[str, Cell]:
  """The cells of a binary set of so many dimensions and steps an epoch."""
  own = {'data.name': source, 'model.event': (dims,)}
  steps = 200 * epoch
  adadelta = _optimizer('adadelta', 1.0, 'constant', eps=eps)
  made = {'model.hidden': (500,), 'model.activation': 'softplus'}

  def cell(row: str, published: str, minutes: float, *parts: Fields) -> Cell:
    fields = own.copy()
    for part in parts:
      fields |= part
    return Cell(row, published, minutes, fields)

  return {
    'independent': cell(
      'Independent Bernoulli',
      '',
      0.3,
      _independent(dims),
      _FAST,
      _schedule(100, 1000, 10),
    ),
    'fvsbn': cell(
      'FVSBN',
      'FVSBN',
      0.5,
      _model('made', hidden=()),
      fvsbn or _optimizer('adam', 0.02, 'cosine'),
      _schedule(100, 2 * steps, 80),
    ),
    'nade': cell(
      'NADE [500], raster order',
      'NADE (fixed order)',
      2,
      _NADE,
      _optimizer('adam', 2e-3, 'cosine'),
      _schedule(100, steps // 2, 20),
    ),
    'eonade': cell(
      'EoNADE [500], 16 orders',
      'EoNADE 1hl (16 ord.)',
      4,
      _NADE,
      {'model.num_orders': 16},
      _optimizer('adam', 2e-3, 'cosine'),
      _schedule(100, steps, 20),
    ),
    'made': cell(
      'MADE [500], 1 mask',
      'MADE',
      1,
      _MADE,
      _PAPER,
      made,
      adadelta,
      _schedule(100, 8 * steps, 160, patience=16),
    ),
    'made_sampled': cell(
      'MADE [500], masks and orders drawn anew, 100 at test',
      'MADE mask sampling',
      5,
      _model('made', direct=True),
      _PAPER,
      {'model.hidden': (500,), 'model.num_masks': 100},
      {'model.random_orders': True, 'model.mask_sampling': True},
      _optimizer('adadelta', 1.0, 'constant', eps=1e-5),
      _schedule(100, 3 * steps // 2, 20),
    ),
  }


_JSB = {
  'nade': Cell('NADE [200] given 8 frames', 'RNN-NADE', 2, {}, 'jsb_nade'),
  'nade_alone': Cell(
    'NADE [200] without a past',
    'NADE',
    2,
    {'data.history': 0, 'model.context_size': 0},
    'jsb_nade',
  ),
  'made': Cell(
    'MADE [500] given 8 frames',
    '',
    2,
    _model('made', hidden=(500,), direct=True),
    'jsb_nade',
  ),
  'independent_keys': Cell(
    'Network [500, 500] of 8 frames, keys independent given them',
    'TCN',
    2,
    {'data.skip': 1}
    | _model('made', hidden=(500, 500), order='blocks', order_block=88),
    'jsb_nade',
  ),
}


def _text(source: str, symbols: int, nanogpt: str) -> dict[str, Cell]:
  """nanoGPT's CPU setting, and a recurrence beside it."""
  fields: Fields = {'data.name': source, 'data.vocabulary': 'file'}
  fields |= {'model.num_values': symbols, 'model.num_classes': symbols}
  longer: Fields = {'data.length': 256, 'model.event': (256,)}
  longer |= {'optimizer.clip_norm': 256.0, 'optimizer.learning_rate': 3e-3}
  gru = _model('recurrent', cell='min_gru', features=192, layers=3)
  return {
    'transformer': Cell(
      'Transformer, 4 x 128, 64 characters, batches of 12, 2,000 updates',
      nanogpt,
      3,
      fields,
      'shakespeare_transformer',
    ),
    'min_gru': Cell(
      'minGRU, 3 x 192, 256 characters, batches of 16, 3,000 updates',
      '',
      10,
      fields | longer | gru | {'train.batch_size': 16, 'train.steps': 3000},
      'shakespeare_transformer',
    ),
  }


def _grey(source: str, published: str) -> dict[str, Cell]:
  """256 grey levels of 28 x 28 pixels."""
  fields: Fields = {'data.name': source, 'model.event': (28, 28, 1)}
  fields |= {'model.num_values': 256}
  fields |= {'data.train_split': 'train+valid', 'data.valid_split': ''}
  gated = _model('gated_pixelcnn', features=32, layers=7, size=5)
  rule = _optimizer('adam', 3e-3, 'cosine', warmup_steps=200, clip_norm=50.0)
  more = {'train.keep_best': False, 'evaluate.batch_size': 200}
  return {
    'gated_pixelcnn': Cell(
      'Gated PixelCNN, 7 layers of 32 channels, 48,000 images seen',
      published,
      12,
      fields | gated | rule | _schedule(16, 3000, 6, ema_decay=0.99) | more,
    ),
  }


_MNIST_FIXED['pixelcnn'] = Cell(
  'PixelCNN, 7 blocks of 64 channels, 64,000 images seen',
  'PixelCNN',
  15,
  _digits_of('bmnist_fixed')
  | _model('pixelcnn', features=64, layers=7, size=5, head_features=64)
  | _optimizer('adam', 2e-3, 'cosine', warmup_steps=200, clip_norm=50.0)
  | _schedule(16, 4000, 4, ema_decay=0.999)
  | {'evaluate.batch_size': 200},
)

TABLES: dict[str, dict[str, Cell]] = {
  'mnist_fixed': _MNIST_FIXED,
  'mnist_dynamic': _binarized('mnist_dynamic', 600),
  'uci_dna': _uci(180, 'uci_dna', 14, 1e-8),
  'uci_mushrooms': _uci(112, 'uci_mushrooms', 20, 1e-7),
  'uci_nips': _uci(
    500, 'uci_nips', 4, 1e-9, fvsbn=_optimizer('sgd', 0.01, 'cosine')
  ),
  'mnist8': _grey('mnist', 'Gated PixelCNN 7x64 dilated, 256-softmax'),
  'fashion8': _grey('fashion_mnist', ''),
  'jsb': _JSB,
  'shakespeare': _text(
    'shakespeare', 65, 'nanoGPT 4L 128d ctx64 2000 iters CPU (3 min)'
  ),
  'kjv': _text('kjv', 73, ''),
}
CELLS = {
  f'{t}/{c}': cell for t, cells in TABLES.items() for c, cell in cells.items()
}


def get_config(cell: str = '') -> ConfigDict:
  """The config of a cell, by the name TABLE/CELL."""
  if cell not in CELLS:
    known = ', '.join(CELLS)
    raise ValueError(
      f'--config=configs/paper.py:{cell} names no cell; take one of {known}.'
    )
  base, fields = CELLS[cell].base, CELLS[cell].fields
  if not base:
    config = configuration.default_config()
  else:
    config = importlib.import_module(f'configs.{base}').get_config()
    if 'model.name' in fields:
      kept = {k: v for k, v in config.model.items() if k in _OF_THE_DATA}
      config.model = ConfigDict({'name': ''} | kept)
  for path, value in fields.items():
    section, field = path.split('.')
    config[section][field] = value
  return config
