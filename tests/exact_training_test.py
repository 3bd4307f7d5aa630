"""Training on the grids, and the scripts that lower trained runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar.coding import quantize
from parallel_ar.exact import straight_through
from parallel_ar.exact.straight_through import _on_grid
from parallel_ar.training import trained
from parallel_ar.training import whole as of_runs
from tests import options_test
from tests.exact_test import whole

BITS = {'weight_bits': 4, 'activation_bits': 5}


def test_it_computes_what_the_whole_numbers_do():
  case, _ = whole()
  args = case.x, case.context
  nats = jax.jit(par.log_prob, static_argnums=0)
  found = par.exact(case.model, case.params, *args, **BITS)
  grids = straight_through(case.model, case.params, *args, **BITS)
  want = np.asarray(nats(found.model, found.params, *args))
  # Of frequencies of as many bits: a rare symbol costs 16 bits in all.
  near, far = (
    np.abs(nats(quantize.quantized(m, 16), case.params, *args) - want).mean()
    for m in (grids, case.model)
  )
  assert near < far / 4


def test_the_gradient_goes_straight_through():
  a = jnp.array([-3.0, -0.3, 0.0, 0.26, 0.9, 3.0])
  snapped, back = jax.vjp(lambda a: _on_grid(a, 3, 1.5), a)
  assert snapped.tolist() == [-1.5, -0.5, 0.0, 0.5, 1.0, 1.5]
  assert back(jnp.ones(6))[0].tolist() == [0, 1, 1, 1, 1, 0]
  case, _ = whole()
  grids = straight_through(
    case.model, case.params, case.x, case.context, **BITS
  )
  nats = lambda params: (
    -par.log_prob(grids, params, case.x, case.context).mean()
  )
  grads = jax.jit(jax.grad(nats))(case.params)
  for leaf in jax.tree.leaves(grads):
    assert np.isfinite(leaf).all() and np.asarray(leaf).any()


def test_it_refuses_what_exact_refuses():
  case, _ = whole()
  with pytest.raises(ValueError, match='activation_bits is 2 to 16'):
    straight_through(
      case.model, case.params, case.x, case.context, activation_bits=1
    )
  none = case.params, case.x[:0], jax.tree.map(lambda a: a[:0], case.context)
  with pytest.raises(ValueError, match='taken from examples; got none'):
    straight_through(case.model, *none)
  model = par.models.gaussian_made(event=(3,), hidden=(8,))
  with pytest.raises(par.NotWhole, match='continuous values'):
    straight_through(model, model.init(jax.random.key(0)), np.zeros((2, 3)))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A MADE of the digits, trained for some steps."""
  workdir = tmp_path_factory.mktemp('run') / 'made'
  options_test.run(
    'train',
    [
      '--config=configs/digits_made.py',
      '--config.model.hidden=(9,)',
      '--config.model.direct=False',
      '--config.train.steps=60',
      '--config.optimizer.learning_rate=1e-2',
      '--config.mesh.data=1',
      f'--workdir={workdir}',
    ],
  )
  return workdir


def test_a_run_is_tuned_and_lowered(run, tmp_path):
  said = options_test.run(
    'exact',
    [
      f'--workdir={run}',
      '--weight_bits=3',
      '--activation_bits=4',
      '--steps=40',
      '--rate=1.0',
      f'--program={tmp_path}/p.npz',
    ],
  )
  lines = [line for line in said.splitlines() if line.startswith('loss ')]
  before, after = (float(line.split()[3]) for line in lines)
  assert after < before - 0.01
  assert 'ema of step 60 parameters' in said
  assert 'ema of step 60 and 40 more parameters' in said
  assert (tmp_path / 'p.npz').exists()


def test_updates_keep_what_the_run_says(run):
  """On fine grids they have nothing to do; the data would teach them more."""
  made = trained.load(run)
  shown = of_runs.examples(made, 16)
  x = made.load_split('test').x[:50]
  nats = jax.jit(lambda params: par.log_prob(made.model, params, x))
  before = nats(made.params)

  def moved(**how):
    updates = of_runs.Updates(30, 1.0, **how)
    bits = {'weight_bits': 14, 'activation_bits': 14}
    params = of_runs.tune(made, shown, updates, **bits)
    return float(np.abs(nats(params) - before).mean())

  kept = moved()
  assert 0 < kept < moved(targets='data', ema_decay=0.0) / 4


def test_a_table_of_losses(run, tmp_path):
  said = options_test.run(
    'tables/whole_loss',
    [
      f'--workdirs={run}',
      '--bits=4/5,12/14',
      '--steps=2',
      '--num_test=20',
      f'--out={tmp_path}/t.json',
    ],
  )
  numbers = json.loads((tmp_path / 't.json').read_text())['numbers']
  lost = {n.split('lost at ')[-1]: v['value'] for n, v in numbers.items()}
  assert 0 < abs(lost['frequencies of 16 bits']) < 0.001
  assert abs(lost['12/14']) < 0.001 < abs(lost['4/5'])
  assert lost['4/5, nats'] == pytest.approx(lost['4/5'] * 64 * np.log(2))
  name = 'made, digits: its standard error, 4/5, 2 updates'
  assert 0 < numbers[name]['value'] < 10
  assert '4/5, 2 updates' in said


@pytest.mark.slow
def test_a_file_is_read_everywhere(run, tmp_path):
  options_test.run(
    'tables/whole_files',
    [
      f'--workdir={run}',
      *('--count=9', '--batch=4', '--numpy=2', '--integers=500'),
      f'--out={tmp_path}/t.json',
    ],
  )
  numbers = json.loads((tmp_path / 't.json').read_text())['numbers']
  values = {name: n['value'] for name, n in numbers.items()}
  different = [n for name, n in values.items() if 'different' in name]
  assert len(different) >= 10 and not any(different)
  # 9 images, and the frequencies of both symbols twice.
  assert values['here again: integers'] == 9 * 64 * (1 + 2 * 17)


@pytest.mark.slow
def test_times(tmp_path):
  flags = '--networks=gated', '--batch=1', '--samples=1', '--rounds=1'
  options_test.run('tables/whole_speed', [*flags, f'--out={tmp_path}/t.json'])
  record = json.loads((tmp_path / 't.json').read_text())
  ratios = [n for n in record['numbers'] if n.endswith('of float')]
  assert [n.split(', ')[2] for n in ratios] == ['one pass', 'cached']
  assert record['details']['carriers']
