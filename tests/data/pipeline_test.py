"""Tests of the batches: order, coverage, bits, padding."""

import itertools

import numpy as np
import pytest

from parallel_ar.data import pipeline
from parallel_ar.data.dataset import Dataset

N = 10
X = np.arange(N, dtype=np.uint8)[:, None].repeat(3, 1)
DATA = Dataset('a', 'train', X, N, context=np.arange(N, dtype=np.int32) * 2)


def grey(num_examples=6, level=100):
  x = np.full((num_examples, 8, 8, 1), level, np.uint8)
  return Dataset('a', 'train', x, 2, binarize='dynamic')


@pytest.mark.parametrize('batch_size', [1, 3, 5, 10])
def test_every_epoch_shows_every_example_once(batch_size):
  batches = pipeline.batches(DATA, batch_size, seed=0)
  steps = 3 * N
  stream = np.concatenate([batches[s]['x'][:, 0] for s in range(steps)])
  epochs = stream[: 3 * N].reshape(3, N)
  np.testing.assert_array_equal(np.sort(epochs, 1), [range(N)] * 3)
  assert len({e.tobytes() for e in epochs}) == 3


def test_a_batch_is_a_function_of_seed_and_step():
  one, two = (pipeline.batches(DATA, 3, seed=5) for _ in range(2))
  backwards = {s: two[s] for s in reversed(range(9))}
  for step in range(9):
    np.testing.assert_array_equal(one[step]['x'], backwards[step]['x'])
  other = pipeline.batches(DATA, N, seed=6)
  assert (other[0]['x'] != pipeline.batches(DATA, N, seed=5)[0]['x']).any()


def test_batches_are_int32_with_their_context():
  batch = pipeline.batches(DATA, 4)[2]
  assert batch['x'].dtype == np.int32
  assert batch['x'].shape == (4, 3)
  np.testing.assert_array_equal(batch['context'], 2 * batch['x'][:, 0])
  assert pipeline.batches(grey(), 2)[0]['context'] is None


def test_the_order_is_the_same_for_ever():
  first = pipeline.batches(DATA, N, seed=0)[0]['x'][:, 0]
  np.testing.assert_array_equal(first, [6, 4, 9, 5, 1, 2, 7, 8, 0, 3])


def test_iteration_ahead_of_time_gives_the_same_batches():
  batches = pipeline.batches(grey(), 4, seed=1)
  for start, iterator in ((0, iter(batches)), (7, batches.starting_at(7))):
    for step, batch in enumerate(itertools.islice(iterator, 5), start):
      np.testing.assert_array_equal(batch['x'], batches[step]['x'])


def test_dynamic_bits_are_fresh_and_repeatable():
  batches = pipeline.batches(grey(1), 1, seed=3)
  bits = [batches[s]['x'] for s in range(200)]
  assert len({b.tobytes() for b in bits}) == 200
  np.testing.assert_array_equal(bits[5], batches[5]['x'])
  np.testing.assert_allclose(np.mean(bits), 100 / 255, atol=0.02)
  assert set(np.unique(bits)) == {0, 1}


@pytest.mark.parametrize('batch_size', [1, 4, 10, 32])
def test_padded_batches_cover_the_split_once(batch_size):
  rows, shapes = [], set()
  for batch, mask in pipeline.padded_batches(DATA, batch_size):
    rows += batch['x'][mask, 0].tolist()
    shapes.add((batch['x'].shape, batch['context'].shape, mask.shape))
    assert batch['x'].dtype == np.int32
  assert rows == list(range(N))
  assert shapes == {((batch_size, 3), (batch_size,), (batch_size,))}


def test_padded_batches_draw_bits_once():
  def bits(batch_size):
    batches = pipeline.padded_batches(grey(), batch_size)
    return np.concatenate([b['x'][m] for b, m in batches])

  assert set(np.unique(bits(4))) == {0, 1}
  np.testing.assert_array_equal(bits(4), bits(5))


def test_counting():
  assert pipeline.steps_per_epoch(DATA, 4) == 2.5
  assert pipeline.num_steps(DATA, 4, epochs=2) == 5
  assert pipeline.num_steps(DATA, 4, epochs=1) == 3


def test_errors_teach():
  for size in (0, N + 1):
    with pytest.raises(ValueError, match=f'10 examples.*1 to 10.*got {size}'):
      pipeline.batches(DATA, size)
  with pytest.raises(ValueError, match='seed of the data must be >= 0'):
    pipeline.batches(DATA, 2, seed=-1)
  with pytest.raises(ValueError, match='steps >= 0, got -1'):
    pipeline.batches(DATA, 2)[-1]
  with pytest.raises(ValueError, match='steps >= 0, got -1'):
    pipeline.batches(DATA, 2).starting_at(-1)
  with pytest.raises(ValueError, match='at least 1'):
    pipeline.padded_batches(DATA, 0)


@pytest.mark.parametrize('source', [DATA, grey(10)])
def test_a_part_has_the_rows_of_the_batch(source):
  """However many hosts cut it, and whatever rows they take."""
  batches = pipeline.batches(source, 6, seed=3)
  for step in (0, 1, 4):
    whole = batches[step]
    for hosts in (1, 2, 3):
      parts = [
        batches.part(step, np.arange(6)[host * 6 // hosts :][: 6 // hosts])
        for host in range(hosts)
      ]
      for name, leaf in whole.items():
        if leaf is not None:
          joined = np.concatenate([part[name] for part in parts])
          np.testing.assert_array_equal(joined, leaf)
    odd = batches.part(step, np.array([5, 0, 3]))
    np.testing.assert_array_equal(odd['x'], whole['x'][[5, 0, 3]])
