"""KL three ways, its fall with N, and the script that measures it."""

import json
import pathlib

import numpy as np
import pytest

from parallel_ar.analysis import optimum
from parallel_ar.data import exact, synthetic
from parallel_ar.data.synthetic import MarkovChain
from tests import options_test

ROOT = pathlib.Path(__file__).parents[2]


def chains(length=5):
  return (MarkovChain.random(3, length, seed) for seed in (0, 1))


def test_three_ways_to_one_divergence():
  p, q = chains()
  events = synthetic.enumerate_events(3, (5,))
  exactly = optimum.enumerated(p.log_prob(events), q.log_prob(events))
  formula = optimum.chain_divergence(p, q)
  np.testing.assert_allclose(exactly.nats, formula, rtol=1e-10)
  x = p.sample(4000, seed=0)
  found = optimum.paired(p.log_prob(x), q.log_prob(x))
  assert abs(found.nats - formula) < 4 * found.standard_error
  assert (exactly.how, found.how) == ('enumeration', 'paired')


def test_pairing_pays_where_the_laws_are_close():
  p = MarkovChain.random(3, 5, 0)
  x = p.sample(3000, seed=1)
  near = optimum.counted_chain(x, 3)
  found = optimum.paired(p.log_prob(x), near.log_prob(x))
  assert found.standard_error < 0.1 * found.unpaired_error


def test_counted_pairs_follow_the_law_of_an_efficient_estimator():
  p = MarkovChain.random(3, 9, 0)
  kl = [
    optimum.chain_divergence(p, optimum.counted_chain(p.sample(300, k), 3))
    for k in range(200)
  ]
  assert np.mean(kl) == pytest.approx(optimum.efficient(6, 300), rel=0.2)


@pytest.mark.parametrize('floor', [0.0, 0.02])
def test_a_power_law_is_found(floor):
  n = np.array([10, 40, 160, 640, 2560])
  fit = optimum.fit_power_law(n, floor + 3.0 * n**-0.8)
  assert fit.floor == pytest.approx(floor, abs=1e-9)
  assert fit.exponent == pytest.approx(0.8, abs=1e-9)
  assert fit.error < 1e-9
  np.testing.assert_allclose(fit(n), floor + fit.estimation(n))


@pytest.mark.parametrize(
  'make, words',
  [
    (lambda: optimum.paired([0.0], [0.0]), 'at least two'),
    (lambda: optimum.paired([0.0, 1.0], [0.0]), 'same length'),
    (lambda: optimum.enumerated([-1.0, -1.0], [0.0, 0.0]), 'not all events'),
    (lambda: optimum.fit_power_law([1, 2], [1.0, 2.0]), 'at three numbers'),
    (
      lambda: optimum.chain_divergence(*map(next, map(chains, (4, 5)))),
      'same symbols and length',
    ),
  ],
)
def test_refuses(make, words):
  with pytest.raises(ValueError, match=words):
    make()


CONFIG = '''"""Tiny."""
from parallel_ar.training import configuration
from tests import options_test

def get_config():
  config = configuration.default_config()
  config.data.name = 'markov'
  config.data.num_values = 3
  config.data.length = 4
  config.model.name = 'nade'
  config.model.event = (4,)
  config.model.num_values = 3
  config.model.hidden = 0
  config.train.batch_size = 16
  return config
'''


def test_script(tmp_path):
  """The parts of the file add up, and the counted chain stands beside."""
  (tmp_path / 'tiny.py').write_text(CONFIG)
  flags = [f'--configs={tmp_path}/tiny.py', '--field=hidden', '--sizes=2']
  flags += ['--counts=16,32,64', '--steps=6', '--every=3', '--coded=7']
  flags += ['--draws=2', f'--png={tmp_path}/a.png', f'--out={tmp_path}/o.json']
  options_test.run('optimum', flags)
  record = json.loads((tmp_path / 'o.json').read_text())
  value = {name: n['value'] for name, n in record['numbers'].items()}
  law = exact.law('markov', num_values=3, length=4)
  assert value['tiny: entropy'] == law.entropy
  assert value['tiny, counted, N 16: KL'] > 0
  assert value['tiny, size 2, N 16: KL'] > 0 <= value['tiny, size 2: floor']
  assert value['tiny, size 2, N 16: error'] == 0  # by enumeration
  whole = value.pop('tiny, file: size')
  assert value.pop('tiny, file: different') == 0
  value.pop('tiny, file: KL over the test')
  parts = [v for k, v in value.items() if k.startswith('tiny, file: ')]
  assert len(parts) == 7
  assert sum(parts) == pytest.approx(whole, abs=1e-9)
  assert abs(value['tiny, file: arithmetic of the coder']) < 0.02 * whole
  assert (tmp_path / 'a.png').stat().st_size
