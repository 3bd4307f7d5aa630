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

import difflib
import importlib

from ml_collections import ConfigDict

from configs.cells import images, sets
from configs.cells.cell import Cell
from parallel_ar.training import configuration

# Fields of a model that its data decides.
_OF_THE_DATA = ('event', 'num_values', 'num_classes', 'context_size')

TABLES: dict[str, dict[str, Cell]] = {
  'mnist_fixed': images.FIXED,
  'mnist_dynamic': images.DYNAMIC,
  'uci_dna': sets.DNA,
  'uci_mushrooms': sets.MUSHROOMS,
  'uci_nips': sets.NIPS,
  'mnist8': images.GREY,
  'fashion8': images.FASHION,
  'jsb': sets.CHORALES,
  'shakespeare': sets.SHAKESPEARE,
  'kjv': sets.BIBLE,
  'cifar10': images.CIFAR,
  'imagenet32': images.IMAGENET,
  'text8': sets.TEXT8,
  'enwik8': sets.ENWIK8,
}
CELLS = {
  f'{t}/{c}': cell for t, cells in TABLES.items() for c, cell in cells.items()
}


def get_config(cell: str = '') -> ConfigDict:
  """The config of a cell, by the name TABLE/CELL."""
  if cell not in CELLS:
    near = difflib.get_close_matches(cell, CELLS, 1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ValueError(
      f'configs/paper.py has no cell {cell!r}.{hint} --config=configs/paper.py:'
      f'TABLE/CELL takes one of: {", ".join(CELLS)}.'
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
