"""The audit: what it finds, what it does not invent, and how it says so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import heads, model, order
from parallel_ar.analysis import causality
from parallel_ar.testing import case as cases
from tests import toys

KEY = jax.random.key(0)


@functools.cache
def linear(event, tied):
  """Output i is a sum over inputs j, with weights that are parameters."""
  rank = order.blocks(event, 2) if tied else order.raster(event)
  return model.from_function(
    lambda w, x, context: (w @ (x.reshape(-1) + 0.5)).reshape(event),
    event=event,
    rank=rank,
    head=heads.bernoulli(),
    init=lambda key: jnp.zeros((rank.size, rank.size)),
    name='sum',
  )


def of_matrix(reads, *, tied=False, event=(6,), **fields):
  """The audit of a model whose output i reads j where reads[i, j]."""
  reads = np.asarray(reads, np.float32)
  weights = reads * (1 + np.arange(reads.size).reshape(reads.shape) / 7)
  return causality.audit(linear(event, tied), weights, KEY, **fields)


class TestMatrix:
  def test_it_is_the_dependency_matrix(self):
    reads = np.random.default_rng(3).random((6, 6)) < 0.4
    found = of_matrix(reads)
    np.testing.assert_array_equal(found.matrix, reads)
    forbidden = reads & ~causality.predecessors(order.raster(6))
    want = tuple(map(tuple, np.argwhere(forbidden).tolist()))
    assert found.leaks == want

  def test_chunks_change_nothing(self):
    case = cases.make_case(toys.sigmoid_net((5,), num_values=4))
    matrices = [
      causality.audit(case.model, case.params, KEY, chunk=n).matrix
      for n in (4, 64)
    ]
    np.testing.assert_array_equal(*matrices)
    np.testing.assert_array_equal(
      matrices[0], causality.predecessors(case.model.rank)
    )

  def test_a_large_alphabet_is_tried_in_part(self):
    case = cases.make_case(toys.sigmoid_net((4,), num_values=40))
    found = causality.audit(
      case.model, case.params, KEY, num_values=3, num_events=2
    )
    assert found.comparisons == (2 + 3) * 3 * 4
    assert not found.leaks and int(found.matrix.sum()) == 6

  def test_vectors_and_continuous_values(self):
    for build in (toys.pairs, toys.autoregression):
      case = cases.make_case(build())
      found = causality.audit(case.model, case.params, KEY)
      np.testing.assert_array_equal(
        found.matrix, causality.predecessors(case.model.rank)
      )

  def test_one_component_of_a_vector_is_enough(self):
    """Only the second bit of a position is read, by its own output."""
    good = toys.pairs(3)

    def fn(params, x, context):
      return good.conditionals(params, x, context).at[:, 0].add(1.0 * x[:, 1])

    bad = model.from_function(
      fn, event=(3, 2), rank=good.rank, head=good.head, init=good.init
    )
    found = causality.audit(bad, cases.random_params(bad), KEY)
    assert found.leaks == ((0, 0), (1, 1), (2, 2))

  def test_context_is_passed_on(self):
    spec = jax.ShapeDtypeStruct((2,), jnp.float32)
    case = cases.make_case(toys.sigmoid_net((4,), context=spec))
    found = causality.audit(case.model, case.params, KEY, case.context[0])
    assert not found.leaks
    with pytest.raises(ValueError, match=r'shapes \(2,\); the audit got None'):
      causality.audit(case.model, case.params, KEY)


class TestBits:
  def test_the_smallest_leak_is_a_leak(self):
    """2^-20 of the output, far below any tolerance."""
    weights = np.tril(np.ones((4, 4)), -1) + np.eye(4) * 2.0**-20

    def fn(params, x, context):
      return jnp.asarray(weights, jnp.float32) @ (x + 1.0)

    record = model.from_function(
      fn, event=(4,), rank=order.raster(4), head=heads.bernoulli()
    )
    found = causality.audit(record, {}, KEY)
    assert (3, 3) in found.leaks
    assert 0 < found.change[3, 3] < 1e-5

  def test_the_sign_of_zero_is_no_leak(self):
    """0 * x of a masked product is -0 for negative x."""

    def fn(params, x, context):
      return jnp.zeros(4) * (2.0 * x - 1.0)

    record = model.from_function(
      fn, event=(4,), rank=order.raster(4), head=heads.bernoulli()
    )
    assert not causality.audit(record, {}, KEY).matrix.any()

  def test_nan_equals_nan_and_differs_from_numbers(self):
    def fn(params, x, context):
      bad = jnp.full(3, jnp.nan)
      return bad.at[2].set(jnp.where(x[0] > 0, jnp.nan, 1.0))

    record = model.from_function(
      fn, event=(3,), rank=order.raster(3), head=heads.bernoulli()
    )
    found = causality.audit(record, {}, KEY)
    assert [tuple(p) for p in np.argwhere(found.matrix)] == [(2, 0)]

  def test_integer_leaves_count(self):
    """The index of a mixture component is an output as well."""
    head = heads.bernoulli()
    indexed = head._replace(
      log_prob=lambda dist, x: head.log_prob(dist['logits'], x),
      pick=lambda dist, noise: head.pick(dist['logits'], noise),
      parts=None,  # its functions take the dist as it is
    )

    def fn(params, x, context):
      return {'logits': jnp.zeros(3), 'component': jnp.flip(x)}

    record = model.from_function(
      fn, event=(3,), rank=order.raster(3), head=indexed
    )
    assert causality.audit(record, {}, KEY).leaks == ((0, 2), (1, 1))


class TestRounding:
  def fft_model(self, causality_name):
    length = 8
    kernel = np.exp(-np.arange(length) / 2.0)

    def fn(params, x, context):
      y = jnp.concatenate([jnp.zeros(1), x[:-1] + 0.3])
      spectrum = jnp.fft.rfft(y, 2 * length) * jnp.fft.rfft(
        jnp.asarray(kernel), 2 * length
      )
      return jnp.fft.irfft(spectrum, 2 * length)[:length]

    return model.AutoregressiveModel(
      event=jax.ShapeDtypeStruct((length,), jnp.int32),
      rank=order.raster(length),
      head=heads.bernoulli(),
      init=lambda key: {},
      conditionals=fn,
      causality=causality_name,
      name='fft',
    )

  def test_a_padded_fft_is_causal_up_to_rounding_and_says_so(self):
    found = causality.audit(self.fft_model('rounding'), {}, KEY)
    assert not found.leaks
    assert 0 < found.largest_forbidden < 1e-5
    assert 'causal up to rounding' in found.describe()
    np.testing.assert_array_equal(
      found.matrix, causality.predecessors(found.rank)
    )

  def test_it_may_not_claim_to_be_exact(self):
    """And the refusal says how small it is, and what to declare."""
    found = causality.audit(self.fft_model('exact'), {}, KEY)
    assert found.leaks and found.rounding
    size = f'{found.largest_forbidden:.1e}'
    with pytest.raises(ValueError, match="causality='rounding'") as told:
      found.raise_if_leaks()
    assert size in str(told.value) and 'own input' not in str(told.value)

  def test_a_leak_is_not_called_rounding(self):
    found = of_matrix(np.tril(np.ones((6, 6))))
    assert found.leaks and not found.rounding
    assert 'rounding' not in found.describe()


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('symbol', [0, 7])
def test_a_leak_that_only_constant_events_show_is_caught(seed, symbol):
  """No random event of 12 symbols of 8 is all but one the same."""

  def fn(params, x, context):
    return jnp.zeros((12, 8)) + 1.0 * (x == symbol).all()

  record = model.from_function(
    fn, event=(12,), rank=order.raster(12), head=heads.categorical(8)
  )
  found = causality.audit(
    record, {}, jax.random.key(seed), num_events=1, num_values=2
  )
  assert (0, 11) in found.leaks


class TestControls:
  def test_what_reads_nothing_is_missing(self):
    reads = np.tril(np.ones((6, 6), bool), -1)
    reads[3] = False
    found = of_matrix(reads)
    assert found.missing == (3,)
    assert 'reading nothing: position 3 (rank 3)' in found.describe()
    found.raise_if_leaks()

  def test_what_was_expected_is_unread(self):
    reads = np.tril(np.ones((6, 6), bool), -1)
    reads[4, 1] = False
    found = of_matrix(reads, expected=np.tril(np.ones((6, 6), bool), -1))
    assert found.unread == ((4, 1),)
    assert (
      '1 pairs, for example position 4 (rank 4) does not read position 1'
      in found.describe()
    )


class TestDescribe:
  lower = np.tril(np.ones((6, 6), bool), -1)

  def test_a_causal_model(self):
    text = of_matrix(self.lower).describe()
    assert text == (
      'sum: 36 perturbations of 6 positions. Causal: no output reads an input '
      'of its own or a higher rank; 15 of 15 allowed pairs are read.'
    )

  @pytest.mark.parametrize(
    ('extra', 'tied', 'message'),
    [
      (np.eye(6), False, r'position 0 \(rank 0\) reads position 0.*own input'),
      (np.eye(6, k=1), False, r'from rank r to rank r \+ 1.*off by 2'),
      (np.ones((6, 6)), False, r'Every forbidden pair leaks.*norm, softmax'),
      (np.eye(6, k=2) + np.eye(6), False, r'layer by layer'),
      (np.zeros((6, 6)), True, r'equal rank.*whole groups'),
    ],
    ids=['diagonal', 'one ahead', 'all', 'two kinds', 'ties'],
  )
  def test_a_leak_is_named_and_explained(self, extra, tied, message):
    found = of_matrix(self.lower | (extra > 0), tied=tied)
    with pytest.raises(ValueError, match=message):
      found.raise_if_leaks()

  def test_positions_of_images_have_coordinates(self):
    reads = np.tril(np.ones((6, 6), bool), -1)
    reads[1, 5] = True
    text = of_matrix(reads, event=(2, 3)).describe()
    assert 'position (0, 1) (rank 1) reads position (1, 2) (rank 5)' in text

  def test_many_leaks_are_counted(self):
    text = of_matrix(np.ones((6, 6))).describe()
    assert '21 forbidden pairs' in text and 'and 18 more' in text
