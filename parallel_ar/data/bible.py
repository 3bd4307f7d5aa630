"""The compressed file of the King James Bible package, unpacked.

The file `bible.data` has a header, a table of offsets, and windows of 64 KiB
of text, each an LZW stream of the Unix program `compress` (block mode, codes
of 9 to 16 bits) without the three bytes that such a stream begins with:

  bytes 0..83          'EC02Compressed Data File', filled up with zeros
  32 bits, big-endian  bytes of a window, number of windows n, n + 1 offsets
  offset[i] .. offset[i + 1]      window i

References:
  Welch, A technique for high-performance data compression, 1984 (LZW).
"""

import itertools
import struct

from parallel_ar.data import files
from parallel_ar.data.files import PathLike

_MAGIC = b'EC02Compressed Data File'
_HEADER = 84
_CLEAR, _FIRST = 256, 257  # the code that empties the table; the first new one
_MIN_BITS, _MAX_BITS = 9, 16


def unpack(path: PathLike, content: bytes) -> bytes:
  """The text inside `bible.data`.

  Args:
    path: where the content came from, for messages.
    content: the whole file.

  Returns:
    The text.

  Raises:
    WrongFileError: another format, or a truncated or damaged file.
  """
  if not content.startswith(_MAGIC) or len(content) < _HEADER + 8:
    raise files.WrongFileError(
      f'{path} is not the compressed text of the bible-kjv-text package: '
      f'expected it to begin with {_MAGIC!r}, found {content[:24]!r}.'
    )
  _, count = struct.unpack_from('>2I', content, _HEADER)
  if len(content) < _HEADER + 8 + 4 * (count + 1):
    raise files.WrongFileError(
      f'{path} is truncated: expected a table of {count + 1} offsets, found '
      f'{len(content)} bytes.'
    )
  offsets = struct.unpack_from(f'>{count + 1}I', content, _HEADER + 8)
  if len(content) != offsets[-1] or list(offsets) != sorted(offsets):
    raise files.WrongFileError(
      f'{path} is truncated or damaged: expected {offsets[-1]} bytes, found '
      f'{len(content)}.'
    )
  windows = itertools.pairwise(offsets)
  try:
    return b''.join(lzw(content[a:b]) for a, b in windows)
  except IndexError as error:
    raise files.WrongFileError(
      f'{path} is damaged: a code of its LZW stream stands for nothing.'
    ) from error


def lzw(data: bytes) -> bytes:
  """Decodes an LZW stream of `compress`, without its first three bytes.

  Codes are packed from the lowest bit up, in groups of eight codes; where the
  width of a code changes, the rest of its group is skipped.

  Raises:
    IndexError: a code that stands for nothing.
  """
  table = [bytes([value]) for value in range(256)] + [b'']
  padded, end = data + b'\0\0', 8 * len(data)
  width, position, group = _MIN_BITS, 0, 0
  previous, pieces = b'', []
  while position + width <= end:
    at = position >> 3
    word = padded[at] | padded[at + 1] << 8 | padded[at + 2] << 16
    code = word >> (position & 7) & (1 << width) - 1
    position += width
    if code == _CLEAR:
      del table[_FIRST:]
      position = group = _next_group(position, group, width)
      width, previous = _MIN_BITS, b''
      continue
    if not previous:
      piece = table[code]
    else:
      # The code may be the one that this very step defines.
      tail = table[code] if code < len(table) else previous
      if len(table) < 1 << _MAX_BITS:
        table.append(previous + tail[:1])
      piece = table[code]
    pieces.append(piece)
    previous = piece
    if len(table) >= 1 << width and width < _MAX_BITS:
      position = group = _next_group(position, group, width)
      width += 1
  return b''.join(pieces)


def _next_group(position: int, group: int, width: int) -> int:
  """Bit where the next group of eight codes begins."""
  size = 8 * width
  return group + -(-(position - group) // size) * size
