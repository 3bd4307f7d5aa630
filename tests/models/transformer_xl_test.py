"""Transformer-XL: one pass is the segments, and memory does not grow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import likelihood, models, order
from parallel_ar.testing import case as cases
from parallel_ar.testing import oracles

SIZES = {'num_values': 3, 'features': 8, 'heads': 2, 'layers': 2}


def build(length=12, **options):
  return models.transformer_xl(event=(length,), **(SIZES | options))


@pytest.mark.parametrize(
  ('segment', 'memory'), [(3, 0), (3, 2), (3, 3), (2, 7), (4, 12), (12, 5)]
)
def test_one_pass_is_the_evaluation_segment_by_segment(segment, memory):
  net = build(segment=segment, memory=memory, rank=order.random(12, 2))
  case = cases.make_case(net)
  whole = jax.jit(lambda p, x: likelihood.log_prob(net, p, x))
  parts = jax.jit(lambda p, x: likelihood.blockwise_log_prob(net, p, x))
  np.testing.assert_allclose(
    whole(case.params, case.x), parts(case.params, case.x), rtol=2e-6
  )


def test_a_memory_of_everything_is_full_attention():
  full = build(segment=12, memory=0)
  params, x = cases.random_params(full), jnp.arange(12) % 3
  want = oracles.conditionals(full, params, x, None)
  for segment in (1, 4):
    net = build(segment=segment, memory=12)
    got = oracles.conditionals(net, params, x, None)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  short = oracles.conditionals(build(segment=4, memory=2), params, x, None)
  assert np.abs(short[:4] - want[:4]).max() < 1e-5  # the first segment
  assert np.abs(short[4:] - want[4:]).max() > 1e-2


def test_memory_reaches_back_by_its_slots_in_every_layer():
  """M = S = 2, two layers: slot 6 reads back to slot 6 - 2 * 2 of the input."""
  net = build(segment=2, memory=2)
  params, x = cases.random_params(net), jnp.arange(12) % 3
  base = oracles.conditionals(net, params, x, None)
  reads = [
    j
    for j in range(6)
    if (
      oracles.conditionals(net, params, x.at[j].add(1) % 3, None)[6] != base[6]
    ).any()
  ]
  # Row l stands for the symbol before it: rows 2..6 are the symbols 1..5.
  assert reads == [1, 2, 3, 4, 5]


def test_no_gradient_enters_the_states_of_earlier_segments():
  net = build(segment=6, memory=6, layers=1)
  params = cases.random_params(net)
  x = jnp.array([2] * 5 + [0, 1, 0, 1, 0, 1, 0])  # symbol 2 early only

  def late(params):
    dist = oracles.conditionals(net, params, x, None)
    return net.head.log_prob(dist, x)[6:].sum()

  grads = jax.grad(late)(params)
  table = grads['embed']['embedding']
  assert (table[2] == 0).all() and (table[:2] != 0).any()
  # The symbol is read all the same, and what reads it learns.
  one, other = (
    oracles.conditionals(net, params, e, None) for e in (x, x.at[0].set(1))
  )
  assert (one[6] != other[6]).any()


def test_what_is_carried_does_not_grow_with_the_length():
  def carried(length):
    net = build(length, segment=4, memory=3)
    params = jax.eval_shape(net.init, jax.random.key(0))
    blocks = net.decode.blocks
    cache = jax.eval_shape(blocks.init, params, None)
    row = jax.ShapeDtypeStruct((4,), jnp.int32)
    b = jax.ShapeDtypeStruct((), jnp.int32)
    both = jax.eval_shape(blocks.begin, params, cache, b, row)
    inner = jax.eval_shape(blocks.start, params, both[1])
    return [leaf.shape for leaf in jax.tree.leaves((cache, both, inner))]

  assert carried(8) == carried(64)


def test_refusals():
  with pytest.raises(ValueError, match='must divide the 12 positions'):
    build(segment=5)
  with pytest.raises(ValueError, match='rank has ties'):
    build(segment=4, rank=order.blocks(12, 2))
  with pytest.raises(ValueError, match='multiple of twice the heads'):
    build(segment=4, heads=3)
  net = models.made(event=(4,), hidden=(8,))
  with pytest.raises(ValueError, match='no path by blocks'):
    likelihood.blockwise_log_prob(net, {}, np.zeros((1, 4), int))
