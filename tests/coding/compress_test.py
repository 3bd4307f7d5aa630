"""The script: a file that is kept comes back, and nothing is written over."""

import pathlib
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
RUN = ROOT / 'tests/golden/format_1'

# One process: its start costs more than all of its work.
SCRIPT = """
import contextlib, io, pathlib, sys
from absl import flags
from absl.testing import flagsaver
from experiments import compress
flags.FLAGS(['compress'])
directory, run = sys.argv[1:]
kept, other = f'{directory}/a.par', f'{directory}/b.npy'

def call(**values):
  with flagsaver.flagsaver(workdir=run, **values):
    try:
      compress.main()
    except ValueError as error:
      print('refused:', error)

call(methods=['lanes'], batches=[3], count=7, file=kept)
call(decode=kept)
call(decode=kept)
call(decode=kept, events=kept)
call(decode=kept, events=other)
call(decode=kept, events=f'{directory}/a.par/b.npy')
call(methods=[])
call(methods=['zip'])
call(file=directory)
"""


def test_files(tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', SCRIPT, str(tmp_path), str(RUN)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  x = np.load(tmp_path / 'a.par.npy')
  assert x.shape == (7, 4, 3, 1)
  np.testing.assert_array_equal(np.load(tmp_path / 'b.npy'), x)
  assert (tmp_path / 'a.par').read_bytes().startswith(b'PARc')
  assert len(list(tmp_path.iterdir())) == 3
  said = done.stdout
  assert 'parameters: ' in said and said.count('checksum right') == 2
  for words in (
    'a.par.npy exists. Move it away',
    'a.par is the file that is decoded',
    'a.par: Not a directory',
    '--methods=: give lanes, stream',
    '--methods=zip: give lanes, stream',
    'name a file, not a directory',
  ):
    assert f'{words}' in said.replace('\n', ' '), said
  assert said.count('refused: ') == 6, said
