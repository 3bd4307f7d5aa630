"""Any file, or images, as one compressed file of a trained run.

  'PARF'  size of the description, uint32  description, JSON  file of the codec

A run of text packs the bytes of any file, cut into events, the last one filled
up; a run of images packs pictures of its size. The description says how long
the file was, or how the pictures were called, and a digest of all.
"""

import hashlib
import io
import json
import pathlib
from typing import Any

import numpy as np

from parallel_ar import coding
from parallel_ar.data import folder
from parallel_ar.training import pictures, run_directory, trained

_MAGIC, _MOST_BYTES = b'PARF', 1 << 20
_MOST_EVENTS = 1024  # of one pass of a decoder; a program takes memory with it


def pack(run: trained.Trained, path: pathlib.Path) -> bytes:
  """The compressed file of a file, or of the pictures of a folder.

  Raises:
    ValueError: the run is of something else, or has no value for what is there.
  """
  if run.model.context is not None:
    raise ValueError(
      f'{run.model.name} is conditioned on a context, which a file has not. '
      'Pack with a run without labels.'
    )
  if run.symbols is not None:
    x, about = _of_bytes(run, path)
  else:
    x, about = _of_pictures(run, path)
  about['digest'] = hashlib.sha256(x.tobytes()).hexdigest()[:32]
  head = json.dumps(about).encode()
  if len(head) > _MOST_BYTES:
    raise ValueError(f'{path}: the names of its pictures take over 1 MiB.')
  body = run.codec().encode(run.params, x)
  return _MAGIC + len(head).to_bytes(4, 'little') + head + body


def unpack(run: trained.Trained, packed: bytes) -> dict[str, bytes]:
  """What `pack` packed.

  Args:
    run: the one it was packed with.
    packed: the file.

  Returns:
    name -> content: of one file, or of each picture, as PNG.

  Raises:
    ValueError: a damaged file, or another run.
  """
  about, body = _split(packed)
  how = coding.read_header(body)
  if how.batch > _MOST_EVENTS:
    raise ValueError(
      f'The file asks for {how.batch} events in one pass, above {_MOST_EVENTS}.'
    )
  codec = run.codec(batch=how.batch, precision=how.precision)
  x = np.asarray(codec.decode(run.params, body).x)
  names, length = about['names'], about['length']
  if hashlib.sha256(x.tobytes()).hexdigest()[:32] != about['digest']:
    raise ValueError('Other events came out than were packed.')
  if about['kind'] == 'pictures' and run.symbols is None:
    if len(names) != len(x):
      raise ValueError(
        f'The file has {len(x)} pictures and {len(names)} names.'
      )
    levels = _levels(x, run.model.head.num_values)
    return {n: _png(one) for n, one in zip(names, levels, strict=True)}
  if about['kind'] != 'bytes' or run.symbols is None or len(names) != 1:
    raise ValueError(
      f'The file is of {about["kind"]}, and the run in {run.where} is not.'
    )
  content = np.frombuffer(run.symbols, np.uint8)[x].tobytes()
  return {names[0]: content[:length]}


def _split(packed: bytes) -> tuple[dict[str, Any], bytes]:
  """The description, checked, and the file of the codec."""
  end = 8 + int.from_bytes(packed[4:8], 'little')
  if packed[:4] != _MAGIC or not 8 < end <= min(len(packed), 8 + _MOST_BYTES):
    raise ValueError(
      'This is no file that ./run.sh compress has made, or it was cut.'
    )
  try:
    about = json.loads(packed[8:end])
    right = (
      isinstance(about['kind'], str)
      and isinstance(about['length'], int)
      and about['length'] >= 0
      and all(_plain(name) for name in about['names'])
      and len(set(about['names'])) == len(about['names'])
      and isinstance(about['digest'], str)
    )
  except (ValueError, KeyError, TypeError, RecursionError):
    right = False
  if not right:
    raise ValueError('The description in the file is damaged.')
  return about, packed[end:]


def _plain(name: Any) -> bool:
  """Whether a name is one of a file in any folder, and no path."""
  plain = isinstance(name, str) and name not in ('', '.', '..')
  return plain and not set(name) & set('/\\\0')


def _of_bytes(
  run: trained.Trained, path: pathlib.Path
) -> tuple[np.ndarray, dict[str, Any]]:
  """The bytes of a file as events of symbols."""
  if not path.is_file():
    raise ValueError(f'{path}: a run of text packs one file.')
  content, symbols = np.fromfile(path, np.uint8), run.symbols
  assert symbols is not None
  table = np.full(256, -1)
  table[np.frombuffer(symbols, np.uint8)] = np.arange(len(symbols))
  values = table[content]
  if (values < 0).any():
    at = int(np.argmax(values < 0))
    raise ValueError(
      f'{path}: byte {at} is {bytes([content[at]])!r}, which the run did not '
      'learn. Train with config.data.vocabulary=bytes to pack any file.'
    )
  (length,) = run.model.event.shape
  x = np.zeros(-(-max(1, len(values)) // length) * length, np.int32)
  x[: len(values)] = values
  about = {'kind': 'bytes', 'length': len(values), 'names': [path.name]}
  return x.reshape(-1, length).astype(run.model.event.dtype), about


def _of_pictures(
  run: trained.Trained, path: pathlib.Path
) -> tuple[np.ndarray, dict[str, Any]]:
  """Pictures of the event's size as events."""
  shape, num_values = run.model.event.shape, run.model.head.num_values
  if not pictures.is_image(shape) or num_values is None:
    raise ValueError(
      f'{run.model.name} has events of {shape}: only runs of text and of '
      'images pack files.'
    )
  files = folder.listed(path) if path.is_dir() else [path]
  mode, found = 'RGB' if shape[2:] == (3,) else 'L', []
  for file in files:
    levels = folder.read(file, mode)
    if levels.shape[:2] != shape[:2]:
      raise ValueError(
        f'{file} has {levels.shape[0]} x {levels.shape[1]} pixels; the run '
        f'has {shape[0]} x {shape[1]}.'
      )
    x = np.round(levels.astype(np.float64) * (num_values - 1) / 255)
    if (_levels(x, num_values) != levels).any():
      raise ValueError(
        f'{file} has grey levels between the {num_values} values of the run, '
        'so it would not come back.'
      )
    found.append(x.reshape(shape).astype(run.model.event.dtype))
  names = [f'{file.stem}.png' for file in files]
  if len(set(names)) < len(names):
    raise ValueError(f'{path}: two pictures differ in their ending only.')
  return np.stack(found), {'kind': 'pictures', 'length': 0, 'names': names}


def _levels(x: np.ndarray, num_values: int | None) -> np.ndarray:
  """Grey levels 0..255 of values 0..V-1."""
  assert num_values is not None
  return np.round(x * (255 / (num_values - 1))).astype(np.uint8)


def _png(levels: np.ndarray) -> bytes:
  from PIL import Image

  file = io.BytesIO()
  grey = levels.ndim == 3 and levels.shape[2] == 1
  Image.fromarray(levels[..., 0] if grey else levels).save(file, 'PNG')
  return file.getvalue()


def write(files: dict[str, bytes], out: pathlib.Path) -> None:
  """Writes one file to `out`, or several into the folder `out`."""
  if len(files) == 1:
    run_directory.replace(out, *files.values())
    return
  for name, content in files.items():
    run_directory.replace(out / name, content)
