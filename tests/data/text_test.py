"""Tests of text as bytes."""

import gzip

import numpy as np
import pytest

from parallel_ar import data as data_lib
from parallel_ar.data import dataset, files, text
from tests.data import tiny_files

CONTENT = (b'the quick brown fox jumps over the lazy dog.\n' * 23)[:1000]


@pytest.fixture
def path(tmp_path):
  path = tmp_path / 'fox.txt'
  path.write_bytes(CONTENT)
  return path


def test_splits_are_contiguous(path):
  splits = {
    split: text.text(split, path=path, length=7)
    for split in ('train', 'valid', 'test', 'train+valid')
  }
  parts = {s: text.decode(d, d.x) for s, d in splits.items()}
  assert parts['train'] == CONTENT[:896]  # 128 examples of the first 900
  assert parts['valid'] == CONTENT[900:949]
  assert parts['test'] == CONTENT[950:999]
  assert parts['train+valid'] == CONTENT[:945]
  assert splits['train'].event == (7,)
  assert splits['train'].num_values == 256
  assert splits['train'].x[0, 0] == ord('t')


@pytest.mark.parametrize('vocabulary', ['training', 'file'])
def test_a_compact_vocabulary_loses_nothing(path, vocabulary):
  data = text.text('test', path=path, length=7, vocabulary=vocabulary)
  assert data.num_values == len(set(CONTENT)) == len(data.symbols)
  assert data.x.max() < data.num_values
  assert text.decode(data, data.x) == CONTENT[950:999]


def test_bytes_that_training_has_not_are_refused(tmp_path):
  path = tmp_path / 'new.txt'
  path.write_bytes(b'a' * 95 + b'z' * 5)
  with pytest.raises(ValueError, match=r"not occur in it: b'z'.*'file'"):
    text.text('train', path=path, length=5, vocabulary='training')
  data = text.text('test', path=path, length=5, vocabulary='file')
  np.testing.assert_array_equal(data.x, [[1] * 5])


def test_the_file_may_be_named_in_the_data_directory(path, tmp_path):
  one = text.text('train', tmp_path, file='fox.txt', length=7)
  two = text.text('train', path=path, length=7)
  np.testing.assert_array_equal(one.x, two.x)


@pytest.mark.parametrize('length', [7, 49])
def test_the_symbol_before_can_be_given(path, length):
  data = text.text('valid', path=path, length=length, previous=True)
  alone = text.text('valid', path=path, length=length)
  assert alone.context is None
  assert data.context.shape == (len(data),)
  part = CONTENT[900:950]
  for n, (x, before) in enumerate(zip(data.x, data.context, strict=True)):
    assert before == part[n * length]
    start = n * length + 1
    assert x.tobytes() == part[start : start + length]
  assert len(data) == 49 // length


@pytest.mark.parametrize('hop', [1, 3])
@pytest.mark.parametrize('previous', [False, True])
def test_training_windows_may_overlap(path, hop, previous):
  options = {'path': path, 'length': 7, 'hop': hop, 'previous': previous}
  data = text.text('train', **options)
  starts = range(0, 900 - 7 - previous + 1, hop)
  assert len(data) == len(starts)
  for n, start in enumerate(starts):
    begin = start + previous
    assert data.x[n].tobytes() == CONTENT[begin : begin + 7]
    if previous:
      assert data.context[n] == CONTENT[start]
  # Every symbol of the other splits counts once.
  other = text.text('test', **options)
  assert len(other) == (50 - previous) // 7


def test_shakespeare_has_the_published_split(tmp_path):
  with pytest.raises(files.MissingFileError, match='--dataset=shakespeare'):
    text.shakespeare('train', tmp_path)
  (tmp_path / 'tinyshakespeare.txt').write_bytes(CONTENT)
  with pytest.raises(files.WrongFileError, match='not the file of shakesp'):
    text.shakespeare('train', tmp_path)
  parts = {}
  for split in ('train', 'valid', 'test'):
    data = text.shakespeare(split, tmp_path, length=10, verify=False)
    assert data.num_values == len(set(CONTENT))
    parts[split] = text.decode(data, data.x)
  assert parts['train'] == CONTENT[:900]
  assert parts['valid'] == parts['test'] == CONTENT[900:]
  with pytest.raises(ValueError, match=r"no split 'train\+valid'"):
    text.shakespeare('train+valid', tmp_path)


@pytest.mark.parametrize('name', ['text8', 'enwik8'])
@pytest.mark.parametrize('form', ['{}.zip', '{0}/{0}.zip', '{}', '{}.gz'])
def test_wikipedia_in_all_its_forms(tmp_path, name, form):
  path = tmp_path / form.format(name)
  path.parent.mkdir(exist_ok=True)
  content = CONTENT
  if form.endswith('.zip'):
    content = tiny_files.zipped(**{name: CONTENT})
  elif form.endswith('.gz'):
    content = gzip.compress(CONTENT)
  path.write_bytes(content)
  parts = {'train': (0, 900), 'valid': (900, 950), 'test': (950, 1000)}
  for split, (start, stop) in parts.items():
    data = data_lib.load(name, split, tmp_path, length=10, verify=False)
    assert text.decode(data, data.x) == CONTENT[start:stop]
    assert data.num_values == len(set(CONTENT))
  with pytest.raises(files.WrongFileError, match=f'not the file of {name}'):
    data_lib.load(name, 'train', tmp_path)


@pytest.mark.parametrize(
  'content',
  [
    tiny_files.zipped(other=b'x'),
    tiny_files.zipped(text8=CONTENT)[:-30],
    b'PK',
  ],
)
def test_wrong_zip_files(tmp_path, content):
  (tmp_path / 'text8.zip').write_bytes(content)
  with pytest.raises(files.WrongFileError, match='from which text8 can be'):
    text.wikipedia('text8', 'train', tmp_path, verify=False)


def test_errors_teach(path, tmp_path):
  with pytest.raises(ValueError, match='exactly one of file='):
    text.text('train', tmp_path)
  with pytest.raises(files.MissingFileError, match='nothing there'):
    text.text('train', path=tmp_path / 'none')
  with pytest.raises(files.MissingFileError, match=r'none\.txt'):
    text.text('train', tmp_path, file='none.txt')
  with pytest.raises(ValueError, match='1 to 50, or a longer file'):
    text.text('valid', path=path, length=51)
  with pytest.raises(ValueError, match='1 to 49, or a longer file'):
    text.text('valid', path=path, length=50, previous=True)
  with pytest.raises(ValueError, match='got -1'):
    text.text('train', path=path, length=5, hop=-1)
  with pytest.raises(ValueError, match='length 0'):
    text.text('valid', path=path, length=0)
  with pytest.raises(ValueError, match="Did you mean 'training'"):
    text.text('train', path=path, length=5, vocabulary='trainin')
  with pytest.raises(ValueError, match='is no text'):
    text.decode(
      dataset.Dataset('a', 'train', np.zeros((1, 1), np.uint8), 2), np.zeros(1)
    )


def test_the_king_james_bible(tmp_path):
  with pytest.raises(files.MissingFileError, match='--dataset=kjv'):
    text.kjv('train', tmp_path)
  (tmp_path / 'kjv.txt').write_bytes(CONTENT)
  with pytest.raises(files.WrongFileError, match='not the file of kjv'):
    text.kjv('train', tmp_path)
  data = text.kjv('test', tmp_path, length=7, verify=False)
  assert text.decode(data, data.x) == CONTENT[950:999]


def test_an_empty_file(tmp_path):
  (tmp_path / 'a.txt').write_bytes(b'')
  with pytest.raises(ValueError, match='has 0 bytes.*Choose a longer file'):
    text.text('train', path=tmp_path / 'a.txt')


def test_counting_takes_no_more_memory_than_a_block(monkeypatch):
  monkeypatch.setattr(text, '_BLOCK', 7)
  content = np.frombuffer(b'to be or not to be' * 5, np.uint8)
  assert bytes(text._occurring(content)) == b' benort'
