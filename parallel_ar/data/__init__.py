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

if TYPE_CHECKING:
  from parallel_ar.data import archives as archives
  from parallel_ar.data import bible as bible
  from parallel_ar.data import binary as binary
  from parallel_ar.data import catalogue as catalogue
  from parallel_ar.data import dataset as dataset
  from parallel_ar.data import download as download
  from parallel_ar.data import exact as exact
  from parallel_ar.data import fetch as fetch
  from parallel_ar.data import files as files
  from parallel_ar.data import folder as folder
  from parallel_ar.data import images as images
  from parallel_ar.data import libraries as libraries
  from parallel_ar.data import music as music
  from parallel_ar.data import packages as packages
  from parallel_ar.data import pipeline as pipeline
  from parallel_ar.data import pyramid as pyramid
  from parallel_ar.data import records as records
  from parallel_ar.data import rgb as rgb
  from parallel_ar.data import sources as sources
  from parallel_ar.data import stored as stored
  from parallel_ar.data import synthetic as synthetic
  from parallel_ar.data import text as text
else:
  __getattr__ = lazily.modules_of(__name__)

__all__ = ['SOURCES', 'Dataset', 'load']
