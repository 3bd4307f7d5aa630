"""Sample grids as PNG files."""

import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from parallel_ar.data.dataset import Dataset
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import multihost
from parallel_ar.model import AutoregressiveModel
from parallel_ar.training import datasets, run_directory


def is_image(shape: tuple[int, ...]) -> bool:
  """Whether an event of this shape can be drawn: [H, W] or [H, W, 1 or 3]."""
  two_axes = len(shape) >= 2 and min(shape[:2]) > 1
  return two_axes and (len(shape) == 2 or shape[2:] in ((1,), (3,)))


def grid(x: np.ndarray, num_values: int, columns: int | None = None):
  """Tiles images into one, with a line between them.

  Args:
    x: int[N, H, W] or int[N, H, W, 1 or 3], values 0..num_values - 1.
    num_values: V; V - 1 becomes white.
    columns: images in a row; None for a nearly square grid.

  Returns:
    uint8[height, width, 3].

  Raises:
    ValueError: `x` is not a batch of images.
  """
  x = np.asarray(x)
  if not x.size or not is_image(x.shape[1:]):
    raise ValueError(
      f'A grid needs at least one image [N, H, W] or [N, H, W, 1 or 3]; got '
      f'shape {x.shape}.'
    )
  if x.ndim == 3:
    x = x[..., None]
  count, height, width, _ = x.shape
  scale = max(1, 56 // max(height, width))
  cells = np.round(x * (255.0 / max(1, num_values - 1))).clip(0, 255)
  cells = np.broadcast_to(cells, (count, height, width, 3)).astype(np.uint8)
  cells = cells.repeat(scale, axis=1).repeat(scale, axis=2)
  columns = columns or math.ceil(math.sqrt(count))
  rows = math.ceil(count / columns)
  gap = 2
  step_h, step_w = height * scale + gap, width * scale + gap
  canvas = np.full((rows * step_h + gap, columns * step_w + gap, 3), 96)
  canvas = canvas.astype(np.uint8)
  for i, cell in enumerate(cells):
    top, left = gap + i // columns * step_h, gap + i % columns * step_w
    canvas[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
  return canvas


def draw(
  model: AutoregressiveModel,
  sampler: Callable[..., Any],
  data: Dataset,
  path: pathlib.Path,
  *,
  seed: int,
  count: int,
) -> None:
  """Draws a grid of samples; nothing where events are no images of integers.

  Args:
    model: whose samples they are.
    sampler: (keys, context) -> Sample.
    data: whose contexts are taken, from the first on.
    path: of the PNG; process 0 writes it.
    seed: of the keys: the same noise for every grid of a run.
    count: images.
  """
  if not is_image(model.event.shape) or not model.head.num_values:
    return
  keys = jax.random.split(jax.random.key(seed), count)
  context = datasets.contexts(model, data, count)
  x = multihost.fetch(sampler(*mesh_lib.place((keys, context))).x)
  if multihost.is_first():
    save_grid(x, path, num_values=model.head.num_values)


def save_grid(
  x: np.ndarray,
  path: str | os.PathLike[str],
  *,
  num_values: int,
  columns: int | None = None,
) -> None:
  """Writes a batch of images as one PNG.

  Args:
    x: int[N, H, W] or int[N, H, W, 1 or 3], values 0..num_values - 1.
    path: file to write; its folder is made.
    num_values: V; V - 1 becomes white.
    columns: images in a row; None for a nearly square grid.

  Raises:
    ValueError: `x` is not a batch of images.
    ImportError: Pillow is not installed.
  """
  canvas = grid(x, num_values, columns)
  try:
    from PIL import Image
  except ImportError as error:
    raise ImportError(
      'Pictures need Pillow: install parallel_ar[plots], or set '
      'config.train.sample_every=0.'
    ) from error
  with run_directory.whole(path) as file:
    Image.fromarray(canvas).save(file, 'PNG')
