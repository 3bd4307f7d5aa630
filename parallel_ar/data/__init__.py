"""Data: `load(name, split)` gives a Dataset, `pipeline` makes batches of it.

  from parallel_ar import data
  from parallel_ar.data import pipeline

  train = data.load('mnist_dynamic', 'train', data_dir='data')
  batches = pipeline.batches(train, batch_size=100, seed=0)
  batches[step]['x']          # int32[100, 28, 28, 1], fresh bits of `step`

Files are fetched by `fetch` and read by `files`; `sources` lists all names.
The pipeline is imported by itself, since reading data should not need grain.
"""

from typing import TYPE_CHECKING

from parallel_ar import lazily
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.sources import SOURCES, load

if not TYPE_CHECKING:
  __getattr__ = lazily.modules_of(__name__)

__all__ = ['SOURCES', 'Dataset', 'load']
