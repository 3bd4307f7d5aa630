"""Several hosts as one job: start, agreement, and who writes.

One process runs on each host (or on each GPU), all with the same command. They
find each other once, in `initialize`; afterwards `jax.devices()` are those of
the whole job, every process dispatches the same programs in the same order,
and process 0 alone writes what all would write alike.

What the processes must agree on while they run (which step is the newest that
all can read, whether to save now) goes through the key-value store of JAX's
coordinator: a few bytes between hosts, no work for the devices.
"""

import itertools
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # no public door to it
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from parallel_ar.distributed import places, roll_call
from parallel_ar.distributed.roll_call import RollCallError

AGREE_SECONDS = 300.0  # for the slowest of the hosts to come to a question

_hosts: dict[int, str] = {}
_counts: dict[str, itertools.count] = defaultdict(itertools.count)
_answered: list[str] = []  # this process's last key in the store


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
  place = places.find(
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


def is_first() -> bool:
  """Whether this process writes what all processes would write alike."""
  return jax.process_index() == 0


def coordinates() -> bool:
  """Whether JAX's coordinator is in this process; asks for no device."""
  return distributed.global_state.service is not None


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
    RollCallError: names a process that did not come, or has left.
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
      if 'DEADLINE_EXCEEDED' not in str(error):
        raise RollCallError(
          f'Process 0, through which all agree, has left before {name!r} was '
          'answered. Its log says why.'
        ) from error
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
