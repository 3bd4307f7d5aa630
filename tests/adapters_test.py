"""Networks of Linen, NNX, Equinox and Haiku, as their users write them."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType

import parallel_ar as par
from parallel_ar.analysis import causality, static
from parallel_ar.exact import reference

LENGTH, VALUES, WIDTH = 5, 3, 8
HEAD = par.heads.categorical(VALUES)
CAUSAL = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))


class Linen(nn.Module):
  """Attention with dropout; its parameters are boxed, its logits one more."""

  rate: float = 0.5
  batch_norm: bool = False

  @nn.compact
  def __call__(self, tokens, deterministic=True):
    boxed = nn.with_partitioning(
      nn.initializers.normal(1.0), ('data', None, None)
    )
    logical = nn.with_logical_partitioning(nn.initializers.normal(1.0), ('x',))
    h = nn.Embed(VALUES + 1, WIDTH, embedding_init=boxed)(tokens)
    if self.batch_norm:
      h = nn.BatchNorm(use_running_average=True)(h)
    h = h + nn.MultiHeadDotProductAttention(2)(
      h, mask=nn.make_causal_mask(tokens)
    )
    h = nn.Dropout(self.rate)(h, deterministic=deterministic)
    self.sow('intermediates', 'hidden', h)
    out = nn.Dense(VALUES + 1, bias_init=logical)(h)
    return {'logits': out, 'hidden_states': None}


class Nnx(nnx.Module):
  """The same without boxes."""

  def __init__(self, rngs, batch_norm=False):
    self.embed = nnx.Embed(VALUES + 1, WIDTH, rngs=rngs)
    self.attend = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.out = nnx.Linear(WIDTH, VALUES + 1, rngs=rngs)
    self.norm = nnx.BatchNorm(WIDTH, rngs=rngs) if batch_norm else lambda h: h

  def __call__(self, tokens):
    h = self.norm(self.embed(tokens))
    h = h + self.attend(h, mask=nnx.make_causal_mask(tokens))
    return self.out(self.dropout(h))


def linen(**options):
  noisy = lambda m, tokens, context: m(tokens, deterministic=False)
  fields = {'start': VALUES, 'batched': True, 'train': noisy, **options}
  return par.from_linen(Linen(), event=(LENGTH,), head=HEAD, **fields)


def of_nnx(module=Nnx, **options):
  noisy = lambda m, tokens, context: m(tokens)
  fields = {'start': VALUES, 'train': noisy, **options}
  return par.from_nnx(module, event=(LENGTH,), head=HEAD, **fields)


def equinox(key=None, **options):
  import equinox as eqx

  class Network(eqx.Module):
    embed: eqx.nn.Embedding
    attend: eqx.nn.MultiheadAttention
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear
    table: jax.Array

    def __init__(self, key):
      keys = jax.random.split(key, 3)
      self.embed = eqx.nn.Embedding(VALUES + 1, WIDTH, key=keys[0])
      self.attend = eqx.nn.MultiheadAttention(2, WIDTH, key=keys[1])
      self.dropout = eqx.nn.Dropout(0.5)
      self.out = eqx.nn.Linear(WIDTH, VALUES + 1, key=keys[2])
      self.table = jnp.arange(VALUES + 1)  # integers are no parameters

    def __call__(self, tokens, *, key=None):
      h = jax.vmap(self.embed)(self.table[tokens])
      h = self.dropout(h + self.attend(h, h, h, mask=CAUSAL), key=key)
      return jax.vmap(self.out)(h)

  noisy = lambda m, tokens, context, key: m(tokens, key=key)
  fields = {'start': VALUES, 'train': noisy, **options}
  module = Network if key is None else Network(key)
  return par.from_equinox(module, event=(LENGTH,), head=HEAD, **fields)


def haiku(**options):
  import haiku as hk

  def network(tokens, rate=0.0):
    h = hk.Embed(VALUES + 1, WIDTH)(tokens)
    scale = hk.initializers.VarianceScaling(1.0)
    attend = hk.MultiHeadAttention(2, WIDTH // 2, w_init=scale)
    h = h + attend(h, h, h, mask=CAUSAL[None, None])
    return hk.Linear(VALUES + 1)(hk.dropout(hk.next_rng_key(), rate, h))

  fields = {'start': VALUES, 'train': lambda x, c: network(x, 0.5), **options}
  return par.from_haiku(network, event=(LENGTH,), head=HEAD, **fields)


def needs(name):
  missing = importlib.util.find_spec(name) is None
  return pytest.mark.skipif(missing, reason=f'{name} is not installed')


FRAMEWORKS = [
  pytest.param(linen, id='linen'),
  pytest.param(of_nnx, id='nnx'),
  pytest.param(equinox, id='equinox', marks=needs('equinox')),
  pytest.param(haiku, id='haiku', marks=needs('haiku')),
]


@pytest.mark.parametrize('made', FRAMEWORKS)
class TestEveryFramework:
  def test_a_record_like_any_other(self, made):
    """Proved causal, one pass equals the oracle, samplers agree."""
    model = made()
    params = model.init(jax.random.key(0))
    assert static.check(model).proved
    keys = jax.random.split(jax.random.key(1), 3)
    slow = par.ancestral(model)(params, keys)
    np.testing.assert_array_equal(
      par.fixed_point(model)(params, keys).x, slow.x
    )
    oracle = par.sequential_log_prob(model, params, slow.x)
    np.testing.assert_allclose(slow.log_prob, oracle, rtol=1e-5)
    assert len({tuple(row) for row in np.asarray(slow.x).tolist()}) > 1

  def test_parameters_are_plain_arrays_of_the_key(self, made):
    model = made()
    params = [model.init(jax.random.key(seed)) for seed in (0, 0, 1)]
    for leaf in jax.tree.leaves(params[0]):
      assert isinstance(leaf, jax.Array)
      assert jnp.issubdtype(leaf.dtype, jnp.inexact)
    same, other = (
      [bool((a == b).all()) for a, b in zip(*pair, strict=True)]
      for pair in (
        map(jax.tree.leaves, params[:2]),
        map(jax.tree.leaves, params[1:]),
      )
    )
    assert all(same) and not all(other)

  def test_without_its_shift_it_reads_itself(self, made):
    model = made(start=None, train=None)
    params = model.init(jax.random.key(0))
    found = causality.audit(model, params, jax.random.key(1))
    assert {(i, i) for i in range(LENGTH)} <= set(found.leaks)

  def test_dropout_is_for_training(self, made):
    model = made()
    params, x = model.init(jax.random.key(0)), jnp.arange(LENGTH) % VALUES
    losses = [
      float(model.objective(params, x, None, jax.random.key(seed)))
      for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]
    grads = jax.grad(model.objective)(params, x, None, jax.random.key(0))
    assert any(bool((g != 0).any()) for g in jax.tree.leaves(grads))
    with pytest.raises(ValueError, match='train and objective are two ways'):
      made(objective=lambda params, x, context, key: jnp.zeros(()))

  def test_the_order_of_generation(self, made):
    """The network reads the symbols in the order in which they are drawn."""
    model, rank = made(), np.array([3, 0, 4, 1, 2])
    other = made(rank=rank)
    params, x = model.init(jax.random.key(0)), jnp.array([2, 0, 1, 1, 2])
    slots = par.order.slots(rank)
    straight = model.conditionals(params, x[slots], None)
    np.testing.assert_array_equal(
      other.conditionals(params, x, None)[slots], straight
    )
    assert static.check(other).proved

  def test_the_other_batch_axis(self, made):
    """Refused with a word about it, or a network that takes either."""
    right, params = made(), made().init(jax.random.key(0))
    try:
      other = made(batched=made is equinox, train=None)
    except ValueError as error:
      assert 'traced' in str(error)
    else:
      args = params, jnp.arange(LENGTH) % VALUES, None
      np.testing.assert_allclose(
        other.conditionals(*args), right.conditionals(*args), rtol=1e-5
      )


@pytest.mark.parametrize('made', FRAMEWORKS)
def test_axis_names_of_others_are_none_of_the_mesh(made):
  """'data' of their boxes is not the axis 'data' of the mesh in force."""
  mesh = jax.make_mesh((1,), ('data',), axis_types=(AxisType.Auto,))
  with jax.set_mesh(mesh):
    model = made()
    params = model.init(jax.random.key(0))
    x = jnp.arange(LENGTH)[None] % VALUES
    inside = par.log_prob(model, params, x)
  here = jax.tree.map(jnp.asarray, jax.device_get(params))
  np.testing.assert_allclose(inside, par.log_prob(model, here, x), rtol=1e-6)


@pytest.mark.parametrize(
  ('made', 'module'),
  [
    pytest.param(of_nnx, lambda: Nnx(nnx.Rngs(3)), id='nnx'),
    pytest.param(
      equinox, lambda: jax.random.key(3), id='equinox', marks=needs('equinox')
    ),
  ],
)
def test_a_module_brings_its_own_weights(made, module):
  model = made(module())
  one, two = (model.init(jax.random.key(seed)) for seed in (0, 1))
  jax.tree.map(np.testing.assert_array_equal, one, two)
  assert static.check(model).proved
  loss = [
    model.objective(one, jnp.zeros(LENGTH, int), None, jax.random.key(seed))
    for seed in (0, 1)
  ]
  assert loss[0] != loss[1]  # its random streams are seeded at each step


class TestState:
  """What is no function of its inputs is refused, and named."""

  def test_linen(self):
    with pytest.raises(ValueError, match=r"Linen owns .*'batch_stats'"):
      par.from_linen(
        Linen(batch_norm=True),
        event=(LENGTH,),
        head=HEAD,
        start=VALUES,
        batched=True,
      )

  def test_nnx(self):
    with pytest.raises(ValueError, match=r'Nnx holds BatchStat at norm\.mean'):
      of_nnx(lambda rngs: Nnx(rngs, batch_norm=True))

  @needs('equinox')
  def test_equinox(self):
    import equinox as eqx

    net = lambda key: eqx.nn.make_with_state(eqx.nn.BatchNorm)(
      WIDTH, 'batch', mode='batch'
    )
    with pytest.raises(ValueError, match=r'key -> module.*batch statistics'):
      par.from_equinox(net, event=(LENGTH,), head=HEAD, start=VALUES)

  @needs('haiku')
  def test_haiku(self):
    import haiku as hk

    def normed(tokens):
      h = hk.BatchNorm(True, True, 0.9)(
        hk.Embed(VALUES + 1, VALUES)(tokens), True
      )
      return h

    with pytest.raises(ValueError, match=r'normed has a state in .*batch_norm'):
      par.from_haiku(normed, event=(LENGTH,), head=HEAD, start=VALUES)

  @needs('haiku')
  def test_haiku_transformed(self):
    """What hk.transform has made is taken as well as what it takes."""
    import haiku as hk

    net = lambda tokens: hk.Embed(VALUES + 1, VALUES)(tokens)
    made = [
      par.from_haiku(f, event=(LENGTH,), head=HEAD, start=VALUES)
      for f in (net, hk.transform(net), hk.transform_with_state(net))
    ]
    params = made[0].init(jax.random.key(0))
    x = jnp.arange(LENGTH) % VALUES
    one, *others = (m.conditionals(params, x, None) for m in made)
    for other in others:
      np.testing.assert_array_equal(one, other)

  @needs('haiku')
  def test_haiku_with_dropout(self):
    import haiku as hk

    def noisy(tokens):
      h = hk.Embed(VALUES + 1, VALUES)(tokens)
      return hk.dropout(hk.next_rng_key(), 0.5, h)

    with pytest.raises(
      ValueError, match='noisy depend on a random key.*train='
    ):
      par.from_haiku(noisy, event=(LENGTH,), head=HEAD, start=VALUES)


@needs('haiku')
def test_a_scan_that_carries_a_key_of_haiku_and_draws_nothing():
  import haiku as hk

  def network(tokens, rate=0.0):
    fed = jax.nn.one_hot(tokens.T, VALUES + 1)
    core = hk.LSTM(WIDTH)
    states, _ = hk.dynamic_unroll(core, fed, core.initial_state(len(tokens)))
    dropped = hk.dropout(hk.next_rng_key(), rate, states) if rate else states
    return hk.Linear(VALUES)(dropped).swapaxes(0, 1)

  fields = {'event': (LENGTH,), 'head': HEAD, 'start': VALUES}
  assert static.check(par.from_haiku(network, **fields)).proved
  with pytest.raises(ValueError, match='depend on a random key'):
    par.from_haiku(lambda tokens: network(tokens, 0.5), **fields)


@pytest.mark.parametrize('made', FRAMEWORKS)
def test_a_network_in_whole_numbers(made):
  model = made()
  x = np.random.default_rng(0).integers(0, VALUES, (8, LENGTH))
  found = par.exact(model, model.init(jax.random.key(0)), x)
  dist = jax.jit(jax.vmap(found.model.conditionals, (None, 0, None)))
  got = np.asarray(dist(found.params, x[:2], None))
  want = [reference.run(found.report.program, row) for row in x[:2]]
  assert (got == want).all()
