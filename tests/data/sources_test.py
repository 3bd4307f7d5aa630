"""Tests of the table of sources."""

import pytest

from parallel_ar import data
from parallel_ar.data import sources


def test_load_passes_options_on():
  chain = data.load('markov', 'test', num_examples=7, length=3)
  assert chain.x.shape == (7, 3)
  assert (chain.name, chain.split) == ('markov', 'test')


@pytest.mark.parametrize('name', sources.SOURCES)
def test_every_source_refuses_a_wrong_split(name, tmp_path):
  with pytest.raises(ValueError, match=f"'{name}' has no split 'tset'.*'test'"):
    data.load(name, 'tset', tmp_path)


def test_names_and_options_get_hints():
  with pytest.raises(ValueError, match="Did you mean 'mnist_static'"):
    data.load('mnist_statc', 'train')
  with pytest.raises(ValueError, match=r"no option 'lenght'.*'length'"):
    data.load('markov', 'train', lenght=3)
  with pytest.raises(ValueError, match="'digits' has no option 'data'"):
    data.load('digits', 'train', data=3)
