"""Tests of the download against a server on the loopback interface."""

import gzip
import hashlib
import os
import random
import subprocess
import sys
from concurrent import futures

import pytest

from parallel_ar.data import download
from tests.data import loopback

CONTENT = random.Random(0).randbytes(300_000)
ZIPPED = gzip.compress(CONTENT, mtime=0)  # ids of tests hold its header
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
  with loopback.serve() as server:
    server.content = {'/a': CONTENT, '/a.gz': ZIPPED}
    yield server


def get(server, target, path='/a', **options):
  download.download(
    server.url + path, target, [SHA256], len(CONTENT), timeout=5, **options
  )


@pytest.mark.parametrize('path', ['/a', '/a.gz'])
def test_a_whole_file(server, tmp_path, path):
  get(server, tmp_path / 'a', path)
  assert (tmp_path / 'a').read_bytes() == server.content[path]
  assert os.listdir(tmp_path) == ['a']


def test_a_broken_connection_is_resumed_at_once(server, tmp_path):
  server.drop_after['/a'] = 100_000
  get(server, tmp_path / 'a')
  assert (tmp_path / 'a').read_bytes() == CONTENT
  assert server.requests == [('/a', None), ('/a', 'bytes=100000-')]


def test_an_abandoned_part_is_resumed_later(server, tmp_path):
  server.drop_after['/a'] = 100_000
  with pytest.raises(download.TransferError, match=r'after 100000 bytes.*kept'):
    get(server, tmp_path / 'a', attempts=1)
  assert os.listdir(tmp_path) == ['a.part']
  get(server, tmp_path / 'a')
  assert server.requests[-1] == ('/a', 'bytes=100000-')
  assert (tmp_path / 'a').read_bytes() == CONTENT
  assert os.listdir(tmp_path) == ['a']


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
  server.no_ranges = True
  (tmp_path / 'a.part').write_bytes(CONTENT[:1000])
  get(server, tmp_path / 'a')
  assert (tmp_path / 'a').read_bytes() == CONTENT


@pytest.mark.parametrize('part', [CONTENT, b'x' * 1000, b'x' * 400_000])
def test_a_part_is_whole_or_wrong_or_too_long(server, tmp_path, part):
  (tmp_path / 'a.part').write_bytes(part)
  get(server, tmp_path / 'a')
  assert (tmp_path / 'a').read_bytes() == CONTENT
  assert os.listdir(tmp_path) == ['a']


def test_the_part_of_a_dead_process_is_taken_over(server, tmp_path):
  dead = subprocess.Popen([sys.executable, '-c', ''])
  dead.wait()
  (tmp_path / f'a.part.{download._place()}.{dead.pid}.00').write_bytes(
    CONTENT[:5000]
  )
  get(server, tmp_path / 'a')
  assert server.requests == [('/a', 'bytes=5000-')]
  assert os.listdir(tmp_path) == ['a']


def test_the_part_of_a_living_process_is_left_alone(server, tmp_path):
  living = tmp_path / f'a.part.{download._place()}.{os.getppid()}.00'
  living.write_bytes(CONTENT[:5000])
  get(server, tmp_path / 'a')
  assert server.requests == [('/a', None)]
  assert living.read_bytes() == CONTENT[:5000]


def test_the_part_of_another_host_is_left_while_it_grows(server, tmp_path):
  """Its pid is nobody's here, which says nothing of there."""
  other = tmp_path / f'a.part.00000000.{2**22 - 1}.00'
  other.write_bytes(CONTENT[:5000])
  get(server, tmp_path / 'a')
  assert server.requests == [('/a', None)]
  assert other.read_bytes() == CONTENT[:5000]
  os.utime(other, (1, 1))
  get(server, tmp_path / 'a')
  assert server.requests[-1] == ('/a', 'bytes=5000-')
  assert os.listdir(tmp_path) == ['a']


@pytest.mark.parametrize('plant', [os.symlink, os.link])
@pytest.mark.parametrize('name', ['a.part', 'a.part.00000000.1.00'])
def test_a_planted_link_is_not_followed(server, tmp_path, plant, name):
  victim = tmp_path / 'victim'
  victim.write_bytes(b'precious')
  os.utime(victim, (1, 1))
  (tmp_path / 'd').mkdir()
  plant(victim, tmp_path / 'd' / name)
  if plant is os.symlink:
    os.utime(tmp_path / 'd' / name, (1, 1), follow_symlinks=False)
  get(server, tmp_path / 'd' / 'a')
  assert victim.read_bytes() == b'precious'
  assert not (tmp_path / 'd' / 'a').is_symlink()
  assert os.listdir(tmp_path / 'd') == ['a']


@pytest.mark.parametrize(
  'content', [CONTENT[:-1] + b'?', b'<html>', ZIPPED[:9]]
)
def test_a_corrupted_file_never_gets_its_name(server, tmp_path, content):
  server.content['/a'] = content
  with pytest.raises(
    download.TransferError, match=f'not the expected.*{SHA256}'
  ):
    get(server, tmp_path / 'a')
  assert os.listdir(tmp_path) == []


def test_several_at_once_do_not_meet(server, tmp_path):
  server.drop_after['/a'] = 1000
  (tmp_path / 'a.part').write_bytes(CONTENT[:5000])
  with futures.ThreadPoolExecutor(4) as pool:
    for done in [pool.submit(get, server, tmp_path / 'a') for _ in range(4)]:
      done.result()
  assert (tmp_path / 'a').read_bytes() == CONTENT
  assert os.listdir(tmp_path) == ['a']


def test_a_far_too_long_answer_is_refused(server, tmp_path):
  server.content['/a'] = bytes(2_000_000)
  with pytest.raises(download.TransferError, match='offers 2000000 bytes'):
    get(server, tmp_path / 'a')
  assert os.listdir(tmp_path) == []


def test_a_file_that_is_not_there(server, tmp_path):
  with pytest.raises(download.TransferError, match='answered 404'):
    get(server, tmp_path / 'a', '/b')
  assert os.listdir(tmp_path) == []


def test_a_refused_connection(tmp_path):
  with loopback.serve() as server:
    url = server.url
  with pytest.raises(download.UnreachableError, match='refused'):
    download.download(url + '/a', tmp_path / 'a', [SHA256], 10, timeout=5)
  assert os.listdir(tmp_path) == []
