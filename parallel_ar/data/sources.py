"""Every source of data by its name.

A new source is one line here: a function (split, data_dir, **options) that
returns a Dataset. One's own is named `my.module:function`, see `resolve`.
"""

import functools
from collections.abc import Callable
from typing import Any

from parallel_ar import resolve
from parallel_ar.data import (
  binary,
  catalogue,
  dataset,
  exact,
  folder,
  images,
  libraries,
  music,
  rgb,
  stored,
  synthetic,
  text,
)
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.files import PathLike

SOURCES: dict[str, Callable[..., Dataset]] = {
  'digits': images.digits,
  'pictures': folder.pictures,
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
  'arrays': stored.arrays,
  'array_record': stored.array_record,
  'hugging_face': libraries.hugging_face,
  'tfds': libraries.tfds,
}


def fields(name: str) -> dict[str, Any]:
  """The options of a source.

  Args:
    name: a key of SOURCES, or `my.module:function`.

  Returns:
    option -> its annotation, such as bool: of the house's the arguments that
    are named only, of one's own all but `split` and `data_dir`.
  """
  source = resolve.find(name, SOURCES, 'data source')
  if not resolve.is_own(name):
    return {
      option.name: option.annotation
      for option in resolve.parameters(source).values()
      if option.kind is option.KEYWORD_ONLY
    }
  if not callable(source):
    resolve.returned(name, 'data source', source, Dataset, _MAKES)
  return {
    option.name: resolve.annotation(option)
    for option in resolve.parameters(source).values()
    if option.name not in ('split', 'data_dir')
    and option.kind in (option.KEYWORD_ONLY, option.POSITIONAL_OR_KEYWORD)
  }


def load(
  name: str, split: str, data_dir: PathLike | None = None, **options: Any
) -> Dataset:
  """One split of a source.

  Args:
    name: a key of SOURCES, or `my.module:function` that returns a Dataset; it
      is called with `split`, with `data_dir` where it has that argument, and
      with the options.
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
  if '://' in str(data_dir or ''):
    raise ValueError(
      f'--data_dir={data_dir}: data files are read from a disk. Copy them to '
      'one, or mount the bucket.'
    )
  source = resolve.find(name, SOURCES, 'data source')
  known = fields(name)
  for option in options:
    if option not in known:
      raise ValueError(
        f'The data source {name!r} has no option {option!r}; it has '
        f'{", ".join(known) or "none"}.{dataset.suggest(option, known)}'
      )
  if not resolve.is_own(name):
    return source(split, data_dir, **options)
  if 'data_dir' in resolve.parameters(source):
    options['data_dir'] = data_dir
  found = resolve.call(name, 'data source', source, split, **options)
  return resolve.returned(name, 'data source', found, Dataset, _MAKES)


_MAKES = "par.data.Dataset('mine', split, x, num_values=V)"
