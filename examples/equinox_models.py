"""Kinds of public models in Equinox, as their authors write them; the glue."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import parallel_ar as par

WIDTH = 8


def _newton(cell, fed, states):
  """One step of Newton for h_k = cell(fed_k, h_{k-1}), a scan of matrices."""
  before = jnp.pad(states[:-1], ((1, 0), (0, 0)))
  slopes = jax.vmap(jax.jacfwd(cell, argnums=1))(fed, before)
  rest = jax.vmap(cell)(fed, before) - jnp.einsum('lij,lj->li', slopes, before)

  def join(a, b):
    product = jnp.einsum('lij,ljk->lik', b[0], a[0])
    return product, jnp.einsum('lij,lj->li', b[0], a[1]) + b[1]

  return jax.lax.associative_scan(join, (slopes, rest))[1]


def _solved(cell, fed):
  """Newton until nothing moves; one step more has the solution's gradient."""
  still = jax.tree.map(jax.lax.stop_gradient, (cell, fed))

  def body(carry):
    states, _, count = carry
    new = _newton(*still, states)
    return new, jnp.abs(new - states).max(), count + 1

  moves = lambda carry: (carry[1] > 1e-6) & (carry[2] < len(fed))
  start = jnp.zeros((len(fed), WIDTH)), jnp.float32(jnp.inf), 0
  return _newton(cell, fed, jax.lax.while_loop(moves, body, start)[0])


class DeerGRU(eqx.Module):
  """As DEER: a GRU whose states are solved for, all at once."""

  embed: eqx.nn.Embedding
  cell: eqx.nn.GRUCell
  out: eqx.nn.Linear

  def __init__(self, vocabulary, key):
    keys = jax.random.split(key, 3)
    self.embed = eqx.nn.Embedding(vocabulary, WIDTH, key=keys[0])
    self.cell = eqx.nn.GRUCell(WIDTH, WIDTH, key=keys[1])
    self.out = eqx.nn.Linear(WIDTH, vocabulary, key=keys[2])

  def __call__(self, tokens):
    """int[L] -> float[L, vocabulary]."""
    return jax.vmap(self.out)(_solved(self.cell, jax.vmap(self.embed)(tokens)))


def deer_gru(length: int = 12, num_values: int = 7) -> par.AutoregressiveModel:
  """The GRU of DEER."""
  head = par.heads.categorical(num_values)
  net = lambda key: DeerGRU(num_values + 1, key)
  # All symbols decide how many steps there are, and so the last bits.
  fields = {'start': num_values, 'causality': 'rounding'}
  return par.from_equinox(net, event=(length,), head=head, **fields)


class MaskedFlow(eqx.Module):
  """As flowjax's masked autoregressive flow: an affine step, masked layers."""

  first: eqx.nn.Linear
  last: eqx.nn.Linear
  length: int

  def __init__(self, length, key, hidden=24):
    keys = jax.random.split(key)
    self.length = length
    self.first = eqx.nn.Linear(length, hidden, key=keys[0])
    self.last = eqx.nn.Linear(hidden, 2 * length, key=keys[1])

  def __call__(self, x):
    """float[L] -> the mean and log deviation of each entry, float[L]."""
    hidden = self.first.out_features
    degree = np.arange(hidden) % max(self.length - 1, 1)
    into = degree[:, None] >= np.arange(self.length)[None]
    out = np.tile(np.arange(self.length), 2)[:, None] > degree[None]
    h = jax.nn.tanh((self.first.weight * into) @ x + self.first.bias)
    both = (self.last.weight * out) @ h + self.last.bias
    return jnp.split(both, 2)


def maf(length: int = 12) -> par.AutoregressiveModel:
  """flowjax's masked autoregressive flow: a density, of floats."""
  event = jax.ShapeDtypeStruct((length,), jnp.float32)
  head, net = par.heads.gaussian_mixture(1), lambda key: MaskedFlow(length, key)
  one = lambda means, scales: par.heads.Mixture(0 * means, means, scales)
  call = lambda net, x, _: one(*(y[:, None] for y in net(x)))
  return par.from_equinox(net, event=event, head=head, start=None, call=call)


MODELS = (deer_gru, maf)
