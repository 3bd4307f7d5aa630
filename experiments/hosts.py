"""Several processes as one job, and what they compute on.

Every process runs the same command. Of some scripts each computes its part, and
the first one prints and writes (`run_directory.whole` is nothing on the
others). Of all others process 0 does the whole, as one process would, with the
same numbers and bits; the rest have nothing to do.
"""

import os
import signal
import sys

import jax
from absl import flags

from parallel_ar.distributed import multihost, places
from parallel_ar.training import results

_PLATFORM = flags.DEFINE_enum(
  'platform',
  None,
  ('cpu', 'cuda', 'tpu'),
  'Compute on this and on nothing else; without it JAX takes what it finds.',
)
_DISTRIBUTED = flags.DEFINE_enum(
  'distributed',
  'auto',
  places.MODES,
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


def choose_platform() -> None:
  """Takes --platform, before any JAX."""
  if _PLATFORM.value:
    jax.config.update('jax_platforms', _PLATFORM.value)


def check_platform() -> None:
  """Finds the devices of --platform, where it is given.

  Raises:
    ValueError: there are none; JAX would say so later and elsewhere.
  """
  if not _PLATFORM.value:
    return
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    why = str(error).partition(' (set JAX_PLATFORMS')[0]
    raise ValueError(
      f'--platform={_PLATFORM.value}: JAX finds no such device here'
      f'{f" ({why[:200]})" if why else ""}. Install its plugin '
      '(PARALLEL_AR_EXTRAS=tpu, cuda12 or cuda13 for run.sh), and look whether '
      'this host sees the accelerator; --platform=cpu computes on the CPU.'
    ) from error


def alone() -> bool:
  """Whether this process does the work of a script that one process does.

  Raises:
    ValueError: --platform is absent, or nothing says where the others are.
  """
  place = places.find(
    _DISTRIBUTED.value,
    coordinator=_COORDINATOR.value,
    num_processes=_PROCESSES.value,
    process_id=_PROCESS.value,
    timeout=_PATIENCE.value,
  )
  if place is not None and place.process_id:
    print(
      f'process {place.process_id} of {place.num_processes}: process 0 does '
      'this alone.',
      file=sys.stderr,
    )
    return False
  if place is not None or _DISTRIBUTED.value == 'off':
    # What this process starts, here or beside, is no part of a job.
    places.forget()
    flags.FLAGS['distributed'].value = 'off'
  check_platform()
  return True


def connect(*, saves: bool = False) -> None:
  """Joins the other processes, before any JAX; then finds the devices.

  Args:
    saves: the script looks for SIGTERM, see `interrupt`; of several processes
      JAX notes it, and would else go on.

  Raises:
    ValueError: nothing says where the others are, or --platform is absent.
    RollCallError: a process is missing, or differs; it is named.
  """
  several = multihost.initialize(
    _DISTRIBUTED.value,
    coordinator=_COORDINATOR.value,
    num_processes=_PROCESSES.value,
    process_id=_PROCESS.value,
    timeout=_PATIENCE.value,
    facts=results.versions(),
  )
  if several and not saves:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
  check_platform()
  if not multihost.is_first():
    sys.stdout = open(os.devnull, 'w')  # for the rest of the process
