"""Unpacks a file that `compress FILE` has made.

  ./run.sh decompress book.par --workdir=runs/text_transformer --out=book

The run must be the one that packed it; a file of anyone is data
(docs/trust.md). Several pictures go into a folder, as PNG.
"""

from absl import flags

from experiments import entry, options, packing
from parallel_ar.training import bucket, run_directory, trained

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_FILE = flags.DEFINE_string(
  'file', None, 'The compressed file; --file= may be left out.'
)
_OUT = options.define_output(
  'out', 'The file or, of several pictures, the folder; it must be new.'
)
TAKES = _FILE  # what a word without a name is


def main() -> None:
  """Runs the script."""
  packed = bucket.content(run_directory.resolve(entry.require(_FILE)))
  out = bucket.place(entry.require(_OUT))
  if out.exists():
    raise ValueError(f'--out={out} exists. Name a new place.')
  run = trained.load(entry.require(_WORKDIR))
  files = packing.unpack(run, packed)
  packing.write(files, out)
  size = sum(map(len, files.values()))
  print(f'{len(packed)} bytes -> {size}, in {len(files)} files: {out}')


if __name__ == '__main__':
  entry.run(main, takes=TAKES)
