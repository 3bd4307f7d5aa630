"""The two samplers: what they draw, what they report, what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from parallel_ar import (
  heads,
  likelihood,
  model,
  models,
  order,
  samplers,
  transform,
)
from parallel_ar.decode import recompute_decode
from parallel_ar.samplers import forecasters, path
from parallel_ar.samplers.sweep import sweep
from parallel_ar.testing import case as cases
from parallel_ar.testing import oracles
from tests import toys


@pytest.fixture(scope='module')
def case():
  return cases.make_case(toys.sigmoid_net((4,), num_values=3))


@pytest.fixture(scope='module')
def both(case):
  args = case.params, case.keys
  return (
    samplers.ancestral(case.model)(*args),
    samplers.fixed_point(case.model)(*args),
  )


class TestSamples:
  def test_they_follow_the_model(self, case):
    """4,000 samples against the table of all 81 events."""
    keys = jax.random.split(jax.random.key(7), 4000)
    x = np.asarray(samplers.fixed_point(case.model)(case.params, keys).x)
    events = oracles.all_events(case.model)
    log_prob = jax.jit(likelihood.log_prob, static_argnums=0)
    table = np.exp(
      np.asarray(log_prob(case.model, case.params, events), np.float64)
    )
    powers = 3 ** np.arange(4)[::-1]
    counts = np.bincount(x @ powers, minlength=81)
    often = table * len(x) >= 5
    seen = np.append(counts[often], counts[~often].sum())
    expected = np.append(table[often], table[~often].sum())
    expected *= len(x) / expected.sum()
    assert stats.chisquare(seen, expected).pvalue > 1e-3

  def test_ancestral_takes_one_pass_for_each_rank(self, case, both):
    info = both[0].info
    assert (np.asarray(info.passes) == case.model.depth).all()
    assert int(info.evaluations) == case.model.depth
    np.testing.assert_array_equal(info.accepted, 1)

  def test_a_tied_rank_is_drawn_together(self):
    tied = cases.make_case(toys.sigmoid_net((6,), rank=order.blocks(6, 4)))
    info = samplers.ancestral(tied.model)(tied.params, tied.keys).info
    np.testing.assert_array_equal(info.accepted, [[4, 2]] * 3)

  def test_dtype_and_shape_are_those_of_the_event(self, case, both):
    for sample in both:
      assert sample.x.dtype == case.model.event.dtype
      assert sample.x.shape == case.x.shape

  def test_one_program_serves_both(self, case, both):
    """Equality by construction: another rule, the same instructions."""
    del both
    before = sweep._cache_size()
    samplers.ancestral(case.model)(case.params, case.keys)
    samplers.fixed_point(case.model)(case.params, case.keys)
    ones = samplers.forecasters.guess(lambda *_: jnp.ones_like(case.x))
    samplers.fixed_point(case.model, ones)(case.params, case.keys)
    assert sweep._cache_size() == before

  def test_they_can_be_jitted_by_the_caller(self, case, both):
    x = jax.jit(samplers.fixed_point(case.model))(case.params, case.keys).x
    assert cases.agree(case, 'jit', 'a jitted sampler', both[0].x, x) <= 1

  def test_a_model_that_ignores_its_input_takes_two_passes(self):
    """One that guesses, and one that finds no later rank changed."""
    flat = model.from_function(
      lambda params, x, context: jnp.linspace(-1, 1, 4),
      event=(4,),
      rank=order.raster(4),
      head=heads.bernoulli(),
    )
    keys = jax.random.split(jax.random.key(0), 3)
    sample = samplers.fixed_point(flat)({}, keys)
    assert int(sample.info.passes.max()) <= 2

  def test_the_batch_runs_as_long_as_its_slowest_example(self, both):
    info = both[1].info
    assert int(info.evaluations) == int(info.passes.max())
    assert int(info.passes.min()) < int(info.passes.max())
    np.testing.assert_array_equal(info.accepted.sum(1), 4)

  def test_nan_ends(self):
    """Values that differ from themselves do not keep the loop alive."""
    nan = model.from_function(
      lambda params, x, context: jnp.cumsum(x) * jnp.nan,
      event=jax.ShapeDtypeStruct((3,), jnp.float32),
      rank=order.raster(3),
      head=toys.normal_head(),
    )
    keys = jax.random.split(jax.random.key(0), 2)
    sample = samplers.fixed_point(nan)({}, keys)
    assert int(sample.info.evaluations) <= 3


class TestKnown:
  def test_in_painting_keeps_values_and_is_not_completion(self, case):
    """Positions after a hole read it; positions before do not."""
    known = np.zeros((3, 4), bool)
    known[:, 2] = True
    x = np.full((3, 4), 2, np.int32)
    got = samplers.ancestral(case.model)(
      case.params, case.keys, x=x, known=known
    ).x
    free = samplers.ancestral(case.model)(case.params, case.keys).x
    np.testing.assert_array_equal(got[:, 2], 2)
    np.testing.assert_array_equal(got[:, :2], free[:, :2])

  def test_known_values_may_differ_in_place_between_examples(self, case):
    known = np.eye(3, 4, dtype=bool)
    got = samplers.fixed_point(case.model)(
      case.params, case.keys, x=case.x, known=known
    ).x
    np.testing.assert_array_equal(np.asarray(got)[known], case.x[known])


class TestCached:
  def test_the_draft_reports_no_passes_and_its_own_likelihood(self):
    case = cases.make_case(toys.recurrent())
    draft = samplers.cached(case.model, verify=False)(case.params, case.keys)
    assert int(draft.info.evaluations) == 0 == int(draft.info.passes.max())
    assert (np.asarray(draft.info.steps) == case.model.num_positions).all()
    np.testing.assert_allclose(
      draft.log_prob,
      likelihood.log_prob(case.model, case.params, draft.x),
      rtol=1e-5,
    )

  def test_a_tempered_model_keeps_its_cache(self):
    case = cases.make_case(toys.recurrent())
    cold = transform.with_temperature(case.model, 0.3)
    got = samplers.cached(cold)(case.params, case.keys)
    want = samplers.ancestral(cold)(case.params, case.keys)
    np.testing.assert_array_equal(got.x, want.x)
    np.testing.assert_array_equal(got.info.repaired, 0)

  def test_info_says_which_path_ran(self, case):
    """Of a record without a path it is the derived one."""
    own = cases.make_case(toys.recurrent())
    other = recompute_decode(own.model)._replace(rewind=lambda cache, k: cache)
    kinds = {
      'own': (own, own.model.decode),
      'derived': (case, None),
      'given': (own, other),
      'recomputed': (case, recompute_decode(case.model)),
    }
    for kind, (of, given) in kinds.items():
      for make in samplers.cached, samplers.window:
        for verify in True, False:
          draw = make(of.model, given, verify=verify)
          got = draw(of.params, of.keys, of.context)
          assert path.KINDS[got.info.path] == kind
    plain = samplers.fixed_point(case.model)(case.params, case.keys)
    assert path.KINDS[plain.info.path] == 'none'


class TestGaussSeidel:
  def test_a_model_without_rows(self):
    with pytest.raises(ValueError, match='no decode path by blocks'):
      samplers.gauss_seidel(toys.recurrent())


class TestForecasters:
  """What they say, at a frontier in the middle."""

  def said(self, forecaster, picks, frontier):
    progress = forecasters.Progress(jnp.asarray(picks), frontier, None)
    return np.asarray(forecaster.next(progress))

  def test_last_and_above_read_what_is_final(self):
    net = toys.sigmoid_net((3, 3), num_values=9)
    picks = np.arange(9).reshape(3, 3)
    last = self.said(forecasters.last(net), picks, 5)
    np.testing.assert_array_equal(last, 4)
    above = self.said(forecasters.above(net), picks, 5)
    np.testing.assert_array_equal(above, [[0, 1, 2], [3, 4, 2], [3, 4, 2]])

  def test_last_follows_the_order(self):
    net = toys.sigmoid_net((4,), rank=order.reverse(order.raster(4)))
    last = self.said(forecasters.last(net), [7, 6, 5, 4], 2)
    np.testing.assert_array_equal(last, 5)

  def test_ngram_continues_the_latest_occurrence(self):
    net = toys.sigmoid_net((9,), num_values=9)
    picks = [1, 2, 3, 4, 1, 2, 0, 0, 0]
    said = self.said(forecasters.ngram(net, 3), picks, 6)
    np.testing.assert_array_equal(said[6:], [3, 4, 1])
    said = self.said(forecasters.ngram(net, 3), [5, 5, 5, 1, 2, 3, 4, 6, 7], 3)
    np.testing.assert_array_equal(said[3:], 5)  # a period of one
    said = self.said(forecasters.ngram(net, 3), [1, 2, 3, 4, 5, 6, 7, 8, 0], 4)
    np.testing.assert_array_equal(said, [1, 2, 3, 4, 5, 6, 7, 8, 0])

  def test_a_forecast_reads_nothing_that_is_not_final(self):
    net = toys.sigmoid_net((3, 3), num_values=9)
    picks = np.arange(9).reshape(3, 3)
    other = np.where(net.rank < 5, picks, 8 - picks)
    for name in ('zeros', 'last', 'above'):
      forecaster = forecasters.BY_NAME[name](net)
      one, two = (self.said(forecaster, p, 5) for p in (picks, other))
      ahead = net.rank >= 5
      np.testing.assert_array_equal(one[ahead], two[ahead])

  def test_a_draft_that_is_the_model_is_proved_by_one_pass(self, case):
    draft = samplers.fixed_point(case.model)
    forecaster = forecasters.draft(draft, case.params)
    got = samplers.fixed_point(case.model, forecaster)(case.params, case.keys)
    np.testing.assert_array_equal(got.info.passes, 1)

  def test_what_does_not_fit(self, case):
    with pytest.raises(ValueError, match='events of one axis'):
      forecasters.above(case.model)
    with pytest.raises(ValueError, match='n >= 2 and one symbol'):
      forecasters.ngram(case.model, 1)
    with pytest.raises(ValueError, match=r'n=3 and pairs'):
      forecasters.ngram(toys.pairs())


class TestWindow:
  def test_lanes_take_the_next_key(self):
    """A batch costs the mean of its examples, and not its slowest."""
    case = cases.make_case(toys.sigmoid_net((8,), num_values=3))
    keys = jax.random.split(jax.random.key(5), 12)
    draw = samplers.window(case.model, sizes=(8,), lanes=2, verify=False)
    got = draw(case.params, keys)
    steps = np.asarray(got.info.steps)
    total = int(got.info.evaluations)
    assert steps.min() < steps.max()
    assert steps.sum() / 2 <= total < steps.sum() / 2 + steps.max()
    by_pairs = steps.reshape(-1, 2).max(1).sum()
    assert total < by_pairs
    want = samplers.ancestral(case.model)(case.params, keys)
    np.testing.assert_array_equal(got.x, want.x)

  def test_the_window_grows_where_guesses_are_right(self):
    flat = model.from_function(
      lambda params, x, context: jnp.full(64, -9.0),
      event=(64,),
      rank=order.raster(64),
      head=heads.bernoulli(),
    )
    keys = jax.random.split(jax.random.key(0), 2)
    narrow = samplers.window(flat, sizes=(2,), verify=False)({}, keys)
    wide = samplers.window(flat, sizes=(2, 8, 32), verify=False)({}, keys)
    np.testing.assert_array_equal(narrow.x, wide.x)
    assert wide.info.steps.max() * 3 < narrow.info.steps.min()

  def test_errors(self, case):
    with pytest.raises(ValueError, match='sizes of at least 1'):
      samplers.window(case.model, sizes=())
    own = forecasters.Forecaster('own', conditionals=lambda *a: (a, None))
    with pytest.raises(ValueError, match='conditionals of its own'):
      samplers.window(case.model, None, own)


class TestErrors:
  def test_raw_keys(self, case):
    raw = jax.random.key_data(case.keys)
    with pytest.raises(ValueError, match=r'typed keys of shape \[B\].*uint32'):
      samplers.ancestral(case.model)(case.params, raw)

  def test_one_key_without_a_batch_axis(self, case):
    with pytest.raises(ValueError, match=r'jax\.random\.split'):
      samplers.ancestral(case.model)(case.params, case.keys[0])

  def test_a_context_for_an_unconditional_model(self, case):
    told = r'is unconditional; .*batch of 3.*\(3,'
    with pytest.raises(ValueError, match=told):
      samplers.ancestral(case.model)(case.params, case.keys, jnp.zeros(3))

  def test_a_context_of_another_batch(self):
    spec = jax.ShapeDtypeStruct((2,), jnp.float32)
    net = toys.sigmoid_net((4,), context=spec)
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r'\(3, 2\).*batch of 3.*\(1, 2\)'):
      samplers.fixed_point(net)({}, keys, jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match='context of shapes None'):
      samplers.fixed_point(net)({}, keys)

  def test_x_and_known_go_together(self, case):
    sampler = samplers.ancestral(case.model)
    with pytest.raises(ValueError, match='go together.*Only x was given'):
      sampler(case.params, case.keys, x=case.x)
    with pytest.raises(ValueError, match='go together.*Only known was given'):
      sampler(case.params, case.keys, known=np.ones((3, 4), bool))

  def test_shapes_of_x_and_known(self, case):
    with pytest.raises(ValueError, match=r'\(3, 4\) and \(4,\); expected'):
      samplers.ancestral(case.model)(
        case.params, case.keys, x=case.x, known=np.ones(4, bool)
      )

  def test_a_forecast_gives_one_event_for_each_key(self, case):
    four = samplers.forecasters.guess(lambda *_: jnp.zeros(4, jnp.int32))
    with pytest.raises(ValueError, match=r'shape \(4,\); expected \(3, 4\)'):
      samplers.fixed_point(case.model, four)(case.params, case.keys)


def test_a_cache_of_any_length_is_a_program_of_bounded_size():
  for num in (1, 63, 64, 65, 1_000, 1_025, 8_192, 100_003):
    rooms = path.rooms(num, 64)
    assert rooms[-1] == num and len(rooms) <= 16
    assert (np.diff([0, *rooms]) > 0).all()
  text = {}
  for length in (1_024, 4_099):
    long = models.transformer(
      event=(length,), num_values=3, features=4, layers=1, heads=1
    )
    params = jax.eval_shape(long.init, jax.random.key(0))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    draw = samplers.cached(long, verify=False)
    text[length] = len(str(jax.make_jaxpr(draw)(params, keys)))
  assert text[4_099] < 1.1 * text[1_024]
