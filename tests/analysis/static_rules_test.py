"""Rules of the static audit against derivatives, and facts that are uniform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import heads, model, order
from parallel_ar.analysis import static
from parallel_ar.analysis.static import products, sets
from parallel_ar.program import uniform

LENGTH = 12


def may(fn, **fields):
  """What each of 12 sums over the entries of fn(float[12]) may read."""

  def conditionals(params, x, context):
    y = fn(x.astype(jnp.float32)).reshape(-1)
    return jnp.pad(y, (0, -len(y) % LENGTH)).reshape(LENGTH, -1).sum(1)

  record = model.from_function(
    conditionals,
    event=(LENGTH,),
    rank=order.raster(LENGTH),
    head=heads.bernoulli(),
  )
  found = static.check(record, **fields)
  assert not found.without_rule
  read = jax.jacobian(lambda x: conditionals({}, x, None))(jnp.ones(LENGTH))
  return found.may, np.asarray(read) != 0


def conv(spec, shape, kernel, holes=0.0, **fields):
  """A convolution of x as [*shape], with a kernel of ones that has holes."""
  mask = np.random.default_rng(0).random(kernel) >= holes
  return lambda x: jax.lax.conv_general_dilated(
    x.reshape(shape),
    jnp.asarray(mask, jnp.float32),
    dimension_numbers=spec,
    **fields,
  )


NHC, CHW = ('NHC', 'HIO', 'NHC'), ('NCHW', 'OIHW', 'NHWC')
CONVOLUTIONS = {
  'strides': conv(
    NHC, (1, 12, 1), (3, 1, 2), window_strides=(2,), padding=[(2, 1)]
  ),
  'taps with holes': conv(
    NHC, (2, 3, 2), (3, 2, 5), 0.6, window_strides=(1,), padding=[(1, 1)]
  ),
  'transposed': conv(
    NHC,
    (1, 6, 2),
    (3, 2, 3),
    0.3,
    window_strides=(1,),
    padding=[(2, 1)],
    lhs_dilation=(3,),
  ),
  'dilated, cut at the border': conv(
    NHC,
    (1, 12, 1),
    (2, 1, 1),
    window_strides=(1,),
    padding=[(-1, -2)],
    rhs_dilation=(4,),
  ),
  'groups in two dimensions': conv(
    CHW,
    (1, 4, 3, 1),
    (6, 2, 2, 1),
    0.3,
    window_strides=(1, 1),
    padding=[(1, 0), (0, 1)],
    feature_group_count=2,
  ),
  'depthwise': conv(
    NHC,
    (1, 4, 3),
    (2, 1, 6),
    window_strides=(1,),
    padding=[(1, 0)],
    feature_group_count=3,
  ),
  'nothing but holes': conv(
    NHC, (1, 12, 1), (2, 1, 1), 1.0, window_strides=(1,), padding=[(1, 0)]
  ),
  'a kernel of inputs': lambda x: jax.lax.conv_general_dilated(
    jnp.ones((1, 5, 2)), x.reshape(3, 2, 2), (1,), 'VALID', None, None, NHC
  ),
}


@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_a_convolution_reads_what_its_derivative_says(name):
  found, want = may(CONVOLUTIONS[name])
  np.testing.assert_array_equal(found, want)


MASK = np.random.default_rng(1).random((4, 3, 5)) > 0.5
OTHERS = {
  'batches': lambda x: jnp.einsum('bk,bkm->mb', x.reshape(4, 3), 1.0 * MASK),
  'broadcast': lambda x: jnp.einsum(
    'kb,kbm->bm', jnp.broadcast_to(x[:3, None], (3, 4)), MASK.swapaxes(0, 1)
  ),
  'two axes': lambda x: jnp.tensordot(
    1.0 * MASK.T, x.reshape(3, 4), ((1, 2), (0, 1))
  ),
  'outer': lambda x: jnp.outer(x[:3], jnp.ones(4)) @ jnp.ones((4, 5)),
  'windows': lambda x: jax.lax.reduce_window(
    x.reshape(3, 4),
    0.0,
    jax.lax.add,
    (2, 2),
    (1, 2),
    [(1, 0), (0, 3)],
    base_dilation=(2, 1),
    window_dilation=(1, 2),
  ),
  'padding inside': lambda x: jax.lax.pad(x, 0.0, [(2, -3, 1)]),
  'scattered': lambda x: jnp.zeros(12).at[np.array([1, 1, 5])].add(x[2:5]),
  'looked up': lambda x: jnp.tile(x.reshape(3, 4)[:, [0, 0, 3]], (1, 2)),
}


@pytest.mark.parametrize('name', OTHERS)
def test_what_is_read_is_what_its_derivative_says(name):
  found, want = may(OTHERS[name])
  np.testing.assert_array_equal(found, want)


def test_what_is_read_does_not_depend_on_what_is_followed():
  """1 / x_11 may be infinite, whether x_11 is followed or not."""
  fn = lambda x: 0 * jnp.minimum(x[4] / x[11], 5.0) + jnp.cumsum(x)
  whole, _ = may(fn)
  assert whole[:, 4].all() and whole[:, 11].all()
  for chunk in (1, 5):
    np.testing.assert_array_equal(may(fn, chunk=chunk)[0], whole)


@pytest.mark.parametrize('count', [1, 63, 64, 65, 130])
def test_sets_are_bits_of_words(count):
  bits = np.random.default_rng(2).random((2, count, 3, 1)) > 0.5
  wide = np.broadcast_to(bits, (2, count, 3, 4))
  words = sets.of_bits(wide)
  assert words.shape == (2, -(-count // 64), 3, 4) and words.strides[-1] == 0
  np.testing.assert_array_equal(sets.bits(words, count), wide)
  items = sets.items(words)
  assert items.shape == (3, 4) and items.strides[-1] == 0
  np.testing.assert_array_equal(sets.of_items(items), words)
  mask = np.random.default_rng(3).random((5, 3)) > 0.5
  got = sets.bits(sets.product(mask, uniform.thin(words)), count)
  want = (mask[..., None] & bits[:, :, None]).any(-2)
  np.testing.assert_array_equal(got, want)


def test_uniform_axes_are_found_and_kept():
  a = np.zeros((3, 4, 5))
  a[1] = np.nan
  small = uniform.thin(uniform.pressed(a))
  assert small.shape == (3, 1, 1)
  np.testing.assert_array_equal(uniform.pressed(a), a)
  assert uniform.thin(uniform.pressed(np.arange(6.0))).shape == (6,)
  total = uniform.total(uniform.pressed(np.ones((3, 4, 5))), (1, 2))
  np.testing.assert_array_equal(total, np.full(3, 20.0))
  left, right = np.ones((2, 1), bool), np.array([[False], [True]])
  assert sets.product(left, right).all()  # one entry stands for both


def test_a_long_model_of_many_features_is_audited_by_bits(monkeypatch):
  """No product of matrices where features are alike: that took the time."""
  monkeypatch.setattr(
    sets, 'bits', lambda *_: pytest.fail('a product of matrices')
  )
  tap = np.broadcast_to(np.True_, (2, 64, 64))
  reads = np.broadcast_to(np.uint64(3), (2, 1, 300, 64))
  both = products._matched(reads, tap[0], 1)
  assert [a.shape[-1] for a in both] == [1, 1]


@pytest.mark.parametrize('back', [False, True])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.int32])
def test_a_running_sum_less_its_terms_says_why_it_leaks(dtype, back):
  """Floats round x_i into the sum; integers give it back."""
  order_of = np.arange(LENGTH)[::-1] if back else np.arange(LENGTH)

  def conditionals(params, x, context):
    terms = (7 * x).astype(dtype)
    return (jax.lax.cumsum(terms, reverse=back) - terms).astype(jnp.float32)

  found = static.check(
    model.from_function(
      conditionals,
      event=(LENGTH,),
      rank=order_of,
      head=heads.bernoulli(),
    )
  )
  assert found.proved == (dtype == jnp.int32)
  said = 'keeps a trace of that term' in found.describe()
  assert said == (dtype == jnp.float32)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.int32])
def test_a_running_sum_less_its_terms_is_not_blamed_for_what_follows(dtype):
  """Here the output reads the sum of a later slot, which has x_i among it."""

  def conditionals(params, x, context):
    terms = (7 * x).astype(dtype)
    before = jax.lax.cumsum(terms) - terms
    late = jnp.append(before[1:-1], jnp.zeros(2, dtype))
    return late.astype(jnp.float32)

  found = static.check(
    model.from_function(
      conditionals,
      event=(LENGTH,),
      rank=order.raster(LENGTH),
      head=heads.bernoulli(),
    )
  )
  assert found.leaks
  assert 'keeps a trace of that term' not in found.describe()
