"""Roll calls: all come, or everyone hears who did not, or who differs."""

import concurrent.futures
import contextlib
import json
import socket
import time

import pytest

from parallel_ar.distributed import multihost, places, roll_call

FACTS = {'jax': '1', 'version': '2'}


def _port():
  with socket.create_server(('', 0)) as server:
    return server.getsockname()[1]


def _call(calls, timeout=20.0):
  """Runs (processes, process, facts) side by side; results or errors."""
  address, said = f'127.0.0.1:{_port()}', []

  def one(call):
    count, process, facts = call
    try:
      return roll_call.roll_call(
        address, count, process, facts, timeout=timeout, say=said.append
      )
    except roll_call.RollCallError as error:
      return error

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    return list(pool.map(one, calls)), said


def test_all_come_and_know_each_other():
  calls = [(4, i, FACTS | {'host': f'node{i}'}) for i in (2, 0, 3, 1)]
  answers, _ = _call(calls)
  names = [f'node{i}' for i in range(4)]
  for answer in answers:
    assert [facts['host'] for facts in answer] == names


def test_one_process_is_a_job_too():
  ((answer,), _) = _call([(1, 0, FACTS)])
  assert answer[0]['jax'] == '1'


def test_the_missing_are_named(monkeypatch):
  monkeypatch.setattr(roll_call, 'REMIND_SECONDS', 0.2)
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'a,b,c,d')
  monkeypatch.setenv('SLURM_STEP_NODELIST', 'node[1-4]')
  answers, said = _call([(4, 0, FACTS), (4, 2, FACTS)], timeout=1.0)
  for answer in answers:
    text = str(answer)
    assert 'process 1 (b), process 3 (d) of 4 did not come within 1 s' in text
    assert 'node[1-4]' in text
  assert any('Still waiting for process 1 (b)' in line for line in said)


def test_a_missing_first_process_is_named():
  ((answer,), _) = _call([(2, 1, FACTS)], timeout=0.5)
  assert 'process 0 at 127.0.0.1' in str(answer)


def test_a_different_fact_is_named():
  there = FACTS | {'jax': '9', 'host': 'odd'}
  answers, _ = _call([(2, 0, FACTS | {'host': 'even'}), (2, 1, there)])
  for answer in answers:
    assert 'Process 1 on odd differs from process 0 on even' in str(answer)
    assert 'jax is 9 there, and 1' in str(answer)


def test_another_number_of_processes_is_named():
  answers, _ = _call([(2, 0, FACTS), (3, 1, FACTS)])
  assert all('processes is 3 there' in str(answer) for answer in answers)


def test_two_of_one_number_are_named():
  facts = [FACTS | {'host': name} for name in ('a', 'b', 'c')]
  answers, _ = _call([(3, 0, facts[0]), (3, 1, facts[1]), (3, 1, facts[2])])
  assert 'both say that they are process 1' in str(answers[0])
  assert sum('both say' in str(answer) for answer in answers) == 3


def test_strangers_and_restarted_processes_are_no_harm():
  address = f'127.0.0.1:{_port()}'
  call = lambda process: roll_call.roll_call(
    address, 3, process, FACTS, timeout=60, say=print
  )
  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    first = pool.submit(call, 0)
    lines = [b'GET / HTTP/1.0\r\n\r\n', b'[1]\n']
    died = {'process': 1, 'facts': FACTS | {'processes': '3', 'jax': 'old'}}
    died |= {'token': roll_call._token()}
    for line in [*lines, json.dumps(died).encode() + b'\n']:
      while True:
        with contextlib.suppress(OSError):
          connection = socket.create_connection(('127.0.0.1', address[10:]))
          break
      connection.sendall(line)
      connection.close()
    again = pool.submit(call, 1)
    assert call(2) == first.result() == again.result()
    assert first.result()[1]['jax'] == '1'


def _connect(address):
  host, port = address.rsplit(':', 1)
  for _ in range(1000):
    with contextlib.suppress(OSError):
      return socket.create_connection((host, int(port)))
    time.sleep(0.01)
  raise AssertionError('nobody listens')


def test_silent_strangers_do_not_stand_in_the_way():
  """Each would take its five seconds if they were heard in turn."""
  address, began = f'127.0.0.1:{_port()}', time.monotonic()
  call = lambda process: roll_call.roll_call(
    address, 2, process, FACTS, timeout=60, say=print
  )
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    first = pool.submit(call, 0)
    with contextlib.ExitStack() as stack:
      for _ in range(300):  # more than are kept
        stranger = stack.enter_context(_connect(address))
        with contextlib.suppress(OSError):
          stranger.sendall(b'{')
      assert call(1) == first.result()
  assert time.monotonic() - began < roll_call._HELLO_SECONDS


@pytest.mark.parametrize(
  'change',
  [
    {'token': 'guessed'},
    {'token': None},
    {'token': 'schön'},
    {'process': '1'},
    {'process': True},
    {'facts': ['a']},
    {'facts': {'jax': 9}},
    {'facts': {'jax': 'x' * 2**17}},
  ],
)
def test_what_is_no_report_of_this_job_is_dropped(change):
  address = f'127.0.0.1:{_port()}'
  hello = {'process': 1, 'facts': FACTS, 'token': roll_call._token()}
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    call = lambda process: roll_call.roll_call(
      address, 2, process, FACTS, timeout=60, say=print
    )
    first = pool.submit(call, 0)
    with _connect(address) as stranger:
      stranger.sendall(json.dumps(hello | change).encode() + b'\n')
      with contextlib.suppress(ConnectionResetError):
        assert stranger.recv(1) == b''  # hung up, and without an answer
    assert call(1) == first.result()


@pytest.mark.parametrize(
  'environment',
  [
    {'PARALLEL_AR_JOB_TOKEN': 'a'},
    {'SLURM_JOB_ID': '7', 'SLURM_RESTART_COUNT': '1'},
    {'SLURM_JOB_ID': '7', 'SLURM_RESTART_COUNT': '2'},
  ],
)
def test_jobs_and_their_starts_have_their_own_tokens(monkeypatch, environment):
  plain = roll_call._token()
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  mine = roll_call._token()
  assert mine != plain and mine == roll_call._token()


def test_it_listens_at_the_address_of_the_coordinator(monkeypatch):
  said = []
  with roll_call._listener('127.0.0.1', _port(), said.append) as listener:
    assert listener.getsockname()[0] == '127.0.0.1' and not said
  real = socket.getaddrinfo

  def debian(host, *args, **options):
    return real('127.0.1.1' if host == 'node0' else host, *args, **options)

  monkeypatch.setattr(socket, 'getaddrinfo', debian)
  for name in ('node0', 'nowhere.invalid'):
    with roll_call._listener(name, _port(), said.append) as listener:
      assert listener.getsockname()[0] in ('::', '0.0.0.0')
    assert f'{name} names no address of this host' in said.pop()


def test_a_stranger_in_place_of_process_0_is_no_answer(monkeypatch):
  monkeypatch.setattr(roll_call, '_GRACE_SECONDS', 0.0)
  with socket.create_server(('127.0.0.1', 0)) as server:
    address = f'127.0.0.1:{server.getsockname()[1]}'
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      call = pool.submit(roll_call.roll_call, address, 2, 1, FACTS, timeout=0.5)
      connection, _ = server.accept()
      with connection:
        connection.sendall(b'{"problem": null, "facts": [1]}\n')
      with pytest.raises(roll_call.RollCallError, match='did not answer'):
        call.result()


def test_a_port_in_use_is_named():
  with socket.create_server(('', 0)) as server:
    address = f'127.0.0.1:{server.getsockname()[1]}'
    with pytest.raises(roll_call.RollCallError, match='another port'):
      roll_call.roll_call(address, 2, 0, FACTS, timeout=1)


class TestPlace:
  @pytest.fixture(autouse=True)
  def _clean(self, monkeypatch):
    for name in (
      *('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'),
      *('SLURM_PROCID', 'SLURM_NTASKS', 'TPU_WORKER_HOSTNAMES'),
    ):
      monkeypatch.delenv(name, raising=False)

  def test_a_laptop_is_one_process(self):
    assert not multihost.initialize('auto')
    assert not multihost.initialize('off', coordinator='a:1')

  @pytest.mark.parametrize(
    'environment',
    [
      {'JAX_COORDINATOR_ADDRESS': 'a:1'},
      {'SLURM_PROCID': '0', 'SLURM_STEP_NUM_TASKS': '2'},
      {'TPU_WORKER_HOSTNAMES': 'a,b'},
    ],
  )
  def test_auto_knows_a_cluster(self, monkeypatch, environment):
    for name, value in environment.items():
      monkeypatch.setenv(name, value)
    assert places._several(None)

  @pytest.mark.parametrize(
    'environment',
    [{'SLURM_PROCID': '0', 'SLURM_NTASKS': '4'}, {'TPU_WORKER_HOSTNAMES': 'a'}],
  )
  def test_and_what_is_none(self, monkeypatch, environment):
    for name, value in environment.items():
      monkeypatch.setenv(name, value)
    assert not places._several(None)

  def test_arguments_come_before_the_environment(self, monkeypatch):
    monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'a:1')
    monkeypatch.setenv('JAX_NUM_PROCESSES', '4')
    monkeypatch.setenv('JAX_PROCESS_ID', '3')
    assert places.locate(None, None, None, 1)[:3] == ('a:1', 4, 3)
    assert places.locate('b:2', 5, 0, 1)[:3] == ('b:2', 5, 0)

  def test_slurm_tells_all(self, monkeypatch):
    for name, value in {
      'SLURM_JOB_ID': '17',
      'SLURM_STEP_NODELIST': 'n[03-05]',
      'SLURM_NTASKS': '3',
      'SLURM_PROCID': '2',
      'SLURM_LOCALID': '0',
      'SLURM_STEP_NUM_NODES': '3',
    }.items():
      monkeypatch.setenv(name, value)
    place = places.locate(None, None, None, 1)
    assert place.coordinator.startswith('n03:')
    # Another step, or another start where a port was taken, has another one.
    ports = {place.coordinator}
    for name in ('SLURM_STEP_ID', 'SLURM_RESTART_COUNT'):
      monkeypatch.setenv(name, '1')
      ports.add(places.locate(None, None, None, 1).coordinator)
    assert len(ports) == 3
    assert (place.num_processes, place.process_id) == (3, 2)

  def test_mpirun_lies_in_several_steps_of_slurm(self, monkeypatch):
    """Its first host is in none, and the others in one that it starts."""
    told = ('host:61500', 2, 1, None)
    monkeypatch.setattr(
      places.clusters.ClusterEnv,
      'auto_detect_unset_distributed_params',
      lambda *_: told,
    )
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    monkeypatch.setenv('OMPI_COMM_WORLD_RANK', '1')
    found = set()
    for step in ('', '0'):
      monkeypatch.setenv('SLURM_STEP_ID', step)
      place = places.locate(None, None, None, 1)
      found.add((place.coordinator, roll_call._token()))
    assert len(found) == 1 and place.coordinator == told[0]

  def test_on_without_a_cluster_teaches(self, monkeypatch):
    nothing = lambda *_: (None, None, None, None)
    monkeypatch.setattr(
      places.clusters.ClusterEnv,
      'auto_detect_unset_distributed_params',
      nothing,
    )
    with pytest.raises(ValueError, match='--coordinator=HOST:PORT'):
      multihost.initialize('on')
    with pytest.raises(ValueError, match='--distributed=yes'):
      multihost.initialize('yes')
    monkeypatch.setenv(places.MODE, 'yes')
    with pytest.raises(ValueError, match=f'{places.MODE}=yes'):
      multihost.initialize()
    monkeypatch.setenv(places.MODE, '')
    assert not multihost.initialize()
    for address, process in (('a:1', 2), ('a:b', 1), ('a:70000', 1), (':1', 1)):
      with pytest.raises(ValueError, match=r'0\.\.1'):
        places.locate(address, 2, process, 1)
