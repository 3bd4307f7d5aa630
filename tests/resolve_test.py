"""Names of one's own: `my.module:function` wherever a name is taken."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from parallel_ar import models, resolve
from parallel_ar.data import sources
from parallel_ar.training import (
  configuration,
  evaluate,
  identity,
  loop,
  optimizer,
  own_code,
  params_file,
  results,
  trained,
)
from tests import options_test

ROOT = pathlib.Path(__file__).parents[1]
MINE = '''
import jax, jax.numpy as jnp, numpy as np, optax
from flax import linen as nn
import parallel_ar as par
from my_sizes import WIDTH


class Net(nn.Module):
  """A stranger's annotations: an axis of ours, and one that nobody has."""

  @nn.compact
  def __call__(self, x, context):
    init = nn.initializers.normal(0.1)
    shape = (1, WIDTH, WIDTH)
    a = nn.with_partitioning(init, ('data', 'embed', None))
    b = nn.with_logical_partitioning(init, ('mlp',))
    a, b = self.param('a', a, shape), self.param('b', b, (WIDTH,))
    past = jnp.concatenate([jnp.zeros(1), x[:-1].astype(float)])
    return nn.with_logical_constraint(
      past[:, None] * a[0].sum(0)[None] + b[None], ('batch', 'mlp')
    )


def net(event, features: int = 3):
  return par.from_linen(
    Net(), event=event, rank=par.order.raster(event),
    head=par.heads.categorical(WIDTH),
  )


def data(split, size=50):
  x = np.random.RandomState(len(split)).randint(0, 5, (size, 4))
  return par.data.Dataset('mine', split, x.astype(np.int32), 5)


def rule(rate, beta=0.9):
  return optax.sgd(rate, momentum=beta)


def fall(peak, updates):
  return lambda t: peak / (1 + t / updates)


def head(num_values):
  return par.heads.categorical(num_values, 'inverse_cdf')


def forecaster(model):
  ones = lambda at: jnp.ones_like(at.picks)
  return par.forecasters.Forecaster('ones', next=ones)


def sampler(model):
  return par.ancestral(model)


def broken(event):
  return {}['no key']


number = 3
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """A folder with modules of one's own, which is the working directory."""
  (tmp_path / 'my_net.py').write_text(MINE)
  (tmp_path / 'my_sizes.py').write_text('WIDTH = 5\n')
  (tmp_path / 'my_error.py').write_text('import my_sizes\n1 / 0\n')
  (tmp_path / 'my_need.py').write_text('import no_such_package\n')
  (tmp_path / 'my_typo.py').write_text('def f(:\n')
  monkeypatch.chdir(tmp_path)
  yield tmp_path
  for name in [n for n in sys.modules if n.startswith('my_')]:
    del sys.modules[name]


def config(**train):
  made = configuration.default_config()
  made.data.update(name='my_net:data', valid_split='')
  made.model.update(name='my_net:net', event=(4,), head='my_net:head')
  made.optimizer.update(name='my_net:rule', schedule='my_net:fall')
  made.optimizer.options = {'beta': 0.5}
  made.train.update(
    {'batch_size': 8, 'steps': 3, 'eval_every': 0, 'tensorboard': False} | train
  )
  return made


def test_a_run_of_ones_own_begins_ends_and_opens_again(mine, capsys):
  """Also under a mesh, whose axis `data` a parameter of the model names."""
  summary = loop.train(config(), mine / 'run', progress=False)
  there = json.loads((mine / 'run' / 'identity.json').read_text())
  assert sorted(there['modules']) == ['my_net', 'my_sizes']
  run = trained.load(mine / 'run')
  jax.tree.map(np.testing.assert_array_equal, run.params, summary.params)
  assert run.notes == ()
  assert run.models[0].head.name == 'categorical(5, inverse_cdf)'
  nats = evaluate.evaluate(run.models, run.params, run.load_split('test'), 16)
  assert 0 < nats.nats < 4 * np.log(5) + 1
  params_file.save(
    mine / 'p.npz',
    run.params,
    configuration.to_json(run.config),
    step=3,
    which='raw',
    identity=run.identity,
  )
  again = trained.load(mine / 'p.npz')
  jax.tree.map(np.testing.assert_array_equal, run.params, again.params)

  # What it imports has changed: told by readers, refused by another start.
  (mine / 'my_sizes.py').write_text('WIDTH = 5  # of all\n')
  (note,) = trained.load(mine / 'run').notes
  assert note.startswith('The module my_sizes is not the one that this run')
  assert note in capsys.readouterr().err
  assert (
    note
    in results.result_json({}, config={}, seed=0, wall_seconds=0.0)['details'][
      'notes'
    ]
  )
  assert trained.load(mine / 'p.npz').notes == (note,)
  with pytest.raises(identity.OtherRun, match=r'modules\.my_sizes'):
    loop.train(config(steps=5), mine / 'run', progress=False)
  loop.train(config(steps=5), mine / 'run', progress=False, allow_changes=True)
  (line,) = [
    line
    for line in identity.history(identity.read(mine / 'run'), 5)
    if 'modules' in line
  ]
  assert line.startswith('at step 3: modules.my_sizes')
  assert trained.load(mine / 'run').notes == ()


def test_every_kind_is_called_as_those_of_the_house(mine):
  fields = models.fields('my_net:net')
  assert {'event', 'features', 'coupling', 'head'} == set(fields)
  assert fields['features'] is int
  assert sources.fields('my_net:data') == {'size': int}
  assert len(sources.load('my_net:data', 'test', size=7)) == 7
  rate = optimizer.schedule(config().optimizer, steps=10)
  np.testing.assert_allclose(rate(10), 1e-3 / 2)


@pytest.mark.parametrize(
  ('name', 'says'),
  [
    ('my_nets:net', "no module my_nets is found.*Did you mean 'my_net'"),
    ('my_net:nett', "has no 'nett'. Did you mean 'net'"),
    ('my_net.py:net', 'Name the module, not its file'),
    ('my_net:', 'names no module and function'),
    ('my_net:number', 'must be a function that returns AutoregressiveModel'),
    ('my_net:rule', 'but it takes .rate, beta=0.9.: .*rate'),
    ('my_net:data', "takes .split, size=50.: .*'split'"),
    ('my_net:broken', r"raised KeyError: 'no key' \(my_net.py, line \d+\)"),
    ('my_error:f', r'ZeroDivisionError: .* \(my_error.py, line 2\)'),
    ('my_need:f', 'imports no_such_package, which is not installed'),
    ('my_typo:f', r'SyntaxError: .* \(my_typo.py, line 1\)'),
    ('__main__:net', 'is of this session only'),
  ],
)
def test_mistakes_are_answered_in_a_sentence(mine, name, says):
  with pytest.raises(ValueError, match=says):
    section = {'name': name} | ({} if 'number' in name else {'event': (4,)})
    if name in ('my_net:rule', 'my_net:data'):
      section = {'name': name}
    models.build(section)


@pytest.mark.parametrize(
  ('field', 'value', 'says'),
  [
    ('name', 'admo', "= 'admo': expected one of adam.* or my.module:function"),
    ('name', 'my_net:net', 'The optimizer my_net:net raised'),
    ('name', 'my_net:fall', 'it takes .peak, updates'),
    ('schedule', 'my_net:rule', 'must return a function of the update'),
    ('weight_decay', 0.1, 'is not read by my_net:rule'),
  ],
)
def test_mistakes_in_the_optimizer(mine, field, value, says):
  made = config()
  made.optimizer[field] = value
  if field == 'name':
    made.optimizer.options = {}
  with pytest.raises(ValueError, match=says):
    configuration.validate(made)
    optimizer.make(made.optimizer, steps=3)


OTHERS = (
  'os:system',
  'subprocess:run',
  'this:s',  # its import speaks
  'parallel_ar.training.run_directory:replace',
  'experiments.fitting:read',
  'tests.training.processes:start',
  'optax:adam',  # says that it returns something else
  'my_gadget:run',  # of one's own, but it is subprocess's
)


def test_a_record_reaches_no_code_of_others(mine, capfd):
  (mine / 'my_gadget.py').write_text(
    'try:\n  from subprocess import run\nfinally:\n  pass\n'
  )
  loop.train(config(steps=1), mine / 'run', progress=False)
  params = trained.load(mine / 'run').params
  refused = pytest.raises(ValueError, match='no code of your own|is found from')
  for name in OTHERS:
    for file in ('config.json', 'identity.json'):
      path = mine / 'run' / file
      plain = path.read_text()
      for section in ('model', 'data'):
        record = json.loads(plain)
        record.get('config', record)[section]['name'] = name
        path.write_text(json.dumps(record))
        with refused:
          trained.load(mine / 'run').load_split('test')
      path.write_text(plain)
    record = json.loads((mine / 'run' / 'config.json').read_text())
    record['model']['name'] = name
    params_file.save(mine / 'p.npz', params, record, step=1, which='raw')
    with refused:
      trained.load(mine / 'p.npz')
  assert 'Zen' not in capfd.readouterr().out


def test_a_record_reaches_what_says_what_it_returns(mine):
  section = {'name': 'parallel_ar.models.made:made', 'event': (3,)}
  own_code.trust({'model': section}, 'here')
  (model,) = models.build(section)
  assert model.name == 'made'
  own_code.trust({'optimizer': {'name': 'optax:lion'}}, 'here')


def test_digests_follow_the_imports_of_ones_own(mine):
  package = mine / 'my_package'
  package.mkdir()
  (package / '__init__.py').write_text('from .net import make\n')
  (package / 'net.py').write_text('import numpy\nfrom . import parts\n')
  (package / 'parts.py').write_text('from my_package import net\n')
  found = resolve.digests(['my_package:make', 'digits', 'optax:lion'])
  own = ['my_package', 'my_package.net', 'my_package.parts', 'optax']
  assert list(found) == own


def test_flags_take_the_arguments_of_ones_own(mine):
  """Of a function without annotations a flag is what it looks like."""
  (mine / 'c.py').write_text(
    'from parallel_ar.training import configuration\n'
    'get_config = configuration.default_config\n'
  )
  found = []
  words = ['--config=c.py', '--config.model.name=my_net:net']
  words += ['--config.model.event=(4,)', '--config.model.features=7']
  words += ['--config.data.name=my_net:data', '--config.data.size=9']
  look = lambda values: found.append(values['config'].value)
  assert options_test.parse('train', words, look) == ''
  assert found[0].model.to_dict() == {
    'name': 'my_net:net',
    'event': (4,),
    'features': 7,
  }
  assert found[0].data.size == 9
  for word, says in (
    ('--config.model.name=my_net:nett', "Did you mean 'net'"),
    ('--config.model.name=mad', "Unknown model 'mad'. Did you mean 'made'"),
    ('--config.data.siz=9', "Did you mean 'size'"),
  ):
    assert says in options_test.parse('train', [*words, word])
  assert "Did you mean 'cached'" in options_test.parse(
    'sample', ['--sampler=cache']
  )


def test_sample_takes_a_sampler_and_a_forecaster_of_ones_own(mine):
  loop.train(config(steps=1), mine / 'run', progress=False)
  drawn = []
  for flag in ('--sampler=my_net:sampler', '--forecaster=my_net:forecaster'):
    out = mine / f'{len(drawn)}.npy'
    done = subprocess.run(
      [sys.executable, '-m', 'experiments.sample', '--workdir=run', flag]
      + ['--count=3', f'--out={out}'],
      cwd=mine,
      env=os.environ | {'PYTHONPATH': str(ROOT)},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    drawn.append(np.load(out))
  np.testing.assert_array_equal(*drawn)
