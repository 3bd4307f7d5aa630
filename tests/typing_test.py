"""A program over the public surface passes `mypy --strict`; wrong calls do not.

The package is seen as an installed one: only the program is reported on.
"""

import importlib
import pathlib
import pkgutil
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import parallel_ar as par
from examples import from_python
from parallel_ar.training import loop, trained
from tests.training import tiny_run

ROOT = pathlib.Path(__file__).parents[1]
WRONG = """
import jax
import parallel_ar as par

run = par.load('runs/mine')
keys = jax.random.split(jax.random.key(0), 3)
par.ancestral(run.model)(run.params, keys, know=None)  # call-arg
par.fixed_point(run.model)(run.params)  # call-arg
par.log_prob(run.model, run.params)  # call-arg
par.codec(run.model).encode(run.params)  # call-arg
run.codec().decode(run.params, 3)  # arg-type
run.smaple(3)  # attr-defined
run.sample('3')  # arg-type
made = par.from_function
made(run.model.conditionals, event=(3,), rank=run.model.rank)  # call-arg
par.analysis.causalty  # attr-defined
nats: str = run.log_prob(run.sample(3).x)  # assignment
"""


def strict(folder, *names):
  done = subprocess.run(
    [sys.executable, '-m', 'mypy', '--strict', '--follow-imports=silent']
    + ['--config-file=', f'--cache-dir={folder}', *names],
    cwd=folder,
    env={'MYPYPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  return done.stdout + done.stderr


def test_a_program_over_the_public_surface_has_types(tmp_path):
  pytest.importorskip('mypy')
  right = pathlib.Path(from_python.__file__).read_text()
  (tmp_path / 'right.py').write_text(right)
  (tmp_path / 'wrong.py').write_text(WRONG)
  said = strict(tmp_path, 'right.py', 'wrong.py')
  assert 'in 1 file (checked 2 source files)' in said, said
  lines = re.findall(r'wrong.py:(\d+): error: .*\[(.*)\]', said)
  assert lines == [
    (str(number), line.rpartition('# ')[2])
    for number, line in enumerate(WRONG.splitlines(), 1)
    if '# ' in line
  ], said


@pytest.mark.parametrize('name', sorted(set(par.__all__) | set(dir(par))))
def test_what_a_person_is_offered_is_there_and_explained(name):
  found = getattr(par, name)
  if not name.startswith('_') and name not in par.order.__dict__:
    assert found.__doc__


def test_modules_are_there_for_editors_and_when_asked():
  """What `TYPE_CHECKING` lists is what there is."""
  for name in ('analysis', 'data', 'distributed', 'layers', 'training'):
    package = getattr(par, name)
    source = pathlib.Path(package.__file__).read_text()
    block = source.partition('if TYPE_CHECKING:')[2].partition('else:')[0]
    listed = set(re.findall(r'import (\w+) as \1$', block, re.M))
    there = {m.name for m in pkgutil.iter_modules(package.__path__)}
    public = {n for n in there if not n.startswith('_')}
    assert listed == public, f'parallel_ar/{name}/__init__.py lists modules'
    assert getattr(package, min(there)) is importlib.import_module(
      f'parallel_ar.{name}.{min(there)}'
    )


def test_what_factories_return_says_how_it_is_called():
  model = from_python.decaying(3, 2)
  pair = par.codec(model)
  levels = [par.Level(model)]
  for function in (
    *(par.ancestral(model), par.fixed_point(model)),
    *(pair.encode, pair.decode, par.hierarchical(levels)),
  ):
    assert {'Args:', 'Returns:', 'Raises:'} <= set(function.__doc__.split())


def test_version_is_that_of_the_package():
  assert re.fullmatch(r'\d+\.\d+\.\d+', par.__version__)
  setup = (ROOT / 'setup.py').read_text()
  assert 'version=_VERSION' in setup
  assert "package_data={'parallel_ar': ['py.typed']}" in setup
  assert (ROOT / 'parallel_ar/py.typed').exists()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  path = tmp_path_factory.mktemp('load') / 'run'
  config = tiny_run.config(2)
  config.mesh.data, config.model.num_masks = 1, 1
  loop.train(config, path, progress=False)
  return par.load(path)


class TestLoad:
  def test_prints_one_line(self, run):
    assert repr(run) == (
      '<made: event [4, 3, 1], 12 positions, depth 12, bernoulli, 212 '
      f'parameters; ema of step 2 of {run.where}>'
    )

  def test_has_likelihood_samples_and_codec_in_reach(self, run):
    sample = run.sample(3)
    keys = jax.random.split(jax.random.key(0), 3)
    for again in (
      par.ancestral(run.model)(run.params, keys),
      run.sample(keys, sampler=par.ancestral),
      run.sample(np.int64(3)),
    ):
      np.testing.assert_array_equal(sample.x, again.x)
    np.testing.assert_allclose(
      run.log_prob(sample.x), sample.log_prob, rtol=1e-5
    )
    np.testing.assert_array_equal(
      run.log_prob(sample.x), run.log_prob(np.asarray(sample.x))
    )
    known = np.ones((3, 4, 3, 1), bool)
    given = run.sample(3, x=1 - sample.x, known=known)
    np.testing.assert_array_equal(given.x, 1 - sample.x)
    packed = run.codec(batch=2).encode(run.params, sample.x)
    back = run.codec(batch=2).decode(run.params, packed)
    np.testing.assert_array_equal(back.x, sample.x)
    with pytest.raises(ValueError, match='out of range'):
      run.log_prob(sample.x + 2)

  def test_the_example_runs(self, run, capsys):
    from_python.main(str(run.where))
    assert 'nats,' in capsys.readouterr().out

  def test_a_mixture_has_a_likelihood_and_says_what_it_has_not(self, tmp_path):
    config = tiny_run.config(1)
    config.mesh.data = 1
    loop.train(config, tmp_path / 'run', progress=False)
    run = trained.load(tmp_path / 'run')
    assert 'mixture of 2' in repr(run)
    x = run.load_split('valid').x[:2]
    np.testing.assert_allclose(
      run.log_prob(x),
      par.mixture_log_prob(run.models, run.params, x),
      rtol=1e-5,
    )
    for call in (lambda: run.sample(2), run.codec, lambda: run.model):
      with pytest.raises(ValueError, match='a mixture of 2 models.*models'):
        call()

  def test_no_run_is_answered_in_a_sentence(self, tmp_path):
    with pytest.raises(ValueError, match='holds no run'):
      par.load(tmp_path)
