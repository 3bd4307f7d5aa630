"""Keeps the directory of compiled programs whole and bounded.

JAX writes an entry in place, and never again one that is there: what a killed
process or a full disk left torn is compiled at every start. It also keeps all
of them for ever, since its own bound needs one more package and a lock at
every read. run.sh runs this file at each start; it needs no package.
"""

import pathlib
import sys
import time
import zlib

_BLOCK = 1 << 20
_SECONDS = 60  # another process may be writing what is younger


def tidy(directory: pathlib.Path, most: int) -> None:
  """Removes torn entries, and the ones that were read least recently.

  An entry is looked into once, when it is new: inflating it shows whether it
  ends where it should.

  Args:
    directory: JAX_COMPILATION_CACHE_DIR.
    most: bytes that it and the directories beside it, which are of other
      versions and CPUs, may have together.
  """
  mark, now = directory / '.checked', time.time()
  since = mark.stat().st_mtime if mark.exists() else 0.0
  mark.touch()
  entries = []
  for path in directory.parent.glob('*/*-cache'):
    try:
      about = path.stat()
      new = since - _SECONDS < about.st_mtime < now - _SECONDS
      if path.parent == directory and new and _torn(path):
        path.unlink()
        continue
    except OSError:  # another process removed it
      continue
    entries.append((max(about.st_atime, about.st_mtime), about.st_size, path))
  total = sum(size for _, size, _ in entries)
  for _, size, path in sorted(entries):
    if total <= most:
      break
    path.unlink(missing_ok=True)
    total -= size


def _torn(path: pathlib.Path) -> bool:
  stream = zlib.decompressobj()
  with path.open('rb') as file:
    start = file.peek(1)[:1]
    if start and start != b'\x78':
      return False  # another compressor's, where zstandard is installed
    try:
      while block := file.read(_BLOCK):
        while block and not stream.eof:
          stream.decompress(block, _BLOCK)
          block = stream.unconsumed_tail
      stream.flush()
    except zlib.error:
      return True
  return not stream.eof


if __name__ == '__main__':
  tidy(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
