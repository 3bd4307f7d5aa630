"""Twenty kills at random, and the bits of a training without."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_twenty_kills_at_random(tmp_path):
  out = tmp_path / 'kills.json'
  subprocess.run(
    [
      *(sys.executable, '-m', 'experiments.tables.kills', '--kills=20'),
      *(f'--workdir={tmp_path}/runs', f'--out={out}', '--seed=1'),
    ],
    cwd=ROOT,
    check=True,
  )
  numbers = json.loads(out.read_text())['numbers']
  value = {name: number['value'] for name, number in numbers.items()}
  assert value['kills'] == 20
  assert value['kills in a save'] > 0
  assert value['different arrays'] == 0 < value['arrays']
  assert value['test, killed'] == value['test, undisturbed']
