"""Every cell of the paper tables: --config=configs/paper.py:TABLE/CELL.

Command: ./run.sh train --config=configs/paper.py:mnist_fixed/made_8000 \
    --data_dir=data
"""

from typing import Any

from ml_collections import ConfigDict

from parallel_ar.training import configuration

_BMNIST = {
  'data.name': 'bmnist_fixed',
  'model.event': (28, 28, 1),
  'train.batch_size': 100,
  'train.eval_every': 500,
  'train.checkpoint_every': 500,
  'train.keep_best': True,
  'evaluate.batch_size': 500,
}
_ADAGRAD = {
  'optimizer.name': 'adagrad',
  'optimizer.learning_rate': 0.01,
  'optimizer.schedule': 'linear',
}
_MADE = {'model.name': 'made', 'model.order': 'random', 'model.direct': True}

CELLS: dict[str, dict[str, Any]] = {
  'mnist_fixed/made_8000': {
    **_BMNIST,
    **_MADE,
    **_ADAGRAD,
    'model.hidden': (8000,),
    'train.steps': 28 * 500,
  },
}


def get_config(cell: str = '') -> ConfigDict:
  """The config of a cell."""
  if cell not in CELLS:
    raise ValueError(f'Unknown cell {cell!r}. Choose from: {", ".join(CELLS)}.')
  config = configuration.default_config()
  for path, value in CELLS[cell].items():
    section, field = path.split('.')
    config[section][field] = value
  return config
