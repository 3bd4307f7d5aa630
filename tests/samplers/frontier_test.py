"""The one rule: what is final, what is a guess, and what contradicts itself."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import heads, model, models, order, samplers, transform
from parallel_ar.decode import Blocks, recompute_decode
from parallel_ar.samplers import forecasters, frontier
from parallel_ar.samplers.sweep import sweep
from parallel_ar.testing import case as cases
from tests import toys

KEYS = jax.random.split(jax.random.key(0), 2)


def advance(x, y, low, known=None, one_rank=False, dist=0.0):
  rank = jnp.array([0, 1, 1, 2, 3])
  known = np.zeros(5, bool) if known is None else np.array(known, bool)
  dist = jnp.broadcast_to(jnp.float32(dist), 5)
  args = jnp.array(x), jnp.array(y), dist, known, low, rank, 4, one_rank
  step = jax.jit(frontier.advance, static_argnums=6)(*args)
  return np.asarray(step.x), int(step.frontier), np.asarray(step.changed)


class TestAdvance:
  def test_it_moves_past_the_lowest_rank_that_differs(self):
    x, low, changed = advance([1, 2, 3, 4, 5], [1, 2, 9, 8, 7], 0)
    np.testing.assert_array_equal(x, [1, 2, 9, 8, 7])
    assert low == 2 and not changed.any()
    assert advance([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], 0)[1] == 4

  def test_one_rank_keeps_the_guesses_of_later_ones(self):
    x, low, _ = advance([0, 0, 0, 0, 0], [1, 2, 3, 4, 5], 1, one_rank=True)
    np.testing.assert_array_equal(x, [0, 2, 3, 0, 0])
    assert low == 2

  def test_what_is_final_is_kept_and_its_change_is_told(self):
    x, low, changed = advance([1, 2, 3, 4, 5], [9, 2, 3, 4, 6], 2)
    np.testing.assert_array_equal(x, [1, 2, 3, 4, 6])
    np.testing.assert_array_equal(changed, [1, 0, 0, 0, 0])
    assert low == 4

  def test_ranks_that_are_known_take_no_pass_but_the_last(self):
    known = [0, 1, 1, 1, 0]
    _, low, _ = advance([0, 2, 3, 4, 5], [1, 2, 3, 4, 6], 0, known)
    assert low == 3
    known = [0, 1, 1, 1, 1]
    _, low, _ = advance([0, 2, 3, 4, 5], [1, 2, 3, 4, 5], 0, known)
    assert low == 3  # its pass has not read the new value of rank 0
    assert int(frontier.start(np.ones(5, bool), np.arange(5), 5)) == 4

  def test_guesses_that_are_not_finite_are_zeros(self):
    x, low, changed = advance([0.0] * 5, [1, np.nan, np.inf, 2, -np.inf], 0)
    np.testing.assert_array_equal(x, [1, 0, 0, 2, 0])
    assert low == 1 and not changed.any()

  def test_a_pass_that_guesses_have_spoiled_is_repeated(self):
    """A NaN where all would be final: of the guesses, or of the model."""
    spoiled = [1.0, np.nan, 2, 3, 4]
    x, low, changed = advance([1.0, 5, 6, 7, 8], spoiled, 1)
    np.testing.assert_array_equal(x, [1, 0, 0, 0, 0])
    assert low == 1 and not changed.any()
    x, low, _ = advance(x, spoiled, 1)
    np.testing.assert_array_equal(x, spoiled)
    assert low == 2
    # An index into a mixture hides it; its conditional does not.
    same = [1.0, 5, 6, 7, 8]
    assert advance(same, same, 1, dist=np.nan)[1] == 1

  def test_positions_that_carry_vectors(self):
    """A position is final, differs or is spoiled as a whole."""
    x = jnp.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, 0]])
    y = x.at[0, 1].set(9).at[2, 1].set(7).at[4].set(3)
    x_next, low, changed = advance(x, y, 1)
    np.testing.assert_array_equal(x_next, y.at[0].set(x[0]))
    np.testing.assert_array_equal(changed, [1, 0, 0, 0, 0])
    assert low == 2
    x_next, low, _ = advance(x, y, 1, one_rank=True)
    np.testing.assert_array_equal(x_next, x.at[2].set(y[2]))
    assert low == 2
    wide = jnp.asarray(x, jnp.float32)
    spoiled = wide.at[1, 0].set(jnp.nan)
    x_next, low, changed = advance(wide, spoiled, 1)
    np.testing.assert_array_equal(x_next, wide.at[1:].set(0))
    assert low == 1 and not changed.any()
    ahead = wide.at[1, 0].set(8).at[4, 0].set(jnp.inf)
    x_next, low, _ = advance(wide, ahead, 1)
    np.testing.assert_array_equal(x_next, ahead.at[4, 0].set(0))
    assert low == 2

  def test_a_nan_that_is_final_has_not_changed(self):
    x = [np.nan, 2.0, 3, 0, 0]
    _, low, changed = advance(x, [np.nan, 2, 3, 4, 5], 2)
    assert low == 3 and not changed.any()


def growing(length=96, squares=False):
  """x_i = u_i - sum_{j<i} x_j: tame itself, but Jacobi grows as binomials.

  With `squares` a sum over hidden units overflows before any guess does, so
  that every product with a mask is 0 * inf.
  """
  live = np.tril(np.ones((length, length), np.float32), -1)

  def conditionals(params, x, context):
    if squares:
      mean = -(live @ (x * x) / 8) - live @ x
    else:
      mean = -(live @ x)
    zeros = jnp.zeros((length, 1))
    return zeros, mean[:, None], zeros - 3 * squares

  def blocks():
    half = length // 2

    def begin(params, cache, b, previous):
      cache = jnp.where(b > 0, cache.at[:half].set(previous), cache)
      return cache, (cache, b)

    def by_slots(params, shared, row):
      cache, b = shared
      x = jnp.where(b > 0, cache.at[half:].set(row), cache.at[:half].set(row))
      dist = conditionals(params, x, None)
      cut = lambda d: jax.lax.dynamic_slice_in_dim(d, b * half, half)
      return jax.tree.map(cut, dist)

    return Blocks(
      size=half,
      init=lambda params, context: jnp.zeros(length),
      begin=begin,
      conditionals=by_slots,
      start=lambda params, shared: jnp.zeros(half),
      extend=lambda params, shared, row, j, previous: (None, row),
    )

  made = model.from_function(
    conditionals,
    event=jax.ShapeDtypeStruct((length,), jnp.float32),
    rank=order.raster(length),
    head=heads.gaussian_mixture(1),
  )
  path = recompute_decode(made)
  return dataclasses.replace(made, decode=path._replace(blocks=blocks()))


class TestContinuous:
  """Unfinished iterates overflow, and the sample is that of `ancestral`."""

  @pytest.mark.parametrize('squares', [False, True])
  def test_every_sampler(self, squares):
    net = growing(192 if not squares else 64, squares)
    want = samplers.ancestral(net)({}, KEYS)
    assert np.isfinite(want.x).all() and np.abs(want.x).max() < 50
    huge = forecasters.guess(lambda *_: jnp.full((2, *net.event.shape), 3e38))
    draw = {
      'previous': samplers.fixed_point(net),
      'huge': samplers.fixed_point(net, huge),
      'last': samplers.fixed_point(net, forecasters.last(net)),
      'window': samplers.window(net, sizes=(8,)),
      'gauss_seidel': samplers.gauss_seidel(net),
    }
    for name, sampler in draw.items():
      got = sampler({}, KEYS)
      np.testing.assert_array_equal(got.x, want.x, name)
      np.testing.assert_array_equal(got.log_prob, want.log_prob, name)
      assert not np.asarray(got.info.changed).any(), name
      assert not np.asarray(got.info.not_finite).any(), name
      assert (np.asarray(got.info.accepted).sum(1) == want.x.shape[1]).all()

  def test_what_is_not_finite_in_the_end_is_counted(self):
    nan = model.from_function(
      lambda params, x, context: jnp.where(jnp.arange(3) > 0, jnp.nan, 0.0),
      event=jax.ShapeDtypeStruct((3,), jnp.float32),
      rank=order.raster(3),
      head=toys.normal_head(),
    )
    for make in samplers.ancestral, samplers.fixed_point:
      info = make(nan)({}, KEYS).info
      np.testing.assert_array_equal(info.not_finite, 2)
      np.testing.assert_array_equal(info.changed, 0)


class TestChanged:
  def leaky(self, reads):
    net = toys.sigmoid_net((6,), num_values=3)
    whole = net.conditionals

    def conditionals(params, x, context):
      dist = whole(params, x, context)
      return dist.at[1, 0].add(9.0 * reads * (x[4] - 1))

    return dataclasses.replace(net, conditionals=conditionals)

  def test_a_leak_is_told_by_the_sampler(self):
    for reads in (0, 1):
      net = self.leaky(reads)
      params = net.init(jax.random.key(1))
      keys = jax.random.split(jax.random.key(2), 16)
      for make in samplers.ancestral, samplers.fixed_point:
        changed = np.asarray(make(net)(params, keys).info.changed)
        assert changed.max() == reads and changed.sum() >= 3 * reads


class TestKnown:
  def test_ranks_that_are_known_take_no_pass(self):
    case = cases.make_case(toys.sigmoid_net((6,), num_values=3))
    known = np.array([[1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1], [1] * 6], bool)
    args = case.params, case.keys
    before = sweep._cache_size()
    got = samplers.ancestral(case.model)(*args, x=case.x, known=known)
    np.testing.assert_array_equal(got.info.passes, [3, 3, 1])
    np.testing.assert_array_equal(got.info.accepted.sum(1), 6)
    fast = samplers.fixed_point(case.model)(*args, x=case.x, known=known)
    np.testing.assert_array_equal(fast.x, got.x)
    np.testing.assert_array_equal(fast.log_prob, got.log_prob)
    assert sweep._cache_size() == before + 1
    np.testing.assert_allclose(
      got.log_prob,
      samplers.fixed_point(case.model)(
        *args, x=got.x, known=np.ones((3, 6), bool)
      ).log_prob,
      rtol=1e-5,
    )


class TestRepaired:
  def test_only_what_somebody_guessed(self):
    case = cases.make_case(toys.sigmoid_net((6,), num_values=3))
    args = case.params, case.keys
    plain = samplers.fixed_point(case.model)(*args)
    wrong = np.asarray(plain.x != 0).sum(1)
    assert wrong.min() > 0
    for make in samplers.ancestral, samplers.fixed_point:
      np.testing.assert_array_equal(make(case.model)(*args).info.repaired, 0)
    zeros = forecasters.guess(lambda *_: jnp.zeros_like(case.x))
    got = samplers.fixed_point(case.model, zeros)(*args)
    np.testing.assert_array_equal(got.info.repaired, wrong)


class TestOneProgram:
  def test_also_where_the_caller_compiles(self):
    """The rule is a constant there, and nothing is folded with it."""
    net = models.made(event=(4,), num_values=3, hidden=(8,))
    params = net.init(jax.random.key(0))

    def below_entry(make):
      text = jax.jit(make(net)).lower(params, KEYS).compile().as_text()
      lines = text[: text.index('ENTRY')].splitlines()
      lines = [line for line in lines if ' = ' in line]
      return [re.sub(r'metadata={[^}]*}', '', line) for line in lines]

    lines = below_entry(samplers.ancestral)
    assert len(lines) > 100
    assert lines == below_entry(samplers.fixed_point)


class TestCompiledOnce:
  """Samplers that are built anew run the program that is there."""

  def test_paths_forecasters_and_temperatures(self):
    net = toys.sigmoid_net((5,), num_values=3)
    traced = []

    def conditionals(params, x, context):
      traced.append(1)
      return net.conditionals(params, x, context)

    counted = dataclasses.replace(net, conditionals=conditionals)
    params = net.init(jax.random.key(0))
    guess = lambda: lambda *_: jnp.ones((2, 5), jnp.int32)
    makes = (
      samplers.window,
      lambda m: samplers.cached(m, recompute_decode(m)),
      lambda m: samplers.fixed_point(m, forecasters.last(m)),
      lambda m: samplers.fixed_point(m, forecasters.zeros()),
      lambda m: samplers.window(m, forecaster=forecasters.guess(guess())),
      lambda m: samplers.fixed_point(transform.with_temperature(m, 0.5)),
    )
    for make in makes:
      make(counted)(params, KEYS)
      before = len(traced)
      make(counted)(params, KEYS)
      assert len(traced) == before
