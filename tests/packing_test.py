"""compress FILE and decompress: files and pictures come back."""

import pathlib

import numpy as np
import pytest

from experiments import packing
from parallel_ar.data import folder as folder_lib
from tests.given_test import TEXT, images, texts  # noqa: F401, fixtures

LABELLED = 'conditioned on a context'


def test_any_file_of_a_text_comes_back(texts, tmp_path):  # noqa: F811
  for size in (0, 1, 9, 40):
    (tmp_path / 'book').write_bytes(TEXT[:size])
    packed = packing.pack(texts, tmp_path / 'book')
    assert packing.unpack(texts, packed) == {'book': TEXT[:size]}
  out = tmp_path / 'out'
  packing.write(packing.unpack(texts, packed), out)
  assert out.read_bytes() == TEXT[:40]
  for broken in (packed[:30], packed[:-3], b'PARF', b'', b'xz' + packed):
    with pytest.raises(ValueError):
      packing.unpack(texts, broken)
  for name in ('../book', '', '..', 'a/b'):
    hostile = packed.replace(b'"book"', f'"{name}"'.encode())
    head = len(packed) - len(hostile)
    size = int.from_bytes(packed[4:8], 'little') - head
    hostile = hostile[:4] + size.to_bytes(4, 'little') + hostile[8:]
    with pytest.raises(ValueError, match='description in the file is damaged'):
      packing.unpack(texts, hostile)


def test_what_does_not_fit_is_refused(texts, images, tmp_path):  # noqa: F811
  (tmp_path / 'book').write_bytes(b'the ~ cat')
  with pytest.raises(ValueError, match="byte 4 is b'~'.*vocabulary=bytes"):
    packing.pack(texts, tmp_path / 'book')
  with pytest.raises(ValueError, match='packs one file'):
    packing.pack(texts, tmp_path)
  with pytest.raises(ValueError, match=LABELLED):
    packing.pack(images, tmp_path)


def test_pictures_come_back(plain_images, tmp_path, capsys, monkeypatch):
  from PIL import Image

  x = plain_images.load_split('test').x[:3]
  folder = tmp_path / 'pictures'
  folder.mkdir()
  levels = packing._levels(x, 17)
  for n, one in enumerate(levels):
    Image.fromarray(one[..., 0]).save(folder / f'{n}.png')
  Image.fromarray(levels[0, ..., 0]).save(folder / '1.png', compress_level=0)
  levels[1] = levels[0]
  Image.fromarray(levels[1, ..., 0]).save(folder / '3.bmp')
  by_hand = (folder / '2.png').read_bytes() + b'more'
  (folder / '2.png').write_bytes(by_hand)  # as nobody writes it
  (folder / 'notes.txt').write_text('no picture')
  (folder / 'more').mkdir()
  packed = packing.pack(plain_images, folder)
  said = capsys.readouterr().err
  assert f'1 of 4 pictures {packing._TOLD}' in said
  assert '2 left out, not packed: more, notes.txt' in said
  files = packing.unpack(plain_images, packed)
  for name in ('0.png', '1.png', '3.bmp'):
    assert files[name] == (folder / name).read_bytes()
  assert files['2.png'] == by_hand[:-4]
  monkeypatch.setattr(packing, '_digest', lambda files: 'other')
  assert packing.unpack(plain_images, packed) == files
  assert 'writes other bytes' in capsys.readouterr().err
  out = tmp_path / 'out'
  packing.write(packing.unpack(plain_images, packed), out)
  for n, one in enumerate(levels):
    np.testing.assert_array_equal(
      folder_lib.read(out / f'{n}.png', 'L'), one[..., 0]
    )
  Image.fromarray(levels[0, ..., 0] + 1).save(folder / '0.png')
  with pytest.raises(ValueError, match='between the 17 values'):
    packing.pack(plain_images, folder)
  colored = np.dstack([levels[0, ..., 0], *2 * [0 * levels[0, ..., 0]]])
  Image.fromarray(colored).save(folder / '0.png')
  with pytest.raises(ValueError, match='RGB, 1 frames. holds more than'):
    packing.pack(plain_images, folder)
  Image.fromarray(levels[0, ..., 0].astype(np.uint16)).save(folder / '0.png')
  with pytest.raises(ValueError, match='more than 8 bits'):
    packing.pack(plain_images, folder)
  Image.fromarray(levels[0, :7, :, 0]).save(folder / '0.png')
  with pytest.raises(ValueError, match='7 x 8 pixels; the run has 8 x 8'):
    packing.pack(plain_images, folder)
  with pytest.raises(FileNotFoundError, match='holds no pictures'):
    packing.pack(plain_images, pathlib.Path(tmp_path))


@pytest.fixture(scope='module')
def plain_images(tmp_path_factory):
  import parallel_ar as par
  from parallel_ar.training import loop
  from tests.given_test import base

  config, folder = base(), tmp_path_factory.mktemp('plain')
  config.data.name = 'digits'
  config.model.update(name='made', event=(8, 8, 1), hidden=(8,), num_values=17)
  loop.train(config, folder / 'run', progress=False)
  return par.load(folder / 'run')
