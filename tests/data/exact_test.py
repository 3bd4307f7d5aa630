"""Laws by name, and mixtures of them, against enumeration."""

import numpy as np
import pytest

from parallel_ar import data
from parallel_ar.data import exact, synthetic

WEIGHTED = exact.Mixture(
  [synthetic.Lattice(2, 2, 0.3), synthetic.Lattice(2, 2, -0.9, 0.4)],
  2,
  (2, 2),
  (0.25, 0.75),
)


@pytest.mark.parametrize(
  'law', [exact.Mixture.of_chains(3, 3, 4, seed=1), WEIGHTED]
)
def test_a_mixture_is_the_weighted_sum_of_its_components(law):
  events = synthetic.enumerate_events(law.num_values, law.event)
  p = np.exp(law.log_prob(events))
  weights = law.weights or [1 / 3] * 3
  each = [np.exp(c.log_prob(events)) for c in law.components]
  want = sum(w * q for w, q in zip(weights, each, strict=True))
  np.testing.assert_allclose(p, want, rtol=1e-12)
  np.testing.assert_allclose(p.sum(), 1, atol=1e-12)
  np.testing.assert_allclose(law.entropy, -(p * np.log(p)).sum(), rtol=1e-12)
  flat = {event.tobytes(): i for i, event in enumerate(events)}
  x = law.sample(20_000, seed=2)
  counts = np.bincount([flat[e.tobytes()] for e in x], minlength=len(p))
  chi2 = ((counts - len(x) * p) ** 2 / (len(x) * p)).sum()
  assert chi2 < len(p) + 5 * np.sqrt(2 * len(p))


def test_a_mixture_remembers():
  """Its entropy lies between that of its components and log K above it."""
  law = exact.Mixture.of_chains(3, 3, 6, seed=0)
  inside = np.mean([c.entropy for c in law.components])
  assert inside < law.entropy < inside + np.log(3)


def test_an_entropy_that_cannot_be_enumerated():
  drawn = data.load('mixture', 'test', num_examples=5, length=14)
  assert drawn.x.shape == (5, 14) and drawn.entropy is None
  with pytest.raises(ValueError, match='3\\^14 events'):
    _ = exact.Mixture.of_chains(2, 3, 14, seed=0).entropy


@pytest.mark.parametrize('name', ['markov', 'lattice', 'mixture'])
def test_laws_are_those_of_the_sources(name):
  options = {'seed': 3} if name != 'lattice' else {'field': 0.2}
  drawn = data.load(name, 'test', num_examples=2000, **options)
  law = exact.law(name, num_examples=2000, **options)
  assert drawn.entropy == law.entropy
  nats = -law.log_prob(drawn.x)
  error = nats.std() / np.sqrt(len(nats))
  assert abs(nats.mean() - law.entropy) < 4 * error


@pytest.mark.parametrize(
  'make, words',
  [
    (lambda: exact.law('digits'), 'no exact log-probability.*markov'),
    (lambda: exact.law('markof'), "Did you mean 'markov'"),
    (lambda: exact.Mixture([], 2, (3,)), 'one weight for each'),
    (
      lambda: exact.Mixture(WEIGHTED.components, 2, (2, 2), (0.5, 0.6)),
      'sum to 1',
    ),
    (lambda: exact.Mixture.of_chains(0, 2, 3, seed=0), 'at least one'),
  ],
)
def test_refuses(make, words):
  with pytest.raises(ValueError, match=words):
    make()
