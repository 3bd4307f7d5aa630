"""Work and depth are what arithmetic says they are."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar.analysis import complexity
from parallel_ar.analysis.complexity import Cost
from tests import options_test


def ones(*shape):
  return jnp.ones(shape)


COUNTS = {
  'chain': (lambda x: jnp.sin(jnp.exp(x)) + 1, (ones(7),), Cost(21, 3)),
  'independent': (lambda x: jnp.sin(x) + jnp.cos(x), (ones(7),), Cost(21, 2)),
  'product': (jnp.dot, (ones(3, 16), ones(16, 5)), Cost(480, 5)),
  'sum': (jnp.sum, (ones(100),), Cost(100, 7)),
  'prefix sum': (jnp.cumsum, (ones(1024),), Cost(1024, 10)),
  'moved': (lambda x: x[::-1].reshape(2, 4).T, (ones(8),), Cost(0, 0)),
}


@pytest.mark.parametrize('name', COUNTS)
def test_counts(name):
  function, args, want = COUNTS[name]
  assert complexity.count(function, *args) == want


def loop(x):
  step = lambda h, x: (0.5 * h + x, h)
  return jax.lax.scan(step, jnp.zeros(()), x)[1]


@pytest.mark.parametrize('n', [64, 1024])
def test_a_loop_is_n_deep_and_an_associative_scan_log_n(n):
  x = ones(n)
  serial = complexity.count(loop, x)
  assert serial == Cost(2 * n, 2 * n)
  pair = lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])
  tree = complexity.count(
    lambda x: jax.lax.associative_scan(pair, (0.5 + 0 * x, x))[1], x
  )
  assert np.log2(n) <= tree.depth <= 6 * np.log2(n)
  assert serial.work < tree.work < 10 * serial.work


def test_independent_steps_of_a_loop_add_no_chain():
  """A loop whose carry is only counted is as deep as its counter."""
  step = lambda n, x: (n, jnp.sin(jnp.exp(jnp.cos(x))))
  got = complexity.count(lambda x: jax.lax.scan(step, 0.0, x)[1], ones(50))
  assert got == Cost(150, 3)


def test_a_loop_of_unknown_length_takes_the_trips_it_is_told():
  go = lambda x: jax.lax.while_loop(lambda x: x < 9.0, lambda x: x * 2, x)
  few, many = (complexity.count(go, 1.0, trips=n) for n in (3, 30))
  assert many.work == 10 * few.work and many.depth > few.depth


def test_the_fit_finds_the_machine():
  machine = complexity.Machine(call=1e-4, alpha=2e-6, speed=3e9, error=0.0)
  costs = [Cost(1e6, 10), Cost(1e9, 20), Cost(1e5, 4000), Cost(1e7, 100)]
  seconds = [machine.seconds(c) for c in costs]
  got = complexity.fit(costs, seconds)
  assert got.call == pytest.approx(1e-4)
  assert got.alpha == pytest.approx(2e-6) and got.speed == pytest.approx(3e9)
  assert got.error < 1e-6
  only = complexity.fit(costs, [c.work / 1e9 for c in costs])
  assert only.alpha == pytest.approx(0, abs=1e-12)
  with pytest.raises(ValueError, match='three numbers'):
    complexity.fit(costs[:1], seconds[:1])


@pytest.mark.slow  # a question, whose parts have tests of their own
def test_the_script(tmp_path):
  flags = [
    '--families=convolution,loop,hierarchy',
    '--lengths=8',
    '--batches=1,2',
    '--rounds=1',
    '--passes=2',
    f'--png={tmp_path}/c.png',
    f'--out={tmp_path}/c.json',
  ]
  options_test.run('complexity', flags)
  numbers = json.loads((tmp_path / 'c.json').read_text())['numbers']
  assert numbers['loop, n 8, b 1: ranks']['value'] == 8
  assert numbers['loop, n 8, b 2: cached, predicted']['value'] > 0
  assert numbers['machine: speed']['value'] > 0
  assert (tmp_path / 'c.png').read_bytes().startswith(b'\x89PNG')
