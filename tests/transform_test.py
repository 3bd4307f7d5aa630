"""Models made from models, and every function of what is made."""

import dataclasses
import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import heads, likelihood, order, quantize, samplers, transform
from parallel_ar.coding import quantized
from parallel_ar.model import AutoregressiveModel
from parallel_ar.samplers import forecasters
from parallel_ar.testing import case as cases
from parallel_ar.testing import decode_laws, likelihood_laws, oracles
from tests import toys

log_prob = jax.jit(likelihood.log_prob, static_argnums=0)


@pytest.fixture(scope='module')
def case():
  return cases.make_case(toys.sigmoid_net((4,), num_values=3))


class TestTemperature:
  def test_it_is_another_model_and_normalised(self, case):
    model = transform.with_temperature(case.model, 0.4)
    assert model.name == 'sigmoid_net at temperature 0.4'
    likelihood_laws.normalisation(cases.make_case(model, params=case.params))

  def test_one_changes_nothing(self, case):
    model = transform.with_temperature(case.model, 1.0)
    np.testing.assert_array_equal(
      log_prob(model, case.params, case.x),
      log_prob(case.model, case.params, case.x),
    )

  def test_each_conditional_is_the_power_renormalised(self, case):
    model = transform.with_temperature(case.model, 2.0)
    logits = oracles.conditionals(case.model, case.params, case.x[0], None)
    tempered = oracles.conditionals(model, case.params, case.x[0], None)
    power = model.head.pmf(logits) ** 0.5
    np.testing.assert_allclose(
      model.head.pmf(tempered),
      power / power.sum(-1, keepdims=True),
      rtol=1e-5,
    )

  def test_towards_zero_it_takes_the_most_likely_symbol(self, case):
    model = transform.with_temperature(case.model, 1e-4)
    x = np.asarray(samplers.ancestral(model)(case.params, case.keys).x)
    greedy = np.zeros(4, np.int32)
    for i in range(4):
      dist = oracles.conditionals(case.model, case.params, greedy, None)
      greedy[i] = int(dist[i].argmax())
    np.testing.assert_array_equal(x, np.broadcast_to(greedy, x.shape))

  @pytest.mark.parametrize('temperature', [0, -1.0, float('inf'), float('nan')])
  def test_it_must_be_positive_and_finite(self, case, temperature):
    with pytest.raises(ValueError, match='positive and finite.*greedy limit'):
      transform.with_temperature(case.model, temperature)

  def test_a_head_without_tempering_is_named(self):
    with pytest.raises(ValueError, match='normal of autoregression.*no `te'):
      transform.with_temperature(toys.autoregression(), 0.5)


class TestPermute:
  positions = np.array([2, 0, 3, 1])

  def test_probabilities_go_with_the_positions(self, case):
    model = transform.permute(case.model, self.positions)
    np.testing.assert_array_equal(model.rank, self.positions)
    np.testing.assert_allclose(
      log_prob(model, case.params, case.x[:, self.positions]),
      log_prob(case.model, case.params, case.x),
      rtol=1e-5,
    )

  def test_depth_and_ties_are_kept(self):
    tied = toys.sigmoid_net((2, 2), rank=order.blocks((2, 2), 2))
    model = transform.permute(tied, self.positions)
    np.testing.assert_array_equal(model.rank, [[1, 0], [1, 0]])
    assert model.depth == tied.depth

  def test_positions_that_carry_a_vector(self):
    pairs = cases.make_case(toys.pairs())
    model = transform.permute(pairs.model, self.positions)
    np.testing.assert_allclose(
      log_prob(model, pairs.params, pairs.x[:, self.positions]),
      log_prob(pairs.model, pairs.params, pairs.x),
      rtol=1e-5,
    )

  def test_it_must_be_a_permutation(self, case):
    with pytest.raises(ValueError, match=r'each of 0\.\.3 once'):
      transform.permute(case.model, [0, 1, 2, 2])


PLACES = np.array([3, 1, 4, 0, 2, 5])  # z = x[PLACES]
ENDS = np.argsort(PLACES)


def restored(params):
  return jax.tree.map(lambda w: jnp.round(4 * w) / 4, params)


COARSE = {'params': (restored, lambda p: p)}
MAKERS = {
  'temperature': lambda m: transform.with_temperature(m, 0.4),
  'permute': lambda m: transform.permute(m, PLACES),
  'params': lambda m: transform.wrap(m, **COARSE),
  'coded': lambda m: quantized(m, 9),
  'coupling': lambda m: transform.wrap(
    m, head=heads.categorical(3, 'inverse_cdf')
  ),
  'all': lambda m: quantized(
    transform.with_temperature(
      transform.permute(transform.wrap(m, **COARSE), PLACES), 0.4
    ),
    9,
  ),
}


@pytest.fixture(scope='module')
def whole():
  return cases.make_case(toys.everything())


@pytest.fixture(scope='module', params=MAKERS)
def made(request, whole):
  """What was made, and the old record's args and dist in its terms."""
  name = request.param
  model = MAKERS[name](whole.model)
  permuted = name in ('permute', 'all')
  renamed = lambda a, at: a.reshape(6, *a.shape[2:])[at].reshape(a.shape)

  def old_x(z):
    return renamed(z, ENDS) if permuted else z

  def new_dist(dist):
    dist = renamed(dist, PLACES) if permuted else dist
    return dist / 0.4 if name in ('temperature', 'all') else dist

  old_params = restored if name in ('params', 'all') else lambda p: p
  return (
    name,
    model,
    cases.make_case(model, params=whole.params),
    (
      old_params,
      old_x,
      new_dist,
    ),
  )


class TestEveryFunctionOfWhatIsMade:
  """The trap: a function that was copied is that of another model."""

  def test_conditionals(self, whole, made):
    _, model, case, (old_params, old_x, new_dist) = made
    args = case.params, case.x[0], case.context[0]
    want = whole.model.conditionals(
      old_params(args[0]), old_x(args[1]), args[2]
    )
    want = np.asarray(new_dist(want), np.float64)
    got = np.asarray(model.conditionals(*args), np.float64)
    # A tempered dist is defined up to a constant of its position.
    got, want = (a - a.max(-1, keepdims=True) for a in (got, want))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

  def test_given_is_of_this_model(self, made):
    """In its own order, what is given before a slot is its conditional."""
    _, model, case, _ = made
    x, context = jnp.asarray(case.x[0]), case.context[0]
    slots = order.slots(model.rank)
    own = model.head.log_prob(model.conditionals(case.params, x, context), x)
    given = functools.partial(model.given, case.params, x, context, slots)
    every = jax.vmap(given)(jnp.arange(6)).reshape(6, 6)
    np.testing.assert_allclose(
      every[np.arange(6), slots], own.reshape(-1)[slots], rtol=1e-5
    )

  @pytest.mark.parametrize('made', ['permute', 'all'], indirect=True)
  def test_decode(self, made):
    _, model, case, _ = made
    print(decode_laws.decode_agreement(case, model.decode, [[1, 3, 2]]))
    args = case.params, case.x, case.context
    np.testing.assert_allclose(
      likelihood.blockwise_log_prob(model, *args),
      log_prob(model, *args),
      rtol=1e-5,
    )
    level = int(model.rank[1, 0])
    alone = case.params, case.x[0], case.context[0]
    groups = model.decode.groups
    kept = groups.init(alone[0], alone[2])
    found, _ = groups.extend(alone[0], kept, level, alone[1])
    want = model.conditionals(*alone)
    np.testing.assert_allclose(found[1, 0], want[1, 0], rtol=1e-5)

  @pytest.mark.parametrize('made', ['permute', 'all'], indirect=True)
  def test_the_cache_draws_its_samples(self, made):
    _, model, case, _ = made
    args = case.params, case.keys, case.context
    rows = model.decode._replace(groups=None)
    want = samplers.ancestral(model)(*args)
    for path in (model.decode, rows, rows._replace(blocks=None)):
      got = samplers.cached(model, path)(*args)
      np.testing.assert_array_equal(got.x, want.x)
      np.testing.assert_array_equal(got.info.repaired, 0)

  def test_features(self, whole, made):
    _, model, case, (old_params, old_x, _) = made
    args = case.params, case.x[0], case.context[0]
    dist, raw = model.features.apply(*args)
    np.testing.assert_array_equal(dist, model.conditionals(*args))
    _, want = whole.model.features.apply(
      old_params(args[0]), old_x(args[1]), args[2]
    )
    at = [f(r, 3) for f, r in ((model.features.at, raw), (raw_at, want))]
    np.testing.assert_array_equal(*at)

  def test_the_objective_stays_where_it_bounds_this_likelihood(
    self, whole, made
  ):
    name, model, case, (old_params, old_x, _) = made
    if name not in ('permute', 'params'):
      assert model.objective is None
      return
    args = case.context[0], jax.random.key(1)
    np.testing.assert_allclose(
      model.objective(case.params, case.x[0], *args),
      whole.model.objective(old_params(case.params), old_x(case.x[0]), *args),
      rtol=1e-6,
    )

  def test_init_and_init_from_data(self, whole, made):
    _, model, case, (_, old_x, _) = made
    key, x = jax.random.key(2), jnp.asarray(case.x)
    old = jax.vmap(old_x)(x)
    pairs = (
      (model.init(key), whole.model.init(key)),
      (
        model.init_from_data(key, x, case.context),
        whole.model.init_from_data(key, old, case.context),
      ),
    )
    for got, want in pairs:
      jax.tree.map(np.testing.assert_array_equal, got, want)


def raw_at(raw, slot):
  return raw[slot][None]


class TestWrap:
  def test_quantized_weights_change_init_from_data_too(self, whole):
    model, params = quantize.weights(whole.model, whole.params)
    data = jax.random.key(0), jnp.asarray(whole.x), whole.context
    want = quantize.restore(params)
    like = jax.tree.map(jnp.shape, want)
    for found in (model.init(data[0]), model.init_from_data(*data)):
      assert jax.tree.map(jnp.shape, quantize.restore(found)) == like
    args = whole.x[0], whole.context[0], np.arange(6), 2
    np.testing.assert_array_equal(
      model.given(params, *args), whole.model.given(want, *args)
    )

  def test_what_does_not_change_is_the_same_function(self, whole):
    made = transform.wrap(whole.model, head=heads.categorical(3), name='other')
    for name in ('conditionals', 'decode', 'features', 'conditionals_given'):
      assert getattr(made, name) == getattr(whole.model, name)

  def test_ties_change_places_so_that_slots_do(self):
    tied = toys.sigmoid_net((4,), rank=order.blocks(4, 2))
    path = decode_laws.recompute_decode(tied)
    tied = dataclasses.replace(tied, decode=path)
    assert transform.permute(tied, [1, 0, 2, 3]).decode is None

  def test_a_field_that_it_does_not_know_is_refused(self, whole):
    @dataclasses.dataclass(frozen=True, eq=False)
    class Wider(AutoregressiveModel):
      sharper: object = None

    fields = dataclasses.fields(whole.model)
    wider = Wider(**{f.name: getattr(whole.model, f.name) for f in fields})
    with pytest.raises(TypeError, match=r"Wider .* agree on \['sharper'\]"):
      transform.with_temperature(wider, 0.5)


class TestMadeOnce:
  """Equal constructions are one record, so nothing is compiled again."""

  def test_records_paths_and_forecasters(self, whole):
    for make in (
      MAKERS['temperature'],
      MAKERS['permute'],
      MAKERS['coded'],
      lambda m: quantize.weights(m, whole.params)[0],
      decode_laws.recompute_decode,
      forecasters.last,
      forecasters.above,
      lambda m: forecasters.ngram(m, n=2),
      lambda m: forecasters.zeros(),
    ):
      assert make(whole.model) == make(whole.model)
    warm, cold = (transform.with_temperature(whole.model, t) for t in (1, 2))
    assert warm is not cold

  def test_they_go_with_the_model(self):
    model = toys.sigmoid_net((2,))
    gone = weakref.ref(transform.with_temperature(model, 0.5))
    assert gone() is not None
    del model
    gc.collect()
    assert gone() is None
