"""A result belongs to the run that made it."""

import dataclasses
import json
import shutil

import chex
import jax
import numpy as np
import pytest

from parallel_ar.data import dataset, sources
from parallel_ar.training import (
  configuration,
  evaluate,
  identity,
  loop,
  metrics,
  optimizer,
  results,
  trained,
)


def _config(**train):
  config = configuration.default_config()
  config.mesh.data = 1
  config.data.update(
    name='markov', num_values=3, length=4, num_examples=50, valid_split=''
  )
  config.model.update(name='made', event=(4,), num_values=3, hidden=(4,))
  config.train.update(
    {'batch_size': 7, 'steps': 3, 'eval_every': 0, 'tensorboard': False} | train
  )
  return config


def _changed(config, path, value):
  changed = config.copy_and_resolve_references()
  *sections, field = path.split('.')
  place = changed
  for section in sections:
    place = place[section]
  place[field] = value
  return changed


def _train(config, workdir, **options):
  return loop.train(config, workdir, progress=False, **options)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A finished run of 3 steps."""
  path = tmp_path_factory.mktemp('identity') / 'run'
  summary = _train(_config(), path)
  return path, summary


def _files(path):
  return {p: p.read_bytes() for p in path.rglob('*') if p.is_file()}


# Of each kind of thing that changes parameters, one; the step is 3 of 5.
LAW = {
  'seed': 1,
  'optimizer.learning_rate': 0.1,
  'optimizer.schedule': 'linear',
  'optimizer.clip_norm': 1.0,
  'optimizer.momentum': 0.9,
  'train.batch_size': 8,
  'train.accumulate': 7,
  'train.ema_decay': 0.5,
  'data.name': 'digits',
  'data.num_examples': 51,
  'model.hidden': (5,),
}


@pytest.mark.parametrize('path', LAW)
def test_a_change_of_the_run_is_refused_by_name(run, path):
  workdir, _ = run
  before = _files(workdir)
  config = _changed(_config(steps=5), path, LAW[path])
  if path == 'data.name':
    config.data = {'name': 'digits', 'train_split': 'train', 'valid_split': ''}
  with pytest.raises(identity.OtherRun, match=path.replace('.', r'\.')):
    _train(config, workdir)
  assert _files(workdir) == before


def test_every_other_field_is_free(run, tmp_path):
  """All at once: the same bits; and each field of a config has its kind."""
  config = _config(
    steps=5,
    log_every=1,
    checkpoint_every=2,
    checkpoint_minutes=1.0,
    keep=5,
    sample_every=2,
    sample_count=3,
    eval_every=2,
  )
  config.data.valid_split = 'valid'
  config.evaluate.update(
    batch_size=9, split='valid', params='raw', precision='default'
  )
  there, here = (
    {'config': configuration.to_json(c)} for c in (_config(), config)
  )
  law, conditions, free = identity.changes(there, here)
  assert (law, conditions) == ([], [])
  names = {line.partition(':')[0] for line in free}
  untried = {
    'train.keep_best',
    'train.patience',
    'train.tensorboard',
    'train.wandb',
    'train.histograms',
    'train.data_workers',  # the batches are compared in data/stored_test.py
    'data.verify',
    'data.path',
  }
  free = {*identity.FREE, *identity.SELECTION, 'train.steps'}
  assert names == free - untried
  one = _train(_config(steps=5), tmp_path / 'one').state
  other = _train(config, tmp_path / 'other').state
  chex.assert_trees_all_equal(one, other)


def test_selection_counts_where_a_step_is_selected():
  config = _config(keep_best=True, eval_every=1)
  config.data.valid_split = 'valid'
  later = _changed(config, 'train.eval_every', 2)
  there, here = ({'config': configuration.to_json(c)} for c in (config, later))
  assert identity.changes(there, here)[0] == ['train.eval_every: 1 -> 2']


@pytest.mark.parametrize('name', optimizer.SCHEDULES)
@pytest.mark.parametrize('decay_steps', [0, 4])
def test_steps_count_where_rates_depend_on_them(name, decay_steps):
  config = configuration.default_config()
  config.optimizer.update(
    schedule=name, warmup_steps=2, decay_steps=decay_steps, decay_rate=0.5
  )
  one, other = (
    [float(optimizer.schedule(config.optimizer, steps=n)(t)) for t in range(9)]
    for n in (9, 12)
  )
  depends = optimizer.depends_on_steps(config.optimizer)
  assert depends == (one != other)
  longer = _changed(config, 'train.steps', 12)
  there, here = ({'config': configuration.to_json(c)} for c in (config, longer))
  assert bool(identity.changes(there, here)[0]) == depends


def test_an_allowed_change_is_told_by_every_reader(tmp_path):
  _train(_config(checkpoint_every=1, keep=9), tmp_path)
  config = _config(steps=5, checkpoint_every=1, keep=9)
  config.optimizer.learning_rate = 0.1
  config.seed = 4
  _train(config, tmp_path, allow_changes=True)
  told = ['at step 3: optimizer.learning_rate 0.001 -> 0.1']
  told.append('at step 3: seed 0 -> 4')
  run = trained.load(tmp_path)
  data = run.load_split('test')
  found = evaluate.evaluate(run.models, run.params, data, 9)
  record = results.of_evaluation(found, run.config, 1.0)
  mine = [r for r in record['runs'] if r['run'] == tmp_path.name]
  assert mine[-1]['history'] == told
  assert mine[-1]['data']['source'] == 'markov'
  assert record['config']['optimizer']['learning_rate'] == 0.1
  meta = tmp_path / 'checkpoints' / '4' / 'meta' / 'metadata'
  extra = json.loads(meta.read_text())['extra']
  assert identity.history(extra['identity'], 5) == told
  # What an older step was made by is what it was made by.
  old = trained.load(tmp_path, step=3).config
  assert (old.seed, old.optimizer.learning_rate) == (0, 0.001)
  assert old.model.hidden == (4,)
  steps = [r['step'] for r in metrics.read(tmp_path / 'metrics.jsonl')]
  assert steps == sorted(steps)


def test_a_change_that_would_train_nothing_is_refused(run):
  workdir, _ = run
  before = _files(workdir)
  with pytest.raises(identity.OtherRun, match='nothing would be trained'):
    _train(_changed(_config(), 'seed', 1), workdir, allow_changes=True)
  assert _files(workdir) == before


def test_checkpoints_alone_still_know_their_run(run, tmp_path):
  shutil.copytree(run[0] / 'checkpoints', tmp_path / 'checkpoints')
  with pytest.raises(identity.OtherRun, match='seed: 0 -> 1'):
    _train(_changed(_config(steps=5), 'seed', 1), tmp_path)


def test_conditions_are_noted_and_not_refused(run, tmp_path, capsys):
  shutil.copytree(run[0], tmp_path / 'run')
  path = tmp_path / 'run' / identity.FILE
  found = json.loads(path.read_text())
  found['conditions'] |= {'jax': '0.1', 'devices': '8 x TPU'}
  path.write_text(json.dumps(found))
  loop.train(_config(steps=5), tmp_path / 'run')
  told = identity.history(identity.read(tmp_path / 'run'), 5)
  assert len(told) == 2
  assert told[0].startswith('at step 3: conditions.devices "8 x TPU" -> ')
  said = [
    line
    for line in capsys.readouterr().err.splitlines()
    if 'other conditions' in line
  ]
  assert len(said) == 1


def test_another_precision_is_refused(run, monkeypatch):
  with jax.default_matmul_precision('bfloat16'):
    with pytest.raises(identity.OtherRun, match='matmul_precision'):
      _train(_config(steps=5), run[0])


def test_time_adds_up(tmp_path):
  first = _train(_config(), tmp_path)
  path = tmp_path / 'checkpoints' / '3' / 'meta' / 'metadata'
  saved = json.loads(path.read_text())['extra']['seconds']
  assert 0 < saved <= first.seconds
  again = _train(_config(), tmp_path)
  assert again.seconds > saved


class TestData:
  @pytest.fixture
  def text(self, tmp_path):
    config = _config()
    config.data = {
      'name': 'text',
      'path': str(tmp_path / 't.txt'),
      'length': 4,
      'vocabulary': 'file',
      'train_split': 'train',
      'valid_split': '',
    }
    config.model.update(num_values=4)
    (tmp_path / 't.txt').write_text('abcd' * 300)
    _train(config, tmp_path / 'run')
    return config, tmp_path / 't.txt', tmp_path / 'run'

  def test_another_vocabulary_is_refused_by_trainer_and_readers(self, text):
    config, path, workdir = text
    path.write_text('wxyd' * 300)
    names = r"symbols: 'abc' \(only there\) -> 'wxy' \(only here\)"
    with pytest.raises(identity.OtherRun, match=names):
      _train(_changed(config, 'train.steps', 5), workdir)
    with pytest.raises(identity.OtherRun, match=names):
      trained.load(workdir).load_split('test')

  def test_other_content_is_refused_by_the_trainer(self, text):
    config, path, workdir = text
    path.write_text('abdc' * 300)
    with pytest.raises(identity.OtherRun, match=r'train_data\.digest'):
      _train(_changed(config, 'train.steps', 5), workdir)
    assert len(trained.load(workdir).load_split('test'))

  def test_the_same_content_elsewhere_is_the_same_run(self, text):
    config, path, workdir = text
    moved = str(path.rename(path.with_name('u.txt')))
    config = _changed(_changed(config, 'data.path', moved), 'train.steps', 5)
    assert int(_train(config, workdir).state.step) == 5

  def test_a_fingerprint_reads_windows_labels_and_big_arrays(self, monkeypatch):
    digits = sources.load('digits', 'train', labels=True)
    found = identity.fingerprint(digits)
    assert found['labels'] == 'int32[] 0..9'
    other = digits.context.copy()
    other[-1] += 1
    relabelled = dataclasses.replace(digits, context=other)
    assert identity.fingerprint(relabelled)['digest'] != found['digest']
    values = np.arange(50, dtype=np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(values, 7)
    for x in (windows, windows.copy()):
      data = dataclasses.replace(digits, x=x, context=None, num_values=50)
      first = identity.fingerprint(data)
      monkeypatch.setattr(dataset, '_HASHED_BYTES', 100)
      part = identity.fingerprint(data)
      monkeypatch.undo()
      if x is windows:
        expected = first, part
    assert (first, part) == expected
    assert first['digest'] != part['digest']


@pytest.mark.parametrize('name', ['run[1]', 'a*b?', '~home'])
def test_odd_names_are_read_back(tmp_path, name, monkeypatch):
  _train(_config(), tmp_path / name / 'run')
  state = _train(_config(steps=4), tmp_path / name / 'run').state
  assert int(state.step) == 4
  assert trained.load(tmp_path / name / 'run').step == 4


@pytest.mark.parametrize('name', ['s3://b/r', 'gs:/b/r', 'a\udcff/run', 'a\0b'])
def test_what_is_no_path_is_refused_at_once(name):
  with pytest.raises(ValueError, match=r'[Mm]ount|Rename|gs://b/r'):
    _train(_config(), name)


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  _train(_config(), '~/run')
  assert trained.load('~/run').step == 3
  assert (tmp_path / 'run' / identity.FILE).exists()
