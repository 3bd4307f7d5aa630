"""Whole-split likelihoods against a loop over the examples."""

import dataclasses

import jax
import numpy as np
import pytest

from parallel_ar import likelihood, order
from parallel_ar.data import dataset as data_lib
from parallel_ar.data.dataset import Dataset
from parallel_ar.training import evaluate
from tests import options_test
from tests.training import tiny

EVENT = (4, 3)


def _data(count=10, labels=False, high=2):
  random = np.random.RandomState(0)
  x = random.randint(0, high, (count, *EVENT)).astype(np.int32)
  context = random.randint(0, 3, count).astype(np.int32) if labels else None
  return Dataset('noise', 'test', x, high, context)


def _models(count=1, **fields):
  ranks = [order.random(EVENT, seed) for seed in range(count)]
  return [tiny.fvsbn(EVENT, rank=r, init_scale=1.0, **fields) for r in ranks]


def _params(models):
  return models[0].init(jax.random.key(0))


class TestEvaluate:
  @pytest.mark.parametrize('batch_size', [1, 4, 10, 16])
  def test_counts_every_example_once(self, batch_size):
    models, data = _models(), _data()
    params = _params(models)
    result = evaluate.evaluate(models, params, data, batch_size)
    each = [
      -float(likelihood.log_prob(models[0], params, data.x[i : i + 1])[0])
      for i in range(10)
    ]
    np.testing.assert_allclose(result.per_example, each, rtol=1e-5)
    assert result.count == 10
    assert result.nats == pytest.approx(np.mean(each), rel=1e-6)
    error = np.std(each, ddof=1) / np.sqrt(10)
    assert result.standard_error == pytest.approx(error, rel=1e-5)
    bits = result.nats / (12 * np.log(2))
    assert result.bits_per_dim == pytest.approx(bits, rel=1e-6)

  def test_one_program_serves_all_batches(self):
    models = _models()
    log_prob = evaluate.make_log_prob(models)
    for count in (10, 7):
      evaluate.evaluate(
        models, _params(models), _data(count), 4, log_prob=log_prob
      )
    assert log_prob._cache_size() == 1

  def test_mixture_averages_probabilities(self):
    models, data = _models(3), _data()
    params = _params(models)
    result = evaluate.evaluate(models, params, data, 4)
    each = np.stack(
      [likelihood.log_prob(m, params, data.x) for m in models]
    ).astype(np.float64)
    expected = -np.log(np.exp(each).mean(0))
    np.testing.assert_allclose(result.per_example, expected, rtol=1e-5)
    assert result.num_models == 3
    assert 'mixture of 3' in str(result)

  def test_labels_are_read_or_ignored(self):
    data = _data(labels=True)
    models = _models(num_classes=3)
    params = _params(models)
    params['label'] = params['label'] * np.arange(3)[:, None]
    result = evaluate.evaluate(models, params, data, 4)
    expected = -likelihood.log_prob(models[0], params, data.x, data.context)
    np.testing.assert_allclose(result.per_example, expected, rtol=1e-5)
    plain = _models()
    evaluate.evaluate(plain, _params(plain), data, 4)

  def test_dynamic_bits_are_drawn_once_and_named(self):
    grey = _data(high=256)
    grey = dataclasses.replace(grey, num_values=2, binarize='dynamic')
    models = _models()
    result = evaluate.evaluate(models, _params(models), grey, 4)
    drawn = data_lib.binarize_once(grey)
    same = evaluate.evaluate(models, _params(models), drawn, 4)
    np.testing.assert_array_equal(result.per_example, same.per_example)
    assert result.binarization_seed == data_lib.EVALUATION_SEED
    assert str(data_lib.EVALUATION_SEED) in str(result)
    assert same.binarization_seed is None

  def test_names_what_was_measured(self):
    models = _models()
    result = evaluate.evaluate(
      models, _params(models), _data(), 4, params_name='ema of step 3'
    )
    text = str(result)
    assert 'noise test' in text
    assert 'ema of step 3' in text
    assert '10 examples' in text

  def test_a_single_example_has_no_standard_error(self):
    models = _models()
    result = evaluate.evaluate(models, _params(models), _data(1), 4)
    assert np.isnan(result.standard_error)

  def test_nan_is_an_error_that_names_the_example(self):
    models = _models()
    params = _params(models) | {'b': np.full(12, np.nan, np.float32)}
    with pytest.raises(ValueError, match='example 0 of noise test is nan'):
      evaluate.evaluate(models, params, _data(), 4)

  def test_poll_can_stop_it(self):
    models = _models()
    calls = []

    def poll():
      calls.append(1)
      if len(calls) == 2:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
      evaluate.evaluate(models, _params(models), _data(), 4, poll=poll)
    assert len(calls) == 2


class TestFit:
  def _refused(self, match, data, **fields):
    models = _models(**fields)
    with pytest.raises(ValueError, match=match):
      evaluate.evaluate(models, _params(models), data, 4)

  def test_other_event(self):
    data = Dataset('noise', 'test', np.zeros((2, 5), np.int32), 2)
    self._refused(r'event is \(4, 3\), the examples have shape \(5,\)', data)

  def test_more_values_than_the_head_has(self):
    self._refused(r'values 0\.\.1, the data has 0\.\.3', _data(high=4))

  def test_missing_context(self):
    self._refused('no context', _data(), num_classes=3)

  def test_context_of_another_shape(self):
    data = _data(labels=True)
    data = dataclasses.replace(data, context=data.context[:, None])
    self._refused(r'shapes \(10,\); got.*\(10, 1\)', data, num_classes=3)


def test_one_example_has_no_error():
  models = _models()
  found = evaluate.evaluate(models, _params(models), _data(1), 1)
  assert np.isnan(found.standard_error) and '+-' not in str(found)


def test_the_script_takes_several_splits():
  """Each as by itself; all names are looked at before the first is."""
  run = '--workdir=tests/golden/format_1'
  evaluated = lambda split: options_test.run(
    'evaluate', [run, f'--split={split}']
  ).splitlines()
  valid, test = evaluated('valid'), evaluated('test')
  assert valid[:2] == test[:2]  # the devices and the model
  assert valid[2] != test[2]  # nats
  assert evaluated('valid,test') == [*valid, *test[2:]]
  said = options_test.refusal('evaluate', [run, '--split=valid,tset'])
  assert "no split 'tset'" in said and "mean 'test'" in said
  assert 'nats' not in said
  words = [run, '--split=valid,test', '--result=/dev/null']
  assert 'name one split' in options_test.refusal('evaluate', words)
