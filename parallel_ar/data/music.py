"""Music as piano rolls: the JSB chorales, a frame an example.

The published unit is nats a frame of 88 keys, so an example is one frame, and
what came before it in its piece is the context:

  log p(piece) = sum_t log p(x_t | x_{t-H}, ..., x_{t-1}),    x_t in {0, 1}^88

with frames before the piece's first all zero. The sum is the exact likelihood
of a model with memory H, and every frame counts once, whatever the lengths of
the pieces. How the 88 keys depend on each other given the past is the model's
order: a total one models them jointly, as RNN-NADE does; all keys on one rank
(`model.order='blocks'`, `model.order_block=88`) makes them independent given
the past, as in the rows of RNNs and TCNs. Without history (H = 0) frames are
taken for independent draws, as in the rows of the RBM and of NADE.

References:
  Boulanger-Lewandowski, Bengio and Vincent, Modeling temporal dependencies in
  high-dimensional sequences: application to polyphonic music generation and
  transcription, ICML 2012.
  Bai, Kolter and Koltun, An empirical evaluation of generic convolutional and
  recurrent networks for sequence modeling, 2018.
"""

import numpy as np

from parallel_ar.data import catalogue, dataset, files
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.files import PathLike

KEYS = 88


def jsb(
  split: str,
  data_dir: PathLike | None = None,
  *,
  history: int = 8,
  skip: int = 0,
  verify: bool = True,
) -> Dataset:
  """The JSB chorales: 229 / 76 / 77 pieces, 13,807 / 4,602 / 4,725 frames.

  A frame is a quarter note: which of the 88 keys of a piano sound.

  Args:
    split: 'train', 'valid', 'test' or 'train+valid'.
    data_dir: directory with JSB_Chorales.mat, in jsb/ or directly.
    history: H, frames of the past in `context`, oldest first; 0 gives none.
    skip: first frames of each piece that are no examples, only history. 0
      counts all. 1 leaves out what a network that predicts frame t + 1 from
      frame t never predicts: the count behind the TCN's numbers.
    verify: whether to compare the file's sha256 with the true one.

  Returns:
    A Dataset with event (88,), 2 values and, for H > 0, context
    float32[N, 88 H].

  Raises:
    MissingFileError, WrongFileError: see `files`.
    ValueError: no such split, a negative number, or no frame is left.
  """
  dataset.check_split('jsb', split)
  if history < 0 or skip < 0:
    raise ValueError(
      'history and skip are numbers of frames of at least 0; got '
      f'history={history}, skip={skip}.'
    )
  path = files.find('jsb', ('JSB_Chorales.mat',), data_dir)
  content = files.read(path)
  rolls = _rolls(path, content, split)
  if verify:
    digests = catalogue.digests('jsb', 'JSB_Chorales.mat')
    files.verify(path, content, digests, 'jsb')
  if all(len(roll) <= skip for roll in rolls):
    raise ValueError(
      f'skip={skip} leaves no frame of the {split!r} split, whose longest '
      f'piece has {max(map(len, rolls))} frames.'
    )
  x = np.concatenate([roll[skip:] for roll in rolls])
  context = None
  if history:
    pasts = [_past(roll, history)[skip:] for roll in rolls]
    context = np.concatenate(pasts).astype(np.float32)
  return Dataset('jsb', split, x, 2, context)


def _past(roll: np.ndarray, history: int) -> np.ndarray:
  """uint8[T, 88 H]: the H frames before each, zeros before the first."""
  padded = np.pad(roll, ((history, 0), (0, 0)))
  past = [padded[h : h + len(roll)] for h in range(history)]
  return np.concatenate(past, axis=1)


def _rolls(path: PathLike, content: bytes, split: str) -> list[np.ndarray]:
  """The pieces of a split, each uint8[T, 88]."""
  variables = files.parse_matlab(path, content)
  rolls = []
  for part in split.split('+'):
    cells = variables.get(f'{part}data')
    is_cells = isinstance(cells, np.ndarray) and cells.dtype.kind == 'O'
    if cells is None or not is_cells or not cells.size:
      raise files.WrongFileError(
        f'{path} is a MATLAB file of another kind: expected a row of cells '
        f'named {part}data, found {sorted(variables)}. Check that it is the '
        'right file, or fetch it again.'
      )
    rolls += list(cells.reshape(-1))
  for roll in rolls:
    if not files.are_bits(roll) or roll.shape[1:] != (KEYS,):
      raise files.WrongFileError(
        f'{path} has a piece {files.told(roll)}; expected [frames, '
        f'{KEYS}] made of 0 and 1. Check that it is the right file, or fetch '
        'it again.'
      )
  return [roll.astype(np.uint8) for roll in rolls]
