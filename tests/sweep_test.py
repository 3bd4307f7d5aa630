"""./run.sh sweep: a grid of settings and seeds, and its table."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import grid, listing
from tests import runs_test

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
  words = [CONFIG, '--grid=train.batch_size=9,0', '--jobs=2', '--config.seed=3']
  words += ['--config.train.steps=1', '--config.model.hidden=(5,)']
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
  assert done.returncode == 1 and '1 of 2 runs failed: batch_size=0' in said
  assert 'train.batch_size = 0' in (tmp_path / 's/batch_size=0.log').read_text()
  head, line = done.stdout.splitlines()
  assert head.startswith('test') and line.split()[-2:] == ['1', 'all']
