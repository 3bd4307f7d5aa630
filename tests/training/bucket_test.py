"""Runs in a bucket, against an emulator on loopback."""

import collections
import errno
import io
import json
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from parallel_ar.training import (
  bucket,
  checkpoint,
  loop,
  metrics,
  owner,
  run_directory,
  trained,
)
from tests.training import emulator, processes, tiny_run

# Else it asks Google which kind of bucket this is, when it is imported.
os.environ['GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT'] = 'false'
gcsfs = pytest.importorskip('gcsfs')
aiohttp = pytest.importorskip('aiohttp')
requests = pytest.importorskip('requests')


@pytest.fixture(scope='module')
def pod():
  """The emulator, which the clients of this process ask from now on."""
  with emulator.Emulator() as pod, pytest.MonkeyPatch.context() as patch:
    for name, value in pod.environment.items():
      patch.setenv(name, value)
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield pod


def _place(name):
  return bucket.address(f'gs://{emulator.BUCKET}/{name}')


def _leaves(summary):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(summary.state)]


def _config(steps):
  config = tiny_run.config(steps)
  config.train.update(
    batch_size=24, checkpoint_every=2, eval_every=0, ema_decay=0.0
  )
  config.optimizer.name = 'sgd'
  config.data.valid_split = ''
  return config


def test_a_run_in_a_bucket_is_the_run_on_a_disk(pod, tmp_path, monkeypatch):
  there, config = _place('runs/made'), _config(4)
  config.train.tensorboard = True
  loop.train(config, there, progress=False)
  # A flipped bit in the newest step, and what a kill in a save leaves.
  for name in pod.names('runs/made/checkpoints/4/params'):
    generation, content = pod.objects[name]
    if '/d/' in name:
      pod.objects[name] = generation, content[:-9] + b'x' + content[-8:]
  bucket.write(there / 'checkpoints' / '6' / 'params' / 'x', b'half')
  assert trained.load(there, which='raw').step == 2

  found = _leaves(loop.train(config, there, progress=False))
  disk = _leaves(loop.train(_config(4), tmp_path / 'run', progress=False))
  for one, other in zip(found, disk, strict=True):
    np.testing.assert_array_equal(one, other)

  def numbers(where):
    return [
      {k: v for k, v in record.items() if k not in metrics.TIMES}
      for record in metrics.read(where / 'metrics.jsonl')
    ]

  assert numbers(there) == numbers(tmp_path / 'run')
  steps = {n.split('/')[3] for n in pod.names('runs/made/checkpoints')}
  assert steps == {'2', '4', 'corrupt-4-0'}
  assert not pod.names('runs/made/checkpoints/6/params/x')
  assert not pod.names('runs/made/owner.lock')
  assert any('/events' in n for n in pod.names('runs/made/tensorboard'))
  assert trained.load(there).step == 4
  _check_a_listing_that_lags(pod, there, monkeypatch)
  _check_what_the_network_refuses(pod, there, monkeypatch)


def test_a_directory_has_one_writer(pod):
  there = _place('owned')
  with owner.take(there):
    assert owner.state(there) == 'training'
    with pytest.raises(owner.OwnedElsewhere, match='is being trained by'):
      owner.take(there)
  assert owner.state(there) == 'stopped'
  # The line of a process of this machine that was killed: taken at once.
  with owner.take(there) as held:
    space = held._record['process'].split()[0]
    dead = held._record | {'process': f'{space} 1', 'token': 'of the dead'}
  bucket.write(there / owner.NAME, json.dumps(dead).encode())
  with owner.take(there) as held:
    held.check()
    assert b'of the dead' not in bucket.read(there / owner.NAME)
  assert not pod.names('owned')


def test_an_answer_that_is_lost_was_given(pod, monkeypatch):
  """The object is made, and the client, which asks again, hears of one."""
  lose, real = ['owner.lock'], emulator._Handler._put

  def put(self, name, content):
    if lose and name.endswith(lose[0]):
      lose.pop()
      pod.objects[name] = next(pod.generations), content
      self._say({'error': {'code': 503, 'message': 'planted'}}, 503)
    else:
      real(self, name, content)

  monkeypatch.setattr(emulator._Handler, '_put', put)
  with owner.take(_place('lost')) as held:
    held.check()
  assert not lose and not pod.names('lost')


def test_bursts_and_reads_that_break_off_are_tried_again(pod, monkeypatch):
  async def at_once(seconds):
    pass

  quick = types.SimpleNamespace(sleep=at_once)
  monkeypatch.setattr('gcsfs.retry.asyncio', quick)
  asked = collections.Counter()

  def burst(method, name):
    asked[method, name] += 1
    return (429, 503, None)[min(asked[method, name], 3) - 1]

  monkeypatch.setattr(pod, 'fail', burst)
  there = _place('burst/a')
  assert bucket.create(there, b'old') and not bucket.create(there, b'new')
  bucket.write(there, b'0123456789')
  assert bucket.names(there.parent) == ['a'] and bucket.is_file(there)
  assert len(asked) >= 3 and max(asked.values()) >= 3

  real, cuts = emulator._Handler._say, [4, 4]

  def say(self, content, *args, **headers):
    if content == b'0123456789' and cuts:
      size, headers = cuts.pop(), headers | {'Content_Length': len(content)}
      content, self.close_connection = content[:size], True
    real(self, content, *args, **headers)

  monkeypatch.setattr(emulator._Handler, '_say', say)
  assert bucket.read(there) == b'0123456789' and not cuts
  # What is not told is no absence.
  monkeypatch.setattr(pod, 'fail', lambda method, name: 503)
  with pytest.raises(OSError, match='try it again later'):
    bucket.is_file(there)


def _check_a_listing_that_lags(pod, there, monkeypatch):
  """A step whose marker is not listed yet is no draft, to be removed."""
  names = pod.names('runs/made')
  late = lambda prefix='', real=pod.names: [
    name for name in real(prefix) if not name.endswith('commit_success.txt')
  ]
  with monkeypatch.context() as patch:
    patch.setattr(pod, 'names', late)
    store = checkpoint.Checkpoints(there / 'checkpoints', {})
    assert store.steps() == [2, 4]
    store.close()
  assert pod.names('runs/made') == names


def _check_what_the_network_refuses(pod, there, monkeypatch):
  """It is no damage: nothing is moved, and the end says what to do."""
  names = pod.names('runs/made')
  (one, *_) = [n for n in names if '/4/params/d/' in n]
  refuse = lambda method, name: 403 if '/params/d/' in name else None
  monkeypatch.setattr(pod, 'fail', refuse)
  monkeypatch.setattr('parallel_ar.training.checkpoint_faults.WAITS', ())
  with pytest.raises(checkpoint.CheckpointError, match='cannot be read now'):
    trained.load(there)
  with pytest.raises(PermissionError, match='credentials'):
    bucket.read(bucket.address(f'gs://{emulator.BUCKET}/{one}'))
  assert pod.names('runs/made') == names
  monkeypatch.setattr(pod, 'fail', lambda method, name: 401)
  with pytest.raises(PermissionError, match='credentials'):
    trained.load(there)
  # A save that the bucket does not take, with what only its client raises.
  refuse = lambda method, name: 400 if '/checkpoints/5/' in name else None
  monkeypatch.setattr(pod, 'fail', refuse)
  with pytest.raises(checkpoint.CheckpointError, match='the bucket answers'):
    loop.train(_config(5), there, progress=False)
  assert trained.load(there).step == 4


_SAID = lambda text: gcsfs.retry.HttpError({'message': text})
_THERE = types.SimpleNamespace(real_url='https://there')


@pytest.mark.parametrize(
  ('error', 'number'),
  [
    (_SAID('Not enough data (received 403 of 4010 bytes)'), errno.EIO),
    (_SAID('invalid_grant: Invalid JWT: check your iat, exp'), errno.EACCES),
    (requests.HTTPError('401 Client Error: Unauthorized'), errno.EACCES),
    (aiohttp.ClientResponseError(_THERE, (), status=403), errno.EACCES),
    (aiohttp.ClientResponseError(_THERE, (), status=500), errno.EIO),
  ],
)
def test_what_a_client_says_is_rights_or_the_network(error, number):
  error = bucket.told(error, 'gs://b/401')
  assert error.errno == number
  assert ('clock that is right' in str(error)) == (number == errno.EACCES)


def test_a_bucket_that_is_not_there_is_named(pod):
  there = bucket.address('gs://other/run')
  with pytest.raises(FileNotFoundError, match='no such bucket.*gs://other'):
    owner.take(there)
  with pytest.raises(FileNotFoundError, match='no such bucket.*gs://other'):
    run_directory.replace(there / 'nats.csv', b'1')
  with pytest.raises(ValueError, match='gs://other/run holds no run'):
    trained.load(there)
  with pytest.raises(ValueError, match='needs a disk'):
    run_directory.local('gs://b/kept.jsonl')


def test_a_disk_speaks_for_itself():
  with pytest.raises(OSError, match='too long') as caught:
    trained.read_config('a' * 300)
  assert caught.value.errno == errno.ENAMETOOLONG  # and not of a bucket


def test_addresses_that_cannot_be_are_refused(monkeypatch):
  for text, lesson in {
    's3://b/run': 'gs://BUCKET',
    's3:b/run': 'gs://BUCKET',
    ' S3://b/run': 'gs://BUCKET',
    'gs:/b/run': 'mean gs://b/run',
    'gs:b/run': 'mean gs://b/run',
    'gs//b/run': 'mean gs://b/run',
    ' gs://b/run': 'mean gs://b/run',
    'GS://b/run': 'mean gs://b/run',
    'gcs://b/run': 'mean gs://b/run',
    'gs://b/../run': 'whole name',
    'gs://': 'gs://BUCKET/DIRECTORY',
    'gs://b/run[1]': 'pattern',
  }.items():
    with pytest.raises(ValueError, match=lesson):
      run_directory.resolve(text)
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r'parallel_ar\[gcs\]'):
    run_directory.resolve('gs://b/run')


def _script(name, *flags):
  done = subprocess.run(
    [sys.executable, '-m', f'experiments.{name}', *flags],
    cwd=processes.ROOT,
    env=os.environ | {'PYTHONPATH': str(processes.ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.slow
def test_killed_in_a_save_and_then_all_scripts(pod, tmp_path, monkeypatch):
  there, steps, one = _place('runs/killed'), 24, 'model.num_masks=1'
  runs = processes.Processes()
  try:
    whole = runs.start(tmp_path / 'whole', steps, one)
    broken = runs.start(there, steps, one, 'pause=0.02')
    stopped = []

    def fail(method, name):
      if method == 'POST' and '/checkpoints/10/' in name and not stopped:
        stopped.append(name)
        broken.kill()
        return 503
      return None

    monkeypatch.setattr(pod, 'fail', fail)
    broken.communicate(timeout=processes.PATIENCE)
    assert stopped and broken.returncode == -9
    assert 'runs/killed/owner.lock' in pod.names()
    processes.finish(whole)
    processes.finish(runs.start(there, steps, one))
  finally:
    runs.close()
  for one, other in zip(
    _final(there), processes.final(tmp_path / 'whole'), strict=True
  ):
    np.testing.assert_array_equal(one, other)

  here, local = f'--workdir={there}', f'--workdir={tmp_path / "whole"}'
  found = _script('evaluate', here, f'--dump={there}/nats.csv').splitlines()
  assert found[:2] == _script('evaluate', local).splitlines()[:2]
  _script('sample', here, '--count=6')
  _script('sample', local, '--count=6')
  mine = bucket.read(there / 'samples_count6.npz')
  with (
    np.load(io.BytesIO(mine)) as one,
    np.load(tmp_path / 'whole' / 'samples_count6.npz') as other,
  ):
    np.testing.assert_array_equal(one['x'], other['x'])
  _script('export_params', here)
  assert trained.load(there / 'params.npz').step == steps
  _script('export', here)
  assert bucket.size(there / 'model.zip') > 1000
  packed, events = f'{there}/x.par', f'--events={there}/x.npy'
  _script('compress', here, '--count=5', '--batches=2', f'--file={packed}')
  for _ in range(2):  # the second time it is there, and is replaced
    _script('compress', here, f'--decode={packed}', events)
  assert len(np.load(io.BytesIO(bucket.read(there / 'x.npy')))) == 5


def _final(there):
  with np.load(io.BytesIO(bucket.read(there / 'final.npz'))) as file:
    return [file[name] for name in file.files]


@pytest.mark.slow
def test_one_of_two_processes_killed_in_a_save(pod, monkeypatch):
  whole, broken = _place('runs/whole2'), _place('runs/broken2')
  words, killed = (24, 'model.num_masks=1'), []
  runs = processes.Processes()
  try:
    jobs = runs.start_job(2, broken, *words, 'pause=0.02')

    def kill(method, name):
      if 'broken2/checkpoints/10/' in name and not killed:
        killed.append(name)
        jobs[1].kill()

    monkeypatch.setattr(pod, 'fail', kill)
    for job in jobs:
      job.communicate(timeout=processes.PATIENCE)
      assert job.returncode
    assert 'runs/broken2/final.npz' not in pod.names()
    for there in (broken, whole):
      for job in runs.start_job(2, there, *words):
        processes.finish(job)
  finally:
    runs.close()
  assert killed
  for one, other in zip(_final(broken), _final(whole), strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_sweep_lies_in_a_bucket(pod, tmp_path):
  there = _place('sweep')
  words = ['--config=configs/digits_made.py', '--config.train.steps=2']
  words += ['--config.model.hidden=(8,)', '--config.train.eval_every=0']
  words += ['--config.train.keep_best=False', f'--workdir={there}']
  assert 'valid' in _script('sweep', *words)
  assert b'result: gs://' in bucket.read(there / 'run.log')
  assert ' done ' in _script('runs', f'--under={there}')
