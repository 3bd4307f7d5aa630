"""Agreement under shared noise, against what theory says of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import heads
from parallel_ar.analysis import coupling
from tests import toys

KEY = jax.random.key(0)


def test_bernoulli_reaches_the_maximum():
  rng = np.random.default_rng(0)
  one, two = rng.normal(size=(2, 50)) * 2
  got = coupling.collision_rate(heads.bernoulli(), one, two, KEY)
  assert abs(got.rate - got.maximum) < 4 * got.error
  assert got.independent < got.rate


@pytest.mark.parametrize('kind', ['gumbel', 'inverse_cdf'])
def test_no_coupling_beats_the_maximum(kind):
  rng = np.random.default_rng(1)
  one, two = jnp.asarray(rng.normal(size=(2, 40, 6)))
  got = coupling.collision_rate(heads.categorical(6, kind), one, two, KEY)
  assert got.rate < got.maximum + 4 * got.error
  if kind == 'gumbel':
    assert got.rate > got.gumbel - 4 * got.error
    assert got.rate > got.independent


def test_ordered_symbols_suit_the_inverse_cdf():
  """Two peaks one step apart; a permutation of the symbols undoes it."""
  v = np.arange(32)
  peak = lambda at: jnp.asarray(-0.5 * ((v - at) / 4.0) ** 2)[None]
  rate = lambda kind, a, b: coupling.collision_rate(
    heads.categorical(32, kind), a, b, KEY, num=4000
  )
  near = {k: rate(k, peak(14), peak(15)) for k in ('gumbel', 'inverse_cdf')}
  assert near['inverse_cdf'].rate < near['inverse_cdf'].maximum
  mixed = np.random.default_rng(2).permutation(32)
  far = rate('inverse_cdf', peak(14)[:, mixed], peak(15)[:, mixed])
  assert far.rate < near['gumbel'].rate


def test_a_head_without_probabilities():
  with pytest.raises(ValueError, match='no pmf'):
    coupling.collision_rate(toys.normal_head(), 0.0, 0.0, KEY)
