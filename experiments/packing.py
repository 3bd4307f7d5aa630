"""Any file, or images, as one compressed file of a trained run.

  'PARF'  size of the description, uint32  description, JSON  file of the codec

A run of text packs the bytes of any file, cut into events, the last one filled
up; a run of images packs pictures of its size. The description says how long
the file was, or how the pictures were called and which of the usual ways to
write such a file makes its very bytes from the pixels, and a digest of all.
Where none does, the picture comes back as a PNG of the same pixels.
"""

import hashlib
import io
import json
import pathlib
import sys
from typing import Any

import numpy as np

from parallel_ar import coding
from parallel_ar.data import folder
from parallel_ar.training import pictures, run_directory, trained

_MAGIC, _MOST_BYTES = b'PARF', 1 << 20
_MOST_EVENTS = 1024  # of one pass of a decoder; a program takes memory with it
# How a picture may have been written: Pillow's format and options; the default,
# which is the first, also where none of them makes the bytes.
_WRITERS: tuple[tuple[str, dict[str, Any]], ...] = (
  ('PNG', {}),
  ('PNG', {'optimize': True}),
  *(('PNG', {'compress_level': level}) for level in range(10)),
  ('BMP', {}),
  ('PPM', {}),
  ('TIFF', {}),
)
_TOLD = 'come back as PNG of the same pixels, not byte for byte'


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
  # A lane for each event of a batch ends in some 20 bits.
  batch = min(64, max(1, len(x) // 4))
  body = run.codec(batch=batch).encode(run.params, x)
  return _MAGIC + len(head).to_bytes(4, 'little') + head + body


def sources(path: pathlib.Path) -> list[pathlib.Path]:
  """The files that are packed of a path: it, or the pictures of a folder."""
  return folder.listed(path) if path.is_dir() else [path]


def unpack(run: trained.Trained, packed: bytes) -> dict[str, bytes]:
  """What `pack` packed.

  Args:
    run: the one it was packed with.
    packed: the file.

  Returns:
    name -> content: of one file, or of each picture.

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
    each = zip(names, levels, about['writers'], strict=True)
    files = {name: _file(one, writer) for name, one, writer in each}
    if _digest(files) != about['files']:
      print(
        'The pixels are those that were packed, but the Pillow installed here '
        'writes other bytes than the one that packed them.',
        file=sys.stderr,
      )
    return files
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
      and about['kind'] in ('bytes', 'pictures')
      and (
        about['kind'] == 'bytes'
        or (
          len(about['writers']) == len(about['names'])
          and set(about['writers']) <= set(range(2 * len(_WRITERS)))
          and isinstance(about['files'], str)
        )
      )
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
  files = sources(path)
  if path.is_dir() and (out := sorted(set(path.iterdir()) - set(files))):
    names = ', '.join(file.name for file in out[:5]) + ', ...' * (len(out) > 5)
    print(f'{len(out)} left out, not packed: {names}', file=sys.stderr)
  mode, found = 'RGB' if shape[2:] == (3,) else 'L', []
  content: dict[str, bytes] = {}
  writers: list[int] = []
  for file in files:
    levels = _whole(file, mode)
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
    writer = _writer(file.read_bytes(), levels, writers[-1:])
    name = f'{file.stem}.png' if writer is None else file.name
    if name in content:
      raise ValueError(f'{path}: two pictures differ in their ending only.')
    writers.append(writer or 0)
    content[name] = _file(levels, writer or 0)
  if changed := sum(content.get(f.name) != f.read_bytes() for f in files):
    print(f'{changed} of {len(files)} pictures {_TOLD}', file=sys.stderr)
  about = {'kind': 'pictures', 'length': 0, 'names': list(content)}
  return np.stack(found), about | {
    'writers': writers,
    'files': _digest(content),
  }


def _whole(file: pathlib.Path, mode: str) -> np.ndarray:
  """The pixels of a picture that is nothing else: no other colours or layers.

  Raises:
    ValueError: grey levels or RGB of 8 bits do not hold all of it.
  """
  from PIL import Image, ImageOps

  levels = folder.read(file, mode)
  with Image.open(file) as image:
    frames = getattr(image, 'n_frames', 1)
    back, own = (
      i.convert('RGBA').tobytes()
      for i in (Image.fromarray(levels), ImageOps.exif_transpose(image))
    )
    if frames > 1 or back != own:
      raise ValueError(
        f'{file} ({image.mode}, {frames} frames) holds more than the '
        f'{"grey levels" if mode == "L" else "RGB"} of the run, as colours, '
        'transparency or several pictures, so it would not come back.'
      )
  return levels


def _writer(
  content: bytes, levels: np.ndarray, before: list[int]
) -> int | None:
  """The number of the way to write these pixels that makes these bytes."""
  for writer in (*before, *range(2 * len(_WRITERS))):
    if _file(levels, writer) == content:
      return writer
  return None


def _levels(x: np.ndarray, num_values: int | None) -> np.ndarray:
  """Grey levels 0..255 of values 0..V-1."""
  assert num_values is not None
  return np.round(x * (255 / (num_values - 1))).astype(np.uint8)


def _file(levels: np.ndarray, writer: int) -> bytes:
  """A picture's file: by _WRITERS[writer // 2]; an odd one writes it grey."""
  from PIL import Image

  file, (kind, options) = io.BytesIO(), _WRITERS[writer // 2]
  grey = levels.ndim == 3 and levels.shape[2] == 1
  image = Image.fromarray(levels[..., 0] if grey else levels)
  image = image.convert('L') if writer % 2 else image
  image.save(file, kind, **options)
  return file.getvalue()


def _digest(files: dict[str, bytes]) -> str:
  return hashlib.sha256(b''.join(files.values())).hexdigest()[:32]


def write(files: dict[str, bytes], out: pathlib.Path) -> None:
  """Writes one file to `out`, or several into the folder `out`."""
  if len(files) == 1:
    run_directory.replace(out, *files.values())
    return
  for name, content in files.items():
    run_directory.replace(out / name, content)
