"""Scripts refuse bad input: one paragraph, exit code 1, nothing lost."""

import dataclasses
import functools
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import parallel_ar as par
from tests import options_test, toys

ROOT = pathlib.Path(__file__).parents[1]
MARKOV = '--config=configs/markov_transformer.py'
BMNIST = '--config=configs/bmnist_made.py'
ONE_DEVICE = '--config.mesh.data=1'
TINY = ['--config.train.steps=2', '--config.train.batch_size=4', ONE_DEVICE]

# name -> (script, flags, words that the paragraph must have)
BAD = {
  'no config': ('train', [], ['--config', 'needed']),
  'no such config': (
    'train',
    ['--config=configs/none.py'],
    ['configs/none.py'],
  ),
  'unknown field': (
    'train',
    [MARKOV, '--config.train.stesp=3'],
    ['stesp', "Did you mean 'steps'"],
  ),
  'unknown model field': (
    'train',
    [MARKOV, '--config.model.feature=3'],
    ['feature', 'features'],
  ),
  'wrong type': ('train', [MARKOV, '--config.train.steps=many'], ['many']),
  'bad value': (
    'train',
    [MARKOV, '--config.train.accumulate=7'],
    ['accumulate', '256', 'divide'],
  ),
  'unknown model': (
    'train',
    [MARKOV, '--config.model.name=transfomer'],
    ["Did you mean 'transformer'"],
  ),
  'unknown data': (
    'train',
    [MARKOV, '--config.data.name=markof'],
    ['markof', 'markov'],
  ),
  'model does not fit data': (
    'train',
    [MARKOV, '--config.model.event=(9,)'],
    ['(9,)', '(16,)'],
  ),
  'missing file': (
    'train',
    [BMNIST, '--data_dir={tmp}/nowhere', ONE_DEVICE],
    ['nowhere', 'fetch'],
  ),
  'truncated file': (
    'train',
    [BMNIST, '--data_dir={tmp}/truncated', ONE_DEVICE],
    ['bmnist_train.amat', 'expected'],
  ),
  'no run to evaluate': (
    'evaluate',
    ['--workdir={tmp}/empty'],
    ['holds no run'],
  ),
  'run of another model': (
    'train',
    [MARKOV, '--workdir={tmp}/other', '--config.model.features=16'],
    ['another model', 'features'],
  ),
  'unknown sampler': (
    'sample',
    ['--workdir={tmp}/other', '--sampler=fast'],
    ['sampler', 'ancestral'],
  ),
}


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  tmp = tmp_path_factory.mktemp('bad')
  (tmp / 'truncated').mkdir()
  (tmp / 'truncated' / 'bmnist_train.amat').write_bytes(b'0 1 1 0')
  (tmp / 'other').mkdir()
  (tmp / 'other' / 'config.json').write_text(
    '{"model": {"name": "transformer", "features": 32}, "seed": 7}'
  )
  return tmp


@pytest.mark.parametrize('case', BAD)
def test_refuses(case, directory):
  script, flags, words = BAD[case]
  flags = [f.format(tmp=directory) for f in flags]
  if script == 'train' and not any('workdir' in f for f in flags):
    flags.append(f'--workdir={directory}/fresh')
  before = sorted(p for p in directory.rglob('*') if 'fresh' not in str(p))
  paragraph = options_test.refusal(script, flags)
  for word in words:
    assert word in paragraph, paragraph
  after = sorted(p for p in directory.rglob('*') if 'fresh' not in str(p))
  assert after == before, 'a refused command changed files'


def test_a_refusal_is_one_paragraph_and_exit_code_1():
  """In a process of its own; those above are of this one."""
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.train', MARKOV, 'steps=3'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 1, done.stderr
  said = 'train: Unexpected arguments steps=3: every option is a flag'
  assert ' '.join(done.stderr.split()).startswith(said)
  assert 'Traceback' not in done.stderr and not done.stdout


@pytest.mark.slow
def test_table_of_samplers(tmp_path):
  """A tiny run, then the table: every sampler, equal integers."""
  workdir = f'--workdir={tmp_path}/run'
  options_test.run('train', [MARKOV, workdir, *TINY])
  sample = functools.partial(options_test.run, 'sample')
  temper = [workdir, '--count=3', '--temperature=0.5']
  sample([*temper, f'--out={tmp_path}/x.npz', '--seed=5'])
  with np.load(tmp_path / 'x.npz') as drawn:
    assert drawn['x'].shape == (3, 16)
    assert drawn['log_prob'].shape == drawn['passes'].shape == (3,)
    assert (drawn['seed'], drawn['temperature']) == (5, 0.5)
  sample(temper)
  assert (tmp_path / 'run' / 'samples_count3_temperature0.5.npy').exists()
  flags = ['--count=4', '--batch=2', '--rounds=1', f'--out={tmp_path}/out.json']
  said = options_test.run('tables/samplers', [workdir, *flags])
  rows = re.findall('^[|] (ancestral|fixed point|cached)', said, re.M)
  assert len(rows) == 7
  record = json.loads((tmp_path / 'out.json').read_text())
  value = {name: n['value'] for name, n in record['numbers'].items()}
  assert value['ancestral: passes mean'] == 16 == value['cached: steps mean']
  assert (
    value['cached: different'] == value['fixed point, last: different'] == 0
  )


def test_samples_that_are_none_are_refused():
  """A pick that changes what was final, and values that are not finite."""
  info = par.SampleInfo(*[np.zeros(2, np.int32)] * len(par.SampleInfo._fields))
  exact = toys.sigmoid_net((3,), num_values=3)
  rounding = dataclasses.replace(exact, causality='rounding')
  changed = info._replace(changed=np.array([0, 2]))

  def look(_):
    refuse = sys.modules['experiments.sample']._refuse
    refuse(exact, info)
    refuse(rounding, changed)
    with pytest.raises(ValueError, match='not causal: 2 positions'):
      refuse(exact, changed)
    for model in exact, rounding:
      with pytest.raises(ValueError, match='3 values .* not finite'):
        refuse(model, info._replace(not_finite=np.array([1, 2])))
    seen.append(True)

  seen = []
  said = options_test.parse('sample', ['--workdir=run'], look)
  assert seen, said


@pytest.mark.slow  # a question, whose parts have tests of their own
def test_contributions(tmp_path):
  """Samplers and both codecs of a tiny run in one table, integers equal."""
  workdir = f'--workdir={tmp_path}/run'
  options_test.run('train', [MARKOV, workdir, *TINY])
  flags = ['--count=4', '--batch=2', '--rounds=1', '--samplers=cached']
  flags += ['--coded=3', '--batches=2', f'--png={tmp_path}/a.png']
  flags += [f'--out={tmp_path}/out.json']
  options_test.run('contributions', [workdir, *flags])
  record = json.loads((tmp_path / 'out.json').read_text())
  value = {name: n['value'] for name, n in record['numbers'].items()}
  different = [v for name, v in value.items() if name.endswith('different')]
  assert different == [0, 0, 0, 0]  # ancestral, cached, lanes, stream
  assert value['decode, stream, batch 2: passes'] > 16 / 2
  lanes, stream = (
    value[f'decode, {method}, batch 2: beyond the model']
    for method in ('lanes', 'stream')
  )
  assert lanes > stream > 0
  assert value['after 0 passes: wrong'] > 0
  assert min(v for k, v in value.items() if k.endswith(': wrong')) == 0
  assert (tmp_path / 'a.png').stat().st_size


@pytest.mark.slow  # a table, whose parts have tests of their own
def test_table_of_budgets(tmp_path):
  """Every position alone is the total order; one step is all at once."""
  workdir = f'--workdir={tmp_path}/run'
  tiny = [
    *TINY,
    '--config.model.name=two_stream',
    '--config.train.eval_every=0',
  ]
  options_test.run('train', [MARKOV, workdir, *tiny])
  flags = ['--budgets=1,16', '--count=6', '--orders=1', '--tested=1']
  flags += ['--batch=2', '--rounds=1', f'--out={tmp_path}/out.json']
  said = options_test.run('tables/budget', [workdir, *flags])
  assert len(re.findall(r'^[|] \d+ [|]', said, re.M)) == 2
  record = json.loads((tmp_path / 'out.json').read_text())
  value = {name: n['value'] for name, n in record['numbers'].items()}
  for steps in (1, 16):
    even, measured = (
      value[f'{steps} steps: {name}'] for name in ('even groups', 'measured')
    )
    assert even == measured
  assert len(record['details']['losses']) == 16


@pytest.mark.slow  # a table, whose parts have tests of their own
def test_table_of_segments(tmp_path):
  flags = ['--lengths=18', '--segment=6', '--features=8', '--rounds=1']
  flags += ['--layers=1', '--values=5', f'--out={tmp_path}/out.json']
  said = options_test.run('tables/segments', flags)
  assert len(re.findall(r'^[|] 18 [|]', said, re.M)) == 5
  record = json.loads((tmp_path / 'out.json').read_text())
  assert record['numbers']['18 slots: deviation']['value'] < 1e-5


@pytest.mark.slow
def test_quickstart_keeps_its_promises(tmp_path):
  subprocess.run(
    [sys.executable, '-m', 'experiments.quickstart', f'--workdir={tmp_path}'],
    cwd=ROOT,
    check=True,
  )
  record = json.loads((tmp_path / 'result.json').read_text())
  value = {name: n['value'] for name, n in record['numbers'].items()}
  assert value['bits_per_dim'] < value['independent_pixels'] < value['png']
  assert value['oracle_gap'] <= 1e-5
  assert value['different_integers'] == 0
  assert value['fixed_point_passes_mean'] <= value['ancestral_passes'] / 3


@pytest.mark.slow  # trains in two processes
def test_speed_of_the_loop_in_turn_with_another_checkout(tmp_path):
  out = tmp_path / 'speed.json'
  flags = [f'--other={ROOT}', '--steps=16', '--rounds=1', f'--out={out}']
  flags += ['--config=configs/digits_made.py', ONE_DEVICE]
  said = options_test.run('tables/loop_speed', flags)
  assert '| of the other | of the roof |' in said
  numbers = {
    k: v['value'] for k, v in json.loads(out.read_text())['numbers'].items()
  }
  speeds = [numbers[f'{name}: speed'] for name in ('here', 'other', 'roof')]
  assert min(speeds) > 0
  assert numbers['here of other'] == pytest.approx(speeds[0] / speeds[1])
  assert 0 < numbers['host_seconds_per_step'] < 1
