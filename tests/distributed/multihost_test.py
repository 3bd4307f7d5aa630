"""Batches that each process reads in part; agreement with oneself."""

import os
import signal
import types

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from parallel_ar.data import pipeline
from parallel_ar.data.dataset import Dataset
from parallel_ar.distributed import multihost, places

X = np.arange(20, dtype=np.uint8)[:, None, None].repeat(3, 1)
DATA = Dataset('a', 'train', X, 20, context=np.arange(20, dtype=np.int32))


@pytest.mark.parametrize('spec', [('a',), (('b', 'a'),), ()])
def test_spread_is_the_batch(spec):
  mesh = jax.make_mesh((4, 2), ('a', 'b'), axis_types=(AxisType.Auto,) * 2)
  place = NamedSharding(mesh, PartitionSpec(*spec))
  batches, asked = pipeline.batches(DATA, 8, seed=5), []

  def read(rows):
    asked.append(rows)
    return batches.part(3, rows)

  batch, whole = multihost.spread(read, 8, place), batches[3]
  np.testing.assert_array_equal(asked, [np.arange(8)])  # once, in order
  for name, leaf in batch.items():
    assert leaf.sharding == place
    np.testing.assert_array_equal(multihost.fetch(leaf), whole[name])


def test_only_the_rows_of_own_devices_are_read(monkeypatch):
  mesh = jax.make_mesh((8,), ('a',), axis_types=(AxisType.Auto,))
  place = NamedSharding(mesh, PartitionSpec('a'))
  real = NamedSharding.addressable_devices_indices_map

  def some(self, shape):  # as if devices 2 and 5 were here
    cuts = list(real(self, shape).items())
    return dict([cuts[2], cuts[5]])

  monkeypatch.setattr(NamedSharding, 'addressable_devices_indices_map', some)
  asked = []

  def read(rows):
    asked.append(rows.tolist())
    raise KeyboardInterrupt  # what follows needs the other process

  with pytest.raises(KeyboardInterrupt):
    multihost.spread(read, 16, place)
  assert asked == [[4, 5, 10, 11]]


def test_one_process_agrees_with_itself():
  assert multihost.is_first()
  assert multihost.gather('a', 'text') == ['text']
  assert multihost.all_agree('a', True) and not multihost.all_agree('a', False)
  assert multihost.from_first('a', True) and not multihost.from_first(
    'a', False
  )
  multihost.require_same('a', 'text', 'Nothing to learn.')
  tree = {'a': jax.numpy.arange(3), 'b': 2}
  fetched = multihost.fetch(tree)
  np.testing.assert_array_equal(fetched['a'], [0, 1, 2])
  assert isinstance(fetched['a'], np.ndarray) and fetched['b'] == 2


def test_a_tpu_pod_is_found_where_there_are_chips(monkeypatch):
  tpu = places.cloud_tpu_cluster
  asked = []

  def count(workers):
    asked.append(workers)
    if not workers:
      raise ConnectionError('nobody')
    return workers

  for chips, workers, several in (
    (False, 4, False),  # and nothing is asked
    (True, 1, False),
    (True, 4, True),
  ):
    monkeypatch.setattr(tpu, 'running_in_cloud_tpu_vm', chips)
    monkeypatch.setattr(tpu.GceTpuCluster, 'is_env_present', lambda: True)
    monkeypatch.setattr(
      tpu.GceTpuCluster, 'get_process_count', lambda n=workers: count(n)
    )
    config = types.SimpleNamespace(jax_platforms='')
    monkeypatch.setattr(places.jax, 'config', config)
    assert places._is_tpu_pod() is several
  assert asked == [1, 4]
  monkeypatch.setattr(tpu.GceTpuCluster, 'get_process_count', lambda: count(0))
  with pytest.raises(ValueError, match='--distributed=off'):
    places.find('auto')


@pytest.mark.parametrize(
  'told',
  [{'num_processes': 2}, {'process_id': 1}, {'JAX_NUM_PROCESSES': '2'}],
)
def test_half_of_a_job_is_refused(monkeypatch, told):
  """Else each process would do, and write, all of it."""
  for name in [name for name in told if name.isupper()]:
    monkeypatch.setenv(name, told.pop(name))
  with pytest.raises(ValueError, match='nothing says where process 0 is'):
    places.find('auto', **told)
  assert places.find('off', **told) is None
  assert places.find('auto', num_processes=1, process_id=0) is None
  monkeypatch.setenv('JAX_PROCESS_ID', 'one')
  with pytest.raises(ValueError, match='JAX_PROCESS_ID=.*whole number'):
    places.find('auto')


def test_only_a_script_that_saves_goes_on_after_sigterm(monkeypatch):
  """JAX notes it in every process of a job, for who asks."""
  from experiments import hosts

  monkeypatch.setattr(hosts.multihost, 'initialize', lambda *a, **k: True)
  noted = lambda *_: None
  before = signal.signal(signal.SIGTERM, noted)
  try:
    hosts.connect(saves=True)
    assert signal.getsignal(signal.SIGTERM) is noted
    hosts.connect()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
  finally:
    signal.signal(signal.SIGTERM, before)


def test_a_process_without_devices_says_so_and_leaves(monkeypatch, capsys):
  """Who waits for the others must not be asked of a platform that fails."""
  from experiments import entry

  def fail():
    raise AssertionError('no platform')

  left = []
  monkeypatch.setattr(entry.time, 'sleep', left.append)
  monkeypatch.setattr(entry.os, '_exit', left.append)
  monkeypatch.setattr(jax, 'process_index', fail)
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
  for service in (None, 'the coordinator'):
    monkeypatch.setattr(multihost.distributed.global_state, 'service', service)
    with pytest.raises(SystemExit):  # what `_exit` does not come back from
      entry._fail(ValueError('no such device'))
  assert 'no such device' in capsys.readouterr().err
  assert left == [0, 1, entry._LAST_SECONDS, 1]


def test_what_one_process_does_is_done_by_the_first(monkeypatch, capsys):
  from experiments import hosts

  def alone(process):
    with flagsaver.flagsaver(
      coordinator='a:1', num_processes=3, process_id=process
    ):
      first = hosts.alone()
      # What it starts in this process is in no job either, nor its children.
      assert (hosts._DISTRIBUTED.value == 'off') == first
      return first

  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'a:1')
  monkeypatch.setenv(places.MODE, 'auto')
  assert not alone(2)
  assert 'process 2 of 3: process 0 does this alone' in capsys.readouterr().err
  assert alone(0) and 'JAX_COORDINATOR_ADDRESS' not in os.environ
  assert places.find('auto', coordinator='a:1') is None
  with flagsaver.flagsaver():
    assert hosts.alone()  # and where there is no job


def test_answers_do_not_stay_with_the_coordinator(monkeypatch):
  """Of what a process has said, the last is left: others may yet read it."""

  class Store(dict):
    key_value_set = dict.__setitem__
    key_value_delete = dict.__delitem__

    def blocking_key_value_get(self, key, timeout):
      return self.get(key, 'of the other')

  store = Store()
  monkeypatch.setattr(multihost.distributed.global_state, 'client', store)
  monkeypatch.setattr(multihost, '_answered', [])
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  for n in range(4):
    name = f'question {n % 2}'
    assert multihost.gather(name, str(n)) == [str(n), 'of the other']
    assert list(store.values()) == [str(n)]


@pytest.mark.parametrize(
  ('status', 'says'),
  [
    ('DEADLINE_EXCEEDED: x', 'process 0 did not come to .* within 300 s'),
    ('UNAVAILABLE: Socket closed', 'Process 0, .* has left before'),
  ],
)
def test_who_does_not_answer_is_named(monkeypatch, status, says):
  def fail(key, timeout):
    raise jax.errors.JaxRuntimeError(status)

  store = types.SimpleNamespace(
    key_value_set=lambda *_: None, blocking_key_value_get=fail
  )
  monkeypatch.setattr(multihost.distributed.global_state, 'client', store)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(multihost.RollCallError, match=says):
    multihost.gather('a question', 'text')
