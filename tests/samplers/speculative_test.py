"""Speculative sampling: the same integers, and by rejection the same law."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from parallel_ar import heads, likelihood, model, models, order, samplers
from parallel_ar.samplers.rejection import RULE, judge, random, with_rule
from parallel_ar.samplers.speculative import expected_speedup, expected_tokens
from parallel_ar.testing import case as cases
from parallel_ar.testing import oracles
from tests import toys


@pytest.fixture(scope='module')
def case():
  return cases.make_case(toys.recurrent(length=7))


def wrong_draft(net):
  """Another model of the same events, whose picks are never those of `net`."""
  pick = lambda dist, noise: (net.head.pick(dist, noise) + 1) % 3
  return model.AutoregressiveModel(
    event=net.event,
    rank=net.rank,
    head=net.head._replace(pick=pick),
    init=net.init,
    conditionals=net.conditionals,
    decode=net.decode,
    name='wrong',
  )


class TestSharedNoise:
  @pytest.mark.parametrize('window', [1, 3, 99])
  def test_the_model_as_its_own_draft(self, case, window):
    """Every proposal is right, so a round yields window + 1 slots."""
    net = case.model
    draw = samplers.speculative(net, net, window=window)
    got = draw((case.params, case.params), case.keys)
    want = samplers.ancestral(net)(case.params, case.keys)
    np.testing.assert_array_equal(got.x, want.x)
    np.testing.assert_array_equal(got.info.passes, 1)
    np.testing.assert_array_equal(got.info.steps, -(-7 // min(window + 1, 7)))
    np.testing.assert_array_equal(got.info.tested, got.info.agreed)

  def test_a_draft_that_is_always_wrong_costs_rounds_only(self, case):
    draft = wrong_draft(case.model)
    draw = samplers.speculative(case.model, draft, window=3)
    got = draw((case.params, case.params), case.keys)
    want = samplers.ancestral(case.model)(case.params, case.keys)
    np.testing.assert_array_equal(got.x, want.x)
    np.testing.assert_array_equal(got.info.agreed, 0)
    np.testing.assert_array_equal(got.info.steps, 7)

  def test_a_smaller_transformer_drafts(self):
    small, net = (
      models.transformer(
        event=(10,), num_values=3, features=n, heads=2, layers=l, num_classes=2
      )
      for n, l in ((4, 1), (8, 2))
    )
    case = cases.make_case(net)
    pair = case.params, cases.random_params(small)
    for window in (1, 4):
      draw = samplers.speculative(net, small, window=window)
      got = draw(pair, case.keys, case.context)
      want = samplers.ancestral(net)(case.params, case.keys, case.context)
      np.testing.assert_array_equal(got.x, want.x)
      assert (got.info.tested >= got.info.agreed).all()
      rounds_of = np.asarray(got.info.steps)
      assert (rounds_of < 10).any() and (rounds_of <= 10).all()

  def test_a_good_draft_over_the_growth_of_the_cache(self):
    """Rounds that end before, at and beyond the room of a segment."""
    net = models.transformer(
      event=(150,), num_values=3, features=8, heads=2, layers=1
    )
    case = cases.make_case(net)
    near = jax.tree.map(lambda p: p * 1.02, case.params)
    draw = samplers.speculative(net, net, window=4)
    got = draw((case.params, near), case.keys)
    want = samplers.ancestral(net)(case.params, case.keys)
    np.testing.assert_array_equal(got.x, want.x)
    share = got.info.agreed / got.info.tested
    assert (share > 0.8).all() and (share < 1).any()
    assert (got.info.steps < 60).all()
    np.testing.assert_array_equal(got.info.repaired, 0)


class TestRejection:
  """The law of the model, by a chi-square test on a million tokens."""

  samples, length = 250_000, 4

  def p_value(self, rule):
    net = toys.recurrent(length=self.length)
    params = net.init(jax.random.key(3))
    other = net.init(jax.random.key(4))
    draw = with_rule(net, net, rule, window=2)
    keys = jax.random.split(jax.random.key(5), self.samples)
    got = draw((params, other), keys)
    share = got.info.agreed.sum() / got.info.tested.sum()
    assert 0.2 < float(share) < 0.95  # rejections and acceptances both matter
    events = oracles.all_events(net)
    log_prob = jax.jit(likelihood.log_prob, static_argnums=0)
    table = np.exp(np.asarray(log_prob(net, params, events), np.float64))
    powers = 3 ** np.arange(self.length)[::-1]
    counts = np.bincount(np.asarray(got.x) @ powers, minlength=len(table))
    often = table * self.samples >= 5
    seen = np.append(counts[often], counts[~often].sum())
    expected = np.append(table[often], table[~often].sum())
    expected *= self.samples / expected.sum()
    keep = expected > 0
    return stats.chisquare(seen[keep], expected[keep]).pvalue

  def test_it_follows_the_model(self):
    assert self.p_value(RULE) > 1e-3

  def test_a_residual_that_is_the_model_itself_is_caught(self):
    same = functools.partial(judge, lambda p, q: p)
    wrong = RULE._replace(judge=same)
    assert self.p_value(wrong) < 1e-6

  def test_noise_that_serves_twice_is_caught(self):
    """The uniform that accepts is the one that the proposal was drawn with."""

    def twice(net, draft, key):
      right = random(net, draft, key)
      return right._replace(gumbel=right.proposal)

    wrong = RULE._replace(random=twice)
    assert self.p_value(wrong) < 1e-6

  def test_acceptance_is_one_minus_the_distance(self):
    """Independent slots: alpha = 1 - TV, and rounds are Leviathan's formula."""

    def flat(logits, name):
      return model.from_function(
        lambda params, x, context: jnp.tile(jnp.asarray(logits), (40, 1)),
        event=(40,),
        rank=order.raster(40),
        head=heads.categorical(3),
        name=name,
      )

    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.3, 0.3, 0.4])
    draw = samplers.rejection(flat(np.log(p), 'p'), flat(np.log(q), 'q'))
    keys = jax.random.split(jax.random.key(0), 10_000)
    info = draw(({}, {}), keys).info
    tested, agreed = int(info.tested.sum()), int(info.agreed.sum())
    want = np.minimum(p, q).sum()
    assert abs(agreed / tested - want) < 4 * np.sqrt(0.21 / tested)
    rate = 40 / np.asarray(info.steps).mean()
    formula = expected_tokens(want, 4)
    assert 0.96 < rate / formula < 0.98  # the last round of each is cut


class TestFormulas:
  def test_tokens(self):
    assert expected_tokens(0.0, 4) == 1
    assert expected_tokens(1.0, 4) == 5
    a = 0.8
    want = (1 - a**5) / (1 - a)
    assert expected_tokens(a, 4) == pytest.approx(want)

  def test_speedup(self):
    assert expected_speedup(0.5, 1, 0.5) == pytest.approx(1)
    with pytest.raises(ValueError, match='a probability'):
      expected_tokens(1.2, 2)


class TestErrors:
  def test_models_that_do_not_fit(self, case):
    net = case.model
    with pytest.raises(ValueError, match='at least 1; got 0'):
      samplers.speculative(net, net, window=0)
    with pytest.raises(ValueError, match='but the event is'):
      samplers.speculative(net, toys.recurrent(length=3))
    with pytest.raises(ValueError, match='but num_values is'):
      samplers.speculative(net, toys.recurrent(length=7, num_values=4))
    turned = toys.sigmoid_net(
      (7,), rank=order.reverse(order.raster(7)), num_values=3
    )
    with pytest.raises(ValueError, match='another order'):
      samplers.speculative(net, turned)

  def test_params_are_a_pair(self, case):
    draw = samplers.speculative(case.model, case.model)
    with pytest.raises(ValueError, match=r'the pair \(params, draft_params\)'):
      draw(case.params, case.keys)

  def test_rejection_needs_probabilities(self):
    net = toys.pairs()
    with pytest.raises(ValueError, match='has no pmf. Use speculative'):
      samplers.rejection(net, net)
