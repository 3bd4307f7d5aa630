"""The script: a file that is kept comes back, and nothing is written over."""

import pathlib
import sys

import numpy as np
from absl.testing import flagsaver

from tests import options_test

ROOT = pathlib.Path(__file__).parents[2]
RUN = ROOT / 'tests/golden/format_1'


def test_files(tmp_path, capsys):
  kept, other = f'{tmp_path}/a.par', f'{tmp_path}/b.npy'

  def call(**values):
    with flagsaver.flagsaver(workdir=str(RUN), **values):
      try:
        sys.modules['experiments.compress'].main()
      except ValueError as error:
        print('refused:', error)

  def look(_):
    call(methods=['lanes'], batches=[3], count=7, file=kept)
    call(decode=kept)
    call(decode=kept)
    call(decode=kept, events=kept)
    call(decode=kept, events=other)
    call(decode=kept, events=f'{kept}/b.npy')
    call(methods=[])
    call(methods=['zip'])
    call(file=str(tmp_path))

  assert options_test.parse('compress', [], look) == ''
  x = np.load(tmp_path / 'a.par.npy')
  assert x.shape == (7, 4, 3, 1)
  np.testing.assert_array_equal(np.load(tmp_path / 'b.npy'), x)
  assert (tmp_path / 'a.par').read_bytes().startswith(b'PARc')
  assert len(list(tmp_path.iterdir())) == 3
  said = capsys.readouterr().out
  assert 'parameters: ' in said and said.count('checksum right') == 2
  for words in (
    'a.par.npy exists. Move it away',
    'a.par is the file that is decoded',
    'a.par: Not a directory',
    '--methods=: give some of cached',
    '--methods=zip: give some of cached',
    'name a file, not a directory',
  ):
    assert f'{words}' in said.replace('\n', ' '), said
  assert said.count('refused: ') == 6, said
