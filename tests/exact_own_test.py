"""Functions of one's own in whole numbers: masks of every kind, indices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar import heads, order
from parallel_ar.exact import reference

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


FUNCTIONS = {
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
