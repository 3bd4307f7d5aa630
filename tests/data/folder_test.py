"""Folders of pictures as data."""

import numpy as np
import pytest
from PIL import Image

from parallel_ar import data
from parallel_ar.data import dataset, folder
from parallel_ar.training import configuration, datasets


def _write(path, x):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(x).save(path)


@pytest.fixture
def photos(tmp_path):
  x = np.random.default_rng(0).integers(0, 256, (11, 3, 5), np.uint8)
  for n, one in enumerate(x):
    _write(tmp_path / 'photos' / f'{n:02}.png', one)
  (tmp_path / 'photos' / 'notes.txt').write_text('no picture')
  return tmp_path / 'photos', x


def test_every_picture_is_in_one_split(photos, capsys):
  path, x = photos
  parts = {s: data.load('pictures', s, path=path) for s in dataset.SPLITS}
  sizes = [len(parts[s]) for s in ('train', 'valid', 'test', 'train+valid')]
  assert sizes == [9, 1, 1, 10]
  rows = np.concatenate([parts[s].x for s in ('train+valid', 'test')])
  assert rows.shape[1:] == (3, 5, 1)
  assert sorted(r.tobytes() for r in rows) == sorted(r.tobytes() for r in x)
  again = data.load('pictures', 'train', path=path)
  np.testing.assert_array_equal(again.x, parts['train'].x)
  said = capsys.readouterr().err
  assert said.count('1 left out') == 1 and 'notes.txt' in said


def test_jpeg_is_read_too(photos):
  path, x = photos
  grey = np.full((3, 5), 128, np.uint8)
  Image.fromarray(grey).save(path / 'b.JPG')
  Image.fromarray(grey).save(path / 'c.jpeg')
  assert len(folder.listed(path)) == 13
  np.testing.assert_array_equal(folder.read(path / 'b.JPG', 'L'), grey)


def test_photos_are_read_upright_and_whole(tmp_path):
  x = np.zeros((8, 16, 3), np.uint8)
  x[:, 8:] = 255
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was held aside
  Image.fromarray(x).save(tmp_path / 'a.jpg', exif=exif)
  upright = folder.read(tmp_path / 'a.jpg', 'RGB')
  np.testing.assert_array_equal(upright, np.rot90(x, -1))
  Image.new('CMYK', (8, 8), (0, 255, 255, 0)).save(tmp_path / 'b.jpg')
  red = folder.read(tmp_path / 'b.jpg', 'RGB')
  assert (abs(red - np.array([254.0, 0, 0])) <= 2).all()
  Image.fromarray(np.full((3, 5), 300, np.uint16)).save(tmp_path / 'c.png')
  for mode in ('L', 'RGB'):
    with pytest.raises(ValueError, match='more than 8 bits.*PNG of 8 bits'):
      folder.read(tmp_path / 'c.png', mode)


def test_folders_are_splits(photos, tmp_path):
  for n, part in enumerate(('train', 'valid', 'test')):
    _write(tmp_path / 'own' / part / 'a.png', photos[1][n])
  test = data.load('pictures', 'test', path=tmp_path / 'own')
  np.testing.assert_array_equal(test.x[0, ..., 0], photos[1][2])


def test_colours_levels_and_sizes(photos):
  path, x = photos
  few = data.load('pictures', 'test', path=path, levels=4)
  whole = data.load('pictures', 'test', path=path)
  assert few.num_values == 4
  np.testing.assert_array_equal(few.x, np.round(whole.x / 85))
  assert data.load('pictures', 'test', path=path, colors='rgb').event[2] == 3
  _write(path / 'wide.png', np.zeros((6, 20, 3), np.uint8))
  with pytest.raises(ValueError, match='of one size.*3 x 5.*data.size=32'):
    data.load('pictures', 'train+valid', path=path)
  scaled = data.load('pictures', 'train+valid', path=path, size=4)
  assert scaled.event == (4, 4, 3)  # one of them has colours


def test_mistakes_teach(photos, tmp_path):
  path, x = photos
  for wrong, match in (
    ({'colors': 'blue'}, "colors='blue'"),
    ({'levels': 1}, 'levels=1'),
    ({'size': -2}, 'size=-2'),
    ({'path': tmp_path / 'none'}, 'no folder .*data.path=photos'),
    ({'path': ''}, 'no folder'),
    ({'path': tmp_path}, 'holds no pictures: .*.png'),
  ):
    with pytest.raises((ValueError, FileNotFoundError), match=match):
      data.load('pictures', 'train', **({'path': path} | wrong))
  (path / '00.png').write_bytes(b'GIF')
  with pytest.raises(ValueError, match=r'00\.png is no picture'):
    data.load('pictures', 'train+valid', path=path)
  for one in sorted(path.glob('*.png'))[2:]:
    one.unlink()
  with pytest.raises(ValueError, match='holds 2 pictures; at least three'):
    data.load('pictures', 'train', path=path)


def test_a_config_takes_the_event_of_the_data(photos):
  config = configuration.default_config()
  config.data.update(name='pictures', path=str(photos[0]))
  config.model.name = 'pixelcnn_pp'
  filled = datasets.fill(config, None)
  assert filled.model.event == (3, 5, 1)
  assert filled.model.num_values == 256
  assert 'event' not in config.model
  assert datasets.fill(filled, None) is filled
  levels = folder.read(sorted(photos[0].glob('*.png'))[0], 'L')
  np.testing.assert_array_equal(levels, photos[1][0])
