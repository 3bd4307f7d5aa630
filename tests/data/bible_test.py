"""Tests of the LZW decoder and of the file it is for."""

import random

import pytest

from parallel_ar.data import bible, files
from tests.data import tiny_files

WORDS = [b'and ', b'the ', b'beginning ', b'begat ', b'a', b'\n', b'unto ']
TEXT = b''.join(random.Random(0).choices(WORDS, k=12_000))


@pytest.mark.parametrize(
  'data',
  [b'', b'a', b'aaaaaaaaaaaaaaaaaaaaaaaa', bytes(range(256)) * 9, TEXT],
  ids=['empty', 'one', 'own_entry', 'widening', 'text'],
)
def test_lzw_decodes_what_an_encoder_made(data):
  stream = tiny_files.lzw(data) if data else b''
  assert bible.lzw(stream) == data


@pytest.mark.parametrize('clear_at', [1, 8, 100, 700])
def test_lzw_may_clear_its_table(clear_at):
  assert bible.lzw(tiny_files.lzw(TEXT, clear_at)) == TEXT


def test_windows_are_joined():
  content = tiny_files.bible([TEXT, b'amen', TEXT[::-1]])
  assert bible.unpack('a', content) == TEXT + b'amen' + TEXT[::-1]


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'GZIP', "found b'GZIP'"),
    (tiny_files.bible([TEXT])[:93], 'truncated.*table of 2 offsets'),
    (tiny_files.bible([TEXT])[:-1], r'expected \d+ bytes, found \d+'),
    (tiny_files.bible([b'ab'])[:100] + b'\xff\xff\xff', 'damaged'),
  ],
)
def test_wrong_files(content, message):
  with pytest.raises(files.WrongFileError, match=message):
    bible.unpack('some/path', content)
