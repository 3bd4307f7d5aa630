"""Who is there, before JAX connects the hosts of a job.

`jax.distributed.initialize` waits for all processes, and where one does not
come it ends them all with a stack trace that names none. So process 0 first
listens on the coordinator's port itself, the others tell it who they are, and
each gets the same answer: all are here, or who is missing, or who differs.
Then the port is free for JAX.

Strangers are no harm. Process 0 listens at the coordinator's address only, and
serves all connections side by side: what is silent, too long or no report of
this job is dropped, and what makes it of this job is a token that all processes
have from the launcher (PARALLEL_AR_JOB_TOKEN, or the job of Slurm).
"""

import errno
import hashlib
import hmac
import ipaddress
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, TypeGuard

Facts = dict[str, str]
REMIND_SECONDS = 20.0  # between two lines about who is still awaited
_HELLO_SECONDS = 5.0  # from a connection to its report
_GRACE_SECONDS = 10.0  # process 0 may have begun later, and answers in the end
_HELLO_BYTES = 2**16
_ANSWER_BYTES = 2**24  # of process 0, with the facts of all
_STRANGERS = 256  # connections without a report at a time


class RollCallError(RuntimeError):
  """A process is missing, or differs from the others."""


def roll_call(
  address: str,
  num_processes: int,
  process_id: int,
  facts: Facts,
  *,
  timeout: float,
  say: Callable[[str], None] | None = None,
) -> list[Facts]:
  """Waits until every process has told its facts, and compares them.

  Args:
    address: host:port of process 0, as every process reaches it.
    num_processes: N, of the whole job.
    process_id: this one, in 0..N-1.
    facts: what must be equal everywhere; 'host' is the name of this host, and
      may differ.
    timeout: seconds to wait for the others.
    say: tells a person who is awaited; None prints to stderr.

  Returns:
    The facts of all processes, by process id.

  Raises:
    RollCallError: a process is missing after `timeout`, two claim the same id,
      or the facts of one differ. Every process that came raises the same.
  """
  say = say or (lambda text: print(text, file=sys.stderr, flush=True))
  host, port = address.rsplit(':', 1)
  deadline = time.monotonic() + timeout
  mine = facts | {'processes': str(num_processes)}
  if process_id == 0:
    place = host.strip('[]'), int(port)
    return _Desk(place, num_processes, deadline, timeout, say).hold(mine)
  hello = {'process': process_id, 'facts': mine, 'token': _token()}
  return _report(host.strip('[]'), int(port), hello, deadline, timeout)


def _token() -> str:
  """A digest of what only the processes of this job know."""
  secret = os.environ.get('PARALLEL_AR_JOB_TOKEN') or start_of_slurm()
  return hashlib.sha256(f'parallel_ar roll call {secret}'.encode()).hexdigest()


def start_of_slurm() -> str:
  """What tells one start of a step of Slurm from all others.

  The processes of one mpirun lie in several steps: there, of the job.
  """
  step = () if by_mpirun() else ('SLURM_STEP_ID',)
  names = ('SLURM_JOB_ID', *step, 'SLURM_RESTART_COUNT')
  return '/'.join(os.environ.get(name, '') for name in names)


def by_mpirun() -> bool:
  """Whether Open MPI started this process."""
  return 'OMPI_COMM_WORLD_RANK' in os.environ


def expected(process_id: int) -> str:
  """'process 3', with the host that should run it where one can know."""
  workers = os.environ.get('TPU_WORKER_HOSTNAMES', '').split(',')
  if process_id < len(workers) and workers[process_id]:
    return f'process {process_id} ({workers[process_id]})'
  return f'process {process_id}'


class _Desk:
  """Process 0, which listens and answers."""

  def __init__(self, place, num_processes, deadline, timeout, say):
    self._place = place
    self._count = num_processes
    self._deadline = deadline
    self._timeout = timeout
    self._say = say
    self._token = _token()
    self._facts: dict[int, Facts] = {}
    self._open: dict[int, socket.socket] = {}
    # Connections without a report: what came, and until when it may come.
    self._new: dict[socket.socket, tuple[bytes, float]] = {}
    self._events = selectors.DefaultSelector()

  def hold(self, mine: Facts) -> list[Facts]:
    self._facts[0] = mine
    problem = None
    try:
      host, port = self._place
      with _listener(host, port, self._say) as listener:
        self._events.register(listener, selectors.EVENT_READ)
        problem = self._wait(listener) or _difference(self._facts)
      answer: dict[str, Any] = {'problem': problem}
      if problem is None:
        answer['facts'] = [self._facts[i] for i in range(self._count)]
      for connection in self._open.values():
        connection.settimeout(_HELLO_SECONDS)
        _send(connection, answer)
    finally:
      self._events.close()
      for connection in (*self._open.values(), *self._new):
        connection.close()
    if problem is not None:
      raise RollCallError(problem)
    return answer['facts']

  def _wait(self, listener: socket.socket) -> str | None:
    """Takes reports until all are in; returns what is wrong."""
    remind = time.monotonic() + REMIND_SECONDS
    while len(self._facts) < self._count or self._forget_the_dead():
      now = time.monotonic()
      if now > self._deadline:
        return self._missing()
      if now > remind:
        self._say(f'Still waiting for {self._absent()}. Was it started?')
        remind = now + REMIND_SECONDS
      for late in [c for c, (_, until) in self._new.items() if now > until]:
        self._drop(late)
      ends = [until for _, until in self._new.values()]
      end = min(self._deadline, remind, *ends)
      for key, _ in self._events.select(max(0.01, end - now)):
        if key.fileobj is listener:
          self._accept(listener)
        elif problem := self._hear(key.fileobj):  # type: ignore[arg-type]
          return problem
    return None

  def _accept(self, listener: socket.socket) -> None:
    try:
      connection, _ = listener.accept()
    except OSError:
      return  # it left before
    if len(self._new) >= _STRANGERS:
      self._drop(next(iter(self._new)))  # the oldest
    connection.setblocking(False)
    self._new[connection] = b'', time.monotonic() + _HELLO_SECONDS
    self._events.register(connection, selectors.EVENT_READ)

  def _hear(self, connection: socket.socket) -> str | None:
    """Takes what a connection says; a whole report is entered."""
    if connection not in self._new:
      return None  # dropped by an event before this one
    data, until = self._new[connection]
    try:
      part = connection.recv(65536)
    except BlockingIOError:
      return None
    except OSError:
      part = b''
    data += part
    if part and not data.endswith(b'\n') and len(data) <= _HELLO_BYTES:
      self._new[connection] = data, until
      return None
    report = self._report_of(data)
    if report is None:
      self._drop(connection)  # a stranger
      return None
    del self._new[connection]
    self._events.unregister(connection)
    return self._enter(*report, connection)

  def _report_of(self, data: bytes) -> tuple[int, Facts] | None:
    """What a process tells of itself; None from one that is none of the job."""
    try:
      report = json.loads(data) if len(data) <= _HELLO_BYTES else None
    except (ValueError, RecursionError):
      return None
    if not isinstance(report, dict):
      return None
    process, facts = report.get('process'), report.get('facts')
    token = report.get('token')
    if not isinstance(token, str) or not hmac.compare_digest(
      token.encode(), self._token.encode()
    ):
      return None
    if type(process) is not int or not _are_facts(facts):
      return None
    return process, facts

  def _drop(self, connection: socket.socket) -> None:
    del self._new[connection]
    self._events.unregister(connection)
    connection.close()

  def _forget_the_dead(self) -> bool:
    """Whether a process that came has ended; it may be started again."""
    dead = [i for i, connection in self._open.items() if _closed(connection)]
    for process in dead:
      self._open.pop(process).close()
      del self._facts[process]
    return bool(dead)

  def _enter(
    self, process: int, facts: Facts, connection: socket.socket
  ) -> str | None:
    before = self._open.get(process)
    twice = process == 0 or (before is not None and not _closed(before))
    if before is not None and not twice:
      before.close()  # it was started again before its end was noticed
    self._open[-len(self._open) - 1 if twice else process] = connection
    if twice:
      one, two = self._facts[process].get('host'), facts.get('host')
      return (
        f'Two processes, on {one} and on {two}, both say that they are process '
        f'{process}. Give each its own --process_id.'
      )
    self._facts[process] = facts
    if not 0 < process < self._count:
      return _difference(self._facts) or (
        f'A process on {facts.get("host")} says that it is number {process}, '
        f'but there are {self._count}, counted from 0.'
      )
    return None

  def _absent(self) -> str:
    ids = [i for i in range(self._count) if i not in self._facts]
    more = f' and {len(ids) - 8} more' if len(ids) > 8 else ''
    return ', '.join(expected(i) for i in ids[:8]) + more

  def _missing(self) -> str:
    nodes = os.environ.get('SLURM_STEP_NODELIST', '')
    where = f' The nodes of this job step are {nodes}.' if nodes else ''
    return (
      f'{self._absent()} of {self._count} did not come within '
      f'{self._timeout:.0f} s.{where} Start the same command on every host, '
      'and look at the log of the one that is missing.'
    )


def _report(host, port, hello, deadline, timeout) -> list[Facts]:
  """Another process, which tells who it is and waits for the answer."""
  answer = None
  while answer is None:
    left = deadline - time.monotonic()
    if left <= 0:
      raise RollCallError(
        f'{expected(0)} at {host}:{port} did not answer process '
        f'{hello["process"]} within {timeout:.0f} s. Is it started, is the '
        'address right, and is the port open between the hosts?'
      )
    try:
      with socket.create_connection((host, port), min(left, 10)) as connection:
        _send(connection, hello)
        until = time.monotonic() + timeout + _GRACE_SECONDS
        answer = _answer(connection, until)
    except OSError:
      time.sleep(min(0.2, max(left, 0)))
  if answer['problem'] is not None:
    raise RollCallError(answer['problem'])
  return answer['facts']


def _difference(facts: dict[int, Facts]) -> str | None:
  """What the first process that differs from process 0 has otherwise."""
  for process, theirs in sorted(facts.items()):
    for name in sorted(facts[0].keys() | theirs.keys()):
      ours, other = facts[0].get(name), theirs.get(name)
      if name != 'host' and ours != other:
        return (
          f'Process {process} on {theirs.get("host")} differs from process 0 '
          f'on {facts[0].get("host")}: {name} is {other} there, and {ours} on '
          'process 0. Every host must run the same command of the same version.'
        )
  return None


def _listener(
  host: str, port: int, say: Callable[[str], None]
) -> socket.socket:
  """Listens at the coordinator's address; everywhere, where it is not ours."""
  try:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
  except OSError:
    found = []
  if host != 'localhost' and not _loopback(host):
    # Debian calls a host 127.0.1.1 for itself, where no other host reaches it.
    found = [one for one in found if not _loopback(str(one[4][0]))]
  for family, _, _, _, place in found:
    try:
      return socket.create_server(place, family=family, backlog=_STRANGERS)
    except OSError as error:
      if error.errno == errno.EADDRINUSE:
        raise _taken(port, error) from error
  say(
    f'{host} names no address of this host that others reach, as behind a '
    f'forwarded port: process 0 listens on port {port} of all its addresses.'
  )
  family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
  try:
    return socket.create_server(
      ('', port),
      family=family,
      backlog=_STRANGERS,
      dualstack_ipv6=family == socket.AF_INET6,
    )
  except OSError as error:
    raise _taken(port, error) from error


def _loopback(address: str) -> bool:
  try:
    return ipaddress.ip_address(address.partition('%')[0]).is_loopback
  except ValueError:
    return False  # a name


def _taken(port: int, error: OSError) -> RollCallError:
  return RollCallError(
    f'Process 0 cannot listen on port {port} ({error}). Is another job on '
    'this host? Choose another port in --coordinator.'
  )


def _are_facts(facts: Any) -> TypeGuard[Facts]:
  return isinstance(facts, dict) and all(
    isinstance(value, str) for value in facts.values()
  )


def _closed(connection: socket.socket) -> bool:
  """Whether the other end is gone: a process that was started again."""
  connection.setblocking(False)
  try:
    return connection.recv(1) == b''
  except BlockingIOError:
    return False
  except OSError:
    return True
  finally:
    connection.setblocking(True)


def _send(connection: socket.socket, message: Any) -> None:
  try:
    connection.sendall(json.dumps(message).encode() + b'\n')
  except OSError:
    pass  # it left; its own log says why


def _answer(connection: socket.socket, deadline: float) -> dict[str, Any]:
  """The answer of process 0, one line of JSON.

  Raises:
    OSError: it did not come in time, or is none.
  """
  data = b''
  while not data.endswith(b'\n'):
    connection.settimeout(max(0.01, deadline - time.monotonic()))
    part = connection.recv(65536)
    if not part or len(data) > _ANSWER_BYTES:
      raise OSError('closed')
    data += part
  try:
    answer = json.loads(data)
  except ValueError as error:
    raise OSError('not JSON') from error
  facts = answer.get('facts', []) if isinstance(answer, dict) else None
  fine = isinstance(facts, list) and all(map(_are_facts, facts))
  if not fine or not isinstance(answer.get('problem', 0), str | None):
    raise OSError('not the answer of process 0')
  return answer
