"""Names come after bytes, and go before them: the order of the calls."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from parallel_ar.training import checkpoint, disk, run_directory
from tests.training.checkpoint_test import CONFIG, EXTRA, _listing, _state


class Calls(list):
  """(name, path) of every sync, rename and removal, in their order."""

  def __init__(self, patch):
    super().__init__()
    for name in ('rename', 'replace'):
      patch.setattr(os, name, self._noted(name, getattr(os, name)))
    fsync, rmtree = os.fsync, shutil.rmtree

    def noted_fsync(descriptor):
      path = os.readlink(f'/proc/self/fd/{descriptor}')
      self.append(('sync', pathlib.Path(path), _all_below(path)))
      return fsync(descriptor)

    def noted_rmtree(path, *args, **options):
      self.append(('remove', pathlib.Path(path), None))
      return rmtree(path, *args, **options)

    patch.setattr(os, 'fsync', noted_fsync)
    patch.setattr(shutil, 'rmtree', noted_rmtree)

  def _noted(self, name, call):
    def noted(source, target):
      self.append((name, pathlib.Path(source), pathlib.Path(target)))
      return call(source, target)

    return noted

  def index_of(self, name, path, after=0):
    """Where the first such call is, from `after` on."""
    found = [
      i
      for i, call in enumerate(self)
      if call[:2] == (name, path) and i >= after
    ]
    assert found, (name, path, self)
    return found[0]


def _all_below(path):
  return set(pathlib.Path(path).rglob('*'))


needs_proc = pytest.mark.skipif(
  not pathlib.Path('/proc/self/fd').exists(), reason='reads /proc/self/fd'
)


@needs_proc
def test_a_step_has_its_name_after_its_bytes_and_older_ones_go_after(
  tmp_path, monkeypatch
):
  store = checkpoint.Checkpoints(tmp_path / 'c', CONFIG, keep=1)
  store.save(1, _state(1), EXTRA)
  store.wait()
  calls = Calls(monkeypatch)
  store.save(2, _state(2), EXTRA)
  store.close()

  draft, final = tmp_path / 'c' / '2.draft', tmp_path / 'c' / '2'
  named = next(i for i, c in enumerate(calls) if c[2] == final)
  assert calls[named][1] == draft
  synced = {path for name, path, _ in calls[:named] if name == 'sync'}
  whole = {draft} | {draft / p.relative_to(final) for p in _all_below(final)}
  assert len(whole) > 40 and whole <= synced
  # A directory is synced when all below it has its name.
  for name, path, below in calls[:named]:
    if name == 'sync' and path.is_relative_to(draft):
      relative = path.relative_to(draft)
      now = {p.relative_to(final) for p in _all_below(final / relative)}
      assert {p.relative_to(draft) for p in below} == now
  parent = calls.index_of('sync', tmp_path / 'c', after=named)
  unnamed = calls.index_of('rename', tmp_path / 'c' / '1')
  assert named < parent < unnamed
  gone = calls.index_of('remove', tmp_path / 'c' / '1.draft')
  assert calls.index_of('sync', tmp_path / 'c', after=unnamed) < gone
  assert _listing(tmp_path / 'c') == ['2']


@needs_proc
def test_a_file_has_its_name_after_its_bytes(tmp_path, monkeypatch):
  calls = Calls(monkeypatch)
  path = tmp_path / 'new' / 'deep' / 'a.json'
  run_directory.replace(path, 'text')
  named = next(i for i, c in enumerate(calls) if c[2] == path)
  assert calls.index_of('sync', calls[named][1]) < named
  assert calls.index_of('sync', path.parent) > named
  for made in (tmp_path, tmp_path / 'new'):  # they hold new directories
    assert calls.index_of('sync', made) < named


def test_a_link_stays_a_link(tmp_path):
  (tmp_path / 'there').mkdir()
  target, link = tmp_path / 'there' / 'file', tmp_path / 'link'
  link.symlink_to('there/file')
  for text in ('made', 'replaced'):  # what it points to may be missing
    run_directory.replace(link, text)
    assert link.is_symlink() and target.read_text() == text
  assert sorted(p.name for p in target.parent.iterdir()) == ['file']


def test_drafts_of_the_dead_are_cleared_and_no_others(tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', 'import os; print(os.getpid())'],
    capture_output=True,
    text=True,
    check=True,
  )
  dead, path = int(done.stdout), tmp_path / 'a[1].json'
  names = [
    f'a[1].json.here.{dead}.draft',
    f'a[1].json.here.{os.getpid()}.draft',
    f'a[1].json.there.{dead}.draft',
    f'a1.json.here.{dead}.draft',
    f'b.a[1].json.here.{dead}.draft',
  ]
  for name in names:
    (tmp_path / name).touch()
  disk.clear_drafts(path, 'here')
  assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[1:])


def test_a_draft_names_the_host_and_goes_where_the_disk_is_full(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(run_directory.socket, 'gethostname', lambda: 'n1.a.org')
  run_directory.replace(tmp_path / 'a', 'old')
  seen = []

  def full(descriptor):
    seen.extend(p.name for p in tmp_path.iterdir())
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match=r'No space .*/a'):
    run_directory.replace(tmp_path / 'a', 'new')
  assert f'a.n1.{os.getpid()}.draft' in seen
  assert [p.name for p in tmp_path.iterdir()] == ['a']
  assert (tmp_path / 'a').read_text() == 'old'
