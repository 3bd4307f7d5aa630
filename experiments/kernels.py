"""XLA's two sets of CPU kernels: how they are asked for, and which is taken."""

import itertools

from parallel_ar.analysis import timing

FLAG = '--xla_cpu_experimental_ynn_fusion_type='
# What leaves products, or convolutions, to the older kernels. The reductions
# stay in either case: the older ones lose accuracy.
OLDER = {
  'products': ('-individual_dot', '-dot'),
  'convolutions': ('-individual_convolution',),
}
# XLA_FLAGS of both sets.
SETS = {
  'default': '',
  'older': FLAG + ','.join(itertools.chain(*OLDER.values())),
}
MAX_COST = 1.05  # of bits that do not depend on the number of cores


def choose(
  ratio: timing.Summary, default_stable: bool, older_stable: bool
) -> str:
  """The kernels of one kind of operation.

  What depends on the cores must be faster in three rounds of four.

  Args:
    ratio: time of the default kernels in units of the older ones', by round.
    default_stable: whether the default's bits are those of one core.
    older_stable: whether the older ones' are.

  Returns:
    'default' or 'older'.
  """
  if default_stable and not older_stable:
    return 'default' if ratio.low < MAX_COST else 'older'
  if older_stable and not default_stable:
    return 'older' if ratio.high > 1 / MAX_COST else 'default'
  return 'older' if ratio.median > 1 else 'default'


def flag(choice: dict[str, str]) -> str:
  """The XLA flag of a choice, empty where all is left to the default."""
  off = [n for kind in OLDER if choice[kind] == 'older' for n in OLDER[kind]]
  return FLAG + ','.join(off) if off else ''
