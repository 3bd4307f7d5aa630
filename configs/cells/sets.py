"""Cells of the UCI sets, the chorales and characters."""

import functools

from configs.cells.cell import (
  Cell,
  Fields,
  independent,
  model,
  optimizer,
  schedule,
)

_FAST = optimizer('adam', 0.1, 'cosine')
_FVSBN = optimizer('adam', 0.02, 'cosine')
_MADE = model('made', order='random', direct=True)
# Kernels as the authors have them.
_PAPER: Fields = {'model.kernel_init': 'cropped', 'model.hidden': (500,)}
_NADE = model('nade', hidden=500) | optimizer('adam', 2e-3, 'cosine')


def _uci(
  dims: int,
  source: str,
  epoch: int,
  eps: float,
  sampled_eps: float,
  orders: bool = False,
  fvsbn: Fields = _FVSBN,
) -> dict[str, Cell]:
  """The cells of a binary set of so many dimensions and steps an epoch."""
  own = {'data.name': source, 'model.event': (dims,)}
  steps = 200 * epoch
  adadelta = functools.partial(optimizer, 'adadelta', 1.0, 'constant')
  made = _PAPER | adadelta(eps=eps) | {'model.activation': 'softplus'}
  sampled = _PAPER | adadelta(eps=sampled_eps) | {'model.num_masks': 100}
  sampled |= {'model.random_orders': orders, 'model.mask_sampling': True}

  def cell(row: str, published: str, minutes: float, fields: Fields) -> Cell:
    return Cell(row, published, minutes, own | fields)

  return {
    'independent': cell(
      'Independent Bernoulli',
      '',
      0.3,
      independent(dims) | _FAST | schedule(100, 1000, 10),
    ),
    'fvsbn': cell(
      'FVSBN',
      'FVSBN',
      0.5,
      model('made', hidden=()) | fvsbn | schedule(100, 2 * steps, 80),
    ),
    'nade': cell(
      'NADE [500], raster order',
      'NADE (fixed order)',
      2,
      _NADE | schedule(100, steps, 40),
    ),
    'eonade': cell(
      'EoNADE [500], 16 orders',
      'EoNADE 1hl (16 ord.)',
      4,
      _NADE | {'model.num_orders': 16} | schedule(100, steps, 20),
    ),
    'made': cell(
      'MADE [500], 1 mask',
      'MADE',
      1,
      _MADE | made | schedule(100, 8 * steps, 160, patience=16),
    ),
    'made_sampled': cell(
      f'MADE [500], masks{" and orders" * orders} drawn anew, 100 at test',
      'MADE mask sampling',
      5,
      (model('made', direct=True) if orders else _MADE)
      | sampled
      | schedule(100, 3 * steps // 2, 20),
    ),
  }


CHORALES = {
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
    model('made', hidden=(500,), direct=True),
    'jsb_nade',
  ),
  'independent_keys': Cell(
    'Network [500, 500] of 8 frames, keys independent given them',
    'TCN',
    2,
    {'data.skip': 1}
    | model('made', hidden=(500, 500), order='blocks', order_block=88),
    'jsb_nade',
  ),
}


def _text(source: str, symbols: int, nanogpt: str) -> dict[str, Cell]:
  """nanoGPT's CPU setting, and a recurrence beside it."""
  fields: Fields = {'data.name': source, 'data.vocabulary': 'file'}
  fields |= {'model.num_values': symbols, 'model.num_classes': symbols}
  longer: Fields = {'data.length': 256, 'model.event': (256,)}
  longer |= {'optimizer.clip_norm': 256.0, 'optimizer.learning_rate': 3e-3}
  gru = model('recurrent', cell='min_gru', features=192, layers=3)
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


DNA = _uci(180, 'uci_dna', 14, 1e-8, 1e-5, orders=True)
MUSHROOMS = _uci(112, 'uci_mushrooms', 20, 1e-7, 1e-6)
NIPS = _uci(
  500, 'uci_nips', 4, 1e-9, 1e-8, fvsbn=optimizer('sgd', 0.01, 'cosine')
)
SHAKESPEARE = _text(
  'shakespeare', 65, 'nanoGPT 4L 128d ctx64 2000 iters CPU (3 min)'
)
BIBLE = _text('kjv', 73, '')
TEXT8 = {
  'transformer': Cell('Transformer', 'T12 44M', 1e5, {}, 'text8_transformer')
}
ENWIK8 = {
  'transformer': Cell('Transformer', 'T12 44M', 1e5, {}, 'enwik8_transformer')
}
