"""Events of different length: a law, by every route that a model has."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar.analysis import causality, static
from parallel_ar.testing import case as cases
from parallel_ar.testing import decode_laws
from tests import toys

END = 1


def ended(model=None, **fields):
  return par.with_end(model or toys.recurrent(**fields), END)


def test_probabilities_of_all_lengths_sum_to_one():
  """Law 2, and that of a sequence is the product up to its end."""
  for inner in (
    toys.recurrent(4),
    toys.sigmoid_net((4,), par.order.random(4, 1), 3),
    toys.sigmoid_net((4,), par.order.blocks(4, 2), 3),
  ):
    model = par.with_end(inner, END)
    params = cases.random_params(model)
    x = np.array(list(itertools.product(range(3), repeat=4)))
    log_p = np.asarray(par.log_prob(model, params, x), np.float64)
    np.testing.assert_allclose(np.exp(log_p).sum(), 1, rtol=1e-5)
    terms = np.asarray(par.log_prob_terms(inner, params, x))
    rank = inner.rank.reshape(-1)
    for row, nats, own in zip(x, log_p, terms, strict=True):
      stop = rank[row == END].min(initial=99)
      if (row[rank > stop] != END).any():
        assert nats == -np.inf
      else:
        np.testing.assert_allclose(nats, own[rank <= stop].sum(), rtol=1e-4)


@pytest.mark.parametrize(
  'inner',
  [
    toys.recurrent(6),
    toys.sigmoid_net((2, 3), par.order.random((2, 3), 1), 3),
    toys.sigmoid_net((6,), par.order.blocks(6, 2), 2),
  ],
  ids=['cached', 'order', 'ties and bits'],
)
def test_every_route(inner):
  """Audits, samplers, decode paths and the codec take it as any other."""
  model = ended(inner)
  case = cases.make_case(model)
  decode_laws.decode_agreement(case)
  assert static.check(model).proved
  audit = causality.audit(model, case.params, case.keys[0])
  assert not audit.leaks
  keys = jax.random.split(jax.random.key(5), 8)
  slow = par.ancestral(model)(case.params, keys)
  samplers = [par.fixed_point(model), par.window(model)]
  if model.decode:
    samplers.append(par.cached(model))
  for sampler in samplers:
    np.testing.assert_array_equal(sampler(case.params, keys).x, slow.x)
  assert np.isfinite(slow.log_prob).all()
  pair = par.codec(model)
  packed = pair.encode(case.params, slow.x)
  np.testing.assert_array_equal(pair.decode(case.params, packed).x, slow.x)
  cool = par.with_temperature(model, 0.5)
  assert np.isfinite(par.log_prob(cool, case.params, slow.x)).all()


def test_samples_end_and_the_end_is_reached():
  model = ended()
  params = cases.random_params(model)
  x = np.asarray(
    par.ancestral(model)(params, jax.random.split(jax.random.key(0), 64)).x
  )
  after = np.cumsum(x == END, 1) > 0
  assert (x[after] == END).all()
  lengths = set((~after).sum(1).tolist())
  assert len(lengths) > 3


def test_what_follows_the_end_has_no_gradient():
  """Padding trains nothing: the loss of a short one is that of its symbols."""
  model = ended()
  params = cases.random_params(model)
  x = par.padded([[2, 0], [0]], 6, END)
  assert x.tolist() == [[2, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]]
  loss = lambda p, x: par.log_prob(model, p, x).sum()
  grads = jax.grad(loss)(params, x)
  assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
  inner = toys.recurrent(6)
  until = lambda p: par.log_prob_terms(inner, p, x)[
    np.arange(6)[None] <= np.array([[2], [1]])
  ].sum()
  want = jax.grad(until)(params)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    grads,
    want,
  )


def test_the_derived_path():
  model = ended(toys.sigmoid_net((5,), num_values=3))
  path = par.derive_decode(model)
  decode_laws.decode_agreement(cases.make_case(model), path)


@pytest.mark.parametrize(
  ('model', 'end', 'message'),
  [
    (toys.recurrent(), 3, r'has the symbols 0\.\.2; got 3'),
    (toys.recurrent(), -1, 'got -1'),
    (toys.autoregression(), 0, 'has real values'),
    (toys.pairs(), 0, r'\(2,\) symbols at a position'),
  ],
)
def test_no_end(model, end, message):
  with pytest.raises(ValueError, match=message):
    par.with_end(model, end)


@pytest.mark.parametrize('sequence', [[0] * 7, [0, END], [[0]]])
def test_no_sequence(sequence):
  with pytest.raises(ValueError, match='at most 6 symbols other than 1'):
    par.padded([sequence], 6, END)
