"""What a run saves is proved, and its readers say what they read."""

import shutil

import chex
import jax
import numpy as np
import pytest

from parallel_ar.training import (
  checkpoint,
  checkpoint_store,
  configuration,
  interrupt,
  loop,
  params_file,
  results,
  trained,
)
from tests.training.loop_test import (  # noqa: F401
  _checkpoints,
  _config,
  _tiny_models,
  _train,
)


@pytest.fixture(autouse=True)
def no_notes(monkeypatch):
  monkeypatch.setattr(results, '_NOTES', [])


def _poison(patch, first):
  """The loss of the steps from `first` on is nan; states stay finite."""
  finite = loop.step.make_train_step

  def poisoned(*args, **options):
    train_step = finite(*args, **options)

    def step(state, batch):
      state, values = train_step(state, batch)
      nats = values['loss_nats']
      values['loss_nats'] = jax.numpy.where(state.step >= first, np.nan, nats)
      return state, values

    return step

  patch.setattr(loop.step, 'make_train_step', poisoned)


@pytest.mark.parametrize('first, kept', [(11, 9), (6, 4), (1, None)])
def test_the_newest_step_gave_a_finite_loss(tmp_path, first, kept):
  """Also the last of the run, whose loss no step of the run gives."""
  config = _config(checkpoint_every=1, eval_every=0)
  with pytest.MonkeyPatch.context() as patch:
    _poison(patch, first)
    with pytest.raises(loop.NonFiniteLoss) as error:
      _train(config, tmp_path)
  assert error.value.step == first
  assert max(_checkpoints(tmp_path), default=None) == kept
  newest = f'is of step {kept}' if kept else 'No checkpoint was saved'
  assert newest in str(error.value)


def test_the_end_is_what_the_disk_gives(tmp_path):
  summary = _train(_config(ema_decay=0.9), tmp_path)
  run = trained.load(tmp_path)
  assert (run.params_name, run.notes) == ('ema of step 10', ())
  chex.assert_trees_all_equal(run.params, summary.params)
  whole = _train(_config(ema_decay=0.9, checkpoint_every=1), tmp_path / 'b')
  chex.assert_trees_all_equal(whole.state, summary.state)


def test_an_end_that_cannot_be_read_back_is_an_error(tmp_path, monkeypatch):
  done = checkpoint.Checkpoints.wait

  def wait(self):
    done(self)
    if 10 in self.steps():
      shutil.rmtree(self.directory / '10' / 'params', ignore_errors=True)

  monkeypatch.setattr(checkpoint.Checkpoints, 'wait', wait)
  with pytest.raises(checkpoint.CheckpointError, match='step 10'):
    _train(_config(), tmp_path)


def test_a_directory_that_goes_in_a_save_is_missed(tmp_path, monkeypatch):
  prove = checkpoint_store.prove

  def removed(draft, meta):
    shutil.rmtree(draft)
    prove(draft, meta)

  monkeypatch.setattr(checkpoint_store, 'prove', removed)
  with pytest.raises(checkpoint.CheckpointError, match='removed directory'):
    _train(_config(), tmp_path)
  assert _checkpoints(tmp_path) == []


def test_a_run_that_begins_anew_beside_old_records_says_so(tmp_path, capsys):
  _train(_config(), tmp_path)
  shutil.rmtree(tmp_path / 'checkpoints')
  _train(_config(), tmp_path)
  said = capsys.readouterr().err
  assert (
    f'No checkpoint beside {tmp_path}/metrics.jsonl: the run begins' in said
  )


def _break(directory):
  for file in directory.rglob('*'):
    if file.parent.name == 'd':
      file.write_bytes(b'')


@pytest.mark.parametrize('keep_best', [True, False])
def test_readers_say_which_step_they_read(tmp_path, capsys, keep_best):
  _train(_config(keep_best=keep_best), tmp_path)
  _break(tmp_path / 'checkpoints' / '10')
  capsys.readouterr()
  run = trained.load(tmp_path)
  assert run.step == 5
  said = capsys.readouterr().err.splitlines()
  assert said == list(run.notes) and len(said) == 1
  assert said[0].startswith('Checkpoint of step 10 cannot be read (')
  assert said[0].endswith('step 5 is read instead.')
  record = results.result_json({}, config={}, seed=0, wall_seconds=0.0)
  assert record['details']['notes'] == said


def test_a_missing_average_is_told(tmp_path, capsys):
  config = _config(ema_decay=0.0)
  _train(config, tmp_path)
  capsys.readouterr()
  run = trained.load(tmp_path)
  assert run.notes == ()  # none was asked for
  config.train.ema_decay = 0.9
  recorded = configuration.to_json(config)
  results.save(tmp_path / 'config.json', recorded)
  run = trained.load(tmp_path)
  assert run.params_name == 'raw of step 10'
  assert 'keeps no moving average' in run.notes[0]
  path = tmp_path / 'params.npz'
  params_file.save(path, run.params, recorded, step=10, which='raw')
  again = trained.load(path)
  assert 'holds the raw parameters of step 10' in again.notes[0]
  assert trained.load(path, which='raw').notes == ()
  assert capsys.readouterr().err.splitlines() == [*run.notes, *again.notes]


def test_a_signal_leaves_a_state_whose_loss_was_seen(tmp_path, monkeypatch):
  asked = lambda self: 'SIGTERM' if self.nothing_to_save is None else None
  whole = _train(_config(), tmp_path / 'whole')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(interrupt.StopSignals, 'asked', asked)
    for step in (1, 2):
      with pytest.raises(interrupt.Interrupted) as stop:
        _train(_config(), tmp_path / 'a')
      assert stop.value.step == step
      assert _checkpoints(tmp_path / 'a')[-1] == step
  resumed = _train(_config(), tmp_path / 'a')
  chex.assert_trees_all_equal(resumed.state, whole.state)
