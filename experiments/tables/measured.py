"""The cells of the paper tables that are numbers of other scripts' results."""

from typing import NamedTuple


class Measured(NamedTuple):
  """One cell.

  Attributes:
    row: what the table calls it.
    published: the row of third_party/published/TABLE.csv that it repeats.
    file: of the results.
    number: its name there.
    error: name of its standard error, or ''.
    scale: to the unit of the table.
  """

  row: str
  published: str
  file: str
  number: str
  error: str = ''
  scale: float = 1.0


def _predictive() -> list[Measured]:
  """Passes of every sampler, in per cent of D."""
  policies = {
    'zeros': 'zeros',
    'last': 'the last value',
    'above': 'the pixel above',
    'ngram': '3-grams',
    'previous': 'the picks before: fixed-point iteration',
    'learned': 'learned heads',
  }
  cells = []
  for model, run in {
    'MADE [8000]': 'bmnist_made',
    'Gated PixelCNN': 'bmnist_gated_pixelcnn',
  }.items():
    for policy, what in policies.items():
      for batch in (1, 32):
        cells.append(
          Measured(
            f'{model}, binarized MNIST, forecast {what}, batch {batch}',
            '',
            f'results/samplers_{run}_batch{batch}.json',
            f'fixed point, {policy}: passes batch',
            scale=100 / 784,
          )
        )
  return cells


_SONG = 'results/samplers_bmnist_made.json'
_GATED = 'results/samplers_bmnist_gated_pixelcnn'
_SPOKEN = 'results/speculative_shakespeare.json'
_DIGITS = 'results/compress_digits.json'
_MNIST = 'results/compress_bmnist.json'
_HIERARCHY = 'results/hierarchy_bmnist.json'

MEASURED: dict[str, list[Measured]] = {
  'mnist_fixed': [
    Measured(
      'Gated PixelCNN of 433 k parameters, 20 minutes',
      'Gated PixelCNN (PixelVAE authors impl.)',
      'results/bmnist_gated_pixelcnn.json',
      'nats',
      'standard_error',
    ),
    Measured(
      'MADE [8000], no direct connections, 18 epochs: that of the samplers',
      '',
      'results/bmnist_made.json',
      'nats',
      'standard_error',
    ),
    Measured(
      'Gated PixelCNN of 96 k parameters',
      '',
      _HIERARCHY,
      'full: test nats',
      'full: error',
    ),
    Measured(
      'Multiscale groups, at most 8 passes a sample',
      '',
      _HIERARCHY,
      'multiscale2: test nats',
      'multiscale2: error',
    ),
    Measured(
      'Multiscale groups, at most 5 passes a sample',
      '',
      _HIERARCHY,
      'multiscale1: test nats',
      'multiscale1: error',
    ),
  ],
  'mnist_dynamic': [
    Measured(
      'Gated PixelCNN of 244 k parameters, 31 minutes',
      'Gated PixelCNN 10x128 (pytorch-generative)',
      'results/mnist_gated_pixelcnn.json',
      'nats',
      'standard_error',
    ),
  ],
  'song': [
    Measured(
      'MADE [8000] of 89.79 nats, binarized MNIST, batch 100: passes',
      'MADE, MNIST, batch 100: passes of a fixed point',
      _SONG,
      'fixed point, previous: passes batch',
    ),
    Measured(
      'MADE [8000], binarized MNIST, batch 100: fixed point',
      'MADE, MNIST, batch 100: fixed point',
      _SONG,
      'fixed point, previous: ratio',
    ),
    Measured(
      'Gated PixelCNN, binarized MNIST, batch 16: cache',
      'PixelCNN++, MNIST, batch 16: cache',
      f'{_GATED}.json',
      'cached: ratio',
    ),
    Measured(
      'Gated PixelCNN, binarized MNIST, batch 16: fixed point',
      'PixelCNN++, MNIST, batch 16: fixed point',
      f'{_GATED}.json',
      'fixed point, previous: ratio',
    ),
    Measured(
      'Gated PixelCNN, binarized MNIST, batch 16: Gauss-Seidel over rows',
      'PixelCNN++, MNIST, batch 16: Gauss-Seidel over rows',
      f'{_GATED}.json',
      'Gauss-Seidel: ratio',
    ),
  ],
  'predictive': _predictive(),
  'row_caches': [
    Measured(
      f'Gated PixelCNN, binarized MNIST, cache, batch {batch}',
      f'PixelCNN++, CIFAR-10, cache, batch {batch}',
      f'{_GATED}{suffix}.json',
      'cached: ratio',
    )
    for batch, suffix in ((1, '_batch1'), (16, ''), (32, '_batch32'))
  ]
  + [
    Measured(
      f'PixelCNN++, digits of 8 x 8, cache, batch {batch}',
      f'PixelCNN++, CIFAR-10, cache, batch {batch}',
      f'results/samplers_digits_pixelcnn_pp_batch{batch}.json',
      'cached: ratio',
    )
    for batch in (1, 4, 16, 64, 256)
  ],
  'speculative': [
    Measured(
      f'{rule}, window {window}', '', _SPOKEN, f'{key}, window {window}: alpha'
    )
    for rule, key in (
      ('shared noise, the same integers', 'shared noise'),
      ('rejection, the same law', 'rejection'),
    )
    for window in (2, 4, 8)
  ],
  'budget': [
    Measured(
      f'ARDM, digits, {steps} of 64 steps',
      '',
      'results/budget_digits_ardm.json',
      f'{steps} steps: measured',
      f'{steps} steps: error',
    )
    for steps in (64, 32, 16, 8, 4, 2, 1)
  ],
  'newton': [
    Measured(
      f'{method}, GRU of {size}, {length} steps',
      '',
      'results/recurrences.json',
      f'GRU, state {size}, length {length}, {method}: iterations',
    )
    for method in ('DEER', 'quasi-DEER')
    for size in (8,)
    for length in (64, 256, 1000)
  ],
  'codec': [
    Measured('Gated PixelCNN, digits, -log2 p', '', _DIGITS, 'model'),
    Measured(
      'Gated PixelCNN, digits, lanes, 17 passes an image',
      '',
      _DIGITS,
      'lanes, batch 1: size',
    ),
    Measured(
      'Gated PixelCNN, digits, stream, 64 passes an image',
      '',
      _DIGITS,
      'stream, batch 1: size',
    ),
    Measured('PNG, digits', '', _DIGITS, 'PNG'),
    Measured('xz, digits', '', _DIGITS, 'xz'),
    Measured('Gated PixelCNN, binarized MNIST, -log2 p', '', _MNIST, 'model'),
    Measured(
      'Gated PixelCNN, binarized MNIST, lanes, 33 passes an image',
      '',
      _MNIST,
      'lanes, batch 1: size',
    ),
  ],
}
