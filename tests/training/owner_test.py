"""One writer: a second start is told of the first, and harms nothing."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from parallel_ar.training import loop, owner
from tests.training import identity_test, processes


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(owner, 'BEAT_SECONDS', 0.05)
  monkeypatch.setattr(owner, 'SILENCE_SECONDS', 0.5)
  monkeypatch.setattr(owner, '_SETTLE_SECONDS', 0.2)


def _record(path):
  return json.loads((path / owner.NAME).read_text())


def _elsewhere(path, **fields):
  """The line of a process on another machine."""
  with owner.take(path):
    record = _record(path)
  record |= {'host': 'far', 'pid': 7, 'boot': 'other', 'token': 'x'} | fields
  path.mkdir(exist_ok=True)
  (path / owner.NAME).write_text(json.dumps(record) + '\n')
  return record


def test_a_second_start_is_refused_with_who_where_and_since(tmp_path):
  with owner.take(tmp_path):
    held = _record(tmp_path)
    who = f'process {os.getpid()} on {held["host"]} since {held["since"][:10]}'
    with pytest.raises(owner.OwnedElsewhere, match=who):
      owner.take(tmp_path)
    assert _record(tmp_path) == held
  assert list(tmp_path.iterdir()) == []
  owner.take(tmp_path).release()


def test_a_refused_training_changes_no_file(tmp_path):
  config = identity_test._config()
  loop.train(config, tmp_path, progress=False)
  (tmp_path / 'checkpoints' / '9.orbax-checkpoint-tmp').mkdir()  # in flight
  with owner.take(tmp_path):
    before = identity_test._files(tmp_path)
    config.train.steps = 5
    with pytest.raises(owner.OwnedElsewhere):
      loop.train(config, tmp_path, progress=False)
    assert identity_test._files(tmp_path) == before
    assert (tmp_path / 'checkpoints' / '9.orbax-checkpoint-tmp').is_dir()
  loop.train(config, tmp_path, progress=False)
  assert not (tmp_path / owner.NAME).exists()


def test_of_many_at_once_one_wins(tmp_path):
  won, start = [], threading.Barrier(8)

  def run():
    start.wait()
    try:
      won.append(owner.take(tmp_path / 'a' / 'b'))
    except owner.OwnedElsewhere:
      pass

  threads = [threading.Thread(target=run) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(won) == 1
  won[0].release()
  assert not (tmp_path / 'a').exists()


def test_a_killed_owner_frees_at_once(tmp_path):
  code = (
    'import sys, time; from parallel_ar.training import owner; '
    'held = owner.take(sys.argv[1]); print("held", flush=True); time.sleep(99)'
  )
  child = subprocess.Popen(
    [sys.executable, '-c', code, str(tmp_path)],
    cwd=processes.ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert child.stdout.readline() == 'held\n'
  with pytest.raises(owner.OwnedElsewhere, match=f'process {child.pid} on'):
    owner.take(tmp_path)
  child.kill()
  child.communicate()
  begin = time.monotonic()
  owner.take(tmp_path).release()
  assert time.monotonic() - begin < 1


def test_without_locks_the_process_itself_is_asked(tmp_path, monkeypatch):
  def none(*unused):
    raise OSError('no locks on this disk')

  monkeypatch.setattr(owner.fcntl, 'flock', none)
  child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1)
  here = {'boot': owner._boot(), 'pid': child.pid}
  _elsewhere(tmp_path, **here, process=owner._process(child.pid))
  with pytest.raises(owner.OwnedElsewhere, match=f'process {child.pid}'):
    owner.take(tmp_path)
  child.communicate()
  owner.take(tmp_path).release()
  # A number that another process has now is a dead owner, too.
  space = owner._process(os.getpid()).split()[0]
  _elsewhere(tmp_path, **here | {'pid': os.getpid()}, process=f'{space} 1')
  owner.take(tmp_path).release()


@pytest.mark.usefixtures('quick')
class TestAnotherMachine:
  def test_silence_frees(self, tmp_path, capsys):
    _elsewhere(tmp_path)
    begin = time.monotonic()
    with owner.take(tmp_path):
      assert time.monotonic() - begin > 0.5
      assert _record(tmp_path)['pid'] == os.getpid()
    assert 'process 7 on far' in capsys.readouterr().err

  def test_a_beat_refuses(self, tmp_path):
    record = _elsewhere(tmp_path)
    done = threading.Event()

    def beat():
      while not done.wait(0.05):
        record['beat'] += 1
        (tmp_path / owner.NAME).write_text(json.dumps(record) + '\n')

    thread = threading.Thread(target=beat)
    thread.start()
    try:
      with pytest.raises(owner.OwnedElsewhere, match='process 7 on far'):
        owner.take(tmp_path)
    finally:
      done.set()
      thread.join()
    assert _record(tmp_path)['token'] == 'x'

  def test_giving_back_frees(self, tmp_path):
    _elsewhere(tmp_path)
    thread = threading.Timer(0.1, (tmp_path / owner.NAME).unlink)
    thread.start()
    owner.take(tmp_path).release()
    thread.join()

  def test_a_torn_line_of_a_dead_maker_frees(self, tmp_path):
    (tmp_path / owner.NAME).write_text('{"host": "fa')
    owner.take(tmp_path).release()

  def test_the_owner_beats_and_stops_when_it_has_lost(self, tmp_path):
    with owner.take(tmp_path) as held:
      first = _record(tmp_path)['beat']
      _wait_until(lambda: _record(tmp_path)['beat'] > first)
      held.check()
      taken = _record(tmp_path) | {'token': 'x', 'host': 'far'}
      held._ended.set()  # so that no beat comes between
      (tmp_path / owner.NAME).write_text(json.dumps(taken) + '\n')
      held._ended.clear()
      threading.Thread(target=held._beat, daemon=True).start()
      _wait_until(lambda: held._lost)
      with pytest.raises(owner.OwnedElsewhere, match='taken by .* far'):
        held.check()
    assert _record(tmp_path)['token'] == 'x'  # what is another's stays


def _wait_until(holds):
  deadline = time.monotonic() + 30
  while not holds():
    assert time.monotonic() < deadline
    time.sleep(0.01)
