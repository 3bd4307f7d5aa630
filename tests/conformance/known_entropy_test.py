"""Law 7: the distance of a trained model to the optimum is a number."""

import numpy as np
import pytest

from parallel_ar.data import synthetic
from parallel_ar.testing import conformance, leaks
from tests.conformance import cases


class TestKnownEntropy:
  def test_markov_chain_within_one_percent(self):
    source = synthetic.MarkovChain.random(4, 12, seed=0)
    model = cases.made(event=(12,), num_values=4, direct=True, hidden=(24,))
    print(conformance.known_entropy(model, source, within=0.01))

  def test_lattice_within_half_a_percent(self):
    source = synthetic.Lattice(4, 4, coupling=0.4)
    model = cases.gated(event=(4, 4, 1), features=12, head_features=12)
    law = conformance.known_entropy(model, source, within=0.005, steps=200)
    print(law)

  def test_a_model_that_cannot_is_rejected(self):
    source = synthetic.MarkovChain.random(4, 12, seed=0)
    independent = cases.made(
      event=(12,), num_values=4, rank=np.zeros(12, np.int32)
    )
    with pytest.raises(conformance.LawBroken, match='does not learn'):
      conformance.known_entropy(independent, source, within=0.01, steps=100)

  def test_a_model_that_cheats_is_rejected(self):
    source = synthetic.MarkovChain.random(2, 6, seed=0)
    cheat = next(k for k in leaks.GALLERY if k.name == 'shift_forgotten')
    with pytest.raises(conformance.LawBroken, match='No model beats'):
      conformance.known_entropy(cheat.build(), source, within=0.01, steps=100)
