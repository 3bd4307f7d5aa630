"""WaveNet and recurrent networks: fields, and what they read."""

import jax
import numpy as np
import pytest

from parallel_ar import models, order
from parallel_ar.analysis import causality
from parallel_ar.testing import case as cases


def reads(model, seed=0):
  params = cases.random_params(model, seed)
  audit = causality.audit(model, params, jax.random.key(seed))
  audit.raise_if_leaks()
  return np.asarray(audit.matrix)


def test_a_wavenet_reads_its_field_and_no_more():
  """stacks * (k^layers - 1) + 1 slots, the start vector's among them."""
  net = models.wavenet(
    event=(12,), num_values=3, features=6, skip_features=8, layers=2, stacks=2
  )
  place = np.arange(12)
  back = place[:, None] - place[None, :]
  np.testing.assert_array_equal(reads(net), (back >= 1) & (back <= 7))


def test_local_attention_reads_its_window():
  net = models.transformer(
    event=(12,),
    num_values=3,
    features=8,
    heads=2,
    layers=1,
    pattern=('local',),
    window=4,
    chunk=5,
  )
  back = np.arange(12)[:, None] - np.arange(12)[None, :]
  np.testing.assert_array_equal(reads(net), (back >= 1) & (back <= 4))


def test_strided_attention_reads_its_residue():
  net = models.transformer(
    event=(12,),
    num_values=3,
    features=8,
    heads=2,
    layers=1,
    pattern=('strided',),
    window=3,
  )
  back = np.arange(12)[:, None] - np.arange(12)[None, :]
  # Input l is the symbol before slot l.
  np.testing.assert_array_equal(reads(net), (back >= 1) & (back % 3 == 1))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'cell': 'lstm'}, "one of min_gru, min_lstm, rg_lru, gru; got 'lstm'"),
    ({'cell': 'gru', 'evaluation': 'chunked'}, 'deer, quasi_deer; got'),
    ({'evaluation': 'deer'}, 'A min_gru is evaluated by one of scan, assoc'),
    ({'rank': order.blocks(6, 2)}, 'recurrent draws one .* rank has ties'),
  ],
)
def test_recurrent_fields_are_checked(fields, message):
  with pytest.raises(ValueError, match=message):
    models.recurrent(event=(6,), num_values=3, **fields)


def test_wavenet_and_transformer_fields_are_checked():
  with pytest.raises(ValueError, match='kernels of at least 2 taps; got'):
    models.wavenet(event=(6,), num_values=3, size=1)
  for fields in ({'pattern': ('local', 'sparse')}, {'window': 0}):
    with pytest.raises(ValueError, match="'full', 'local' or 'strided'"):
      models.transformer(event=(6,), num_values=3, **fields)
  with pytest.raises(ValueError, match=r'groups \(here of 2\) take full'):
    models.transformer(
      event=(6,), num_values=3, rank=order.blocks(6, 2), pattern=('local',)
    )
