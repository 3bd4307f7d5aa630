"""The datasets of a config, and whether a model fits them."""

import dataclasses
import os
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from parallel_ar import doors, models
from parallel_ar.data import pyramid, records, sources
from parallel_ar.data.dataset import Dataset
from parallel_ar.model import AutoregressiveModel

_OWN_FIELDS = ('name', 'train_split', 'valid_split')


def fields(name: str) -> dict[str, Any]:
  """What the `data` section may hold for a source, by type; see `load_split`.

  Args:
    name: of the source.
  """
  return sources.fields(name) | {'stride': int, 'refine': bool}


def load_split(
  config: ConfigDict,
  split: str,
  data_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
  """One split of the source that the `data` section names.

  Args:
    config: configuration of the run; further fields of its `data` section are
      arguments of the source, but for `stride`: s keeps every s-th pixel of
      every s-th row of images, and `refine`: True keeps of those only what is
      not on every second one, see `data.pyramid`, and gives the others as the
      context.
    split: which part.
    data_dir: where data files lie.

  Returns:
    The dataset.

  Raises:
    ValueError: the source, the split, a field or a file is wrong.
  """
  options = {k: v for k, v in config.data.items() if k not in _OWN_FIELDS}
  stride, refine = options.pop('stride', 1), options.pop('refine', False)
  data = sources.load(config.data.name, split, data_dir=data_dir, **options)
  if stride == 1 and not refine:
    return data
  if len(data.event) != 3 or stride < 1:
    raise ValueError(
      f'config.data.stride={stride} keeps every so many pixels of an image; '
      f'{config.data.name} has events {data.event}.'
    )
  thin = [x[:, ::stride, ::stride] for x in records.blocks(data.x)]
  x = np.concatenate(thin)
  name = f'{data.name}, stride {stride}'
  if not refine:
    return dataclasses.replace(data, x=x, name=name)
  if data.context is not None or data.binarize is not None:
    raise ValueError(
      'config.data.refine gives the coarse image as the context: it takes a '
      'source of fixed images without labels.'
    )
  coarse, new = pyramid.split(x)
  return dataclasses.replace(
    data,
    x=np.ascontiguousarray(new),
    context=pyramid.scaled(coarse, data.num_values),
    name=f'{name} given {2 * stride}',
  )


def fill(
  config: ConfigDict, data_dir: str | os.PathLike[str] | None = None
) -> ConfigDict:
  """A config whose `model` section says what the data settle.

  Where it leaves out the `event` that its family takes, that is the shape of
  an example, and `num_values`, if it is left out too, how many there are.

  Args:
    config: configuration of the run.
    data_dir: where data files lie.

  Returns:
    The config itself, or a copy with the fields.

  Raises:
    ValueError: see `load_split`.
  """
  takes = models.fields(config.model.name)
  if 'event' not in takes or 'event' in config.model:
    return config
  data = load_split(config, config.data.train_split, data_dir)
  filled = config.copy_and_resolve_references()
  filled.model.event = data.event
  if 'num_values' in takes and 'num_values' not in config.model:
    filled.model.num_values = data.num_values
  return filled


def load_for_training(
  config: ConfigDict, data_dir: str | os.PathLike[str] | None = None
) -> tuple[Dataset, Dataset | None]:
  """The training split, and the validation split where it is evaluated.

  Args:
    config: configuration of the run.
    data_dir: where data files lie.

  Raises:
    ValueError: see `load_split`.
  """
  train = load_split(config, config.data.train_split, data_dir)
  if not (config.data.valid_split and config.train.eval_every):
    return train, None
  return train, load_split(config, config.data.valid_split, data_dir)


def contexts(model: AutoregressiveModel, data: Dataset, count: int) -> Any:
  """Contexts of `count` examples, cycling; None for unconditional models."""
  if model.context is None:
    return None
  rows = np.arange(count) % len(data)
  return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], data.context)


def check_fit(model: AutoregressiveModel, data: Dataset) -> None:
  """Checks that a model can read a dataset.

  Args:
    model: the model.
    data: the dataset.

  Raises:
    ValueError: another event, more values than the head has, no context of the
      right shape for a conditional model, or labels that it does not know.
  """
  what = f'The model {model.name} does not fit {data.name} {data.split}'
  if data.event != model.event.shape:
    raise ValueError(
      f'{what}: its event is {model.event.shape}, the examples have shape '
      f'{data.event}. Set config.model.event to {data.event}.'
    )
  num_values = model.head.num_values
  if num_values is not None and data.num_values > num_values:
    raise ValueError(
      f'{what}: its head {model.head.name} has the values 0..'
      f'{num_values - 1}, the data has 0..{data.num_values - 1}. Set '
      f'config.model.num_values to {data.num_values}, or binarize the data.'
    )
  if num_values is not None and data.num_values < num_values:
    logging.warning(
      '%s: the head %s has more values than the data, which has 0..%d only. '
      'The others cost probability and parameters; config.model.num_values = '
      '%d would leave them out.',
      *(data.name, model.head.name, data.num_values - 1, data.num_values),
    )
  if model.context is None:
    return
  if data.context is None:
    raise ValueError(
      f'{what}: it is conditioned on {_shapes(model.context)}, and the data '
      'has no context. Choose a source with labels or an unconditional model.'
    )
  try:
    doors.check_context(model, data.context, len(data))
  except ValueError as error:
    raise ValueError(f'{what}: {error}') from error


def _shapes(tree: Any) -> str:
  return str(jax.tree.map(lambda leaf: tuple(leaf.shape), tree))
