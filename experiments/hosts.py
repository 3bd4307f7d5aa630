"""Several processes as one job, for the scripts that can be one.

Every process runs the same command and computes its part; the first one prints
and writes (`run_directory.whole` is nothing on the others).
"""

import os
import sys

from absl import flags

from experiments import entry
from parallel_ar.distributed import multihost
from parallel_ar.training import results

_DISTRIBUTED = flags.DEFINE_enum(
  'distributed',
  'auto',
  multihost.MODES,
  'Several processes as one job: auto where the environment tells of them '
  '(Slurm, GKE, JAX_COORDINATOR_ADDRESS); on for whatever cluster JAX knows, '
  'such as a TPU VM pod; off for one process.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'HOST:PORT of process 0, where no cluster tells it.'
)
_PROCESSES = flags.DEFINE_integer(
  'num_processes',
  None,
  'Processes of the job, where no cluster tells it.',
  lower_bound=1,
)
_PROCESS = flags.DEFINE_integer(
  'process_id',
  None,
  'Number of this process, where no cluster tells it.',
  lower_bound=0,
)
_PATIENCE = flags.DEFINE_float(
  'wait_seconds',
  300,
  'How long to wait for the other processes to come.',
  lower_bound=0,
)


def connect() -> None:
  """Joins the other processes, before any JAX; then finds the devices.

  Raises:
    ValueError: nothing says where the others are, or --platform is absent.
    RollCallError: a process is missing, or differs; it is named.
  """
  multihost.initialize(
    _DISTRIBUTED.value,
    coordinator=_COORDINATOR.value,
    num_processes=_PROCESSES.value,
    process_id=_PROCESS.value,
    timeout=_PATIENCE.value,
    facts=results.versions(),
  )
  entry.check_platform()
  if not multihost.is_first():
    sys.stdout = open(os.devnull, 'w')  # for the rest of the process
