"""./run.sh sweep: a grid of settings and seeds, and its table."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import grid, listing
from tests import options_test, runs_test

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = '--config=configs/digits_made.py'


def test_every_value_meets_every_other():
  words = [CONFIG, '--grid=train.steps=2,3', '--jobs=2', '--data_dir=d']
  words += ['--grid=model.hidden=(4,),(4, 5)', '--seeds=2', '--name=x']
  found = grid.points(words)
  assert len(found) == 8 and grid.place(words) == 'runs/sweeps/x'
  wanted = [CONFIG, '--data_dir=d', '--config.train.steps=3']
  wanted += ['--config.model.hidden=(4, 5)', '--config.seed=1']
  (name,) = [name for name, flags in found.items() if flags == wanted]
  assert name.startswith('steps=3,hidden=_4_5_,seed=1-')
  assert len({name.lower() for name in found}) == 8
  assert grid.points([CONFIG]) == {'run': [CONFIG]}
  assert grid.place([f'{CONFIG}:a/b']) == 'runs/sweeps/digits_made/a/b'


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['--grid=train.steps'], 'a field of the config and its values'),
    (['--grid=train.steps=1,'], 'a field of the config and its values'),
    (['--grid=seed=1,2', '--seeds=2'], 'leave config.seed out'),
    (['--grid=seed=1,2', '--grid=seed=3'], 'seed is given twice'),
    (['--grid=seed=1,1'], 'seed=1,1: 1 stands twice'),
    (['--grid=a.b=1,2', '--config.a.b=1'], 'a.b is given twice'),
    (['--seeds', '3'], '--seeds=..., with the sign ='),
    (['--seeds=20000'], '20000 runs are more than 10000'),
  ],
)
def test_a_grid_that_is_none(words, message):
  with pytest.raises(ValueError, match=message):
    grid.points([CONFIG, *words])
  with pytest.raises(ValueError, match='takes --config='):
    grid.points(words[:1])


@pytest.mark.parametrize(
  ('words', 'says'),
  [
    (['--grid=train.step=1,2'], "has no field 'step'. Did you mean 'steps'"),
    (['--grid=train.steps=1,x'], '--config.train.steps=x: .*steps=x: '),
    (['--grid=train.batch_size=9,0'], 'batch_size = 0: expected a whole'),
    (['--grid=model.hiden=(2,),(3,)'], "'hiden'. Did you mean 'hidden'"),
    (['--grid=optimizer.name=adam,lionn'], "'lionn'. Did you mean 'lion'"),
    (
      [
        '--grid=optimizer.options.weight_deca=1',
        '--config.optimizer.name=lion',
      ],
      "options has no field 'weight_deca'. Did you mean 'weight_decay'",
    ),
    (['--grid=optimizer.learning_rate=0.1,nan'], 'expected a finite number'),
  ],
)
def test_a_point_that_cannot_be_ends_the_sweep_before_its_first_run(
  words, says, tmp_path
):
  before = sys.argv
  with pytest.raises(ValueError, match=says):
    grid.check(list(grid.points([CONFIG, *words]).values()))
  assert sys.argv is before
  if 'train.step=' in words[0]:
    words = [CONFIG, *words, f'--workdir={tmp_path}/s']
    assert "Did you mean 'steps'" in options_test.refusal('sweep', words)
    run = f'--run=sweep {" ".join(words)}'
    said = options_test.refusal('launch/slurm', [run, '--dry_run'])
    assert "Did you mean 'steps'" in said
    assert not list(tmp_path.iterdir())


def test_points_that_can_be():
  """Also options of rules and schedules by name, and a base of mu-P."""
  words = ['--grid=optimizer.options.b1=0.8,0.9', '--grid=train.steps=7,8']
  words += ['--config.optimizer.name=lion', '--seeds=2']
  words += ['--config.optimizer.schedule=cosine_decay_schedule']
  words += ['--config.optimizer.schedule_options.exponent=2']
  words += ['--grid=optimizer.mup_base.hidden=(4,),(5,)']
  points = grid.points([CONFIG, *words])
  grid.check(list(points.values()))
  assert len(points) == 16


def test_seeds_are_one_line_with_a_standard_error(tmp_path):
  for seed, test in enumerate((2.0, 3.0, None)):
    runs_test.write(tmp_path / f'a{seed}', rate=0.1, test=test)
    path = tmp_path / f'a{seed}' / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'seed': seed}))
  runs_test.write(tmp_path / 'b', rate=0.2, valid=(1.5,), test=1.25)
  runs = [listing.read(p, tmp_path) for p in listing.found(tmp_path)]
  lines = [line.split('  ') for line in listing.over_seeds(runs)]
  lines = [[cell.strip() for cell in line if cell] for line in lines]
  assert lines == [
    ['test', 'valid', 'runs', 'what differs'],
    ['1.2500', '1.5000', '1', 'optimizer.learning_rate=0.2'],
    ['2.5000 ± 0.5000', '-', '2 of 3', 'optimizer.learning_rate=0.1'],
  ]


def test_a_sweep(tmp_path):
  """Two runs at once, of which one cannot be; the table has the other."""
  words = [CONFIG, '--grid=model.degrees=even,odd', '--jobs=2']
  words += ['--config.seed=3', '--config.train.steps=1']
  words += ['--config.train.batch_size=9', '--config.model.hidden=(5,)']
  words += ['--config.mesh.data=1', f'--workdir={tmp_path}/s']
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.sweep', *words],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=400,
  )
  said = ' '.join(done.stderr.split())
  assert done.returncode == 1 and '1 of 2 runs failed: degrees=odd' in said
  assert "model.degrees = 'odd'" in (tmp_path / 's/degrees=odd.log').read_text()
  head, line = done.stdout.splitlines()
  assert head.startswith('test') and line.split()[-2:] == ['1', 'all']
