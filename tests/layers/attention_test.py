"""Chunked attention equals the masked square; rotary scores are relative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from parallel_ar.layers import attention, flash

LENGTH, HEADS, SIZE = 10, 2, 4


@pytest.fixture(scope='module')
def qkv():
  shape = (3, LENGTH, HEADS, SIZE)
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def full_attention(q, k, v, block):
  """One masked square for each head, in float64."""
  q, k, v = (np.moveaxis(a.astype(np.float64), 1, 0) for a in (q, k, v))
  scores = q @ np.swapaxes(k, 1, 2) / SIZE**0.5
  blocks = np.arange(LENGTH) // block if np.ndim(block) == 0 else block
  scores = np.where(blocks[:, None] >= blocks[None], scores, -np.inf)
  return np.moveaxis(special.softmax(scores, -1) @ v, 0, 1)


@pytest.mark.parametrize(
  ('block', 'chunk'), [(1, 64), (1, 3), (2, 4), (2, 3), (5, 1)]
)
def test_chunks_equal_the_masked_square(qkv, block, chunk):
  attend = jax.jit(
    attention.block_causal_attention, static_argnames=('block', 'chunk')
  )
  y = attend(*qkv, block=block, chunk=chunk)
  np.testing.assert_allclose(
    y, full_attention(*qkv, block), rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('chunk', [64, 3, 1])
def test_blocks_of_different_sizes(qkv, chunk):
  blocks = np.array([0, 1, 1, 1, 2, 2, 3, 3, 3, 3])
  y = attention.block_causal_attention(*qkv, block=blocks, chunk=chunk)
  np.testing.assert_allclose(
    y, full_attention(*qkv, blocks), rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize(
  ('block', 'chunk'), [(1, 64), (1, 3), (2, 4), (3, 4), (5, 1)]
)
class TestFlash:
  def test_it_equals_the_masked_square(self, qkv, block, chunk):
    y = flash.flash_attention(*qkv, block=block, chunk=chunk)
    np.testing.assert_allclose(
      y, full_attention(*qkv, block), rtol=1e-4, atol=1e-5
    )

  def test_its_gradient_is_that_of_the_square(self, qkv, block, chunk):
    weight = np.random.default_rng(1).normal(size=qkv[0].shape)

    def loss(qkv, attend):
      return (attend(*qkv, block=block, chunk=chunk) * weight).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    got = gradient(tuple(qkv), flash.flash_attention)
    want = gradient(tuple(qkv), attention.block_causal_attention)
    for a, b in zip(got, want, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

  def test_the_future_changes_no_bit(self, qkv, block, chunk):
    seen = 5 // block * block  # the blocks that are whole before slot 5
    other = np.array(qkv)
    other[:, seen:] = 1e6
    attend = jax.jit(flash.flash_attention, static_argnames=('block', 'chunk'))
    a, b = (attend(*x, block=block, chunk=chunk) for x in (qkv, other))
    np.testing.assert_array_equal(a[:seen], b[:seen])


def test_long_sequences_keep_no_scores():
  length = attention.LONG
  layer = attention.SelfAttention(1)
  x, slots = jnp.ones((length, 2)), jnp.arange(length)
  params = layer.init(jax.random.key(0), x[:2], slots[:2])
  loss = lambda x: layer.apply(params, x, slots)[0].sum()
  compiled = jax.jit(jax.grad(loss)).lower(x).compile()
  memory = compiled.memory_analysis().temp_size_in_bytes
  assert memory < 4 * length**2 / 4


def test_the_future_changes_no_bit(qkv):
  q, k, v = qkv
  attend = jax.jit(
    lambda k, v: attention.block_causal_attention(q, k, v, chunk=4)
  )
  other_k, other_v = k.copy(), v.copy()
  other_k[6:], other_v[6:] = 1e6, -1e6
  np.testing.assert_array_equal(attend(k, v)[:6], attend(other_k, other_v)[:6])


def test_bfloat16_softmax_is_float32(qkv):
  half = qkv.astype(jnp.bfloat16)
  y = attention.block_causal_attention(*half)
  assert y.dtype == jnp.bfloat16
  program = str(jax.make_jaxpr(attention.block_causal_attention)(*half))
  exps = [line for line in program.splitlines() if '= exp ' in line]
  assert exps and all('f32' in line for line in exps)


class TestSoftmax:
  """Against jax.nn.softmax; the last scores of some rows are masked."""

  scores = np.where(
    np.arange(7) < np.array([[7], [3], [1]]),
    np.random.default_rng(1).normal(size=(2, 3, 7)),
    np.finfo(np.float32).min,
  ).astype(np.float32)

  def test_value_and_derivatives(self):
    move = np.random.default_rng(2).normal(size=(2, 3, 7)).astype(np.float32)
    twice = lambda f: lambda s: jax.jvp(jax.grad(f), (s,), (move,))
    found, expected = (
      (soft(self.scores), *twice(lambda s, soft=soft: (soft(s) ** 3).sum())(s))
      for s in [self.scores]
      for soft in (attention.softmax, jax.nn.softmax)
    )
    np.testing.assert_array_equal(found[0], expected[0])
    for a, b in zip(found[1:], expected[1:], strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)

  def test_its_result_alone_is_kept(self):
    _, back = jax.vjp(attention.softmax, jnp.asarray(self.scores))
    assert sum(a.size for a in jax.tree.leaves(back)) == self.scores.size


class TestRotary:
  def test_scores_depend_on_the_difference_only(self, qkv):
    q, k, _ = qkv
    scores = lambda shift: np.einsum(
      'lhk,shk->hls',
      attention.rotary(q, jnp.arange(LENGTH) + shift),
      attention.rotary(k, jnp.arange(LENGTH) + shift),
    )
    np.testing.assert_allclose(scores(0), scores(37), rtol=1e-3, atol=1e-4)

  def test_lengths_are_kept(self, qkv):
    q = qkv[0]
    turned = attention.rotary(q, jnp.arange(LENGTH))
    np.testing.assert_allclose(
      np.linalg.norm(turned, axis=-1), np.linalg.norm(q, axis=-1), rtol=1e-5
    )

  def test_place_zero_is_left_alone(self, qkv):
    turned = attention.rotary(qkv[0], jnp.zeros(LENGTH, jnp.int32))
    np.testing.assert_array_equal(turned, qkv[0])

  def test_the_first_pair_turns_by_one_radian_a_place(self):
    x = jnp.zeros((2, 1, 4)).at[:, :, 0].set(1.0)
    turned = attention.rotary(x, jnp.arange(2))
    np.testing.assert_allclose(
      turned[1, 0], [np.cos(1), 0, np.sin(1), 0], atol=1e-6
    )


@pytest.mark.parametrize(
  ('width', 'heads', 'rotary'), [(6, 4, False), (6, 2, True)]
)
def test_heads_that_do_not_fit(width, heads, rotary):
  layer = attention.SelfAttention(heads, rotary=rotary)
  with pytest.raises(ValueError, match=f'{heads} heads do not fit .* {width}'):
    jax.eval_shape(
      layer.init, jax.random.key(0), jnp.ones((3, width)), jnp.arange(3)
    )
