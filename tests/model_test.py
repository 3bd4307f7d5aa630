"""The record: what it checks when it is made, and how it is made."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from parallel_ar import adapters, heads, model, order
from parallel_ar.decode import recompute_decode
from parallel_ar.heads import categorical
from parallel_ar.testing import case as cases
from parallel_ar.testing import oracles
from tests import toys


def build(fn, event=(4,), rank=None, head=None, **fields):
  rank = order.raster(4) if rank is None else rank
  head = heads.bernoulli() if head is None else head
  return model.from_function(fn, event=event, rank=rank, head=head, **fields)


def zeros(params, x, context):
  return jnp.zeros(x.shape)


class TestConstruction:
  def test_properties(self):
    rank = order.blocks((2, 3), 2)
    record = build(zeros, event=(2, 3), rank=rank)
    assert (record.depth, record.num_positions, record.num_dims) == (3, 6, 6)
    assert record.rank.dtype == np.int32
    assert record.event.dtype == jnp.int32

  def test_records_are_equal_only_to_themselves(self):
    a, b = build(zeros), build(zeros)
    assert a == a and a != b and hash(a) != hash(b)

  def test_nothing_is_computed(self):
    """A model whose parameters would fill the memory can be made."""
    huge = lambda key: jnp.zeros((1 << 30, 1 << 10))
    build(lambda params, x, c: params[0, :4], init=huge)

  def test_positions_may_carry_a_vector(self):
    record = toys.pairs(4)
    assert (record.num_positions, record.num_dims) == (4, 8)
    assert record.event.shape == (4, 2)
    draw = lambda key: model.position_noise(record, key)
    assert jax.eval_shape(draw, jax.random.key(0)).shape == (4, 4)

  def test_events_may_be_continuous(self):
    assert toys.autoregression().event.dtype == jnp.float32

  def test_describe_is_one_line(self):
    assert model.describe(toys.sigmoid_net((2, 3))) == (
      'sigmoid_net: event [2, 3], 6 positions, depth 6, categorical(2), 156 '
      'parameters'
    )


class TestConstructionErrors:
  @pytest.mark.parametrize(
    ('fields', 'message'),
    [
      ({'rank': order.raster(5)}, r'shape \(5,\), but the event .* \(4,\)'),
      ({'rank': np.array([0, 1, 3, 4])}, r'without a gap, but it holds \[0, 1'),
      ({'rank': np.arange(4.0)}, 'must hold integers; got dtype float64'),
      ({'head': heads.categorical(3)}, r'head categorical\(3\)'),
    ],
  )
  def test_parts_that_do_not_fit(self, fields, message):
    with pytest.raises(ValueError, match=message):
      build(zeros, **fields)

  def test_a_leaf_leads_with_the_positions(self):
    with pytest.raises(ValueError, match=r'leaf float32\[2\].*positions \[4\]'):
      build(lambda params, x, c: {'logits': jnp.zeros(2)})

  def test_conditionals_that_fail_are_named_with_the_cause(self):
    with pytest.raises(ValueError, match='net: conditionals.*not be traced'):
      build(lambda params, x, c: params['w'] * x, name='net')

  def test_a_continuous_pick_for_a_discrete_event(self):
    with pytest.raises(ValueError, match=r'head normal does not fit .*int32'):
      build(zeros, head=toys.normal_head())

  def test_log_prob_gives_one_number_for_each_position(self):
    head = heads.bernoulli()._replace(log_prob=lambda dist, x: dist.sum())
    with pytest.raises(ValueError, match='one float for each position'):
      build(zeros, head=head)

  @pytest.mark.parametrize(
    ('objective', 'message'),
    [
      (lambda p, x, c, key: -jnp.ones(4), r'float32\[4\]; .*ONE example'),
      (lambda p, x, c, key: x.sum(), r'int32\[\]; .*a float scalar'),
      (lambda p, x, c, key: (jnp.zeros(()), {}), 'float scalar.*over its pos'),
      (lambda p, x, c, key: None, 'returned None'),
      (lambda p, x, c: jnp.zeros(()), 'objective.*could not be traced'),
    ],
  )
  def test_an_objective_is_the_nats_of_one_example(self, objective, message):
    record = build(zeros)
    with pytest.raises(ValueError, match=message):
      dataclasses.replace(record, objective=objective)

  def test_causality_has_two_names(self):
    record = build(zeros)
    with pytest.raises(ValueError, match="'exact' or 'rounding'; got 'maybe'"):
      model.AutoregressiveModel(
        event=record.event,
        rank=record.rank,
        head=record.head,
        init=record.init,
        conditionals=record.conditionals,
        causality='maybe',
      )


class TestFromLinen:
  def test_a_collection_besides_params_is_refused(self):
    class Normed(nn.Module):
      @nn.compact
      def __call__(self, x, context):
        return nn.BatchNorm(use_running_average=True)(x[:, None] * 1.0)[:, 0]

    with pytest.raises(ValueError, match=r"Normed owns .*'batch_stats'.*leak"):
      adapters.from_linen(
        Normed(), event=(4,), rank=order.raster(4), head=heads.bernoulli()
      )

  def test_a_module_without_parameters(self):
    class Constant(nn.Module):
      def __call__(self, x, context):
        return jnp.zeros(x.shape)

    record = adapters.from_linen(
      Constant(), event=(4,), rank=order.raster(4), head=heads.bernoulli()
    )
    assert record.init(jax.random.key(0)) == {}
    assert record.name == 'Constant'
    record.conditionals({}, jnp.zeros(4, jnp.int32), None)


class TestNoise:
  def test_it_is_keyed_by_position(self):
    """Position i has the same noise in an event of any size or shape."""
    key = jax.random.key(3)
    small = model.position_noise(toys.sigmoid_net((4,)), key)
    large = model.position_noise(toys.sigmoid_net((2, 3)), key)
    np.testing.assert_array_equal(small, large.reshape(6, 2)[:4])

  def test_it_does_not_depend_on_the_rank(self):
    key = jax.random.key(3)
    tied = toys.sigmoid_net((4,), rank=order.blocks(4, 2))
    np.testing.assert_array_equal(
      model.position_noise(toys.sigmoid_net((4,)), key),
      model.position_noise(tied, key),
    )


class TestRecomputeDecode:
  def test_values_beyond_the_slots_are_not_read(self):
    """A cache full of another event gives the same conditionals."""
    net = toys.sigmoid_net((4,), rank=order.random(4, 1))
    params = cases.random_params(net)
    decode = recompute_decode(net)
    x = jnp.array([1, 0, 1, 1])
    cache = decode.init(params, None)
    dirty = (jnp.ones_like(cache[0]), cache[1])
    extend = jax.jit(decode.extend)
    clean, _ = extend(params, cache, 0, x[:2])
    other, _ = extend(params, dirty, 0, x[:2])
    np.testing.assert_array_equal(clean, other)

  def test_vectors(self):
    net = toys.pairs(4)
    params = net.init(jax.random.key(0))
    decode = recompute_decode(net)
    x = jnp.arange(8).reshape(4, 2) % 2
    slots = order.slots(net.rank)
    previous = jnp.concatenate([x[:1], x[slots][:-1]])
    dist, _ = decode.extend(params, decode.init(params, None), 0, previous)
    want = oracles.conditionals(net, params, x, None)
    np.testing.assert_allclose(dist, want[slots], rtol=1e-6)


def test_heads_say_their_name():
  assert categorical(5).name == 'categorical(5)'
  assert heads.bernoulli().num_values == 2


def test_a_function_takes_what_the_record_takes():
  """All of the record, and each as it was given."""
  net = toys.sigmoid_net((4,))
  fields = {
    'decode': recompute_decode(net),
    'features': lambda params, x, context: jnp.zeros((4, 2)),
    'objective': lambda params, x, context, key: jnp.zeros(()),
    'init_from_data': lambda key, x, context: net.init(key),
    'conditionals_given': lambda params, x, context, slots, count: x,
    'causality': 'rounding',
  }
  record = build(net.conditionals, head=net.head, init=net.init, **fields)
  for name, given in fields.items():
    assert getattr(record, name) is given, name


def test_no_field_of_the_record_is_forgotten():
  of_record = {field.name for field in dataclasses.fields(net_of_record())}
  of_record.remove('whole')  # what par.exact alone can say of a pass
  taken = set(inspect.signature(model.from_function).parameters)
  assert of_record - {'conditionals'} == taken - {'fn'}
  through = set(adapters.Fields.__annotations__)
  own = {'event', 'rank', 'head', 'init', 'conditionals'}
  assert through == of_record - own


def net_of_record():
  return toys.sigmoid_net((4,))


class TestMessages:
  """What is wrong in the words of who wrote it, and what to do."""

  @pytest.mark.parametrize(
    ('shape', 'message'),
    [
      ((4, 6), r'V = 5 values, your last axis has 6 .*categorical\(6\)'),
      ((4, 3), r'V = 5 values, your last axis has 3 .*for each of the 5'),
      ((4,), r'V = 5 values, your last axis has 4'),
      ((1, 4, 5), r'leaf float32\[1, 4, 5\].*ONE example; par.from_apply'),
    ],
  )
  def test_another_number_of_logits(self, shape, message):
    with pytest.raises(ValueError, match=message):
      build(lambda p, x, c: jnp.zeros(shape), head=heads.categorical(5))

  def test_a_module_is_no_tree_of_arrays(self):
    with pytest.raises(ValueError, match='tree of arrays.*from_equinox'):
      build(lambda params, x, c: zeros(*x), init=lambda key: {'w': jnp.tanh})
