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


class TestShift:
  """Two peaks a step apart on an ordered alphabet: the CDFs say it all."""

  num_values = 32

  def peak(self, at):
    v = np.arange(self.num_values)
    return jnp.asarray(-0.5 * ((v - at) / 4.0) ** 2)[None]

  def measure(self, kind, mixed=None):
    mixed = np.arange(self.num_values) if mixed is None else mixed
    one, two = self.peak(14)[:, mixed], self.peak(15)[:, mixed]
    head = heads.categorical(self.num_values, kind)
    return coupling.collision_rate(head, one, two, KEY, num=20_000)

  def test_inverse_cdf_is_near_and_not_equal(self):
    cdf = lambda at: np.cumsum(jax.nn.softmax(self.peak(at)[0]))
    distance = np.abs(cdf(14) - cdf(15)).sum()  # W1
    lows = [np.append(0, cdf(at)[:-1]) for at in (14, 15)]
    overlap = np.minimum(cdf(14), cdf(15)) - np.maximum(*lows)
    want = np.maximum(overlap, 0).sum()
    got, gumbel = self.measure('inverse_cdf'), self.measure('gumbel')
    assert abs(got.rate - want) < 4 * got.error
    assert abs(want - (1 - distance)) < 0.02
    assert abs(got.apart - distance) < 4 * got.error
    assert gumbel.gumbel - 4 * gumbel.error < gumbel.rate
    assert gumbel.rate > want + 0.5
    assert gumbel.apart > distance - 0.1  # W1 is the least of all couplings

  def test_only_gumbel_ignores_the_order_of_symbols(self):
    mixed = np.random.default_rng(2).permutation(self.num_values)
    one, two = (self.measure('gumbel', m) for m in (None, mixed))
    assert abs(one.rate - two.rate) < 4 * (one.error + two.error)
    near, far = (self.measure('inverse_cdf', m) for m in (None, mixed))
    assert far.rate > near.rate + 0.5


def test_a_head_without_probabilities():
  with pytest.raises(ValueError, match='no pmf'):
    coupling.collision_rate(toys.normal_head(), 0.0, 0.0, KEY)
