"""Several hosts as one job: start, agreement, and who writes.

One process runs on each host (or on each GPU), all with the same command. They
find each other once, in `initialize`; afterwards `jax.devices()` are those of
the whole job, every process dispatches the same programs in the same order,
and process 0 alone writes what all would write alike.

What the processes must agree on while they run (which step is the newest that
all can read, whether to save now) goes through the key-value store of JAX's
coordinator: a few bytes between hosts, no work for the devices.
"""

import hashlib
import itertools
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import clusters, distributed  # no public door to these three
from jax._src.clusters import cloud_tpu_cluster
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from parallel_ar.distributed import roll_call
from parallel_ar.distributed.roll_call import RollCallError

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
AGREE_SECONDS = 300.0  # for the slowest of the hosts to come to a question

# What tells one step of Slurm, and one start of it, from all others.
_STEP = ('SLURM_JOB_ID', 'SLURM_STEP_ID', 'SLURM_RESTART_COUNT')

_hosts: dict[int, str] = {}
_counts: dict[str, itertools.count] = defaultdict(itertools.count)
_answered: list[str] = []  # this process's last key in the store


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


def initialize(
  mode: str = 'auto',
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  timeout: float = 300,
  facts: Mapping[str, str] | None = None,
  heartbeat_seconds: int = 100,
) -> bool:
  """Connects this process to the others of its job; call it before any JAX.

  'auto' connects where the environment tells of several processes: a
  coordinator in the arguments or in JAX_COORDINATOR_ADDRESS, a Slurm step of
  more than one task, more than one name in TPU_WORKER_HOSTNAMES (GKE), or, on a
  machine with TPU chips, a metadata server that knows of more workers. 'on'
  asks all that JAX knows (TPU, Slurm, Kubernetes, Open MPI); 'off' is one
  process. PARALLEL_AR_DISTRIBUTED, where it is set, stands for 'auto'. What the
  arguments leave open is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES
  and JAX_PROCESS_ID, then from the cluster.

  Args:
    mode: 'auto', 'on' or 'off'.
    coordinator: host:port of process 0, as every host reaches it.
    num_processes: of the job.
    process_id: of this one, from 0.
    timeout: seconds to wait for the others.
    facts: what must be equal on all hosts, such as versions.
    heartbeat_seconds: a process that is silent for so long is dead, which ends
      the others.

  Returns:
    Whether this process is now one of a job of processes.

  Raises:
    ValueError: an unknown mode, or 'on' where nothing says where the others
      are.
    RollCallError: a process is missing, or differs; it is named.
  """
  place = find(
    mode,
    coordinator=coordinator,
    num_processes=num_processes,
    process_id=process_id,
    timeout=timeout,
  )
  if place is None:
    return False
  names = roll_call.roll_call(
    place.coordinator,
    place.num_processes,
    place.process_id,
    {'host': socket.gethostname(), 'jax': jax.__version__} | dict(facts or {}),
    timeout=timeout,
  )
  _hosts.update({i: name['host'] for i, name in enumerate(names)})
  jax.distributed.initialize(
    place.coordinator,
    place.num_processes,
    place.process_id,
    local_device_ids=place.local_device_ids,
    cluster_detection_method='deactivate',
    initialization_timeout=max(60, int(timeout)),
    heartbeat_timeout_seconds=heartbeat_seconds,
    shutdown_timeout_seconds=60,
  )
  return True


def find(
  mode: str,
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  timeout: float = 300,
) -> Place | None:
  """Where this process stands; None where it is no part of a job.

  Arguments and errors are those of `initialize`.
  """
  if mode == 'auto':
    mode = os.environ.get(MODE, mode)
  if mode not in MODES:
    raise ValueError(f'--distributed={mode}: expected one of {MODES}.')
  if mode == 'off':
    return None
  num_processes = _given(num_processes, 'JAX_NUM_PROCESSES')
  process_id = _given(process_id, 'JAX_PROCESS_ID')
  if mode == 'auto' and not _several(coordinator):
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
  if given is None and 'JAX_COORDINATOR_PORT' not in env and _STEP[0] in env:
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
  text = '.'.join(os.environ.get(name, '') for name in _STEP)
  digest = hashlib.sha256(text.encode()).digest()
  return 61440 + int.from_bytes(digest[:2]) % 4095


def is_first() -> bool:
  """Whether this process writes what all processes would write alike."""
  return jax.process_index() == 0


def devices() -> str:
  """What runs, for the first line of a log: '8 x TPU v5 lite, 2 processes'."""
  found, processes = jax.devices(), jax.process_count()
  kind = found[0].device_kind
  several = 'processes' if processes > 1 else 'process'
  return f'{len(found)} x {kind}, {processes} {several}'


def host(process: int) -> str:
  """The name of the host of a process that `initialize` has met."""
  return _hosts.get(process, 'a host without a name')


def fetch(tree: Any) -> Any:
  """The tree as NumPy arrays, whole, on every process.

  Args:
    tree: arrays; what is spread over several processes is gathered, so all of
      them must call this at the same place.
  """

  def one(leaf):
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
      return np.asarray(leaf)
    if leaf.is_fully_replicated:
      return np.asarray(leaf.addressable_data(0))
    return multihost_utils.process_allgather(leaf, tiled=True)

  return jax.tree.map(one, tree)


def spread(
  load: Callable[[np.ndarray], Any], size: int, place: NamedSharding
) -> Any:
  """A batch of which every process loads the rows of its own devices only.

  Args:
    load: rows int64[n] of the batch -> tree of arrays with n rows.
    size: B, rows of the whole batch.
    place: cuts the leading axis over devices, and nothing else.

  Returns:
    The tree of global arrays with B rows, whatever the number of processes.
  """
  cuts = place.addressable_devices_indices_map((size,)).values()
  rows = np.unique(np.concatenate([np.arange(size)[cut] for cut in cuts]))
  local = load(rows)

  def one(leaf):
    def part(index):
      wanted = np.arange(size)[index[0]]
      return leaf[np.searchsorted(rows, wanted)]

    return jax.make_array_from_callback((size, *leaf.shape[1:]), place, part)

  return jax.tree.map(one, local)


def gather(name: str, text: str, timeout: float = AGREE_SECONDS) -> list[str]:
  """What every process has to say, by process; a barrier too.

  Args:
    name: of the question; every process asks the same ones in the same order.
    text: this process's answer.
    timeout: seconds to wait for the slowest.

  Raises:
    RollCallError: names a process that did not come.
  """
  count = jax.process_count()
  if count == 1:
    return [text]
  client = distributed.global_state.client
  assert client is not None, 'several processes have a coordinator'
  prefix = f'parallel_ar/{name}/{next(_counts[name])}'
  own = f'{prefix}/{jax.process_index()}'
  client.key_value_set(own, text)
  answers = []
  for process in range(count):
    key = f'{prefix}/{process}'
    try:
      answers.append(client.blocking_key_value_get(key, int(timeout * 1000)))
    except jax.errors.JaxRuntimeError as error:
      raise RollCallError(
        f'{roll_call.expected(process)} did not come to {name!r} within '
        f'{timeout:.0f} s. It hangs or has died: look at its log.'
      ) from error
  # All have come to this question, so all have read the one before.
  while _answered:
    client.key_value_delete(_answered.pop())
  _answered.append(own)
  return answers


def all_agree(name: str, yes: bool) -> bool:
  """Whether all processes say yes."""
  return all(answer == '1' for answer in gather(name, '1' if yes else '0'))


def from_first(name: str, yes: bool) -> bool:
  """What process 0 says: for decisions that hang on its clock."""
  return gather(name, '1' if yes else '0')[0] == '1'


def require_same(name: str, text: str, lesson: str) -> None:
  """Checks that all processes say the same.

  Args:
    name: what is compared, for the message.
    text: this process's value.
    lesson: what to do where they differ.

  Raises:
    RollCallError: names the first process that differs from process 0, its
      host, and both values.
  """
  if jax.process_count() == 1:
    return
  answers = gather(name, f'{socket.gethostname()}\n{text}')
  host, first = answers[0].split('\n', 1)
  for process, answer in enumerate(answers):
    where, other = answer.split('\n', 1)
    if other != first:
      raise RollCallError(
        f'Process {process} on {where} differs from process 0 on {host} in '
        f'{name}: {other} there, {first} on process 0. {lesson}'
      )


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
