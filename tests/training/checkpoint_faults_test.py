"""What cannot be read is damaged only where that is proved."""

import errno
import json
import os
import shutil

import jax
import pytest

from parallel_ar.training import (
  checkpoint,
  checkpoint_faults,
  checkpoint_store,
  results,
)
from parallel_ar.training.checkpoint_meta import BrokenCheckpoint, OtherRunError
from tests.training.checkpoint_test import (
  CONFIG,
  EXTRA,
  _assert_same,
  _data_files,
  _listing,
  _restore,
  _state,
)


@pytest.fixture
def saved(tmp_path):
  store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG, keep=3)
  for step in (1, 2):
    store.save(step, _state(step), EXTRA)
  store.close()
  return tmp_path / 'c'


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(checkpoint_faults, 'WAITS', (0.0, 0.0, 0.0))
  monkeypatch.setattr(results, '_NOTES', [])


def _failing(monkeypatch, times, error, step=2):
  """Makes the first `times` reads of the description of `step` fail."""
  read, count = checkpoint.Checkpoints._meta, [0]

  def meta(self, at):
    if at == step:
      count[0] += 1
      if count[0] <= times:
        raise error
    return read(self, at)

  monkeypatch.setattr(checkpoint.Checkpoints, '_meta', meta)
  return count


PASSING = [
  OSError(errno.EIO, 'Input/output error'),
  OSError(errno.ESTALE, 'Stale file handle'),
  PermissionError(errno.EACCES, 'Permission denied'),
  OSError(errno.EMFILE, 'Too many open files'),
  MemoryError(),
  TimeoutError(),
  ValueError('UNKNOWN: Error opening "zarr" driver: Input/output error'),
  ValueError('PERMISSION_DENIED: Error reading local file'),
  jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory'),
]


@pytest.mark.parametrize('error', PASSING, ids=lambda e: repr(e)[:30])
def test_a_passing_error_loses_nothing(saved, monkeypatch, capsys, error):
  count = _failing(monkeypatch, 1, error)
  _assert_same(_restore(saved)[0], _state(2))
  assert count[0] == 2
  assert _listing(saved) == ['1', '2']
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize('error', PASSING[:2] + PASSING[4:7])
def test_one_that_stays_ends_the_run_by_name(saved, monkeypatch, error):
  count = _failing(monkeypatch, 99, error)
  with pytest.raises(checkpoint.CheckpointError, match='step 2 .*now') as found:
    _restore(saved)
  assert type(error).__name__ in str(found.value)
  assert count[0] == 1 + len(checkpoint_faults.WAITS)
  assert _listing(saved) == ['1', '2']


def test_an_error_inside_another_counts(tmp_path):
  try:
    try:
      raise OSError(errno.EIO, 'Input/output error')
    except OSError as error:
      raise Exception('Encountered error while reading array') from error
  except Exception as error:
    assert checkpoint_faults.judge(error, tmp_path) == 'unread'


def test_damage_needs_a_disk_that_gives_every_byte(tmp_path, monkeypatch):
  odd, step = KeyError('shape'), tmp_path / 'step'
  (step / 'deep').mkdir(parents=True)
  (step / 'deep' / 'file').touch()
  judge = lambda error: checkpoint_faults.judge(error, step)
  assert judge(odd) == judge(BrokenCheckpoint('x')) == 'damaged'
  assert judge(FileNotFoundError(errno.ENOENT, 'gone')) == 'damaged'
  assert judge(json.JSONDecodeError('x', '', 0)) == 'damaged'
  assert judge(ValueError('DATA_LOSS: CRC-32C')) == 'damaged'
  assert (judge(None), judge(OtherRunError('x'))) == ('good', 'refused')

  def failing(path):
    raise OSError(errno.EIO, 'Input/output error', path)

  monkeypatch.setattr(checkpoint_faults.disk, 'read_all', failing)
  assert judge(odd) == 'unread'


def test_damage_is_moved_with_a_line_and_is_in_the_results(saved, capsys):
  (saved / '2' / 'meta' / 'metadata').write_text('{')
  _restore(saved)
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 1
  assert said[0].startswith('Checkpoint of step 2 is damaged (')
  assert 'JSONDecodeError' in said[0] and 'corrupt-2-0' in said[0]
  assert said[0].endswith('goes on from step 1.')
  record = results.result_json({}, config={}, seed=0, wall_seconds=0.0)
  assert record['details']['notes'] == said


def test_a_reader_says_which_step_it_reads(saved, capsys):
  for file in _data_files(saved / '2' / 'ema'):
    file.write_bytes(b'')
  store = checkpoint.Checkpoints(saved, CONFIG, read_only=True)
  template = _state().params
  assert store.restore_params(template)[1:] == ('ema', 1)
  assert store.restore_params(template)[1:] == ('ema', 1)
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 1 and said == store.notes  # once
  assert said[0].startswith('Checkpoint of step 2 cannot be read (ValueError')
  assert said[0].endswith('step 1 is read instead.')
  assert store.restore_params(template, 'raw')[1:] == ('raw', 2)
  with pytest.raises(checkpoint.CheckpointError, match='step 2'):
    store.restore_params(template, 'ema', 2)
  store.close()


@pytest.mark.parametrize('how', ['damaged', 'absent'])
def test_a_reader_says_that_it_is_not_the_best(saved, capsys, how):
  best = saved / '1'
  shutil.rmtree(best if how == 'absent' else best / 'ema')
  store = checkpoint.Checkpoints(saved, CONFIG, read_only=True)
  found = store.restore_params(_state().params, prefer=1)
  store.close()
  assert found[1:] == ('ema', 2)
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 1
  assert said[0].startswith('Checkpoint of step 1 cannot be read')
  assert said[0].endswith('step 2 is read instead.')


class TestHeld:
  def test_has_its_name_after_release_and_the_older_stay_till_then(
    self, tmp_path
  ):
    store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG, keep=1)
    store.save(1, _state(1), EXTRA)
    store.save(2, _state(2), EXTRA, hold=True)
    assert store.held() == 2
    assert store.steps() == [1]
    store.release()
    store.close()
    assert _listing(tmp_path / 'c') == ['2']

  @pytest.mark.parametrize('drop', [True, False])
  def test_without_release_it_is_dropped(self, tmp_path, drop):
    store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG, keep=1)
    store.save(1, _state(1), EXTRA)
    store.save(2, _state(2), EXTRA, hold=True)
    if drop:
      store.drop()
      store.wait()
      store.save(3, _state(3), EXTRA, hold=True)
    store.close()
    assert _listing(tmp_path / 'c') == ['1']


@pytest.mark.parametrize('name', ['a[1]', 'up[2]/down', 'a*b?', 'a b=ü#%41'])
def test_what_is_saved_under_an_odd_name_is_read(tmp_path, name):
  store = checkpoint.Checkpoints(tmp_path / name, CONFIG)
  store.save(1, _state(1), EXTRA)
  store.close()
  _assert_same(_restore(tmp_path / name)[0], _state(1))


def test_a_save_that_cannot_be_opened_again_is_an_error(tmp_path, monkeypatch):
  """As orbax skips the merge of what its hosts wrote, with a mere warning."""
  store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG)
  store.save(1, _state(1), EXTRA)
  store.wait()
  literal = checkpoint_store._Literal
  monkeypatch.setattr(literal, 'glob', lambda self, pattern: iter(()))
  store.save(2, _state(2), EXTRA)
  with pytest.raises(checkpoint.CheckpointError, match='cannot be opened'):
    store.close()
  assert _listing(tmp_path / 'c') == ['1']


@pytest.mark.parametrize('where', ['_begin', '_sync'])  # at once, in a thread
def test_a_bug_in_a_save_is_no_full_disk(tmp_path, monkeypatch, where):
  store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG)
  store.save(1, _state(1), EXTRA)
  store.wait()
  for error, told in (
    (TypeError('a bug'), TypeError),
    (ValueError('another'), ValueError),
    (OSError(errno.ENOSPC, 'No space left'), checkpoint.CheckpointError),
    (ValueError('UNKNOWN: Error writing'), checkpoint.CheckpointError),
  ):

    def fail(self, *_, error=error):
      raise error

    with monkeypatch.context() as patch, pytest.raises(told) as caught:
      patch.setattr(checkpoint_store.Store, where, fail)
      store.save(2, _state(2), EXTRA)
      store.wait()
    assert caught.type is told and str(error) in str(caught.value)
    assert _listing(tmp_path / 'c') == ['1']
  store.close()


def test_hosts_that_see_a_disk_late_are_waited_for(saved, monkeypatch):
  store = checkpoint.Checkpoints(saved, CONFIG)
  answers = [['[1]', '[1, 2]'], ['[1, 2]'] * 2]
  monkeypatch.setattr(checkpoint_store, 'LAGS', (0.0, 0.0))
  gather = lambda name, text: answers.pop(0)
  monkeypatch.setattr(checkpoint_store.multihost, 'gather', gather)
  assert store._store.steps_of_all() == [1, 2] and not answers
  answers = [['[1]', '[1, 2]']] * 2
  refused = []
  same = lambda *words: refused.append(words)
  monkeypatch.setattr(checkpoint_store.multihost, 'require_same', same)
  store._store.steps_of_all()
  assert 'steps [1, 2] in' in refused[0][1] and not answers
  store.close()


def test_read_back_is_of_that_step_alone(saved):
  store = checkpoint.Checkpoints(saved, CONFIG, keep=3)
  _assert_same(store.read_back(2, _state()), _state(2))
  shutil.rmtree(saved / '2' / 'opt_state')
  with pytest.raises(checkpoint.CheckpointError, match='step 2'):
    store.read_back(2, _state())
  store.close()
  assert os.path.isdir(saved / '2')
