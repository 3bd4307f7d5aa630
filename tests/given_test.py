"""sample: prompts, labels and known pixels, and numbers beside pictures."""

import pathlib
import re

import jax
import numpy as np
import pytest

import parallel_ar as par
from experiments import given
from parallel_ar.training import configuration, loop
from tests import options_test

ROOT = pathlib.Path(__file__).parents[1]
TEXT = b'the cat and the dog and the bird sat here. ' * 40


def base():
  config = configuration.default_config()
  config.mesh.data = 1
  config.data.valid_split = ''
  config.train.update(
    batch_size=7, steps=1, eval_every=0, tensorboard=False, ema_decay=0.0
  )
  return config


@pytest.fixture(scope='module')
def texts(tmp_path_factory):
  folder = tmp_path_factory.mktemp('texts')
  (folder / 'mine.txt').write_bytes(TEXT)
  config = base()
  config.data.update(name='text', path=str(folder / 'mine.txt'), length=9)
  config.data.vocabulary = 'file'
  config.model.update(name='made', event=(9,), hidden=(8,))
  config.model.num_values = len(set(TEXT))
  loop.train(config, folder / 'run', progress=False)
  (folder / 'mine.txt').unlink()  # a run knows its symbols
  return par.load(folder / 'run')


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  config, folder = base(), tmp_path_factory.mktemp('images')
  config.data.update(name='digits', labels=True)
  config.model.update(name='made', event=(8, 8, 1), hidden=(8,), num_values=17)
  config.model.num_classes = 10
  loop.train(config, folder / 'run', progress=False)
  return par.load(folder / 'run')


def script(run, *flags):
  options_test.run('sample', [f'--workdir={run.where}', '--count=3', *flags])


def test_a_prompt_begins_every_sample(texts):
  out = texts.where / 'a.txt'
  script(texts, '--prompt=the c', f'--out={out}')
  drawn = out.read_bytes().split(b'\n\n')
  assert [len(one) for one in drawn] == [9] * 3
  assert all(one.startswith(b'the c') for one in drawn)
  numbers = np.load(out.with_suffix('.npz'))
  told = given.prompt(texts, 'the c', 3)
  keys = jax.random.wrap_key_data(numbers['keys'])
  again = texts.sample(keys, x=told.x, known=told.known)
  np.testing.assert_array_equal(numbers['x'], again.x)
  np.testing.assert_array_equal(numbers['known'], told.known)
  np.testing.assert_allclose(
    numbers['log_prob'], texts.log_prob(numbers['x']), rtol=1e-5
  )


def test_known_pixels_and_a_label(images):
  folder = images.where
  x = images.load_split('test').x[:1]
  from PIL import Image

  levels = np.round(x[0, ..., 0] * (255 / 16)).astype(np.uint8)
  Image.fromarray(levels).save(folder / 'image.png')
  mask = np.zeros((8, 8), np.uint8)
  mask[:3] = 255
  Image.fromarray(mask).save(folder / 'mask.png')
  out = folder / 'b.png'
  flags = [f'--given={folder}/image.png', f'--known={folder}/mask.png']
  script(images, *flags, '--label=7', f'--out={out}')
  assert out.read_bytes().startswith(b'\x89PNG')
  numbers = np.load(out.with_suffix('.npz'))
  np.testing.assert_array_equal(numbers['x'][:, :3], np.repeat(x[:, :3], 3, 0))
  assert (numbers['context_0'] == 7).all()
  assert numbers['known'].sum() == 3 * 24


def test_a_default_directory_has_the_name_and_a_digest(monkeypatch):
  found = []

  def look(values):
    from experiments import train

    found.append(str(train._default(values['config'].value)))

  words = ['--config=configs/digits_made.py', '--name=mine']
  assert options_test.parse('train', words, look) == ''
  words += ['--config.optimizer.learning_rate=0.5']
  assert options_test.parse('train', words, look) == ''
  assert found[0] == 'runs/mine'
  assert re.fullmatch(r'runs/mine-[0-9a-f]{8}', found[1])
  with pytest.raises(ValueError, match='name of a directory below runs/'):
    options_test.parse('train', [*words[:1], '--name=a/b'], look)


@pytest.mark.parametrize(
  ('text', 'says'),
  [
    ('The', r"has b'T', which the run did not learn. It knows b' .abc"),
    ('', '0 bytes; a sample of this run has 9'),
    ('the cat and ', '12 bytes.*Give 1 to 9'),
    ('é', 'did not learn'),
  ],
)
def test_prompts_that_do_not_fit(texts, text, says):
  with pytest.raises(ValueError, match=says):
    given.prompt(texts, text, 2)


def test_what_goes_with_another_kind_of_run(texts, images, tmp_path):
  from PIL import Image

  Image.fromarray(np.zeros((7, 8), np.uint8)).save(tmp_path / 'small.png')
  (tmp_path / 'no.png').write_bytes(b'\x89PNG but no more')
  small, broken = (str(tmp_path / f'{n}.png') for n in ('small', 'no'))
  for says, call in (
    ('--prompt is for runs of text', lambda: given.prompt(images, 'a', 1)),
    ('for runs of images', lambda: given.image(texts.model, small, small, 1)),
    ('7 x 8 pixels.*8 x 8', lambda: given.image(images.model, small, small, 1)),
    ('no picture', lambda: given.image(images.model, broken, small, 1)),
    ('runs with labels', lambda: given.label(texts.model, 1, 1)),
  ):
    with pytest.raises(ValueError, match=says):
      call()
