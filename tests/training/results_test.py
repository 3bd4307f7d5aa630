"""The record behind a number."""

import json
import pathlib
import re
import subprocess

import jax
import numpy as np

from parallel_ar.training import configuration, evaluate, results


def test_record_names_everything(tmp_path, monkeypatch):
  monkeypatch.setattr(results, '_NOTES', [])
  record = results.result_json(
    {'test': (88.4, 'nats'), 'images': (10000, 'examples')},
    config={'model': {'name': 'made'}},
    seed=3,
    wall_seconds=12.34567,
    command=['run.sh', 'train', '--config=a b.py'],
    details={'split': 'test'},
  )
  assert record['numbers']['test'] == {'value': 88.4, 'unit': 'nats'}
  assert record['command'] == "run.sh train '--config=a b.py'"
  assert record['seed'] == 3
  assert record['details'] == {'split': 'test'}
  assert {'jax', 'optax', 'numpy', 'python'} <= record['versions'].keys()
  hardware = record['hardware']
  assert hardware['cores'] >= 1
  assert hardware['cpu']
  assert hardware['platform'] == hardware['device_kind'] == 'cpu'
  assert hardware['num_devices'] == jax.device_count()
  assert hardware['num_processes'] == 1
  results.save(tmp_path / 'r' / 'one.json', record)
  assert json.loads((tmp_path / 'r' / 'one.json').read_text()) == record


def test_commit_is_marked_when_dirty(monkeypatch):
  outputs = {'rev-parse': 'a' * 40 + '\n', 'status': ' M setup.py\n'}

  def run(command, **unused):
    return subprocess.CompletedProcess(command, 0, outputs[command[3]])

  monkeypatch.setattr(results.subprocess, 'run', run)
  ask = results.commit.__wrapped__  # without what was answered before
  assert ask() == 'a' * 40 + '-dirty'
  outputs['status'] = ''
  assert ask() == 'a' * 40


def test_commit_of_this_tree_is_told_or_unknown():
  assert re.fullmatch(r'[0-9a-f]{40}(-dirty)?|unknown', results.commit())


def test_record_of_an_evaluation_is_json_and_names_the_conditions():
  evaluation = evaluate.Evaluation(
    nats=88.5,
    standard_error=0.2,
    bits_per_dim=0.16,
    count=2,
    num_dims=784,
    per_example=np.zeros(2),
    dataset='mnist_dynamic',
    split='test',
    binarization_seed=2008,
    params='ema of step 3',
    num_models=1,
    precision='highest: float32',
  )
  config = configuration.default_config()
  record = results.of_evaluation(evaluation, config, 1.0, stopped='steps')
  assert record['numbers']['nats'] == {'value': 88.5, 'unit': 'nats'}
  details = json.loads(json.dumps(record))['details']
  assert details['binarization_seed'] == 2008
  assert details['params'] == 'ema of step 3'
  assert details['stopped'] == 'steps'


def test_a_command_names_no_machine():
  root = pathlib.Path(results.__file__).parents[2]
  train = str(root / 'experiments' / 'train.py')
  peer = str(root / 'third_party' / 'peers' / 'train_step.py')
  assert (
    results.portable([train, '--config=configs/a.py', '--data_dir=/some/where'])
    == './run.sh train --config=configs/a.py --data_dir=DATA_DIR'
  )
  assert results.portable([peer, '--rounds=9']) == (
    '.venv/bin/python -m third_party.peers.train_step --rounds=9'
  )
