"""Two real processes as one job, over gloo."""

import json
import os
import signal
import socket
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from parallel_ar.training import checkpoint_meta, checksum, interrupt, metrics
from tests.training import processes

pytestmark = pytest.mark.long
STEPS = 24


@pytest.fixture
def runs():
  every = processes.Processes()
  yield every
  every.close()


def _meta(workdir, step=STEPS):
  meta = workdir / 'checkpoints' / str(step) / 'meta' / 'metadata'
  return json.loads(meta.read_text())


def _sums(workdir):
  """Checksums that a checkpoint of the last step was written with, sorted."""
  found = _meta(workdir)['checksums'].values()
  return sorted(value for item in found for value in item.values())


def test_a_missing_process_is_named(runs, tmp_path):
  place = {'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{processes.free_port()}'}
  place |= {'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '0'}
  lonely = runs.start(tmp_path / 'run', STEPS, 'wait=2', **place)
  said = processes.finish(lonely, 1)
  assert 'process 1 of 2 did not come within 2 s' in said
  assert not list((tmp_path / 'run').iterdir())


def test_another_config_is_named(runs, tmp_path):
  other = [(), ('train.ema_decay=0.5',)]
  jobs = runs.start_job(2, tmp_path / 'run', STEPS, each=other)
  for process, job in enumerate(jobs):
    said = processes.finish(job, 1)
    assert f'Process {1 - process} on ' in said
    assert 'train.ema_decay: ' in said
  assert not list((tmp_path / 'run').iterdir())


def test_killed_in_a_save_both_go_on_to_the_same_bits(runs, tmp_path):
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  straight = runs.start_job(2, whole, STEPS)
  jobs = runs.start_job(2, broken, STEPS, 'pause=0.02')
  draft = broken / 'checkpoints' / '10.draft.orbax-checkpoint-tmp'
  processes.wait_until(draft.exists, jobs[1], 'save of step 10')
  jobs[1].kill()
  for job in straight:
    processes.finish(job)
  _, said = jobs[0].communicate(timeout=processes.PATIENCE)
  assert jobs[0].returncode, said  # and it does not wait for ever
  assert not (broken / 'final.npz').exists()

  for job in runs.start_job(2, broken, STEPS):
    processes.finish(job)
  processes.assert_same_end(broken, whole)
  records = metrics.read(broken / 'metrics.jsonl')
  assert [r['step'] for r in records if r['kind'] == 'train'] == list(
    range(2, STEPS + 1, 2)
  )
  assert _meta(broken)['processes'] == 2
  assert _sums(broken) == _sums(whole)

  # One process reads what two have written, which compares the checksums, and
  # holds the same arrays.
  (broken / 'final.npz').unlink()
  processes.finish(runs.start(broken, STEPS))
  processes.assert_same_end(broken, whole)
  step, *leaves = processes.final(broken)
  assert step == STEPS
  assert sorted(checksum.checksums(leaves).values()) == _sums(whole)


@pytest.mark.slow
def test_a_signal_to_one_stops_both_after_the_same_step(runs, tmp_path):
  for number in (signal.SIGTERM, signal.SIGUSR1):
    workdir = tmp_path / signal.Signals(number).name
    jobs = runs.start_job(2, workdir, 400, 'pause=0.05')
    processes.wait_for_step(jobs[0], workdir, 5)
    jobs[1].send_signal(number)
    said = [processes.finish(job, interrupt.EXIT_CODE) for job in jobs]
    assert 'SIGTERM: stopped after step' in said[0]
    stopped = int(said[0].partition('after step ')[2].partition(',')[0])
    assert 5 <= stopped < 400
    assert _meta(workdir, stopped)['step'] == stopped
    again = runs.start_job(2, workdir, stopped + 3)
    for job in again:
      processes.finish(job)
    assert processes.final(workdir)[0] == stopped + 3


@pytest.mark.slow
def test_a_broken_checkpoint_is_left_by_both(runs, tmp_path):
  words = (STEPS, 'train.keep=3', 'model.hidden=(600,)')
  for job in runs.start_job(2, tmp_path, *words):
    processes.finish(job)
  expected = processes.final(tmp_path)
  newest = tmp_path / 'checkpoints' / str(STEPS)
  files = [p for p in (newest / 'params').rglob('*') if p.parent.name == 'd']
  for file in files:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  for job in runs.start_job(2, tmp_path, *words):
    processes.finish(job)
  assert (tmp_path / 'checkpoints' / f'corrupt-{STEPS}-0').is_dir()
  for one, other in zip(processes.final(tmp_path), expected, strict=True):
    np.testing.assert_array_equal(one, other)
  assert _meta(tmp_path)['format'] == checkpoint_meta.FORMAT


def _start(count, name, *flags, port=None, ids=None):
  """Starts a script in processes that are one job, or in those of `ids`."""
  port, jobs = port or processes.free_port(), []
  for i in range(count) if ids is None else ids:
    words = [sys.executable, '-m', f'experiments.{name}', *flags]
    if count > 1:
      words += [f'--coordinator=127.0.0.1:{port}', f'--num_processes={count}']
      words += [f'--process_id={i}']
    jobs.append(
      subprocess.Popen(
        words,
        cwd=processes.ROOT,
        env=os.environ | {'JAX_NUM_CPU_DEVICES': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  return jobs


def _scripts(count, name, *flags):
  """Runs a script in processes that are one job; what the first one says."""
  jobs = _start(count, name, *flags)
  said = [job.communicate(timeout=processes.PATIENCE) for job in jobs]
  for job, (_, error) in zip(jobs, said, strict=True):
    assert job.returncode == 0, error
  for out, _ in said[1:]:  # they print nothing; gloo itself does
    assert all(line.startswith('[Gloo]') for line in out.splitlines())
  return said[0][0]


@pytest.mark.slow
def test_a_signal_outside_the_steps_is_heard(tmp_path):
  """While the processes come together, and in the evaluation of a run."""
  run = tmp_path / 'run'
  fields = ('model.hidden=(8,)', 'model.num_masks=1', 'train.steps=2')
  fields += ('train.eval_every=0', 'train.keep_best=False')
  fields += ('train.sample_every=0', 'evaluate.batch_size=2')
  words = ['--config=configs/digits_made.py']
  words += [f'--config.{field}' for field in fields]
  words += [f'--workdir={run}', '--stop_code=42']
  port = processes.free_port()
  (lonely,) = _start(2, 'train', *words, port=port, ids=[0])

  def listens():
    with socket.socket() as visitor:
      return visitor.connect_ex(('127.0.0.1', port)) == 0

  processes.wait_until(listens, lonely, 'roll call')
  lonely.terminate()
  said = lonely.communicate(timeout=processes.PATIENCE)[1]
  assert lonely.returncode == 42 and 'while the processes came' in said
  assert not run.exists()

  jobs = _start(2, 'train', *words)
  processes.wait_until((run / 'checkpoints' / '2').exists, jobs[0], 'step 2')
  jobs[1].terminate()
  said = [job.communicate(timeout=processes.PATIENCE)[1] for job in jobs]
  assert [job.returncode for job in jobs] == [42, 42], said
  assert 'SIGTERM: stopped in the evaluation on the test split' in said[0]
  assert not (run / 'result.json').exists()


@pytest.mark.slow
def test_scripts_give_what_one_process_gives(runs, tmp_path):
  run = tmp_path / 'run'
  processes.finish(runs.start(run, STEPS, 'model.num_masks=1'))
  here = f'--workdir={run}'
  for count in (1, 2):
    out = tmp_path / str(count)
    out.mkdir()
    dump = f'--dump={out}/nats.csv'
    assert 'nats' in _scripts(count, 'evaluate', here, dump)
    _scripts(count, 'sample', here, '--count=6', f'--out={out}/x.npz')
    _scripts(count, 'export_params', here, f'--out={out}/params.npz')
    packed = (f'--file={out}/x.par', f'--out={out}/sizes.json')
    said = _scripts(count, 'compress', here, '--batches=2', *packed)
    assert '| lanes, batch 2 |' in said
    _scripts(count, 'export', here, f'--out={out}/model.zip')
    assert len(list(out.iterdir())) == 6  # and no drafts
  one, two = tmp_path / '1', tmp_path / '2'
  nats = [
    np.loadtxt(out / 'nats.csv', delimiter=',', skiprows=1)
    for out in (one, two)
  ]
  np.testing.assert_allclose(*nats, rtol=0, atol=1e-5)
  with np.load(one / 'x.npz') as a, np.load(two / 'x.npz') as b:
    np.testing.assert_array_equal(a['x'], b['x'])
  assert (one / 'x.par').read_bytes() == (two / 'x.par').read_bytes()
  sizes = [
    json.loads(path.read_text())['numbers']
    for path in (one / 'sizes.json', two / 'sizes.json')
  ]
  assert sizes[0]['model'] == sizes[1]['model']
  with (
    zipfile.ZipFile(one / 'model.zip') as a,
    zipfile.ZipFile(two / 'model.zip') as b,
  ):
    assert a.read('params.npz') == b.read('params.npz')
  with np.load(one / 'params.npz') as a, np.load(two / 'params.npz') as b:
    assert set(a) == set(b)
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])
