"""What general compressors make of the same events, in bytes.

Each gets all events at once, in the fewest bits a symbol takes, so that none
pays for headers many times or for bits that are always 0.
"""

import bz2
import io
import lzma
import zlib

import numpy as np


def raw(x: np.ndarray, num_values: int) -> bytes:
  """The events with ceil(log2 V) bits for a symbol."""
  bits = max(1, int(num_values - 1).bit_length())
  flat = np.asarray(x, np.int64).reshape(-1, 1)
  return np.packbits(flat >> np.arange(bits)[::-1] & 1).tobytes()


def sizes(x: np.ndarray, num_values: int) -> dict[str, int]:
  """Bytes by compressor: raw, zlib, bzip2, xz, and PNG for grey images.

  Symbols are given a byte each, which these compress better than packed ones,
  but binary images, which are given packed as well; the smaller one counts.

  Args:
    x: int[N, *event].
    num_values: V, at most 65,536.

  Returns:
    Name -> bytes.
  """
  dtype = np.uint8 if num_values <= 256 else np.uint16
  forms = [raw(x, num_values), np.asarray(x).astype(dtype).tobytes()]
  best = lambda compress: min(len(compress(form)) for form in forms)
  found = {
    'raw': len(forms[0]),
    'zlib': best(lambda b: zlib.compress(b, 9)),
    'bzip2': best(lambda b: bz2.compress(b, 9)),
    'xz': best(lambda b: lzma.compress(b, preset=9 | lzma.PRESET_EXTREME)),
  }
  grey = x.ndim in (3, 4) and x.shape[3:] in ((), (1,)) and num_values <= 256
  return found | ({'PNG': _png(x, num_values)} if grey else {})


def _png(x: np.ndarray, num_values: int) -> int:
  """Bytes of one optimised PNG of all images under each other."""
  from PIL import Image

  picture = np.asarray(x).reshape(-1, x.shape[2]).astype(np.uint8)
  image = Image.fromarray(picture * 255 if num_values == 2 else picture)
  file = io.BytesIO()
  image = (
    image.convert('1', dither=Image.Dither.NONE) if num_values == 2 else image
  )
  image.save(file, 'PNG', optimize=True)
  return len(file.getvalue())
