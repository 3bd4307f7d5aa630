"""The noise scale agrees with the variance of many gradients."""

import functools
import json
import pathlib

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import models
from parallel_ar.analysis import gradient_noise
from parallel_ar.data import synthetic
from parallel_ar.testing import case as cases
from parallel_ar.training import step
from tests import options_test

ROOT = pathlib.Path(__file__).parents[2]


@functools.cache
def problem():
  """A small model, 2,048 examples, and its mean loss."""
  source = synthetic.MarkovChain.random(3, 7, seed=0)
  model = models.made(event=(7,), num_values=3, hidden=(11,), degrees='even')
  x = source.sample(2048, 0).astype(np.int32)
  params = cases.random_params(model, gain=0.5)
  mean = step.make_loss([model])
  return (lambda params, batch: mean(params, batch, 0)), params, x


@functools.cache
def brute_force(count=4000, batch=16):
  """tr(S) and |G|^2 from the variance of many gradients of batches."""
  loss, params, x = problem()
  rows = np.random.default_rng(1).integers(len(x), size=(count, batch))
  flat = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
  one = lambda r: flat(jax.grad(loss)(params, {'x': jnp.asarray(x)[r]}))
  g = np.asarray(jax.jit(lambda rows: jax.lax.map(one, rows))(rows), np.float64)
  return batch * g.var(0, ddof=1).sum(), (g.mean(0) ** 2).sum()


def test_per_example_agrees_with_many_gradients_within_ten_percent():
  loss, params, x = problem()
  trace, squared = brute_force()
  got = gradient_noise.per_example(loss, params, {'x': x}, chunk=100)
  assert got.trace == pytest.approx(trace, rel=0.05)
  assert got.scale == pytest.approx(trace / squared, rel=0.1)
  assert got.examples == len(x)
  assert 0 < got.standard_error < 0.2 * got.scale


def test_two_batches_agree_with_many_gradients_within_ten_percent():
  loss, params, x = problem()
  trace, squared = brute_force()
  shuffled = np.random.default_rng(2).permutation(x)
  batches = [{'x': b} for b in shuffled.reshape(4, 512, -1)]
  got = gradient_noise.two_batches(loss, params, batches, 8)
  assert got.scale == pytest.approx(trace / squared, rel=0.1)
  assert got.trace == pytest.approx(trace, rel=0.1)


def test_parts_and_chunks_change_rounding_only():
  loss, params, x = problem()
  data = {'x': x[:64]}
  a = gradient_noise.per_example(loss, params, data, chunk=64, parts=2)
  b = gradient_noise.per_example(loss, params, data, chunk=5, parts=8)
  assert a.scale == pytest.approx(b.scale, rel=1e-4)


def test_equal_examples_have_no_noise():
  loss, params, x = problem()
  same = {'x': np.repeat(x[:1], 16, 0)}
  got = gradient_noise.per_example(loss, params, same)
  assert abs(got.trace) < 1e-4 * got.squared_norm


def test_bad_sizes_are_refused():
  loss, params, x = problem()
  with pytest.raises(ValueError, match='at least 4 examples'):
    gradient_noise.per_example(loss, params, {'x': x[:3]})
  with pytest.raises(ValueError, match='must divide'):
    gradient_noise.two_batches(loss, params, [{'x': x[:10]}], 3)
  with pytest.raises(ValueError, match='two batch sizes'):
    gradient_noise.fit_frontier([8, 8], [1, 2])


def test_the_frontier_of_a_hyperbola_is_that_hyperbola():
  sizes = np.array([4, 16, 64, 256])
  fit = gradient_noise.fit_frontier(sizes, 70 * (1 + 40 / sizes))
  assert fit.min_steps == pytest.approx(70, rel=0.01)
  assert fit.critical == pytest.approx(40, rel=0.01)
  assert fit.error < 0.01
  np.testing.assert_allclose(fit.steps(sizes), 70 * (1 + 40 / sizes), rtol=0.01)


@pytest.mark.slow  # a question, whose parts have tests of their own
def test_the_script(tmp_path):
  flags = [
    '--config=configs/digits_made.py',
    '--config.model.hidden=(16,)',
    '--at=0,6',
    '--examples=32',
    '--batches=4,16',
    '--rates=1,2',
    '--target=240',
    '--most=60',
    f'--png={tmp_path}/n.png',
    f'--out={tmp_path}/n.json',
  ]
  options_test.run('gradient_noise', flags)
  numbers = json.loads((tmp_path / 'n.json').read_text())['numbers']
  assert numbers['0 updates: noise scale']['value'] > 0
  assert numbers['batch 4: updates']['value'] % 5 == 0
  assert numbers['critical batch']['value'] > 0
  assert (tmp_path / 'n.png').read_bytes().startswith(b'\x89PNG')
