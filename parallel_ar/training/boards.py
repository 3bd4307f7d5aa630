"""Where people look at runs: TensorBoard, Weights & Biases, or one's own.

metrics.jsonl is the record of a run, and a board is a view of it: the same
numbers, the config and the model as text, sample grids, and histograms of the
parameters where `train.histograms` asks for them. A class with the methods of
`Board` is one more.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from parallel_ar.model import AutoregressiveModel, describe
from parallel_ar.training import configuration
from parallel_ar.types import Params


class Board(Protocol):
  """What a view of a run takes; steps are updates done."""

  def scalar(self, name: str, value: float, step: int) -> None:
    """A finite number, named as 'train/loss_nats'."""

  def text(self, name: str, text: str) -> None:
    """What a run is, once: 'config' (JSON) and 'model'."""

  def image(self, name: str, image: np.ndarray, step: int) -> None:
    """A picture, uint8[H, W, 3]."""

  def histogram(self, name: str, values: np.ndarray, step: int) -> None:
    """The values of a parameter, of any shape."""

  def flush(self) -> None:
    """Brings what was told to its files."""

  def close(self) -> None:
    """Flushes all; nothing follows."""


class TensorBoard:
  """Event files below tensorboard/ of the run, by tensorboardX."""

  def __init__(self, directory: pathlib.Path, start: int):
    """Opens a file, and hides what others wrote after `start`.

    Raises:
      ImportError: tensorboardX is not installed.
    """
    try:
      import tensorboardX
    except ImportError as error:
      raise ImportError(
        'TensorBoard scalars need tensorboardX: install it, or set '
        'config.train.tensorboard=False.'
      ) from error
    # The suffix keeps two processes that start within one second apart.
    self._writer = tensorboardX.SummaryWriter(
      str(directory / 'tensorboard'),
      purge_step=start + 1,
      filename_suffix=f'.{start}.{os.getpid()}',
    )

  def scalar(self, name: str, value: float, step: int) -> None:
    """See `Board`."""
    self._writer.add_scalar(name, value, step)

  def text(self, name: str, text: str) -> None:
    """See `Board`; four spaces keep Markdown from joining lines."""
    lines = ''.join(f'    {line}\n' for line in text.splitlines())
    self._writer.add_text(name, lines, 0)

  def image(self, name: str, image: np.ndarray, step: int) -> None:
    """See `Board`."""
    self._writer.add_image(name, image, step, dataformats='HWC')

  def histogram(self, name: str, values: np.ndarray, step: int) -> None:
    """See `Board`."""
    self._writer.add_histogram(name, values, step)

  def flush(self) -> None:
    """See `Board`."""
    self._writer.flush()

  def close(self) -> None:
    """See `Board`."""
    self._writer.close()


class WeightsAndBiases:
  """A run of a project there; WANDB_MODE=offline keeps it in the directory."""

  def __init__(self, directory: pathlib.Path, project: str):
    """Begins a run, or goes on with that of the same directory.

    Raises:
      ModuleNotFoundError: wandb is not installed.
    """
    try:
      import wandb
    except ImportError as error:
      raise ModuleNotFoundError(
        f'config.train.wandb={project} needs wandb: pip install '
        "'parallel_ar[wandb]' (PARALLEL_AR_EXTRAS=wandb for run.sh), or leave "
        'the field empty.'
      ) from error
    self._wandb = wandb
    self._run = wandb.init(
      project=project, name=directory.name, dir=str(directory), resume='allow'
    )

  def scalar(self, name: str, value: float, step: int) -> None:
    """See `Board`."""
    self._run.log({name: value}, step=step)

  def text(self, name: str, text: str) -> None:
    """See `Board`: the config as fields, other texts in the summary."""
    if name == 'config':
      self._run.config.update(json.loads(text), allow_val_change=True)
    else:
      self._run.summary[name] = text

  def image(self, name: str, image: np.ndarray, step: int) -> None:
    """See `Board`."""
    self._run.log({name: self._wandb.Image(image)}, step=step)

  def histogram(self, name: str, values: np.ndarray, step: int) -> None:
    """See `Board`."""
    self._run.log({name: self._wandb.Histogram(values)}, step=step)

  def flush(self) -> None:
    """See `Board`; it sends by itself."""

  def close(self) -> None:
    """See `Board`."""
    self._run.finish()


def options(config: ConfigDict, model: AutoregressiveModel) -> dict[str, Any]:
  """What a MetricWriter is told of a run, for its boards."""
  recorded = json.dumps(configuration.to_json(config), indent=2)
  return {
    'tensorboard': config.train.tensorboard,
    'wandb': config.train.wandb,
    'histograms': config.train.histograms,
    'facts': {'config': recorded, 'model': describe(model)},
  }


def show(
  boards: list[Board],
  step: int,
  picture: pathlib.Path,
  params: Params | None,
) -> None:
  """Gives the boards a sample grid, if there is one, and histograms.

  Args:
    boards: the views.
    step: updates done.
    picture: a PNG, which need not exist.
    params: the parameters, or None for no histograms; what lies on other
      hosts alone is left out.
  """
  if boards and picture.exists():
    from PIL import Image

    with picture.open('rb') as file:
      image = np.asarray(Image.open(file).convert('RGB'))
    for board in boards:
      board.image('samples', image, step)
  if not boards or params is None:
    return
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if getattr(leaf, 'is_fully_addressable', True) or leaf.is_fully_replicated:
      for board in boards:
        board.histogram(f'params/{name}', np.asarray(leaf, np.float32), step)


def opened(
  directory: pathlib.Path,
  start: int,
  *,
  tensorboard: bool,
  wandb: str,
  facts: Mapping[str, str] | None,
) -> list[Board]:
  """The boards of a run, which know what it is."""
  boards: list[Board] = []
  if tensorboard:
    boards.append(TensorBoard(directory, start))
  if wandb:
    boards.append(WeightsAndBiases(directory, wandb))
  for board in boards:
    for name, text in (facts or {}).items():
      board.text(name, text)
  return boards
