"""Runs in a bucket, against an emulator on loopback."""

import io
import os
import subprocess
import sys

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

gcsfs = pytest.importorskip('gcsfs')


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


def test_a_run_in_a_bucket_is_the_run_on_a_disk(pod, tmp_path):
  there = _place('runs/made')
  config = tiny_run.config(12)
  config.train.update(tensorboard=True, keep=2, batch_size=24)
  disk = _leaves(loop.train(config, tmp_path / 'run', progress=False))

  # What a kill in the save of step 10 leaves: objects without a marker.
  config.train.steps = 5
  loop.train(config, there, progress=False)
  bucket.write(there / 'checkpoints' / '10' / 'params' / 'x', b'half')
  config.train.steps = 12
  summary = loop.train(config, there, progress=False)
  for one, other in zip(_leaves(summary), disk, strict=True):
    np.testing.assert_array_equal(one, other)
  assert not pod.names('runs/made/checkpoints/10/params/x')

  def numbers(where):
    return [
      {k: v for k, v in record.items() if k not in metrics.TIMES}
      for record in metrics.read(where / 'metrics.jsonl')
    ]

  assert numbers(there) == numbers(tmp_path / 'run')
  names = pod.names('runs/made')
  assert 'runs/made/owner.lock' not in names
  assert any('tensorboard/events' in name for name in names)
  markers = [n.split('/')[3] for n in names if n.endswith('commit_success.txt')]
  assert sorted(set(markers)) == ['10', '12']

  run = trained.load(there)
  assert run.step == 12
  x = run.load_split('test').x[:3]
  same = trained.load(tmp_path / 'run').log_prob(x)
  np.testing.assert_array_equal(run.log_prob(x), same)

  # A flipped bit is seen, and the step put aside as on a disk.
  for name in pod.names('runs/made/checkpoints/12/params'):
    generation, content = pod.objects[name]
    if '/d/' in name:
      pod.objects[name] = generation, content[:-9] + b'x' + content[-8:]
  config.train.steps = 13
  again = loop.train(config, there, progress=False)
  assert int(again.state.step) == 13
  assert pod.names('runs/made/checkpoints/corrupt-12-0/')
  assert pod.names('runs/made/checkpoints/13/commit_success.txt')


def test_a_directory_has_one_writer(pod):
  there = _place('owned')
  with owner.take(there):
    assert owner.state(there) == 'training'
    with pytest.raises(owner.OwnedElsewhere, match='is being trained by'):
      owner.take(there)
  assert owner.state(there) == 'stopped'
  # The line of a process of this machine that was killed: taken at once.
  with owner.take(there) as held:
    dead = held._line().replace(held._record['process'].encode(), b'gone 1')
    token = held._record['token']
    held._record['token'] = 'other'
  bucket.write(there / owner.NAME, dead)
  with owner.take(there) as held:
    assert held._record['token'] != token
  assert not pod.names('owned')


def test_what_the_network_does_not_give_is_no_damage(pod, monkeypatch):
  there = _place('runs/away')
  config = tiny_run.config(5)
  config.train.batch_size = 24
  loop.train(config, there, progress=False)
  names = pod.names('runs/away')
  refuse = lambda method, name: 403 if '/5/' in name else None
  monkeypatch.setattr(pod, 'fail', refuse)
  monkeypatch.setattr('parallel_ar.training.checkpoint_faults.WAITS', ())
  config.train.steps = 6
  with pytest.raises(checkpoint.CheckpointError, match='cannot be read now'):
    loop.train(config, there, progress=False)
  assert pod.names('runs/away') == names
  with pytest.raises(PermissionError, match='credentials'):
    bucket.write(there / 'checkpoints' / '5' / 'x', b'')


def test_addresses_that_cannot_be_are_refused(monkeypatch):
  for text, lesson in {
    's3://b/run': 'gs://BUCKET',
    'gs:/b/run': 'gs://BUCKET',
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
  there, steps = _place('runs/killed'), 24
  runs = processes.Processes()
  try:
    whole = runs.start(tmp_path / 'whole', steps)
    broken = runs.start(there, steps, 'pause=0.02')
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
    assert 'resuming after step 5' not in processes.finish(
      runs.start(there, steps)
    )
  finally:
    runs.close()
  with np.load(io.BytesIO(bucket.read(there / 'final.npz'))) as file:
    mine = [file[name] for name in file.files]
  for one, other in zip(mine, processes.final(tmp_path / 'whole'), strict=True):
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
