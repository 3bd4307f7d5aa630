"""Infilling likelihoods against enumeration, and the script."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from parallel_ar import models, order
from parallel_ar.analysis import infill
from parallel_ar.data import synthetic
from parallel_ar.testing import case as cases
from tests import options_test, toys

ROOT = pathlib.Path(__file__).parents[2]
NET = toys.sigmoid_net((5,), rank=order.random((5,), 2), num_values=3)
X = np.random.default_rng(0).integers(0, 3, (4, 5))
LAST = NET.rank < 3  # known first
MIXED = np.array([0, 1, 0, 1, 1], bool)


@functools.cache
def params():
  return cases.random_params(NET, gain=2.0)


def test_a_prefix_is_exact_and_equals_the_sum():
  assert infill.comes_first(NET.rank, LAST)
  found = infill.exact(NET, params(), X, LAST)
  want = infill.enumerated(NET, params(), X, LAST)
  np.testing.assert_allclose(found, want, rtol=1e-4)


def test_any_order_with_known_ones_first():
  """Under its rank the one pass is the conditional that enumeration gives."""
  make = functools.partial(
    models.two_stream, event=(5,), num_values=3, features=8, layers=1, heads=2
  )
  model = make(rank=order.known_first(order.raster((5,)), MIXED))
  own = cases.random_params(model, gain=0.5)
  found = infill.exact(model, own, X, MIXED)
  want = infill.enumerated(model, own, X, MIXED)
  np.testing.assert_allclose(found, want, rtol=1e-4)


def test_bounds_enclose_and_close():
  assert not infill.comes_first(NET.rank, MIXED)
  want = infill.enumerated(NET, params(), X, MIXED)
  of = lambda seed, num: infill.bounds(
    NET, params(), X, MIXED, jax.random.key(seed), num, batch=3
  )
  few = [of(seed, 4) for seed in range(60)]
  most = np.array([b.at_most for b in few])
  error = most.std(0) / np.sqrt(len(few))
  assert (most.mean(0) > want - 3 * error).all()
  many = of(0, 3000)
  np.testing.assert_allclose(many.at_most, want, atol=0.1)
  np.testing.assert_allclose(many.at_least, want, atol=0.1)


def test_resampling_is_a_distribution():
  """Over all fillings the mean of exp(at_least) is 1."""
  fills = synthetic.enumerate_events(3, (2,))
  every = np.repeat(X[:1], len(fills), 0)
  every[:, ~MIXED] = fills
  total = [
    np.exp(
      infill.bounds(
        NET, params(), every, MIXED, jax.random.key(seed), 3, batch=9
      ).at_least
    ).sum()
    for seed in range(200)
  ]
  error = np.std(total) / np.sqrt(len(total))
  assert abs(np.mean(total) - 1) < 4 * error < 0.2


@pytest.mark.parametrize(
  'make, words',
  [
    (lambda: infill.exact(NET, params(), X, MIXED), 'known_first'),
    (lambda: infill.comes_first(NET.rank, np.ones(5, bool)), 'not all'),
    (lambda: infill.comes_first(NET.rank, np.ones(4, bool)), 'not all'),
    (
      lambda: infill.bounds(NET, {}, X, MIXED, jax.random.key(0), 1),
      'at least two',
    ),
    (
      lambda: infill.enumerated(toys.autoregression(), {}, X, MIXED[:3]),
      'known marks|no finite number',
    ),
  ],
)
def test_refuses(make, words):
  with pytest.raises(ValueError, match=words):
    make()


@pytest.mark.slow  # a question, whose parts have tests of their own
def test_script(tmp_path):
  """Next-scale is exact from the coarse grid, and bounded elsewhere."""
  flags = ['--only=next_scale', '--masks=middle square']
  flags[1] += ',coarse grid'
  flags += ['--steps=2', '--every=2', '--features=8', '--count=3', '--draws=2']
  flags += ['--rounds=1', f'--png={tmp_path}/a.png', f'--out={tmp_path}/o.json']
  flags += [f'--workdir={tmp_path}']
  said = options_test.run('future_information', flags)
  record = json.loads((tmp_path / 'o.json').read_text())
  value = {name: n['value'] for name, n in record['numbers'].items()}
  assert value['middle square, next_scale: low'] > 1
  assert value['coarse grid, next_scale: nats'] > 1
  assert 'coarse grid, next_scale: low' not in value  # exact, from one pass
  assert value['next_scale: depth'] == 4
  assert '| middle square | 16 | next_scale |' in said
  assert (tmp_path / 'a.png').stat().st_size
