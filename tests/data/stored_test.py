"""Sources over files on disk, read by the batch."""

import dataclasses
import os
import pickle
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from PIL import Image

from parallel_ar import npz
from parallel_ar.data import (
  dataset,
  files,
  libraries,
  pipeline,
  records,
  sources,
)
from parallel_ar.training import configuration, datasets, disk, identity

X = np.random.RandomState(0).randint(0, 7, (23, 3, 2)).astype(np.uint8)
LABELS = np.arange(23) % 4


@pytest.fixture
def here(tmp_path):
  np.save(tmp_path / 'x-train.npy', X)
  np.save(tmp_path / 'y-train.npy', LABELS)
  np.savez(tmp_path / 'train.npz', x=X.astype(np.int64), other=LABELS)
  np.savez_compressed(tmp_path / 'small-train.npz', x=X)
  return tmp_path


def _load(here, **options):
  name = options.pop('name', 'arrays')
  return sources.load(name, 'train', data_dir=here, num_values=7, **options)


def test_every_form_gives_the_same_examples(here):
  files_ = [
    _load(here, path='x-{split}.npy', labels='y-{split}.npy'),
    _load(here, path='{split}.npz', labels='other'),
  ]
  from array_record.python import array_record_module

  for shard in (0, 1):
    writer = array_record_module.ArrayRecordWriter(
      str(here / f'r-train-{shard}.array_record'), 'group_size:1'
    )
    for x in X[:12] if shard == 0 else X[12:]:
      writer.write(x.astype('<i2').tobytes())
    writer.close()
  files_.append(
    _load(
      here,
      name='array_record',
      path='r-{split}-*.array_record',
      event=(3, 2),
      dtype='int16',
    )
  )
  plain = dataset.Dataset('plain', 'train', X, 7, LABELS.astype(np.int32))
  batch = pipeline.batches(plain, 5, seed=3)[7]
  for data in files_:
    assert isinstance(data.x, records.Records)
    assert data.event == (3, 2) and len(data) == 23
    np.testing.assert_array_equal(np.asarray(data.x), X)
    found = pipeline.batches(data, 5, seed=3)[7]
    np.testing.assert_array_equal(found['x'], batch['x'])
    if data.context is not None:
      np.testing.assert_array_equal(found['context'], batch['context'])
    assert len(pickle.dumps(data.x)) < 600  # a path and no array
  # The same digest as that of the array: where they lie is not what they are.
  wide = dataclasses.replace(plain, name='arrays')
  assert identity.fingerprint(files_[0]) == identity.fingerprint(wide)


def test_rows_are_read_when_they_are_asked_for(here):
  asked = []

  def opens():
    return lambda rows: asked.append(rows.tolist()) or X[rows]

  x = records.of(opens, range(23))
  asked.clear()
  part = x[4:20][::2]
  assert part.shape == (8, 3, 2) and not asked
  np.testing.assert_array_equal(part[np.array([0, -1])], X[[4, 18]])
  assert asked == [[4, 18]]
  np.testing.assert_array_equal(part[1], X[6])
  np.testing.assert_array_equal(np.asarray(part), X[4:20:2])
  with pytest.raises(ValueError, match='take rows first'):
    x[:, 0]
  with pytest.raises(IndexError):
    part[np.array([8])]


def test_values_and_forms_are_checked(here):
  with pytest.raises(ValueError, match=r'value 6 in example \d+ at position'):
    sources.load(
      'arrays', 'train', data_dir=here, path='x-{split}.npy', num_values=6
    )
  with pytest.raises(files.WrongFileError, match=r'compressed.*np\.savez'):
    _load(here, path='small-{split}.npz')
  with pytest.raises(files.WrongFileError, match="array 'z'"):
    _load(here, path='{split}.npz', key='z')
  with pytest.raises(files.MissingFileError, match='no such file'):
    _load(here, path='no-{split}.npy')
  with pytest.raises(ValueError, match='read from a disk'):
    _load('gs://bucket/data', path='x-{split}.npy')
  with pytest.raises(ValueError, match=r'needs config\.data\.path'):
    _load(here)
  with pytest.raises(ValueError, match='one file for all splits'):
    _load(here, path='x-train.npy')
  np.save(here / 'f-train.npy', X.astype(np.float32))
  with pytest.raises(files.WrongFileError, match='Quantize'):
    _load(here, path='f-{split}.npy')
  with pytest.raises(files.WrongFileError, match='expected whole numbers'):
    _load(here, path='x-{split}.npy', labels='f-{split}.npy')


def test_records_of_another_form_are_named(here):
  from array_record.python import array_record_module

  def load(content, **options):
    path = here / 'q-train.array_record'
    if isinstance(content, list):
      writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
      for record in content:
        writer.write(record)
      writer.close()
    else:
      path.write_bytes(content)
    options = {'event': (2,)} | options
    path = 'q-{split}.array_record'
    data = sources.load('array_record', 'train', here, path=path, **options)
    return data.x[np.arange(len(data))]

  assert load([b'ab', b'cd']).tolist() == [[97, 98], [99, 100]]
  for content, options, lesson in (
    ([b'ab', b'abc'], {}, r'Record 1 of .* 3 bytes; uint8\[2\] has 2'),
    ([b'abc'], {'dtype': 'int16', 'event': (1,)}, r'int16\[1\] has 2'),
    ([], {}, r'q-train\.array_record holds no examples'),
    (b'half of a file', {}, r'q-train.* as ArrayRecord'),
    ([b'ab'], {'dtype': 'unit8'}, 'expected whole numbers, as uint8'),
    ([b'ab'], {'event': (-1,)}, 'expected the shape of an example'),
  ):
    with pytest.raises(ValueError, match=lesson):
      load(content, **options)


def test_a_file_that_changes_in_use_is_refused(here):
  path, other = here / 'x-train.npy', here / 'new.npy'
  data = _load(here, path='x-{split}.npy')
  x, late = data.x, pickle.loads(pickle.dumps(data.x))
  np.testing.assert_array_equal(x[np.arange(23)], X)
  np.save(other, 6 - X)
  os.replace(other, path)  # what is mapped is the old file, whole
  np.testing.assert_array_equal(x[np.arange(23)], X)
  with pytest.raises(ValueError, match=r'x-train\.npy was changed while'):
    late[0]
  path.unlink()
  np.testing.assert_array_equal(x[5], X[5])
  np.save(path, X)
  x = _load(here, path='x-{split}.npy').x
  np.testing.assert_array_equal(x[5], X[5])
  np.save(path, X[:2])  # in its place: a page that is gone would be a SIGBUS
  with pytest.raises(ValueError, match='was changed while'):
    x[5]


def test_hosts_that_unpack_at_once_keep_what_was_there_first(tmp_path):
  """Where no lock is seen by both, as on some disks of networks."""
  path, beside = tmp_path / 'x.npy', tmp_path / 'labels.npy'
  made = []

  def slow():
    yield X[:20], LABELS[:20]
    records._write(path, beside, iter([(X, LABELS)]))
    made.append(records.MappedFile(str(path)))
    yield X[20:], LABELS[20:]

  records._write(path, beside, slow())
  np.testing.assert_array_equal(made[0]()(np.arange(23)), X)
  assert sorted(os.listdir(tmp_path)) == ['labels.npy', 'x.npy']


def test_a_stride_keeps_what_it_thins_only(here):
  wide = np.arange(5 * 4 * 6, dtype=np.uint8).reshape(5, 4, 6, 1)
  np.save(here / 'w-train.npy', wide)
  config = configuration.default_config()
  config.data.update(name='arrays', path='w-{split}.npy', stride=2)
  data = datasets.load_split(config, 'train', here)
  np.testing.assert_array_equal(data.x, wide[:, ::2, ::2])


def test_what_is_not_installed_is_named(monkeypatch):
  for name, module in {
    'hugging_face': 'datasets',
    'tfds': 'tensorflow_datasets',
  }.items():
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match='PARALLEL_AR_EXTRAS='):
      sources.load(name, 'train', path='mnist')


def test_splits_and_fields_of_others_go_by_their_names(monkeypatch):
  """What `tensorflow_datasets` gives, in the form that it documents."""
  rows = [{'image': x, 'label': n} for x, n in zip(X, LABELS, strict=True)]

  class Source(list):
    def __getitems__(self, numbers):
      return [self[n] for n in numbers]

  class Builder:
    info = types.SimpleNamespace(splits={'train': 0, 'validation': 0})
    data_dir = 'here'

    def as_data_source(self, split):
      assert split == 'validation'
      return Source(rows)

  made = types.ModuleType('tensorflow_datasets')
  made.builder = lambda name, data_dir: Builder()
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', made)
  data = sources.load('tfds', 'valid', path='mine', label='label')
  np.testing.assert_array_equal(np.asarray(data.x), X)
  np.testing.assert_array_equal(data.context, LABELS)
  with pytest.raises(files.WrongFileError, match="no split 'test'"):
    sources.load('tfds', 'test', path='mine')
  with pytest.raises(files.WrongFileError, match="Did you mean 'image'"):
    sources.load('tfds', 'valid', path='mine', field='imag')
  # 256 values: no byte is outside, so no example is read before its batch.
  for odd, lesson in {
    'ragged': (X[0, 1:], r'example 2 has the shape \[2, 2\], .* \[3, 2\]'),
    'nested': ([[1, 2], [3]], 'example 2 has rows of several lengths'),
    'none': (None, 'example 2 is missing'),
    'palette': (Image.new('P', (2, 3)), 'example 2 is a picture with a pal'),
  }.values():
    rows[2] = {'image': odd}
    data = sources.load('tfds', 'valid', path='mine')
    with pytest.raises(files.WrongFileError, match=lesson):
      pipeline.batches(data, 23)[0]
  Builder.info.splits.clear()
  with pytest.raises(files.WrongFileError, match='nothing is prepared in here'):
    sources.load('tfds', 'valid', path='mine')


def test_text_of_a_table_is_to_be_made_numbers():
  with pytest.raises(files.WrongFileError, match='numbers of its symbols'):
    libraries._together(['abc', 'de'], np.arange(2), 'here')


def test_hugging_face(tmp_path):
  table = pytest.importorskip('datasets')
  rows = {'image': X.tolist(), 'label': LABELS.tolist()}
  one = table.Dataset.from_dict(rows)
  table.DatasetDict(train=one, validation=one.select(range(5))).save_to_disk(
    tmp_path / 'mine'
  )
  options = {'path': str(tmp_path / 'mine'), 'label': 'label'}
  data = sources.load('hugging_face', 'train', **options)
  np.testing.assert_array_equal(np.asarray(data.x), X)
  np.testing.assert_array_equal(data.context, LABELS)
  assert len(sources.load('hugging_face', 'valid', **options)) == 5
  with pytest.raises(files.WrongFileError, match="no split 'test'"):
    sources.load('hugging_face', 'test', **options)
  # Paths are relative to the data; files are taken by their names.
  (tmp_path / 'files').mkdir()
  one.to_parquet(tmp_path / 'files' / 'train.parquet')
  for path in ('mine', 'files'):
    data = sources.load('hugging_face', 'train', tmp_path, path=path)
    np.testing.assert_array_equal(np.asarray(data.x), X)


@pytest.mark.slow
def test_processes_read_ahead_and_resume(here):
  data = _load(here, path='x-{split}.npy', labels='y-{split}.npy')
  plain = pipeline.batches(data, 4, seed=2, narrow=True)
  ahead = pipeline.batches(data, 4, seed=2, narrow=True, workers=2)
  rows = np.array([1, 3])
  try:
    for step in (9, 10, 11, 3, 12):  # a step from before is made here
      found, expected = ahead.part(step, rows), plain.part(step, rows)
      np.testing.assert_array_equal(found['x'], expected['x'])
      np.testing.assert_array_equal(found['context'], expected['context'])
      assert found['x'].dtype == expected['x'].dtype
  finally:
    ahead.close()


_READS = """
import multiprocessing, os, sys, time
from absl import flags
from parallel_ar.data import pipeline, sources
if __name__ == '__main__':
  flags.FLAGS(['test'])
  data = sources.load('arrays', 'train', sys.argv[1], path='x-{split}.npy')
  pipeline.batches(data, 4, workers=2)[0]
  print(*(p.pid for p in multiprocessing.active_children()), flush=True)
  time.sleep(60)
"""


@pytest.mark.slow
def test_readers_end_with_a_training_that_is_killed(here, tmp_path):
  script = tmp_path / 'reads.py'
  script.write_text(_READS)
  words = [sys.executable, str(script), str(here)]
  with subprocess.Popen(words, stdout=subprocess.PIPE) as training:
    readers = [int(pid) for pid in training.stdout.readline().split()]
    training.kill()
  assert len(readers) == 2
  end = time.monotonic() + 20
  while any(map(disk._alive, readers)):
    assert time.monotonic() < end, readers
    time.sleep(0.1)


def test_a_mapped_member_is_where_it_is(here):
  found = npz.map_member(here / 'train.npz', 'other')
  np.testing.assert_array_equal(found, LABELS)
  assert isinstance(found, np.memmap)
  assert records.MappedFile(str(here / 'x-train.npy')).array().shape == X.shape
