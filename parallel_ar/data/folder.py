"""A folder of pictures of one's own: PNG, or what else Pillow reads.

Where the folder has the folders train/, valid/ and test/, these are the splits.
Else its pictures, in a fixed permutation of their names, are cut into 80 %
'train', 10 % 'valid' and 10 % 'test', at least one picture each. Files of other
endings are left out, and stderr says so once.
"""

import functools
import os
import pathlib
import sys

import numpy as np

from parallel_ar.data import dataset, files
from parallel_ar.data.dataset import Dataset
from parallel_ar.data.files import PathLike

ENDINGS = tuple('.png .bmp .pgm .ppm .gif .tif .tiff .webp .jpg .jpeg'.split())
_PARTS = ('train', 'valid', 'test')
_GREY = ('1', 'L', 'LA')  # Pillow's modes that hold grey levels of 8 bits
_MOST_PIXELS = 1 << 26  # of one picture


def pictures(
  split: str,
  data_dir: PathLike | None = None,
  *,
  path: PathLike = '',
  size: int = 0,
  colors: str = 'auto',
  levels: int = 256,
) -> Dataset:
  """The pictures of a folder, all of one size.

  Args:
    split: 'train', 'valid', 'test' or 'train+valid'.
    data_dir: not needed.
    path: the folder.
    size: S > 0 cuts the largest square out of the middle of every picture and
      scales it to S x S; 0 takes them as they are.
    colors: 'grey', 'rgb', or 'auto': rgb where any picture has colours.
    levels: V; a level g of 0..255 becomes round(g (V - 1) / 255).

  Returns:
    A Dataset with event (H, W, 1) or (H, W, 3), and V values.

  Raises:
    MissingFileError: no such folder, or no pictures in it.
    ValueError: no such split, pictures of two sizes, one that cannot be read,
      fewer than three where they must be split, or a wrong option.
    ModuleNotFoundError: without the extra 'plots', which has Pillow.
  """
  del data_dir
  dataset.check_split('pictures', split)
  known = colors in ('auto', 'grey', 'rgb')
  if not known or not 2 <= levels <= 256 or size < 0:
    raise ValueError(
      f'config.data.colors={colors!r}, levels={levels}, size={size}: expected '
      "'auto', 'grey' or 'rgb', 2 to 256 levels, and a size of at least 0."
    )
  parts = _parts(path)
  everything = [file for part in _PARTS for file in parts[part]]
  if colors == 'auto':
    colors = 'rgb' if any(map(_has_colors, everything)) else 'grey'
  found: dict[tuple[int, ...], pathlib.Path] = {}
  rows = []
  for file in (f for part in split.split('+') for f in parts[part]):
    row = read(file, 'L' if colors == 'grey' else 'RGB', size)
    found.setdefault(row.shape, file)
    if len(found) > 1:
      (one, first), (two, other) = found.items()
      raise ValueError(
        f'Pictures of one size are expected; {first} has {one[0]} x {one[1]} '
        f'pixels and {other} has {two[0]} x {two[1]}. --config.data.size=32 '
        'cuts a square out of each and scales it to 32 x 32.'
      )
    rows.append(row)
  x = np.stack(rows)
  if levels < 256:
    x = np.round(x * ((levels - 1) / 255)).astype(np.uint8)
  return Dataset('pictures', split, x.reshape(*x.shape[:3], -1), levels)


def listed(path: PathLike) -> list[pathlib.Path]:
  """The pictures in a folder, by name.

  Raises:
    MissingFileError: no such folder, or none in it.
  """
  folder = pathlib.Path(path).expanduser()
  if not path or not folder.is_dir():
    raise files.MissingFileError(
      f'There is no folder {str(path)!r} of pictures. Name one, such as '
      '--config.data.path=photos.'
    )
  found = sorted(f for f in folder.iterdir() if f.suffix.lower() in ENDINGS)
  if not found:
    raise files.MissingFileError(
      f'The folder {folder} holds no pictures: expected names that end in '
      f'{", ".join(ENDINGS)}.'
    )
  return found


def read(path: PathLike, mode: str, size: int = 0) -> np.ndarray:
  """The pixels of a picture in any format that Pillow reads, upright.

  A camera that was held aside writes so into the file, and it is turned.

  Args:
    path: of the file.
    mode: 'L' for grey levels [H, W], 'RGB' for [H, W, 3].
    size: S > 0 for the largest square in the middle, scaled to S x S.

  Returns:
    uint8[H, W] or uint8[H, W, 3], 0..255.

  Raises:
    ValueError: it is no picture, larger than 2^26 pixels, or of more than 8
      bits a level.
    FileNotFoundError: no such file.
    ModuleNotFoundError: without the extra 'plots'.
  """
  from PIL import Image, ImageOps

  try:
    with Image.open(path) as file:
      if file.width * file.height > _MOST_PIXELS:
        raise ValueError(f'{file.width} x {file.height} pixels are too many')
      if file.mode[:1] in ('I', 'F'):  # `convert` would clip them
        raise ValueError('its levels have more than 8 bits')
      image = ImageOps.exif_transpose(file).convert(mode)
      if size:
        image = ImageOps.fit(image, (size, size))
      return np.asarray(image, np.uint8)
  except FileNotFoundError:
    raise
  except Exception as error:  # of anyone's file: it fails in many ways
    raise ValueError(
      f'{path} is no picture that can be read: {error}. Give a PNG of 8 bits.'
    ) from error


def _parts(path: PathLike) -> dict[str, list[pathlib.Path]]:
  """The files of every split."""
  folders = [pathlib.Path(path).expanduser() / part for part in _PARTS]
  if path and all(map(os.path.isdir, folders)):
    parts = {f.name: listed(f) for f in folders}
    for folder in folders:
      _tell_rest(folder)
    return parts
  found = listed(path)
  _tell_rest(pathlib.Path(path).expanduser())
  if len(found) < 3:
    raise ValueError(
      f'{path} holds {len(found)} pictures; at least three are needed, one to '
      'train with, one to validate and one to test.'
    )
  order = dataset.random_state('pictures').permutation(len(found))
  tenth = max(1, len(found) // 10)
  cut = {
    'test': order[:tenth],
    'valid': order[tenth : 2 * tenth],
    'train': order[2 * tenth :],
  }
  return {part: [found[i] for i in rows] for part, rows in cut.items()}


@functools.cache
def _tell_rest(folder: pathlib.Path) -> None:
  """Says which files of a folder are no pictures, by their endings."""
  rest = sorted(f.name for f in folder.iterdir() if _left_out(f))
  if rest:
    names = ', '.join(rest[:5]) + ', ...' * (len(rest) > 5)
    print(
      f'{folder}: {len(rest)} left out, whose names end in none of '
      f'{" ".join(ENDINGS)}: {names}',
      file=sys.stderr,
    )


def _left_out(file: pathlib.Path) -> bool:
  hidden = file.name.startswith('.')
  return not (hidden or file.is_dir() or file.suffix.lower() in ENDINGS)


def _has_colors(path: pathlib.Path) -> bool:
  """Whether a picture's file has more than grey levels; reads its header."""
  from PIL import Image

  try:
    with Image.open(path) as file:
      return file.mode not in _GREY
  except Exception:  # `read` says what is wrong with it
    return False
