"""Tests of the sources of known entropy, against enumeration."""

import numpy as np
import pytest

from parallel_ar.data import synthetic
from parallel_ar.data.synthetic import Lattice, MarkovChain

CHAINS = [
  MarkovChain.random(2, 1, seed=0),
  MarkovChain.random(3, 5, seed=1, concentration=0.3),
  MarkovChain(np.array([[0.0, 1.0], [0.5, 0.5]]), 4),
]
LATTICES = [
  Lattice(3, 3, 0.4),
  Lattice(4, 3, 0.7, -0.2),
  Lattice(1, 4, 0.3, 0.5),
  Lattice(5, 1, -0.6, 0.1),
]


def entropy(p):
  return -sum(q * np.log(q) for q in p if q)


def check_law(source, events, sample):
  """Normalisation, entropy and the sampler, over all events."""
  p = np.exp(source.log_prob(events))
  np.testing.assert_allclose(p.sum(), 1, atol=1e-12)
  np.testing.assert_allclose(source.entropy, entropy(p), atol=1e-12)
  flat = {event.tobytes(): i for i, event in enumerate(events)}
  drawn = [flat[x.tobytes()] for x in sample]
  counts = np.bincount(drawn, minlength=len(p))
  assert not counts[p == 0].any()
  n, q = len(sample), p[p > 0]
  chi2 = ((counts[p > 0] - n * q) ** 2 / (n * q)).sum()
  df = max(len(q) - 1, 1)
  assert chi2 < df + 5 * np.sqrt(2 * df)


@pytest.mark.parametrize('chain', CHAINS)
def test_markov_chain(chain):
  num_values = len(chain.transition)
  events = synthetic.enumerate_events(num_values, (chain.length,))
  check_law(chain, events, chain.sample(20_000, seed=3))
  pi = chain.stationary
  np.testing.assert_allclose(pi @ chain.transition, pi, atol=1e-12)


def test_every_symbol_of_a_chain_has_the_stationary_law():
  chain = MarkovChain.random(3, 6, seed=2)
  x = chain.sample(20_000, seed=0)
  for i in range(6):
    found = np.bincount(x[:, i], minlength=3) / len(x)
    np.testing.assert_allclose(found, chain.stationary, atol=0.015)


@pytest.mark.parametrize('lattice', LATTICES)
def test_lattice(lattice):
  event = (lattice.height, lattice.width)
  events = synthetic.enumerate_events(2, event).astype(np.uint8)
  check_law(lattice, events, lattice.sample(20_000, seed=1))
  energy = lattice.log_prob(events) + lattice.log_partition
  np.testing.assert_allclose(
    lattice.log_partition, np.log(np.exp(energy).sum()), atol=1e-12
  )


def test_lattice_weights_are_those_of_the_definition():
  lattice, x = Lattice(2, 2, 0.3, 0.7), np.array([[[1, 1], [0, 1]]])
  # Two of the four bonds agree and two do not; three spins are up, one down.
  expected = 0.3 * (1 + 1 - 1 - 1) + 0.7 * (3 - 1)
  found = lattice.log_prob(x) + lattice.log_partition
  np.testing.assert_allclose(found, [expected], atol=1e-12)


def test_an_uncoupled_lattice_is_independent_coins():
  lattice = Lattice(40, 8, 0.0, 0.25)
  p = 1 / (1 + np.exp(-0.5))
  expected = 320 * entropy([p, 1 - p])
  np.testing.assert_allclose(lattice.entropy, expected, rtol=1e-12)


def test_a_lattice_on_its_side_has_the_same_entropy():
  one, two = Lattice(3, 7, 0.44, 0.1), Lattice(7, 3, 0.44, 0.1)
  np.testing.assert_allclose(one.entropy, two.entropy, rtol=1e-12)


@pytest.mark.parametrize('name', ['markov', 'lattice'])
def test_samples_of_a_source_reach_its_entropy(name):
  make = getattr(synthetic, name)
  data = make('test', num_examples=4000)
  source = {
    'markov': lambda: MarkovChain.random(4, 16, 0),
    'lattice': lambda: Lattice(8, 8, 0.4),
  }[name]()
  nats = -source.log_prob(data.x)
  error = nats.std() / np.sqrt(len(nats))
  assert data.entropy == source.entropy
  assert abs(nats.mean() - data.entropy) < 4 * error


@pytest.mark.parametrize('name', ['markov', 'lattice'])
def test_splits_and_seeds_are_independent_and_repeatable(name):
  make = getattr(synthetic, name)
  splits = [make(s, num_examples=50) for s in ('train', 'valid', 'test')]
  assert len({d.x.tobytes() for d in splits}) == 3
  assert len({d.entropy for d in splits}) == 1
  again = make('train', num_examples=50)
  np.testing.assert_array_equal(again.x, splits[0].x)
  assert (make('train', num_examples=50, seed=1).x != again.x).any()


def test_events_of_the_sources():
  data = synthetic.lattice('train', height=4, width=3, num_examples=5)
  assert (data.event, data.num_values) == ((4, 3, 1), 2)
  data = synthetic.markov('train', num_values=6, length=9, num_examples=5)
  assert (data.event, data.num_values) == ((9,), 6)


def test_errors_teach():
  with pytest.raises(ValueError, match=r'3\^40 events'):
    synthetic.enumerate_events(3, (40,))
  with pytest.raises(ValueError, match='1 <= width <= 10'):
    Lattice(3, 11, 0.4)
  with pytest.raises(ValueError, match='finite'):
    Lattice(3, 3, np.inf)
  with pytest.raises(ValueError, match='sum to 1'):
    MarkovChain(np.ones((2, 2)), 3)
  with pytest.raises(ValueError, match=r'\[V, V\]'):
    MarkovChain(np.ones((1, 2)) / 2, 3)
  with pytest.raises(ValueError, match='length >= 1'):
    MarkovChain(np.eye(2), 0)
  with pytest.raises(ValueError, match='num_values >= 2'):
    MarkovChain.random(1, 3, 0)
  with pytest.raises(ValueError, match='would be empty'):
    synthetic.markov('train', num_examples=0)
  with pytest.raises(
    ValueError, match=r"'lattice' has no split 'train\+valid'"
  ):
    synthetic.lattice('train+valid')
