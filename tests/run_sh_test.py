"""run.sh, for real in a small copy of the repository.

Its Python only pretends to make environments and to install, so nothing is
downloaded.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.packaging_test import PYTHONS, ROOT

# Makes an environment whose python is a copy of this script, which records
# what it is asked to do in $FAKE/calls; all else is the real Python's work.
FAKE_PYTHON = r"""#!/usr/bin/env bash
case "$*" in
  '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  '-m pip '*)
    echo "pip $*" >>"$FAKE/calls"
    sleep "${FAKE_SLEEP:-0}"
    echo "${FAKE_PIP_SAYS:-Successfully installed}"
    [[ ! -e $FAKE/pip_fails ]] ;;
  *experiments.cpu_libraries*)
    [[ ! -e $FAKE/old_jaxlib ]] || exit 1
    flag=--xla_cpu_experimental_ynn_fusion_type=-dot
    printf '%s\n# products: older\n' "$flag" >"${3#--out=}" ;;
  '-c '*version_info*) # that of its name, else the real one's
    [[ $0 != */python3.1* ]] || { echo "${0##*/python}" && exit; }
    exec "$REAL_PYTHON" "$@" ;;
  '-m '*)
    echo "run $*" >>"$FAKE/calls"
    env >"$FAKE/environment"
    [[ -z ${FAKE_RUNS:-} ]] || { echo runs; read -r _; }
    [[ "$*" != *"${FAKE_FAILS:-no such}"* ]] || exit 7 ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""


def script(path: pathlib.Path, text: str) -> pathlib.Path:
  path.write_text(text)
  path.chmod(0o755)
  return path


class Repository:
  """A copy of what run.sh needs, and a Python that pretends."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.stamp = path / '.venv' / 'parallel_ar.stamp'
    for name in ('run.sh', 'setup.py', 'requirements.lock'):
      shutil.copy(ROOT / name, path)
    (path / 'docs').mkdir()
    shutil.copy(ROOT / 'docs/requirements.lock', path / 'docs')
    (path / 'parallel_ar').mkdir()
    shutil.copy(ROOT / 'parallel_ar/compilation_cache.py', path / 'parallel_ar')
    (path / 'experiments').mkdir()
    self.experiment('hello', '"""Says hello.\n\nAt length.\n"""\n')
    self.python = script(path / 'fake_python', FAKE_PYTHON)

  def experiment(self, name: str, docstring: str, main: bool = True):
    tail = "if __name__ == '__main__':\n  pass\n" if main else ''
    (self.path / 'experiments' / f'{name}.py').write_text(docstring + tail)

  def environment(self, **changes: str | None) -> dict[str, str]:
    names = ('PATH', 'HOME', 'TMPDIR')
    environment = {k: os.environ[k] for k in names if k in os.environ}
    environment |= {
      'FAKE': str(self.path),
      'PYENV_ROOT': str(self.path / 'no pyenv'),
      'PYTHON': str(self.python),
      'REAL_PYTHON': sys.executable,
      'XDG_CACHE_HOME': str(self.path / 'cache'),
    }
    environment |= {k: v for k, v in changes.items() if v is not None}
    return {k: v for k, v in environment.items() if changes.get(k, v)}

  def run(self, *words: str, **changes: str | None):
    return subprocess.run(
      [str(self.path / 'run.sh'), *words],
      env=self.environment(**changes),
      cwd='/',
      capture_output=True,
      text=True,
      stdin=subprocess.DEVNULL,
    )

  def calls(self) -> list[str]:
    calls = self.path / 'calls'
    return calls.read_text().splitlines() if calls.exists() else []

  def installs(self) -> int:
    return sum(' -r requirements.lock' in call for call in self.calls())


@pytest.fixture
def repository(tmp_path) -> Repository:
  path = tmp_path / 'a repository'  # a space, as people have them
  path.mkdir()
  return Repository(path)


@pytest.mark.parametrize(
  ('cores', 'limit', 'workers'),
  [(8, 10**10, 2), (8, 10**9, 0), (1, 10**12, 0), (8, None, None)],
)
def test_a_container_has_room_for_its_workers(tmp_path, cores, limit, workers):
  (tmp_path / 'memory.max').write_text(f'{limit or "max"}\n')
  script = f'source run.sh; nproc() {{ echo {cores}; }}; test_workers "$1"'
  command = ['bash', '-c', script, 'bash', str(tmp_path)]
  found = int(subprocess.check_output(command, cwd=ROOT))
  free = (0, 2, 3, 4, 5)  # where no limit is: what this machine has
  assert found in (free if workers is None else (workers, 0))


class TestHelp:
  @pytest.mark.parametrize('words', [(), ('--help',), ('-h',), ('help',)])
  def test_explains_and_makes_nothing(self, repository, words):
    done = repository.run(*words)
    assert done.returncode == 0
    assert done.stderr == ''
    for command in ('quickstart', 'test', 'EXPERIMENT', 'env'):
      assert f'\n  {command} ' in done.stdout
    assert re.search(r'^  hello +Says hello\.$', done.stdout, re.MULTILINE)
    assert not repository.stamp.parent.exists()

  def test_lists_only_what_can_be_run(self, repository):
    repository.experiment('shared', '"""Read by the others."""\n', main=False)
    assert 'shared' not in repository.run('--help').stdout
    assert repository.run('shared').returncode == 2

  def test_every_experiment_is_listed_with_a_line(self):
    done = subprocess.run([ROOT / 'run.sh'], capture_output=True, text=True)
    assert done.returncode == 0
    for path in (ROOT / 'experiments').glob('[a-z]*.py'):
      if "\nif __name__ == '__main__':" in path.read_text():
        assert re.search(rf'\n  {path.stem} +\S.*[.\w]\n', done.stdout), path

  @pytest.mark.parametrize('word', ['hallo', '--hello', '../hello', 'a b'])
  def test_unknown_experiment(self, repository, word):
    done = repository.run(word, '--flag')
    assert done.returncode == 2
    assert 'no experiment named' in done.stderr
    assert re.search(r'^  hello +Says hello', done.stderr, re.MULTILINE)
    assert not repository.stamp.parent.exists()


class TestEnvironment:
  def test_is_made_once(self, repository):
    first = repository.run('hello', '--name=you', 'and me')
    assert first.returncode == 0, first.stderr
    assert 'is ready' in first.stderr
    second = repository.run('experiments/hello.py')
    assert second.returncode == 0
    assert 'making' not in second.stderr
    packages, project, *runs = repository.calls()
    hashed = '--require-hashes --only-binary :all: -r requirements.lock'
    assert packages.endswith(hashed)
    assert project.endswith('--no-deps --no-build-isolation --no-index -e .')
    assert runs == [
      'run -m experiments.hello --name=you and me',
      'run -m experiments.hello',
    ]

  def test_does_not_ask_for_python_again(self, repository):
    repository.run('hello')
    done = repository.run('hello', PYTHON=None)
    assert done.returncode == 0
    assert repository.installs() == 1

  @pytest.mark.parametrize('name', ['setup.py', 'requirements.lock'])
  def test_is_made_again_when_the_pins_change(self, repository, name):
    repository.run('hello')
    with (repository.path / name).open('a') as f:
      f.write('# another\n')
    assert 'changed; making' in repository.run('hello').stderr
    repository.run('hello')
    assert repository.installs() == 2

  def test_is_made_again_when_the_repository_moved(self, repository):
    repository.run('hello')
    repository.path = repository.path.rename(repository.path.parent / 'moved')
    repository.python = repository.path / 'fake_python'
    done = repository.run('hello')
    assert done.returncode == 0
    assert 'changed; making' in done.stderr

  @pytest.mark.parametrize(
    'says, lesson',
    [
      ('connection broken by NewConnectionError', 'HTTPS_PROXY'),
      ('No matching distribution found for jax==99', 'another: PYTHON'),
      ('THESE PACKAGES DO NOT MATCH THE HASHES', 'somebody changed it'),
    ],
  )
  def test_pip_fails(self, repository, says, lesson):
    fails = repository.path / 'pip_fails'
    fails.touch()
    done = repository.run('hello', FAKE_PIP_SAYS=says)
    assert done.returncode == 1
    assert says in done.stderr
    assert lesson in done.stderr
    assert repository.stamp.read_text() == 'unfinished\n'
    fails.unlink()
    done = repository.run('hello')
    assert done.returncode == 0
    assert 'was left unfinished' in done.stderr
    assert repository.installs() == 2

  def test_two_calls_at_once_make_one(self, repository):
    if not shutil.which('flock'):
      pytest.skip('flock is not installed')
    command = [str(repository.path / 'run.sh'), 'hello']
    environment = repository.environment(FAKE_SLEEP='1')
    calls = [
      subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
      for _ in range(3)
    ]
    said = b''.join(call.communicate()[1] for call in calls)
    assert [call.returncode for call in calls] == [0, 0, 0]
    assert repository.installs() == 1
    assert said.count(b'waiting for it') == 2

  def test_is_not_removed_while_it_is_used(self, repository):
    if not shutil.which('flock'):
      pytest.skip('flock is not installed')
    repository.run('hello')
    command = [str(repository.path / 'run.sh'), 'hello']
    environment = repository.environment(FAKE_RUNS='1')
    trains = subprocess.Popen(
      command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert trains.stdout.readline() == b'runs\n'
    with (repository.path / 'requirements.lock').open('a') as file:
      file.write('# another\n')
    done = repository.run('hello')
    assert done.returncode == 1
    assert 'still uses it' in done.stderr
    assert repository.installs() == 1
    trains.communicate(b'end\n')
    assert repository.run('hello').returncode == 0
    assert repository.installs() == 2

  def test_keeps_what_it_did_not_make(self, repository):
    mine = repository.path / '.venv' / 'precious'
    mine.parent.mkdir()
    mine.write_text('mine')
    done = repository.run('hello')
    assert done.returncode == 1
    assert 'PARALLEL_AR_VENV' in done.stderr
    assert mine.read_text() == 'mine'
    elsewhere = repository.path / 'deep' / 'venv'
    done = repository.run('hello', PARALLEL_AR_VENV=str(elsewhere))
    assert done.returncode == 0
    assert (elsewhere / 'parallel_ar.stamp').exists()

  def test_exit_code_reaches_the_caller(self, repository):
    assert repository.run('hello', FAKE_FAILS='hello').returncode == 7


class TestFindPython:
  def fake(self, path: pathlib.Path, name: str, line: str) -> str:
    return str(script(path / name, f'#!/bin/bash\n{line}\n'))

  def test_wrong_version(self, repository):
    old = self.fake(repository.path, 'old', 'echo 3.9')
    done = repository.run('hello', PYTHON=old)
    assert done.returncode == 1
    assert f'{old} is 3.9' in done.stderr
    assert '3.11, 3.12 or 3.13' in done.stderr

  def test_does_not_run(self, repository):
    done = repository.run('hello', PYTHON='/no/such/python')
    assert done.returncode == 1
    assert 'PYTHON=/no/such/python cannot be used' in done.stderr

  def test_no_venv_module(self, repository):
    bare = self.fake(
      repository.path, 'bare', '[[ $1 != -I ]] || exit 1; echo 3.12'
    )
    done = repository.run('hello', PYTHON=bare)
    assert done.returncode == 1
    assert 'python3.12-venv' in done.stderr

  def test_searches_in_order(self, repository):
    """The first that fits and can make environments, not the first there is."""
    path = repository.path / 'bin'
    path.mkdir()
    for tool in ('bash', 'env', 'dirname'):
      (path / tool).symlink_to(shutil.which(tool))
    call = f'. {shlex.quote(str(repository.path))}/run.sh; find_python'

    def search():
      return subprocess.run(
        [path / 'bash', '-c', call],
        env={'PATH': str(path)},
        capture_output=True,
        text=True,
      )

    done = search()
    assert done.returncode == 1
    assert 'no Python 3.11, 3.12 or 3.13 was found' in done.stderr
    self.fake(path, 'python3', 'echo 3.14')
    assert 'python3 is 3.14' in search().stderr
    self.fake(path, 'python3.11', '[[ $1 != -I ]] || exit 1; echo 3.11')
    assert 'python3.11-venv' in search().stderr
    self.fake(path, 'python3.11', 'echo 3.11')
    self.fake(path, 'python3.13', 'exit 127')  # a shim with nothing behind
    assert search().stdout == 'python3.11\n'
    self.fake(path, 'python3.12', 'echo 3.12')
    assert search().stdout == 'python3.12\n'
    self.fake(path, 'python3.13', 'echo 3.13')
    assert search().stdout == 'python3.13\n'


class TestSettings:
  def settings(self, repository, **changes) -> dict[str, str]:
    done = repository.run('env', **changes)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    words = [shlex.split(line) for line in lines if line[0] != '#']
    assert all(export == 'export' for export, _ in words)
    return dict(word.split('=', 1) for _, word in words)

  def test_defaults(self, repository):
    got = self.settings(repository)
    assert got['XLA_FLAGS'].startswith('--xla_cpu_experimental_ynn_fusion_type')
    directory = pathlib.Path(got['JAX_COMPILATION_CACHE_DIR'])
    assert directory.parent == repository.path / 'cache' / 'parallel_ar'
    assert re.fullmatch(r'jaxlib-[\d.]+-cpu-[0-9a-f]{12}', directory.name)
    assert directory.is_dir()
    if sys.platform == 'linux' and os.confstr('CS_GNU_LIBC_VERSION'):
      assert got['MALLOC_MMAP_MAX_'] == '0'
      assert got['MALLOC_ARENA_MAX'] == '1'

  def test_an_experiment_has_them(self, repository):
    got = self.settings(repository)
    repository.run('hello')
    lines = (repository.path / 'environment').read_text().splitlines()
    assert {f'{name}={value}' for name, value in got.items()} <= set(lines)

  def test_the_callers_own_come_first(self, repository):
    mine = {'JAX_COMPILATION_CACHE_DIR': '/mine', 'MALLOC_ARENA_MAX': '3'}
    assert mine.items() <= self.settings(repository, **mine).items()

  def test_flags_are_added_once(self, repository):
    added = self.settings(repository)['XLA_FLAGS']
    mine = '--xla_cpu_enable_fast_math=false'
    both = self.settings(repository, XLA_FLAGS=mine)['XLA_FLAGS']
    assert both == f'{mine} {added}'
    assert self.settings(repository, XLA_FLAGS=both)['XLA_FLAGS'] == both

  def test_no_flag_where_kernels_cannot_be_measured(self, repository):
    (repository.path / 'old_jaxlib').touch()
    assert 'XLA_FLAGS' not in self.settings(repository)

  def test_says_which_kernels_were_chosen(self, repository):
    assert '\n# products: older\n' in '\n' + repository.run('env').stdout

  def test_the_cache_is_mended_and_bounded(self, repository):
    directory = self.settings(repository)['JAX_COMPILATION_CACHE_DIR']
    torn = pathlib.Path(directory, 'a-cache')
    torn.write_bytes(b'\x78')
    os.utime(torn, (1, 1))
    (pathlib.Path(directory) / '.checked').unlink()
    self.settings(repository, JAX_COMPILATION_CACHE_DIR=directory)
    assert torn.exists()  # a directory of one's own
    self.settings(repository)
    assert not torn.exists()

  @pytest.mark.parametrize(
    ('flag', 'changes'),
    [
      ('--platform=tpu', {}),
      ('--platform tpu', {}),
      ('', {'JAX_PLATFORMS': 'cuda'}),
      ('', {'PARALLEL_AR_EXTRAS': 'cuda13'}),
    ],
  )
  def test_an_accelerator_has_none_of_a_cpu(self, repository, flag, changes):
    def environment(*words, **changes):
      done = repository.run('hello', *words, **changes)
      assert done.returncode == 0, done.stderr
      return (repository.path / 'environment').read_text()

    there = environment(*flag.split(), **changes)
    assert 'MALLOC_' not in there and '--xla_cpu' not in there
    assert 'JAX_COMPILATION_CACHE_DIR=' in there
    cpu = environment('--platform=cpu', **changes)
    assert '--xla_cpu' in cpu

  def test_the_compiler_of_tpus_computes_on_a_cpu(self, repository):
    extras = {'PARALLEL_AR_EXTRAS': 'tpu-compile,datasets'}
    done = repository.run('hello', **extras)
    assert done.returncode == 0, done.stderr
    assert '--xla_cpu' in (repository.path / 'environment').read_text()

  def test_extras_are_installed_and_part_of_the_key(self, repository):
    repository.run('hello')
    done = repository.run('hello', PARALLEL_AR_EXTRAS='tpu')
    assert 'changed; making' in done.stderr and done.returncode == 0
    plugin = '--no-build-isolation -c constraints.txt -e .[tpu]'
    assert [c for c in repository.calls() if c.endswith(plugin)]
    for wrong in ('rocm', 'tpu datasets', 'tpu, tfds'):
      done = repository.run('hello', PARALLEL_AR_EXTRAS=wrong)
      assert done.returncode == 1
      assert 'expected tpu, cuda12 or cuda13' in done.stderr

  def test_can_be_left_out(self, repository):
    assert self.settings(repository, PARALLEL_AR_SETTINGS='off') == {}


class TestTest:
  def runs(self, repository) -> list[str]:
    return [c.split()[2] for c in repository.calls() if c.startswith('run')]

  def ci(self, repository, *there: str, **changes: str | None):
    """Runs .ci/run where of the Pythons by name only these run."""
    shutil.copytree(ROOT / '.ci', repository.path / '.ci')
    commands = repository.path / 'bin'
    commands.mkdir()
    for version in PYTHONS:
      text = FAKE_PYTHON if version in there else '#!/bin/bash\nexit 127\n'
      script(commands / f'python{version}', text)
    path = f'{commands}:{os.environ["PATH"]}'
    return subprocess.run(
      ['bash', str(repository.path / '.ci' / 'run')],
      env=repository.environment(PATH=path, **changes),
      cwd='/',
      capture_output=True,
      text=True,
    )

  def test_runs_every_check(self, repository):
    assert repository.run('test').returncode == 0
    assert self.runs(repository) == ['ruff', 'ruff', 'mypy', 'pytest']

  @pytest.mark.parametrize('fails', ['ruff check', 'mypy', 'pytest'])
  def test_fails_if_one_fails_and_runs_the_others(self, repository, fails):
    assert repository.run('test', FAKE_FAILS=fails).returncode != 0
    assert self.runs(repository) == ['ruff', 'ruff', 'mypy', 'pytest']

  def test_arguments_are_for_pytest_alone(self, repository):
    assert repository.run('test', '-m', 'slow').returncode == 0
    assert repository.calls()[2:] == ['run -m pytest -m slow']

  @pytest.mark.parametrize(
    'fails, code', [('', 0), ('--durations', 7), ('tests/analysis', 7)]
  )
  @pytest.mark.parametrize('first, other', [('3.13', '3.11'), ('3.11', '3.12')])
  def test_ci_tries_both_pins(self, repository, fails, code, first, other):
    """From anywhere, and its exit code is that of either."""
    python = str(repository.path / 'bin' / f'python{first}')
    changes = {'PYTHON': python, 'FAKE_FAILS': fails or None}
    assert self.ci(repository, first, other, **changes).returncode == code
    *checks, site, laws = self.runs(repository)
    assert checks == ['ruff', 'ruff', 'mypy', 'pytest']
    assert (site, laws) == ('mkdocs', 'pytest')
    assert repository.installs() == 2
    assert (repository.path / '.venv-ci-other' / 'bin' / 'python').exists()
    assert os.access(ROOT / '.ci' / 'run', os.X_OK)

  def test_ci_says_that_there_is_one_python_only(self, repository):
    done = self.ci(repository)
    assert done.returncode == 0
    assert self.runs(repository) == ['ruff', 'ruff', 'mypy', 'pytest', 'mkdocs']
    assert 'the other pins were not tried' in done.stderr
