"""An image as a coarse one and what the finer grid adds, and back.

Every cell of 2 x 2 pixels has its top left pixel in the coarse image; the other
three, (0, 1), (1, 0) and (1, 1), are the channels of what is new:

  x [H, W, C]  <->  coarse [H/2, W/2, C],  new [H/2, W/2, 3 C]

so that p(x) = p(coarse) p(new | coarse), and again for the coarse image: a
chain of models, coarse to fine. Works on NumPy and JAX arrays with any leading
axes.
"""

from typing import Any


def split(x: Any) -> tuple[Any, Any]:
  """(coarse, new) of images [..., H, W, C].

  Raises:
    ValueError: a height or a width that is odd.
  """
  *lead, height, width, channels = x.shape
  if height % 2 or width % 2:
    raise ValueError(
      f'Images of {height} x {width} pixels have no cells of 2 x 2: both sides '
      'must be even. Use fewer levels.'
    )
  cells = x.reshape(*lead, height // 2, 2, width // 2, 2, channels)
  cells = cells.swapaxes(-4, -3)
  cells = cells.reshape(*lead, height // 2, width // 2, 4 * channels)
  return cells[..., :channels], cells[..., channels:]


def join(coarse: Any, new: Any) -> Any:
  """The image [..., H, W, C] of a coarse one and what is new."""
  *lead, height, width, channels = coarse.shape
  first = coarse[..., None, :]
  rest = new.reshape(*lead, height, width, 3, channels)
  cells = coarse.__array_namespace__().concat([first, rest], axis=-2)
  cells = cells.reshape(*lead, height, width, 2, 2, channels)
  return cells.swapaxes(-4, -3).reshape(*lead, 2 * height, 2 * width, channels)


def scaled(coarse: Any, num_values: int) -> Any:
  """A coarse image as a context: values 0..V-1 as float32 from -1 to 1."""
  return coarse.astype('float32') * (2.0 / (num_values - 1)) - 1.0
