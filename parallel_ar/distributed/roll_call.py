"""Who is there, before JAX connects the hosts of a job.

`jax.distributed.initialize` waits for all processes, and where one does not
come it ends them all with a stack trace that names none. So process 0 first
listens on the coordinator's port itself, the others tell it who they are, and
each gets the same answer: all are here, or who is missing, or who differs.
Then the port is free for JAX.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

Facts = dict[str, str]
REMIND_SECONDS = 20.0  # between two lines about who is still awaited


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
    return _Desk(int(port), num_processes, deadline, timeout, say).hold(mine)
  hello = {'process': process_id, 'facts': mine}
  return _report(host.strip('[]'), int(port), hello, deadline, timeout)


def expected(process_id: int) -> str:
  """'process 3', with the host that should run it where one can know."""
  workers = os.environ.get('TPU_WORKER_HOSTNAMES', '').split(',')
  if process_id < len(workers) and workers[process_id]:
    return f'process {process_id} ({workers[process_id]})'
  return f'process {process_id}'


class _Desk:
  """Process 0, which listens and answers."""

  def __init__(self, port, num_processes, deadline, timeout, say):
    self._port = port
    self._count = num_processes
    self._deadline = deadline
    self._timeout = timeout
    self._say = say
    self._facts: dict[int, Facts] = {}
    self._open: dict[int, socket.socket] = {}

  def hold(self, mine: Facts) -> list[Facts]:
    self._facts[0] = mine
    problem = None
    try:
      with _listener(self._port) as listener:
        problem = self._wait(listener) or _difference(self._facts)
      answer: dict[str, Any] = {'problem': problem}
      if problem is None:
        answer['facts'] = [self._facts[i] for i in range(self._count)]
      for connection in self._open.values():
        _send(connection, answer)
    finally:
      for connection in self._open.values():
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
      listener.settimeout(max(0.01, min(self._deadline, remind) - now))
      try:
        connection, _ = listener.accept()
      except OSError:
        continue  # nobody yet
      report = _report_of(connection)
      if report is None:
        connection.close()  # a stranger
        continue
      problem = self._enter(report['process'], report['facts'], connection)
      if problem:
        return problem
    return None

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
        # Process 0 may have begun later; it always answers in the end.
        answer = _receive(connection, time.monotonic() + timeout + 10)
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


def _listener(port: int) -> socket.socket:
  try:
    if socket.has_dualstack_ipv6():
      return socket.create_server(
        ('', port), family=socket.AF_INET6, dualstack_ipv6=True
      )
    return socket.create_server(('', port))
  except OSError as error:
    raise RollCallError(
      f'Process 0 cannot listen on port {port} ({error}). Is another job on '
      'this host? Choose another port in --coordinator.'
    ) from error


def _report_of(connection: socket.socket) -> Any:
  """What a process tells of itself; None from one that is none of the job."""
  try:
    report = _receive(connection, time.monotonic() + 5)
  except OSError:
    return None
  known = isinstance(report, dict) and report.keys() >= {'process', 'facts'}
  return report if known else None


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


def _receive(connection: socket.socket, deadline: float) -> Any:
  """One line of JSON.

  Raises:
    OSError: it did not come in time, or is no JSON.
  """
  data = b''
  while not data.endswith(b'\n'):
    connection.settimeout(max(0.01, deadline - time.monotonic()))
    part = connection.recv(65536)
    if not part or len(data) > 2**24:
      raise OSError('closed')
    data += part
  try:
    return json.loads(data)
  except ValueError as error:
    raise OSError('not JSON') from error
