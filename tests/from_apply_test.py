"""Functions of parameters and tokens, as their users write them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par

LENGTH, VALUES = 5, 3
HEAD = par.heads.categorical(VALUES)


def embedded(params, tokens, *context):
  logits = jnp.cumsum(params[tokens], -2)
  return logits + context[0] if context else logits


def init(key, values=VALUES):
  return jax.random.normal(key, (values + 1, values))


class Output(NamedTuple):
  hidden: jax.Array
  logits: jax.Array


class TestFromApply:
  @pytest.mark.parametrize(
    'wrap',
    [
      lambda logits: logits,
      lambda logits: {'logits': logits, 'cache': jnp.zeros(9)},
      lambda logits: Output(jnp.zeros(9), logits),
      lambda logits: jnp.pad(logits, ((0, 0), (0, 0), (0, 2))),
    ],
    ids=['array', 'mapping', 'named tuple', 'more logits'],
  )
  def test_what_a_network_gives(self, wrap):
    model = par.from_apply(
      lambda params, tokens: wrap(embedded(params, tokens)),
      init,
      event=(LENGTH,),
      head=HEAD,
      start=VALUES,
    )
    params, x = init(jax.random.key(0)), jnp.array([2, 0, 1, 1, 2])
    tokens = jnp.array([VALUES, 2, 0, 1, 1])
    np.testing.assert_array_equal(
      model.conditionals(params, x, None), embedded(params, tokens)
    )

  def test_a_context(self):
    model = par.from_apply(
      embedded,
      init,
      event=(LENGTH,),
      head=HEAD,
      start=VALUES,
      context=jax.ShapeDtypeStruct((1, VALUES), jnp.float32),
    )
    params, x = init(jax.random.key(0)), jnp.zeros(LENGTH, int)
    bias = jnp.arange(3.0)[None]
    difference = model.conditionals(params, x, bias) - model.conditionals(
      params, x, 0 * bias
    )
    np.testing.assert_allclose(difference, bias.repeat(LENGTH, 0), rtol=1e-5)

  def test_bytes_have_a_start_symbol_too(self):
    """256 is no uint8."""
    seen = []

    def apply(params, tokens):
      seen.append(tokens.dtype)
      return jnp.cumsum(params[tokens], -2)

    model = par.from_apply(
      apply,
      lambda key: init(key, 256),
      event=jax.ShapeDtypeStruct((LENGTH,), jnp.uint8),
      head=par.heads.categorical(256),
      start=256,
    )
    params = model.init(jax.random.key(0))
    dist = model.conditionals(params, jnp.zeros(LENGTH, jnp.uint8), None)
    np.testing.assert_array_equal(dist[0], params[256])
    assert set(seen) == {jnp.dtype('int32')}

  def test_ties_have_no_start_symbol(self):
    with pytest.raises(ValueError, match='has 3 ranks, with ties.*start=None'):
      par.from_apply(
        embedded,
        init,
        event=(LENGTH,),
        head=HEAD,
        start=VALUES,
        rank=par.order.blocks(LENGTH, 2),
      )

  def test_no_batch_axis(self):
    with pytest.raises(
      ValueError, match=r'no leading axis of 1.*batched=False'
    ):
      par.from_apply(
        lambda params, tokens: embedded(params, tokens[0]),
        init,
        event=(LENGTH,),
        head=HEAD,
        start=VALUES,
      )
