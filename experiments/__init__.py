"""Scripts that a researcher launches: `./run.sh <name> --help`."""

import sys

from experiments import leaving

# True while `python -m experiments.NAME` looks for its module, and in the
# processes that it starts: a person may press Ctrl-C in these imports already.
if sys.argv[:1] == ['-m'] or '--multiprocessing-fork' in sys.orig_argv:
  leaving.install()
