"""Functions of one's own in whole numbers: masks of every kind, indices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import parallel_ar as par
from parallel_ar import heads, order
from parallel_ar.exact import calibrate, reference
from parallel_ar.exact.record import RULES
from parallel_ar.program import trace
from parallel_ar.testing import exact_laws
from parallel_ar.testing.case import make_case
from tests import exact_functions

_RNG = np.random.default_rng(0)
_TABLE = jnp.asarray(_RNG.normal(size=(5, 6)), jnp.float32)
_OUT = jnp.asarray(0.3 * _RNG.normal(size=(6, 3)), jnp.float32)
_SEEN = np.tril(np.ones((5, 5), bool))


def before(x):
  return jnp.concatenate([jnp.full((1,), 3, x.dtype), x[:-1]])


def attention(masked):
  def function(p, x, c):
    h = _TABLE[before(x)]
    weights = jax.nn.softmax(masked(h @ h.T), -1)
    return (h + weights @ h) @ _OUT

  return function


def indices(p, x, c):
  x = before(x)
  near = _TABLE[(x // 2 << 1) + (x % 2 ^ 1)]
  best = jnp.argmax(near - _TABLE[x & 1], -1)
  return jnp.tile(_TABLE[best], (1, 2))[:, 3:9] @ _OUT


def ends(p, x, c):
  """Numbers far beyond what there is, a choice by a number, halves."""
  h = _TABLE[before(x)] @ (_TABLE.T @ _TABLE)
  far = lax.clamp(0.0, h, 1e9) + lax.clamp(-1.0, h, jnp.inf)
  far = far + jnp.clip(h, -1e6, 1e6) + jnp.clip(h, 0, jnp.inf)
  which = jnp.broadcast_to(before(x)[:, None] % 2, h.shape).astype(jnp.int32)
  halves = lax.round(before(x) * 0.5)
  return lax.select_n(which, far, h) @ _OUT * 0.1 + 0.3 * halves[:, None]


FUNCTIONS = {
  'where, of another temperature': attention(
    lambda s: jnp.where(_SEEN, s, -jnp.inf) * 0.7 / 2
  ),
  'ends': ends,
  'where -1e9': attention(lambda s: jnp.where(_SEEN, s, -1e9)),
  'where -1e4': attention(lambda s: jnp.where(_SEEN, s, -1e4)),
  'plus -1e9': attention(lambda s: s + jnp.where(_SEEN, 0.0, -1e9)),
  'plus -1e4': attention(lambda s: jnp.where(_SEEN, 0.0, -1e4) + s),
  'minus 1e4': attention(lambda s: s - 1e4 * (1 - _SEEN)),
  'indices': indices,
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_function_of_ones_own(name):
  model = par.from_function(
    FUNCTIONS[name],
    event=(5,),
    rank=order.raster(5),
    head=heads.categorical(3),
    name='own',
  )
  x = _RNG.integers(0, 3, (16, 5))
  found = par.exact(model, {}, x, weight_bits=10, activation_bits=14)
  nats = jax.jit(par.log_prob, static_argnums=0)
  lost = nats(model, {}, x) - nats(found.model, found.params, x)
  assert np.abs(np.asarray(lost)).max() < 0.05
  dist = jax.jit(jax.vmap(found.model.conditionals, (None, 0, None)))
  got = np.asarray(dist(found.params, x[:3], None))
  for n in range(3):
    assert (got[n] == reference.run(found.report.program, x[n])).all()


def strangers(function):
  return par.from_function(
    function,
    event=(exact_functions.D,),
    rank=order.raster(exact_functions.D),
    head=heads.categorical(exact_functions.V),
    name='strange',
  )


# Of those that take long, one stands for all that is defined by other rules.
FAST = ('decayed_sum',)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST))
    for name in exact_functions.OWN
  ],
)
def test_law_8_of_a_strangers_function(name):
  with jax.numpy_rank_promotion('allow'):
    model = strangers(exact_functions.OWN[name])
    case = make_case(model, name=name)
    print(f'{name}: {exact_laws.portable(case)}')
    found = par.exact(model, {}, case.x)
    data = par.codec(found.model, batch=2).encode(found.params, case.x)
    assert (reference.read(found.report.program, data) == case.x).all()


@pytest.mark.parametrize(
  ('name', 'operation', 'why'),
  [
    ('fft', 'fft', 'no rule'),
    ('power', 'pow', 'more than one array'),
    ('open_loop', 'while', 'number of turns'),
    ('open_kernel', 'conv_general_dilated', 'its kernel depends on the event'),
  ],
)
def test_what_is_refused_is_named(name, operation, why):
  x = np.zeros((2, exact_functions.D), int)
  place = rf'^{operation} \(tests/exact_functions.py:\d+\) cannot .*{why}'
  with pytest.raises(par.NotWhole, match=place):
    par.exact(strangers(exact_functions.REFUSED[name]), {}, x)


@pytest.mark.parametrize(
  'masked',
  [lambda s, h: s * h[:, :1], lambda s, h: jnp.sort(s, -1),
   lambda s, h: s * np.linspace(0.5, 1, 5)[:, None].astype(np.float32),
   lambda s, h: s / (1 + jnp.abs(h[:, :1]))],
)  # fmt: skip
def test_a_masked_score_is_not_multiplied(masked):
  """With few bits as well, where it would come among the others."""

  def function(p, x, c):
    h = _TABLE[before(x)]
    s = masked(jnp.where(_SEEN, h @ h.T, -jnp.inf), h)
    return jax.nn.softmax(s, -1) @ h @ _OUT

  model = par.from_function(
    function, event=(5,), rank=order.raster(5), head=heads.categorical(3)
  )
  x = np.zeros((2, 5), int)
  with pytest.raises(par.NotWhole, match='tests/exact_own_test.py.*masked'):
    par.exact(model, {}, x, weight_bits=3, activation_bits=3)


DEFINED = {
  'cumprod': lambda a: lax.cumprod(a, 0),
  'cumprod from the end': lambda a: lax.cumprod(a, 1, reverse=True),
  'cumlogsumexp': lambda a: lax.cumlogsumexp(a, 1, reverse=True),
  'cummin': lambda a: lax.cummin(a, 1),
  'product': lambda a: jnp.prod(a, (0, 2)),
  'sum of windows': lambda a: lax.reduce_window(
    a, 0.0, lax.add, (1, 2, 3), (1, 2, 1), ((0, 0), (1, 2), (2, 0)),
    (1, 2, 1), (1, 1, 2),
  ),
  'maximum of windows': lambda a: lax.reduce_window(
    a, -jnp.inf, lax.max, (1, 3, 2), (1, 2, 1), ((0, 0), (1, 2), (1, 0))
  ),
  'sort': lambda a: lax.sort(jnp.round(a), dimension=1),
  'order': lambda a: jnp.argsort(jnp.round(a), 1),
  'order from the top': lambda a: jnp.argsort(a, 2, descending=True),
  'top': lambda a: lax.top_k(jnp.floor(2 * jnp.abs(a)), 2),
  'clamp': lambda a: lax.clamp(-a[0], a[1], a[2] + 1),
  'one of three': lambda a: lax.select_n(
    jnp.argmax(a, 0).astype(jnp.int32), *a
  ),
  'one by a number': lambda a: lax.select_n(
    jnp.argmax(a[:2], 0).astype(jnp.int32), *a[:2]
  ),
  'a slice': lambda a: lax.dynamic_slice(a, (jnp.argmax(a), 9, 1), (1, 2, 3)),
  'a write': lambda a: lax.dynamic_update_slice(
    a, a[:1, :2] + 9, (jnp.argmin(a) - 3, 2, 0)
  ),
  'a write at a known place': lambda a: lax.dynamic_update_slice(
    a, a[:1, :2] + 9, (1, 7, -1)
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', DEFINED)
def test_a_definition_says_what_its_operation_does(name):
  function = DEFINED[name]
  a = np.random.default_rng(1).normal(size=(3, 5, 4)).astype(np.float32)
  program = calibrate.laid_out(trace.trace(function, jnp.asarray(a)))
  known = {program.inputs[0]: a}
  for op in program.ops:
    values = (known.get(v, v.value) for v in op.inputs)
    known.update(zip(op.outputs, op.bind(*values), strict=True))
  assert {op.name for op in program.ops} <= set(RULES)
  for v, want in zip(
    program.outputs, jax.tree.leaves(function(a)), strict=True
  ):
    np.testing.assert_allclose(known[v], want, 1e-5)
