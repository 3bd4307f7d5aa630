"""setup.py, constraints.txt, requirements.lock, and what is published."""

import itertools
import os
import pathlib
import re
import runpy
import subprocess
import sys
import types

import pytest
from packaging import requirements, utils

ROOT = pathlib.Path(__file__).parents[1]
PYTHONS = ('3.11', '3.12', '3.13')


def setup_arguments(monkeypatch) -> dict:
  """What setup.py hands to setuptools, which Python 3.12 comes without."""
  got = {}
  fake = types.ModuleType('setuptools')
  fake.setup = got.update
  fake.find_packages = lambda include: include
  monkeypatch.setitem(sys.modules, 'setuptools', fake)
  runpy.run_path(str(ROOT / 'setup.py'))
  return got


def pins() -> list[requirements.Requirement]:
  lines = (ROOT / 'constraints.txt').read_text().splitlines()
  lines = [line for line in lines if line and not line.startswith('#')]
  return [requirements.Requirement(line) for line in lines]


def locked(path: str = 'requirements.lock') -> dict[str, list[str]]:
  """Each pin of a lock, with its hashes."""
  text = (ROOT / path).read_text().replace('\\\n', ' ')
  text = re.sub(r'^(#.*)?\n', '', text, flags=re.MULTILINE)
  found = {}
  for line in text.splitlines():
    pin, *hashes = re.split(r' +--hash=sha256:', line.strip())
    found[pin.strip()] = hashes
  return found


class TestSetup:
  def test_the_lock_is_of_the_pins(self):
    """Else: the command at the top of constraints.txt makes it again."""
    same = lambda pin: (utils.canonicalize_name(pin.name), str(pin.specifier))
    lock = [requirements.Requirement(pin) for pin in locked()]
    assert sorted(map(same, lock)) == sorted(map(same, pins()))
    for python, machine in itertools.product(PYTHONS, ('x86_64', 'aarch64')):
      where = {'python_version': python, 'platform_machine': machine}
      where['python_full_version'] = f'{python}.1'
      live = lambda some, where=where: sorted(
        same(p) for p in some if not p.marker or p.marker.evaluate(where)
      )
      assert live(lock) == live(pins())

  @pytest.mark.parametrize(
    'lock', ['requirements.lock', 'docs/requirements.lock']
  )
  def test_every_file_is_known_by_its_hash(self, lock):
    for pin, hashes in locked(lock).items():
      assert hashes, pin
      assert all(re.fullmatch('[0-9a-f]{64}', one) for one in hashes), pin

  def test_pythons_are_those_of_run_sh(self, monkeypatch):
    wanted = setup_arguments(monkeypatch)['python_requires']
    specifier = requirements.Requirement(f'python{wanted}').specifier
    script = (ROOT / 'run.sh').read_text()
    (named,) = re.findall(r'^ +(3\.\d+ \| .*)\) ;;$', script, re.MULTILINE)
    assert [p for p in PYTHONS if specifier.contains(p)] == named.split(' | ')
    assert not specifier.contains('3.10')
    assert not specifier.contains('3.14')

  @pytest.mark.parametrize('python', PYTHONS)
  def test_one_pin_for_every_requirement(self, monkeypatch, python):
    arguments = setup_arguments(monkeypatch)
    wanted = [*arguments['install_requires'], 'jaxlib']
    extras = arguments['extras_require']
    tools = extras.pop('docs') + extras.pop('release')
    for requirement in map(requirements.Requirement, tools):
      site = map(requirements.Requirement, locked('docs/requirements.lock'))
      (pin,) = [p for p in site if p.name == requirement.name]
      (version,) = [s.version for s in pin.specifier]
      assert requirement.specifier.contains(version), requirement
    # Services, other frameworks' readers, a compiler of 300 MB: users' own.
    for name in ('wandb', 'datasets', 'tfds', 'tpu-compile'):
      del extras[name]
    wanted += sum(extras.values(), [])
    wanted += ['pip', 'setuptools>=77']
    where = {'python_version': python}
    live = [p for p in pins() if not p.marker or p.marker.evaluate(where)]
    names = [p.name for p in live]
    assert len(set(names)) == len(names)
    for requirement in map(requirements.Requirement, wanted):
      (pin,) = [p for p in live if p.name == requirement.name]
      (version,) = [s.version for s in pin.specifier]
      assert requirement.specifier.contains(version), requirement

  def test_pins_are_versions_and_nothing_else(self):
    for pin in pins():
      assert pin.url is None
      assert [s.operator for s in pin.specifier] == ['=='], pin


class TestPublished:
  def test_citation_has_the_version_of_the_package(self):
    text = (ROOT / 'CITATION.cff').read_text()
    said = re.search(r'^version: (.*)$', text, re.MULTILINE)[1]
    dated = re.search(r"^date-released: '(.*)'$", text, re.MULTILINE)[1]
    package = (ROOT / 'parallel_ar' / '__init__.py').read_text()
    assert f"__version__ = '{said}'" in package
    assert f'## [{said}] - {dated}' in (ROOT / 'CHANGELOG.md').read_text()

  @pytest.mark.slow
  def test_the_site_has_no_warning(self, tmp_path):
    command = [ROOT / 'run.sh', 'docs', f'--site-dir={tmp_path}']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'id="parallel_ar.log_prob"' in (tmp_path / 'api.html').read_text()
    assert 'Thirty seconds of use' in (tmp_path / 'index.html').read_text()

  @pytest.mark.slow
  def test_the_wheel_works_outside_of_the_checkout(self, tmp_path):
    subprocess.run([ROOT / 'run.sh', 'dist'], check=True)
    wheel, sdist = sorted((ROOT / 'dist').iterdir(), key=lambda p: -len(p.name))
    assert (wheel.suffix, sdist.suffix) == ('.whl', '.gz')
    pip = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index']
    subprocess.run([*pip, f'--target={tmp_path / "site"}', wheel], check=True)
    program = """
import jax, parallel_ar as par
model = par.models.made(event=(5,), num_values=3, hidden=(8,))
params = model.init(jax.random.key(0))
x = par.cached(model)(params, jax.random.split(jax.random.key(1), 2)).x
pair = par.codec(model)
assert (pair.decode(params, pair.encode(params, x)).x == x).all()
print(par.__version__, par.__file__)
"""
    done = subprocess.run(
      [sys.executable, '-c', program],
      cwd=tmp_path,
      env=os.environ | {'PYTHONPATH': str(tmp_path / 'site')},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    version, file = done.stdout.split()
    assert wheel.name.split('-')[1] == version
    assert pathlib.Path(file).is_relative_to(tmp_path)
    assert (pathlib.Path(file).parent / 'py.typed').exists()
