"""Where a process stands in its job: who tells it, and what it is told.

Arguments come before the environment, the environment before what JAX knows of
clusters (TPU, Slurm, Kubernetes, Open MPI).
"""

import hashlib
import os
from typing import NamedTuple

import jax
from jax._src import clusters  # no public door to these two
from jax._src.clusters import cloud_tpu_cluster

from parallel_ar.distributed import roll_call

MODES = ('auto', 'on', 'off')
# By which environments tell of other processes.
_TELLING = (
  'JAX_COORDINATOR_ADDRESS',
  'JAX_NUM_PROCESSES',
  'JAX_PROCESS_ID',
  'SLURM_PROCID',
  'TPU_WORKER_HOSTNAMES',
)
MODE = 'PARALLEL_AR_DISTRIBUTED'  # the mode where 'auto' is asked for


class Place(NamedTuple):
  """This process in its job.

  Attributes:
    coordinator: host:port of process 0.
    num_processes: of the job.
    process_id: of this one.
    local_device_ids: devices of this process; None for all of the host.
  """

  coordinator: str
  num_processes: int
  process_id: int
  local_device_ids: tuple[int, ...] | None = None


def find(
  mode: str,
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  timeout: float = 300,
) -> Place | None:
  """Where this process stands; None where it is no part of a job.

  Arguments and errors are those of `multihost.initialize`.
  """
  name = '--distributed'
  if mode == 'auto' and os.environ.get(MODE):
    name, mode = MODE, os.environ[MODE]
  if mode not in MODES:
    raise ValueError(f'{name}={mode}: expected one of {MODES}.')
  if mode == 'off':
    return None
  if mode == 'auto' and not _several(coordinator):
    num_processes = _given(num_processes, 'JAX_NUM_PROCESSES')
    process_id = _given(process_id, 'JAX_PROCESS_ID')
    if max(num_processes or 1, 1 + (process_id or 0)) > 1:
      raise ValueError(
        f'--num_processes={num_processes} and --process_id={process_id} tell '
        'of other processes, but nothing says where process 0 is. Give '
        '--coordinator=HOST:PORT on every host; --distributed=on asks a '
        'cluster for it.'
      )
    return None
  return locate(coordinator, num_processes, process_id, timeout)


def forget() -> None:
  """Makes this process, and those that it will start, no part of a job."""
  for name in _TELLING:
    os.environ.pop(name, None)
  os.environ[MODE] = 'off'  # a TPU VM tells of others otherwise


def locate(
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  timeout: float,
) -> Place:
  """Where this process stands, from arguments, environment and cluster.

  Raises:
    ValueError: nothing says it.
  """
  env = os.environ
  given = coordinator = coordinator or env.get('JAX_COORDINATOR_ADDRESS')
  num_processes = _given(num_processes, 'JAX_NUM_PROCESSES')
  process_id = _given(process_id, 'JAX_PROCESS_ID')
  devices = None
  if coordinator is None or num_processes is None or process_id is None:
    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    coordinator, num_processes, process_id, devices = detect(
      coordinator, num_processes, process_id, None, None, int(timeout)
    )
  if coordinator is None or num_processes is None or process_id is None:
    raise ValueError(
      '--distributed=on, but nothing says where the other processes are: this '
      'is no TPU pod, Slurm step or Kubernetes job that JAX knows. Give '
      '--coordinator=HOST:PORT, --num_processes and --process_id on every '
      'host, or --distributed=off for one process.'
    )
  host, _, port = coordinator.rpartition(':')
  by_slurm = 'SLURM_JOB_ID' in env and not roll_call.by_mpirun()
  if given is None and 'JAX_COORDINATOR_PORT' not in env and by_slurm:
    coordinator = f'{host}:{_port_of_step()}'
  named = host and port.isdecimal() and 0 < int(port) < 1 << 16
  if not named or not 0 <= process_id < num_processes:
    raise ValueError(
      f'--coordinator={coordinator}, --num_processes={num_processes}, '
      f'--process_id={process_id}: expected host:port and an id in '
      f'0..{num_processes - 1}.'
    )
  ids = None if devices is None else tuple(devices)
  return Place(coordinator, num_processes, process_id, ids)


def _given(number: int | None, name: str) -> int | None:
  """A number of the arguments, or else of the environment.

  Raises:
    ValueError: it is none.
  """
  text = os.environ.get(name)
  if number is not None or text is None:
    return number
  try:
    return int(text)
  except ValueError as error:
    raise ValueError(f'{name}={text!r}: expected a whole number.') from error


def _port_of_step() -> int:
  """A port of the coordinator that other steps of a node will not have.

  JAX takes the job's number alone, so that two steps of one job, or a job that
  is queued again because its port was taken, would meet.
  """
  digest = hashlib.sha256(roll_call.start_of_slurm().encode()).digest()
  return 61440 + int.from_bytes(digest[:2]) % 4095


def _several(coordinator: str | None) -> bool:
  """Whether the environment tells of more than one process."""
  env = os.environ
  workers = env.get('TPU_WORKER_HOSTNAMES', '')
  return (
    bool(coordinator or env.get('JAX_COORDINATOR_ADDRESS'))
    # A batch script has a SLURM_PROCID too, and no step.
    or (
      'SLURM_PROCID' in env and (_given(None, 'SLURM_STEP_NUM_TASKS') or 1) > 1
    )
    or workers.count(',') > 0
    or _is_tpu_pod()
  )


def _is_tpu_pod() -> bool:
  """Whether this machine is one of several workers of a TPU slice.

  Only a machine with TPU chips that are to be used asks its metadata server.

  Raises:
    ValueError: that does not answer.
  """
  wanted = jax.config.jax_platforms or 'tpu'  # type: ignore[attr-defined]
  if not cloud_tpu_cluster.running_in_cloud_tpu_vm or 'tpu' not in wanted:
    return False
  pod = cloud_tpu_cluster.GceTpuCluster
  try:
    return pod.is_env_present() and pod.get_process_count() > 1
  except Exception as error:  # of requests, or of what it said
    raise ValueError(
      'This machine has TPU chips, and its metadata server does not say '
      f'whether there are more workers ({type(error).__name__}: {error}). Say '
      '--distributed=on for a pod, or --distributed=off for this one machine.'
    ) from error
