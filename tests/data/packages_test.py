"""Tests of the packages, with clients that are shell scripts of our own."""

import io
import pathlib
import tarfile

import pytest

from parallel_ar.data import packages
from parallel_ar.data.catalogue import Package
from tests.data import tiny_files

NPM = Package('npm', 'tiny-data', 'package/data')
APT = Package('apt', 'tiny-data', 'usr/lib', {'text.txt': 'bible.data'})


def client(folder: pathlib.Path, name: str, body: str) -> None:
  folder.mkdir(exist_ok=True)
  (folder / name).write_text(f'#!/bin/sh\n{body}\n')
  (folder / name).chmod(0o755)


@pytest.fixture
def bin_dir(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:/bin:/usr/bin')
  return tmp_path / 'bin'


@pytest.fixture
def scratch(tmp_path):
  (tmp_path / 'scratch').mkdir()
  return tmp_path / 'scratch'


def make_tgz(path: pathlib.Path, files: dict[str, bytes]) -> None:
  with tarfile.open(path, 'w:gz') as tar:
    for name, content in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))


def test_npm(tmp_path, bin_dir, scratch):
  make_tgz(tmp_path / 'a.tgz', {'package/data/a': b'1', 'package/b': b'2'})
  client(
    bin_dir, 'npm', f'[ "$1 $2" = "pack tiny-data" ] && cp {tmp_path}/*.tgz .'
  )
  found = packages.obtain(NPM, ['a'], scratch)
  assert found['a'].read_bytes() == b'1'
  assert scratch in found['a'].parents


def test_apt_with_a_file_in_a_form_of_its_own(bin_dir, scratch, tmp_path):
  bible = tiny_files.bible([b'in the beginning'])
  make_tgz(tmp_path / 'data.tar', {'./usr/lib/bible.data': bible})
  client(bin_dir, 'apt-get', '[ "$1 $2" = "download tiny-data" ] && : > a.deb')
  client(
    bin_dir,
    'dpkg-deb',
    f'[ "$1 $2" = "--fsys-tarfile a.deb" ] && cat {tmp_path}/data.tar',
  )
  found = packages.obtain(APT, ['text.txt'], scratch)
  assert found['text.txt'].read_bytes() == b'in the beginning'


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    ('echo no such package >&2; exit 3', 'status 3: no such package'),
    ('exit 0', r'left 0 files \*\.tgz'),
    (': > a.tgz', 'no archive from which package/data/a can be read'),
  ],
)
def test_a_client_that_fails(bin_dir, scratch, body, message):
  client(bin_dir, 'npm', body)
  with pytest.raises(packages.PackageError, match=message):
    packages.obtain(NPM, ['a'], scratch)


def test_apt_advises_an_update(bin_dir, scratch):
  client(bin_dir, 'apt-get', 'exit 100')
  with pytest.raises(packages.PackageError, match='run apt-get update'):
    packages.obtain(APT, ['text.txt'], scratch)


def test_a_package_without_the_file(tmp_path, bin_dir, scratch):
  make_tgz(tmp_path / 'a.tgz', {'package/data/a': b'1'})
  client(bin_dir, 'npm', f'cp {tmp_path}/a.tgz .')
  with pytest.raises(packages.PackageError, match='has no package/data/b'):
    packages.obtain(NPM, ['b'], scratch)


def test_nothing_but_the_named_files_is_written(tmp_path, bin_dir, scratch):
  """A package may hold anything: links out of it, and names above it."""
  with tarfile.open(tmp_path / 'a.tgz', 'w:gz') as tar:
    for name, kind, target in [
      ('package/data', tarfile.SYMTYPE, str(tmp_path)),
      ('../../escaped', tarfile.REGTYPE, ''),
      ('package/data/fifo', tarfile.FIFOTYPE, ''),
      ('package/data/b', tarfile.SYMTYPE, '/etc/passwd'),
      ('package/data/c', tarfile.LNKTYPE, 'package/data/a'),
    ]:
      member = tarfile.TarInfo(name)
      member.type, member.linkname = kind, target
      tar.addfile(member)
    member = tarfile.TarInfo('package/data/a')
    member.size = 1
    tar.addfile(member, io.BytesIO(b'1'))
  client(bin_dir, 'npm', f'cp {tmp_path}/a.tgz .')
  before = sorted(p.name for p in tmp_path.iterdir())
  found = packages.obtain(NPM, ['a'], scratch)
  assert found['a'].read_bytes() == b'1'
  assert sorted(p.name for p in scratch.iterdir()) == ['a', 'a.tgz']
  assert sorted(p.name for p in tmp_path.iterdir()) == before
  for name in ('b', 'c', 'fifo'):
    with pytest.raises(packages.PackageError, match='no plain file'):
      packages.obtain(NPM, [name], scratch)


def test_a_missing_client(scratch, monkeypatch, tmp_path):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(packages.PackageError, match='npm is not installed'):
    packages.obtain(NPM, ['a'], scratch)
