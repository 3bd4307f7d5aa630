"""Every source of data by its name.

A new source is one line here: a function (split, data_dir, **options) that
returns a Dataset.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from parallel_ar.data import (
  binary,
  catalogue,
  dataset,
  exact,
  images,
  music,
  rgb,
  synthetic,
  text,
)
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.files import PathLike

SOURCES: dict[str, Callable[..., Dataset]] = {
  'digits': images.digits,
  'mnist': images.mnist,
  'fashion_mnist': images.fashion_mnist,
  'cifar10': rgb.cifar10,
  **{
    f'imagenet{size}': functools.partial(rgb.imagenet, f'imagenet{size}')
    for size in (32, 64)
  },
  **{
    f'imagenet{size}_old': functools.partial(
      rgb.imagenet_old, f'imagenet{size}_old'
    )
    for size in (32, 64)
  },
  'mnist_static': images.mnist_static,
  'mnist_dynamic': images.mnist_dynamic,
  'bmnist_fixed': binary.bmnist_fixed,
  **{
    f'uci_{name}': functools.partial(binary.uci, f'uci_{name}')
    for name in catalogue.UCI_SHAPES
  },
  'jsb': music.jsb,
  'text': text.text,
  'kjv': text.kjv,
  'text8': functools.partial(text.wikipedia, 'text8'),
  'enwik8': functools.partial(text.wikipedia, 'enwik8'),
  'shakespeare': text.shakespeare,
  'markov': synthetic.markov,
  'lattice': synthetic.lattice,
  'mixture': exact.mixture,
}


def fields(name: str) -> dict[str, Any]:
  """The options of a source.

  Args:
    name: a key of SOURCES.

  Returns:
    option -> its annotation, such as bool.
  """
  signature = inspect.signature(SOURCES[name], eval_str=True)
  return {
    option.name: option.annotation
    for option in signature.parameters.values()
    if option.kind is option.KEYWORD_ONLY
  }


def load(
  name: str, split: str, data_dir: PathLike | None = None, **options: Any
) -> Dataset:
  """One split of a source.

  Args:
    name: a key of SOURCES.
    split: 'train', 'valid', 'test'; 'train+valid' where the data are files.
    data_dir: directory of the data files, by default ./data; sources without
      files do not look at it.
    **options: of the source, such as labels=True or length=128.

  Returns:
    A Dataset.

  Raises:
    ValueError: an unknown name, split or option, or a wrong file.
    FileNotFoundError: a missing file.
  """
  if name not in SOURCES:
    raise ValueError(
      f'There is no data source {name!r}; expected one of '
      f'{", ".join(SOURCES)}.{dataset.suggest(name, SOURCES)}'
    )
  source, known = SOURCES[name], fields(name)
  for option in options:
    if option not in known:
      raise ValueError(
        f'The data source {name!r} has no option {option!r}; it has '
        f'{", ".join(known) or "none"}.{dataset.suggest(option, known)}'
      )
  return source(split, data_dir, **options)
