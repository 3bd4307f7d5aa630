"""Torn and old entries of the compilation cache go, and no others."""

import os
import random
import time
import zlib

import pytest

from parallel_ar import compilation_cache

# The same bytes in every process: the tests are named after their number.
WHOLE = zlib.compress(random.Random(0).randbytes(5000) + bytes(10**7))
AN_HOUR_AGO = time.time() - 3600


def entry(directory, name, content=WHOLE, at=AN_HOUR_AGO):
  directory.mkdir(exist_ok=True)
  path = directory / f'{name}-cache'
  path.write_bytes(content)
  os.utime(path, (at, at))
  return path


@pytest.mark.parametrize('cut', [0, 1, 2, 3000, len(WHOLE) // 2, -4, -1])
def test_a_torn_entry_goes(tmp_path, cut):
  torn = entry(tmp_path / 'a', 'torn', WHOLE[:cut])
  whole = entry(tmp_path / 'a', 'whole')
  compilation_cache.tidy(tmp_path / 'a', 10**9)
  assert not torn.exists()
  assert whole.exists()


def test_what_may_be_written_and_what_is_unknown_stays(tmp_path):
  young = entry(tmp_path / 'a', 'young', WHOLE[:99], time.time())
  zstd = entry(tmp_path / 'a', 'zstd', b'\x28\xb5\x2f\xfd' + bytes(9))
  compilation_cache.tidy(tmp_path / 'a', 10**9)
  assert young.exists() and zstd.exists()
  # It is looked into once it is old enough, though the check came before.
  then = time.time() - 120
  os.utime(young, (then, then))
  os.utime(tmp_path / 'a' / '.checked', (then, then))
  compilation_cache.tidy(tmp_path / 'a', 10**9)
  assert not young.exists()


def test_entries_are_looked_into_once(tmp_path, monkeypatch):
  entry(tmp_path / 'a', 'whole')
  looks = []
  monkeypatch.setattr(compilation_cache, '_torn', looks.append)
  compilation_cache.tidy(tmp_path / 'a', 10**9)
  compilation_cache.tidy(tmp_path / 'a', 10**9)
  assert len(looks) == 1


def test_the_least_recently_read_go_first(tmp_path):
  paths = [
    entry(tmp_path / where, name, at=AN_HOUR_AGO + at)
    for where, name, at in [('b', 'x', 0), ('a', 'y', 2), ('a', 'z', 1)]
  ]
  os.utime(paths[2], (AN_HOUR_AGO + 9, AN_HOUR_AGO + 1))  # read lately
  compilation_cache.tidy(tmp_path / 'a', len(WHOLE))
  assert [path.exists() for path in paths] == [False, False, True]
