"""What public functions take, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar import doors, keys, models
from parallel_ar.training import rules, step
from tests import toys
from tests.conformance import cases


class TestCheckEvents:
  net = toys.sigmoid_net((2, 2), num_values=3)

  def test_good_events_pass(self):
    doors.check_events(self.net, np.zeros((5, 2, 2), np.uint8))

  def test_a_missing_batch_axis(self):
    with pytest.raises(ValueError, match=r'\(2, 2\); expected \[B, 2, 2\]'):
      doors.check_events(self.net, np.zeros((2, 2), int))

  def test_floats(self):
    with pytest.raises(ValueError, match=r'integers 0\.\.2; got dtype float32'):
      doors.check_events(self.net, np.zeros((1, 2, 2), np.float32))

  @pytest.mark.parametrize('value', [-1, 3])
  def test_the_first_bad_value_is_named(self, value):
    x = np.zeros((3, 2, 2), int)
    x[1, 0, 1] = x[2, 1, 1] = value
    with pytest.raises(
      ValueError,
      match=rf'example 1, position \(0, 1\) holds {value}.*0\.\.2 .*2 values',
    ):
      doors.check_events(self.net, x)

  def test_continuous_values_have_no_range(self):
    doors.check_events(toys.autoregression(), np.full((1, 5), 1e9))

  def test_integers_wider_than_the_events(self):
    """2^33 would be 0 in int32."""
    with pytest.raises(ValueError, match='holds 8589934592'):
      doors.check_events(self.net, np.full((1, 2, 2), 2**33))

  def test_they_get_the_dtype_of_the_model(self):
    """uint8 into a function of x - 1 would wrap."""
    net = par.from_function(
      lambda p, x, c: jnp.stack([0 * x, 0 * x + (x - 1 < 0)], -1) * 1.0,
      event=3,
      rank=np.zeros(3, np.int32),
      head=par.heads.categorical(2),
    )
    x = np.array([[0, 1, 0]])
    want = par.log_prob(net, {}, x)
    for dtype in (np.uint8, np.int8, np.int64):
      np.testing.assert_array_equal(
        par.log_prob(net, {}, x.astype(dtype)), want
      )
    got = jax.jit(lambda x: par.log_prob(net, {}, x))(x.astype(np.uint8))
    np.testing.assert_allclose(got, want, rtol=1e-6)

  def test_values_inside_a_trace_that_are_constants(self):
    bad = jnp.full((1, 2, 2), 9)
    with pytest.raises(ValueError, match='holds 9'):
      jax.jit(lambda: doors.check_events(self.net, bad))()

  def test_only_known_values_count(self):
    x = np.array([[[0, 9], [9, 1]]])
    used = np.array([[[1, 0], [0, 1]]], bool)
    np.testing.assert_array_equal(
      doors.check_events(self.net, x, used), [[[0, 0], [0, 1]]]
    )
    with pytest.raises(ValueError, match='holds 9'):
      doors.check_events(self.net, x, ~used)

  def test_the_model_comes_first(self):
    with pytest.raises(ValueError, match='first argument is the model'):
      par.log_prob({}, self.net, np.zeros((1, 2, 2), int))

  def test_no_examples(self):
    params = self.net.init(jax.random.key(0))
    nats = par.log_prob(self.net, params, np.zeros((0, 2, 2), int))
    assert nats.shape == (0,)


class TestContext:
  net = models.made(event=(3,), num_values=2, hidden=(3,), num_classes=4)

  def test_labels_know_their_range(self):
    assert self.net.context.num_classes == 4
    assert doors.check_context(self.net, np.array([0, 3]), 2) is not None

  @pytest.mark.parametrize(
    ('context', 'message'),
    [
      (np.array([0, 4]), r'example 1 holds 4; expected labels 0\.\.3'),
      (np.array([-1, 0]), r'example 0 holds -1; expected labels 0\.\.3'),
      (np.array([0, 2**32]), 'holds 4294967296'),
      (np.array([0.0, 1.0]), 'holds float64; expected integers'),
      (np.array([True, False]), 'holds bool; expected integers'),
      (np.array([0]), 'batch of 2'),
      (None, 'batch of 2'),
    ],
  )
  def test_other_labels(self, context, message):
    with pytest.raises(ValueError, match=message):
      doors.check_context(
        self.net, np.asarray(context) if context is not None else None, 2
      )


class TestKeys:
  @pytest.mark.parametrize('impl', ['rbg', 'unsafe_rbg', 'threefry2x32'])
  def test_a_sample_depends_on_its_key_alone(self, impl):
    net = toys.sigmoid_net((5,), num_values=3)
    params = net.init(jax.random.key(1))
    drawn = jax.random.split(jax.random.key(0, impl=impl), 3)
    draw = par.ancestral(net)
    batch = np.asarray(draw(params, drawn).x)
    np.testing.assert_array_equal(draw(params, drawn[::-1]).x, batch[::-1])
    assert (batch[0] != batch[1]).any()
    for sampler in (par.fixed_point(net), par.window(net, lanes=2)):
      np.testing.assert_array_equal(sampler(params, drawn).x, batch)

  def test_other_generators_seed_threefry_keys_of_their_own(self):
    drawn = jax.random.split(jax.random.key(0, impl='rbg'), 4)
    made = keys.of_its_own(drawn)
    data = jax.random.key_data(made)
    assert jax.random.key_impl(made) == 'threefry2x32'
    assert len(np.unique(data, axis=0)) == 4
    one = jax.random.key_data(keys.of_its_own(drawn[2]))
    np.testing.assert_array_equal(one, data[2])
    assert keys.of_its_own(made) is made

  def test_a_step_draws_alike_in_parts(self, monkeypatch):
    with jax.default_prng_impl('rbg'):
      whole = step.example_keys(0, 3, 0, 4)
      part = step.example_keys(0, 3, 2, 2)
    draw = jax.vmap(jax.random.uniform)
    np.testing.assert_array_equal(draw(whole)[2:], draw(part))

  @pytest.mark.parametrize(
    ('bad', 'message'),
    [
      (3, 'got int. Use jax.random.split'),
      (np.zeros((2, 2), np.uint32), r'old kind.*wrap_key_data'),
      (np.zeros(2), 'float64'),
    ],
  )
  def test_what_is_no_key(self, bad, message):
    with pytest.raises(ValueError, match=message):
      doors.check_keys(bad)
    with pytest.raises(ValueError, match='one typed key'):
      doors.check_key(bad)


class TestParams:
  net = toys.sigmoid_net((3,))

  @pytest.mark.parametrize('value', [np.nan, np.inf])
  def test_a_leaf_is_named(self, value):
    params = self.net.init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    leaves[-1] = (
      leaves[-1].reshape(-1).at[0].set(value).reshape(leaves[-1].shape)
    )
    bad = jax.tree.unflatten(tree, leaves)
    for _ in range(2):  # a bad leaf is not remembered as a good one
      with pytest.raises(ValueError, match=r'not finite: \['):
        doors.check_params(self.net, bad)

  def test_numpy_is_looked_at_again(self):
    params = {'w': np.zeros(3, np.float32), 'n': np.zeros(2, np.int32)}
    doors.check_params(self.net, params)
    params['w'][1] = np.nan
    with pytest.raises(ValueError, match="'w'"):
      doors.check_params(self.net, params)

  def test_minus_infinity_forbids_a_symbol(self):
    doors.check_params(self.net, (jnp.array([-jnp.inf, 0.0]), None))

  def test_under_jit_the_likelihood_is_nan(self):
    draw = jax.jit(par.ancestral(self.net))
    params = jax.tree.map(
      lambda a: a * jnp.nan, self.net.init(jax.random.key(0))
    )
    assert np.isnan(
      draw(params, jax.random.split(jax.random.key(0), 2)).log_prob
    ).all()


class TestParts:
  """What a record is made of."""

  def make(self, **fields):
    given = {'event': 4, 'rank': np.arange(4), 'head': par.heads.bernoulli()}
    return par.from_function(lambda p, x, c: x * 0.0, **(given | fields))

  @pytest.mark.parametrize('event', [4, np.int64(4), [4], (np.int32(4),)])
  def test_an_event_of_one_axis(self, event):
    assert self.make(event=event).event.shape == (4,)

  @pytest.mark.parametrize(
    ('fields', 'message'),
    [
      ({'event': 2.5}, 'positive sizes'),
      ({'event': 'ab'}, 'positive sizes'),
      ({'head': par.heads.bernoulli}, 'head must be a Head'),
      ({'context': 10}, r'par\.Labels\(10\)'),
      (
        {
          'event': jax.ShapeDtypeStruct((4,), jnp.uint8),
          'head': par.heads.categorical(300),
        },
        'events of uint8 hold no more than 255',
      ),
    ],
  )
  def test_what_is_none(self, fields, message):
    with pytest.raises(ValueError, match=message):
      self.make(**fields)


class TestMakers:
  """What samplers and the codec are made of."""

  net = toys.sigmoid_net((6,), num_values=3)
  other = toys.sigmoid_net((2, 2), num_values=4)
  params = net.init(jax.random.key(0))
  keys = jax.random.split(jax.random.key(1), 2)

  @pytest.mark.parametrize(
    'make',
    [
      par.ancestral,
      par.fixed_point,
      par.cached,
      par.window,
      par.gauss_seidel,
      par.codec,
      lambda model: par.speculative(model, model),
      lambda model: par.rejection(model, model),
      lambda model: par.hierarchical([par.Level(model)]),
    ],
  )
  def test_the_model_comes_first(self, make):
    for bad in (self.params, {}, None, 'made'):
      with pytest.raises(ValueError, match='first argument is the model'):
        make(bad)

  @pytest.mark.parametrize(
    ('make', 'what'),
    [
      (par.fixed_point, 'forecaster'),
      (par.cached, 'decode'),
      (par.window, 'decode'),
      (lambda *a: par.window(a[0], None, a[1]), 'forecaster'),
      (par.gauss_seidel, 'decode'),
      (par.speculative, 'draft'),
      (par.rejection, 'draft'),
      (lambda *a: par.speculative(a[0], a[0], decode=a[1]), 'decode'),
      (lambda *a: par.hierarchical([a[1]]), 'a level'),
    ],
  )
  def test_parameters_belong_to_the_call(self, make, what):
    for bad in (self.params, {}, 'last', par.forecasters.last):
      with pytest.raises(ValueError, match=f'{what} must be of kind') as told:
        make(self.net, bad)
      assert '(model)(params, keys)' in str(told.value)

  def test_a_decode_path_of_another_model(self):
    for other in self.other, toys.sigmoid_net((6,), num_values=4):
      path = par.recompute_decode(other)
      for make in par.cached, par.window:
        with pytest.raises(ValueError, match='decode path does not fit'):
          make(self.net, path)

  @pytest.mark.parametrize(
    'rule',
    [
      par.forecasters.guess(lambda params, keys, c: jnp.zeros((2, 2, 3))),
      par.forecasters.zeros()._replace(next=lambda at: at.picks[:1]),
      par.forecasters.above(other),
    ],
  )
  def test_guesses_of_another_shape(self, rule):
    for make in par.fixed_point, lambda *a: par.window(a[0], None, a[1]):
      with pytest.raises(ValueError, match=f'forecaster {rule.name}'):
        make(self.net, rule)(self.params, self.keys)


# What weight decay leaves alone beside vectors, by the last name of the path.
ROWS = {'absent', 'bias', 'query', 'scale', 'start'}
TABLES = {'column', 'embedding', 'kernel', 'level', 'positions'}
TABLES |= {'read', 'row', 'state', 'write'}


def test_weight_decay_by_what_a_parameter_is():
  """Every family: biases and scales are free, whatever axes they have."""
  for name, make in cases.CASES.items():
    params = jax.eval_shape(make().init, jax.random.key(0))
    marks = rules.decayed(params)
    for path, mark in jax.tree_util.tree_leaves_with_path(marks):
      leaf = jax.tree_util.keystr(path[-1:], simple=True)
      spec = params
      for part in path:
        spec = spec[part.key]
      what = f'{name}: {jax.tree_util.keystr(path)} {spec.shape}'
      if len(spec.shape) > 1:
        assert leaf in ROWS | TABLES, f'{what} is of no kind known here'
        assert mark == (leaf in TABLES), what
      else:
        assert not mark, what
