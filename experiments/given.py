"""What a sample is told beforehand: a prompt, a label, known pixels."""

from typing import Any, NamedTuple

import jax
import numpy as np

from parallel_ar.data import folder
from parallel_ar.model import AutoregressiveModel
from parallel_ar.training import pictures, trained


class Given(NamedTuple):
  """Of all samples: values x[B, *event], and known[B, *positions] of them."""

  x: np.ndarray
  known: np.ndarray


def prompt(run: trained.Trained, text: str, count: int) -> Given:
  """The first symbols of every sample.

  Args:
    run: of a text, whose identity has its symbols.
    text: they; its UTF-8 bytes are symbols of the run.
    count: B.

  Raises:
    ValueError: no run of text, a symbol that it did not learn, or too many.
  """
  model, symbols = run.models[0], run.symbols
  if symbols is None or len(model.event.shape) != 1:
    raise ValueError(
      f'--prompt is for runs of text; {model.name} has events of '
      f'{model.event.shape} and no symbols. Known pixels are --given and '
      '--known.'
    )
  content, (length,) = text.encode(), model.event.shape
  if not 0 < len(content) <= length:
    raise ValueError(
      f'--prompt has {len(content)} bytes; a sample of this run has {length} '
      f'symbols. Give 1 to {length}.'
    )
  values = np.array([symbols.find(bytes([byte])) for byte in content])
  if (values < 0).any():
    new = bytes(sorted({b for b in content if b not in symbols}))
    raise ValueError(
      f'--prompt has {new!r}, which the run did not learn. It knows '
      f'{symbols!r}.'
    )
  x = np.zeros(length, model.event.dtype)
  x[: len(values)] = values
  return _of_all(x, np.arange(length) < len(values), count)


def image(
  model: AutoregressiveModel, path: str, mask: str, count: int
) -> Given:
  """Known pixels of every sample.

  Args:
    model: of images.
    path: a picture of the event's size; grey levels 0..255 stand for 0..V-1.
    mask: a picture of the same size, light where pixels are known.
    count: B.

  Raises:
    ValueError: no model of images, or pictures of other sizes.
  """
  shape = model.event.shape
  if not pictures.is_image(shape) or model.head.num_values is None:
    raise ValueError(
      f'--given and --known are for runs of images; {model.name} has events of '
      f'{shape}. The first symbols of a text are --prompt.'
    )
  channels = shape[2] if len(shape) == 3 else 1
  levels = folder.read(path, 'L' if channels == 1 else 'RGB')
  light = folder.read(mask, 'L')
  for name, found in (('--given', levels), ('--known', light)):
    if found.shape[:2] != shape[:2]:
      raise ValueError(
        f'{name} is a picture of {found.shape[0]} x {found.shape[1]} pixels; '
        f'this run has {shape[0]} x {shape[1]}. Scale or crop it.'
      )
  top = model.head.num_values - 1
  x = np.round(levels.astype(np.float64) * top / 255)
  x = x.reshape(shape).astype(model.event.dtype)
  known = (light >= 128).reshape(shape[:2] + (1,) * (len(shape) - 2))
  known = np.broadcast_to(known, shape)
  if model.rank.ndim < len(shape):  # a position carries all channels
    known = known[..., 0]
  return _of_all(x, known, count)


def label(model: AutoregressiveModel, value: int, count: int) -> Any:
  """The context of samples of one class, int32[B].

  Raises:
    ValueError: the model takes no label, or not this one.
  """
  spec = model.context
  single = isinstance(spec, jax.ShapeDtypeStruct) and spec.shape == ()
  if not single or not np.issubdtype(spec.dtype, np.integer):
    raise ValueError(
      f'--label is for runs with labels; {model.name} is conditioned on {spec}.'
    )
  return np.full(count, value, spec.dtype)


def _of_all(x: np.ndarray, known: np.ndarray, count: int) -> Given:
  return Given(*(np.repeat(a[None], count, 0) for a in (x, known)))
