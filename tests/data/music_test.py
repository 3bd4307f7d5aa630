"""Tests of the JSB chorales, on a small file of the true format."""

import numpy as np
import pytest

from parallel_ar.data import files, music
from tests.data import tiny_files

LENGTHS = {'train': (5, 2, 3), 'valid': (4,), 'test': (1, 6)}
ROLLS = {
  split: [
    np.random.RandomState(n).randint(0, 2, (n, 88)).astype(np.uint8)
    for n in lengths
  ]
  for split, lengths in LENGTHS.items()
}
CONTENT = tiny_files.chorales(**{f'{s}data': r for s, r in ROLLS.items()})


@pytest.fixture
def data_dir(tmp_path):
  (tmp_path / 'JSB_Chorales.mat').write_bytes(CONTENT)
  return tmp_path


@pytest.mark.parametrize('history', [1, 3, 9])
@pytest.mark.parametrize('split', LENGTHS)
def test_every_frame_counts_once_and_knows_its_own_piece(
  data_dir, split, history
):
  data = music.jsb(split, data_dir, history=history, verify=False)
  assert (data.event, data.num_values, len(data)) == (
    (88,),
    2,
    sum(LENGTHS[split]),
  )
  np.testing.assert_array_equal(data.x, np.concatenate(ROLLS[split]))
  assert data.context.dtype == np.float32
  past = data.context.reshape(len(data), history, 88)
  n = 0
  for roll in ROLLS[split]:
    for t in range(len(roll)):
      for back in range(1, history + 1):
        expected = roll[t - back] if t >= back else np.zeros(88)
        np.testing.assert_array_equal(past[n, history - back], expected)
      n += 1


def test_first_frames_can_be_left_out(data_dir):
  whole = music.jsb('train', data_dir, history=2, verify=False)
  data = music.jsb('train', data_dir, history=2, skip=2, verify=False)
  assert len(data) == 3 + 0 + 1
  kept = [2, 3, 4, 9]
  np.testing.assert_array_equal(data.x, whole.x[kept])
  np.testing.assert_array_equal(data.context, whole.context[kept])


def test_no_history_is_no_context(data_dir):
  data = music.jsb('train+valid', data_dir, history=0, verify=False)
  assert data.context is None
  assert len(data) == 14


def test_errors_teach(data_dir):
  with pytest.raises(files.WrongFileError, match='not the file of jsb'):
    music.jsb('train', data_dir)
  with pytest.raises(ValueError, match='history=-1'):
    music.jsb('train', data_dir, history=-1, verify=False)
  with pytest.raises(ValueError, match='skip=6 leaves no frame .* 6 frames'):
    music.jsb('test', data_dir, skip=6, verify=False)
  with pytest.raises(files.MissingFileError, match='--dataset=jsb'):
    music.jsb('test', data_dir / 'absent')


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'<html>', 'cannot be read: 6 bytes'),
    (CONTENT[:-40], 'truncated'),
    (tiny_files.chorales(data=[np.eye(88)]), r"traindata, found \['data'\]"),
    (tiny_files.amat_matlab(np.eye(88), 'traindata'), 'row of cells'),
    (
      tiny_files.chorales(traindata=[np.eye(87)]),
      r'\[87, 87\].* \[frames, 88\]',
    ),
    (tiny_files.chorales(traindata=[2 * np.eye(88)]), 'made of 0 and 1'),
  ],
)
def test_wrong_files(tmp_path, content, message):
  (tmp_path / 'JSB_Chorales.mat').write_bytes(content)
  with pytest.raises(files.WrongFileError, match=message):
    music.jsb('train', tmp_path, verify=False)
