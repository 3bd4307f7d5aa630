"""Whole runs of a tiny model in this process."""

import json
import math
import os
import re
import signal
import types

import chex
import jax
import numpy as np
import pytest

from parallel_ar import models
from parallel_ar.training import (
  checkpoint,
  configuration,
  datasets,
  evaluate,
  identity,
  interrupt,
  loop,
  metrics,
  trained,
)
from tests.training import tiny

EVENT = (4, 3, 1)


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch):
  """The names of tiny.py build models that compile in no time."""
  real = models.build

  def build(config):
    if config.name not in ('fvsbn', 'drawn', 'fitted'):
      return real(config)
    options = {k: v for k, v in config.items() if k != 'name'}
    return (getattr(tiny, config.name)(**options),)

  monkeypatch.setattr(models, 'build', build)


def _config(**train):
  config = configuration.default_config()
  config.mesh.data = 1
  config.data.update(name='lattice', height=4, width=3, num_examples=60)
  config.model.update(name='fvsbn', event=EVENT)
  config.optimizer.update(name='adagrad', learning_rate=0.1)
  defaults = {
    'batch_size': 20,
    'steps': 10,
    'log_every': 2,
    'eval_every': 5,
    'checkpoint_every': 5,
    'tensorboard': False,
  }
  config.train.update(defaults | train)
  return config


def _train(config, workdir, **options):
  return loop.train(config, workdir, **({'progress': False} | options))


def _records(workdir, kind):
  records = metrics.read(workdir / 'metrics.jsonl')
  return [r for r in records if r['kind'] == kind]


def _checkpoints(workdir):
  return sorted(int(p.name) for p in (workdir / 'checkpoints').glob('[0-9]*'))


class TestRun:
  def test_learns_and_leaves_its_files(self, tmp_path):
    config = _config(
      steps=40, eval_every=20, sample_every=20, ema_decay=0.9, tensorboard=True
    )
    summary = _train(config, tmp_path)
    losses = [r['loss_nats'] for r in _records(tmp_path, 'train')]
    assert len(losses) == 20
    assert losses[-1] < losses[0] - 0.5
    valid = _records(tmp_path, 'valid')
    assert [r['step'] for r in valid] == [20, 40]
    assert summary.valid_nats == valid[-1]['nats']
    assert summary.params_name == 'ema of step 40'
    assert summary.stopped == 'steps'
    assert (tmp_path / 'samples' / 'step_00000020.png').exists()
    assert list((tmp_path / 'tensorboard').iterdir())
    recorded = json.loads((tmp_path / 'config.json').read_text())
    assert recorded == configuration.to_json(config)
    # The number can be measured again from the directory alone.
    run = trained.load(tmp_path)
    data = datasets.load_split(run.config, 'valid')
    again = evaluate.evaluate(run.models, run.params, data, 100)
    assert again.nats == summary.valid_nats
    assert run.params_name == 'ema of step 40'
    assert trained.load(tmp_path, which='raw').params_name == 'raw of step 40'

  @pytest.mark.parametrize('board', ['tensorboard', 'wandb'])
  def test_a_healthy_run_says_numbers(
    self, tmp_path, capfd, monkeypatch, board
  ):
    """From its first record on, with grids and histograms for a board."""
    monkeypatch.setenv('WANDB_MODE', 'offline')
    options = {'tensorboard': board == 'tensorboard', 'histograms': True}
    if board == 'wandb':
      pytest.importorskip('wandb')
      options['wandb'] = 'tests'
    config = _config(steps=3, log_every=1, sample_every=1, **options)
    _train(config, tmp_path, progress=None)
    said = ''.join(capfd.readouterr())
    assert 'step 3/3 train' in said
    assert not re.search(r'\bnan\b', said, re.IGNORECASE)
    assert 'NaN' not in (tmp_path / 'metrics.jsonl').read_text()
    files = [p for p in (tmp_path / board).rglob('*') if p.is_file()]
    content = b''.join(p.read_bytes() for p in files)
    assert b'samples' in content and b'params/w' in content
    pictures = [p for p in files if p.suffix == '.png']
    assert len(pictures) == 3 or content.count(b'\x89PNG') == 3

  def test_two_runs_are_the_same_bits(self, tmp_path):
    one = _train(_config(), tmp_path / 'one').state
    other = _train(_config(), tmp_path / 'other').state
    chex.assert_trees_all_equal(one, other)
    seeded = _config()
    seeded.seed = 1
    third = _train(seeded, tmp_path / 'third').state
    assert not np.array_equal(one.params['w'], third.params['w'])

  def test_accumulation_changes_rounding_only(self, tmp_path):
    one = _train(_config(), tmp_path / 'one').state
    parts = _train(_config(accumulate=4), tmp_path / 'parts').state
    np.testing.assert_allclose(one.params['w'], parts.params['w'], atol=1e-4)

  @pytest.mark.parametrize('accumulate', [1, 4])
  def test_what_an_objective_draws_survives_a_resume(
    self, tmp_path, accumulate
  ):
    def train(steps, workdir):
      config = _config(steps=steps, accumulate=accumulate)
      config.model.name = 'drawn'
      return _train(config, workdir).state

    straight = train(9, tmp_path / 'straight')
    train(5, tmp_path / 'broken')
    chex.assert_trees_all_equal(train(9, tmp_path / 'broken'), straight)
    plain = _train(_config(steps=9), tmp_path / 'plain').state
    assert not np.allclose(plain.params['w'], straight.params['w'], atol=1e-3)

  def test_parameters_from_data_are_those_of_the_first_batch(self, tmp_path):
    """Set before the first step only, and alike however a run is cut."""

    def train(steps, name):
      config = _config(steps=steps, checkpoint_every=1, eval_every=0)
      config.data.valid_split = ''
      config.model.name = 'fitted'
      return _train(config, tmp_path / name).state.params

    straight = train(2, 'straight')
    first = train(1, 'broken')
    chex.assert_trees_all_equal(train(2, 'broken'), straight)
    # Adagrad moves an entry by its rate; the data moved it further.
    assert np.abs(first['b']).max() > 0.2

  def test_longer_run_goes_on_and_says_so(self, tmp_path, capsys):
    _train(_config(), tmp_path)
    summary = _train(_config(steps=15), tmp_path, progress=None)
    said = capsys.readouterr().err
    assert 'resuming after step 10' in said
    assert 'changed since this run began: train.steps: 10 -> 15' in said
    assert int(summary.state.step) == 15
    whole = _train(_config(steps=15), tmp_path / 'whole')
    chex.assert_trees_all_equal(summary.state, whole.state)

  def test_finished_run_is_only_read(self, tmp_path):
    first = _train(_config(), tmp_path)
    again = _train(_config(), tmp_path)
    chex.assert_trees_all_equal(first.state, again.state)
    assert again.valid_nats == first.valid_nats
    assert len(_records(tmp_path, 'valid')) == 2
    with pytest.raises(ValueError, match='beyond'):
      _train(_config(steps=5), tmp_path)

  def test_runs_without_validation(self, tmp_path):
    config = _config()
    config.data.valid_split = ''
    summary = _train(config, tmp_path)
    assert summary.valid_nats is None
    assert _records(tmp_path, 'valid') == []

  def test_saves_by_time(self, tmp_path, monkeypatch):
    config = _config(checkpoint_every=0, checkpoint_minutes=1.0, keep=9)
    clock = iter(range(0, 10**6, 31))  # seconds; each look at it takes 31
    fake = types.SimpleNamespace(monotonic=lambda: float(next(clock)))
    monkeypatch.setattr(checkpoint, 'time', fake)
    _train(config, tmp_path)
    saved = _checkpoints(tmp_path)
    assert saved == [4, 8, 10]
    whole = _train(_config(), tmp_path / 'whole')
    assert _checkpoints(tmp_path / 'whole') == [5, 10]
    params = trained.load(tmp_path).params
    chex.assert_trees_all_equal(params, whole.params)

  def test_an_old_result_goes_when_there_are_steps_to_come(self, tmp_path):
    _train(_config(), tmp_path)
    (tmp_path / 'result.json').write_text('{}')
    _train(_config(), tmp_path)
    assert (tmp_path / 'result.json').exists()
    _train(_config(steps=11), tmp_path)
    assert not (tmp_path / 'result.json').exists()

  def test_spikes_are_skipped_counted_and_resumed(self, tmp_path):
    config = _config(steps=30, skip_sigmas=1.0, skip_window=6)
    whole = _train(config, tmp_path / 'whole')
    counts = [r['skipped_steps'] for r in _records(tmp_path / 'whole', 'train')]
    assert counts == sorted(counts) and counts[-1] > 0
    assert int(whole.state.spikes.skipped) == counts[-1]
    config.train.steps = 15
    _train(config, tmp_path / 'cut')
    config.train.steps = 30
    resumed = _train(config, tmp_path / 'cut')
    chex.assert_trees_all_equal(resumed.state, whole.state)


class TestSelection:
  def _overfit(self, **train):
    config = _config(steps=200, eval_every=5, keep=1, **train)
    config.data.num_examples = 20
    config.optimizer.learning_rate = 1.0
    return config

  def test_patience_stops_and_the_best_is_returned(self, tmp_path):
    config = self._overfit(patience=3, keep_best=True)
    summary = _train(config, tmp_path)
    valid = _records(tmp_path, 'valid')
    best = min(valid, key=lambda r: r['nats'])
    assert summary.stopped == 'patience'
    assert valid[-1]['step'] == best['step'] + 3 * 5 < 200
    assert summary.valid_nats == best['nats']
    assert summary.params_name == f'raw of step {best["step"]}'
    assert _checkpoints(tmp_path) == [best['step'], valid[-1]['step']]
    data = datasets.load_split(config, 'valid')
    for params in (summary.params, trained.load(tmp_path).params):
      again = evaluate.evaluate(summary.models, params, data, 100)
      assert again.nats == best['nats']
    # Started again, it knows that it is over.
    assert _train(config, tmp_path).valid_nats == best['nats']
    assert len(_records(tmp_path, 'valid')) == len(valid)

  def test_without_keep_best_the_last_is_returned(self, tmp_path):
    summary = _train(self._overfit(patience=2), tmp_path)
    last = _records(tmp_path, 'valid')[-1]
    assert summary.params_name == f'raw of step {last["step"]}'
    assert summary.valid_nats == last['nats']


class TestNonFinite:
  def _first_bad(self, config, workdir):
    with pytest.raises(loop.NonFiniteLoss) as error:
      _train(config, workdir)
    return error.value

  @pytest.mark.parametrize('save_every', [1, 5])
  def test_names_the_step_and_saves_nothing_bad(self, tmp_path, save_every):
    config = _config(log_every=50, checkpoint_every=save_every, eval_every=0)
    config.optimizer.update(name='sgd', learning_rate=1.0)
    finite = loop.step.make_train_step

    def poisoned(*args, **kwargs):
      train_step = finite(*args, **kwargs)

      def step(state, batch):
        state, values = train_step(state, batch)
        bad = state.step == 7
        values['loss_nats'] = jax.numpy.where(bad, np.nan, values['loss_nats'])

        def ruin(p):
          return jax.numpy.where(bad, np.nan, p)

        return state._replace(params=jax.tree.map(ruin, state.params)), values

      return step

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(loop.step, 'make_train_step', poisoned)
      error = self._first_bad(config, tmp_path)
    assert error.step == 7
    assert 'Step 7: loss_nats = nan' in str(error)
    record = _records(tmp_path, 'train')[-1]
    assert record['step'] == 7
    assert math.isnan(float(record['loss_nats']))
    # Step 7 gives the loss of the state of step 6, which is not kept either.
    assert max(_checkpoints(tmp_path)) == 5
    assert 'The newest checkpoint is of step 5' in str(error)
    for step in _checkpoints(tmp_path):
      params = trained.load(tmp_path, step=step).params
      assert all(np.isfinite(p).all() for p in jax.tree.leaves(params))
    # With the cause gone, the same directory goes on.
    assert int(_train(config, tmp_path).state.step) == 10

  def test_a_divergent_rate_is_found(self, tmp_path):
    config = _config(checkpoint_every=1, eval_every=0)
    config.optimizer.update(name='sgd', learning_rate=1e38)
    error = self._first_bad(config, tmp_path)
    assert error.step <= 10
    assert all(step < error.step - 1 for step in _checkpoints(tmp_path))


class TestRefusals:
  def test_another_model(self, tmp_path):
    _train(_config(), tmp_path)
    config = _config()
    config.model.init_scale = 0.5
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(ValueError, match=r'init_scale: absent -> 0\.5'):
      _train(config, tmp_path)
    for name in ('config.json', identity.FILE):
      (tmp_path / name).unlink()
    with pytest.raises(checkpoint.OtherRunError, match='init_scale'):
      _train(config, tmp_path)
    assert _checkpoints(tmp_path) == [5, 10]
    assert len(before) == len(sorted(tmp_path.rglob('*'))) + 2

  def test_data_that_does_not_fit_leaves_no_directory(self, tmp_path):
    config = _config()
    config.data.height = 5
    with pytest.raises(ValueError, match=r'\(4, 3, 1\).*\(5, 3, 1\)'):
      _train(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()

  def test_wrong_config_leaves_no_directory(self, tmp_path):
    with pytest.raises(ValueError, match=r'config\.train\.steps'):
      _train(_config(steps=0), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()

  def test_batch_larger_than_the_data_leaves_no_directory(self, tmp_path):
    with pytest.raises(ValueError, match='60 examples'):
      _train(_config(batch_size=61), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()

  def test_all_checkpoints_broken_is_no_fresh_start(self, tmp_path):
    _train(_config(), tmp_path)
    for step in _checkpoints(tmp_path):
      for file in (tmp_path / 'checkpoints' / str(step)).rglob('*'):
        if file.is_file():
          file.write_bytes(b'')
    with pytest.raises(checkpoint.CheckpointError, match='none can be read'):
      _train(_config(), tmp_path)

  def test_loading_what_is_not_a_run(self, tmp_path):
    with pytest.raises(ValueError, match='holds no run'):
      trained.load(tmp_path)


class TestSignals:
  def test_handlers_are_put_back(self):
    before = signal.getsignal(signal.SIGTERM)
    with interrupt.StopSignals() as signals:
      os.kill(os.getpid(), signal.SIGTERM)
      assert signals.received == 'SIGTERM'
      assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.set_wakeup_fd(-1) == -1

  def test_a_scheduler_gets_the_code_that_it_takes_for_a_restart(self):
    interrupt.leave_with(42)
    try:
      stop = lambda name: interrupt.Interrupted(name, 5, 'here').code
      assert [stop('SIGTERM'), stop('SIGUSR1'), stop('SIGINT')] == [42, 42, 130]
    finally:
      interrupt.leave_with(interrupt.EXIT_CODE)
    assert stop('SIGTERM') == 0

  @pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGUSR1'])
  def test_a_signal_in_a_validation_is_saved_and_repeated(
    self, tmp_path, monkeypatch, name
  ):
    whole = _train(_config(patience=9), tmp_path / 'whole')
    measure = evaluate.evaluate

    def interrupted(*args, **kwargs):
      os.kill(os.getpid(), getattr(signal, name))
      return measure(*args, **kwargs)

    with monkeypatch.context() as patch:
      patch.setattr(evaluate, 'evaluate', interrupted)
      with pytest.raises(interrupt.Interrupted, match=name) as error:
        _train(_config(patience=9), tmp_path / 'cut')
    code = 130 if name == 'SIGINT' else interrupt.EXIT_CODE
    assert (error.value.step, error.value.code) == (5, code)
    resumed = _train(_config(patience=9), tmp_path / 'cut')
    chex.assert_trees_all_equal(resumed.state, whole.state)
    ours, theirs = (
      [
        {k: v for k, v in r.items() if k not in metrics.TIMES}
        for r in metrics.read(d / 'metrics.jsonl')
      ]
      for d in (tmp_path / 'cut', tmp_path / 'whole')
    )
    assert ours == theirs
