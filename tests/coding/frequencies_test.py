"""Whole frequencies, the model that they make, and the states of rANS."""

import jax
import jax.numpy as jnp
import numpy as np

from parallel_ar import coding, likelihood
from parallel_ar.coding import quantize, rans
from parallel_ar.testing import conformance
from tests.coding.codec_test import CASE, NET, pixels


class TestFrequencies:
  def test_they_sum_to_the_whole_and_none_is_zero(self):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 37)) * rng.choice([0.1, 3, 40], (200, 1))
    table = quantize.frequencies(jax.nn.softmax(jnp.asarray(logits), -1))
    assert (np.asarray(table).sum(-1) == 2**16).all() and table.min() == 1

  def test_the_quantized_model_promises_the_length_of_the_file(self):
    coded = coding.quantized(NET)
    x = np.tile(CASE.x, (40, 1))
    bits = -np.asarray(likelihood.log_prob(coded, CASE.params, x)) / np.log(2)
    file = coding.codec(NET, method='stream').encode(CASE.params, x)
    assert abs(8 * len(file) - bits.sum()) < 64 + 8 * 48

  def test_the_quantized_model_keeps_nan(self):
    params = jax.tree.map(lambda p: p * jnp.nan, CASE.params)
    got = likelihood.log_prob(coding.quantized(NET), params, CASE.x)
    assert np.isnan(got).all()

  def test_the_quantized_model_is_a_model(self):
    case = conformance.make_case(coding.quantized(NET), params=CASE.params)
    for law in ('causality', 'normalisation', 'same_integers'):
      conformance.LAWS[law](case)

  def test_the_quantized_model_takes_channels(self):
    model = coding.quantized(pixels())
    conformance.LAWS['same_integers'](conformance.make_case(model))
    dist = {'logits': jnp.zeros((1, 2)), 'means': jnp.zeros((1, 2, 2))}
    dist |= {'log_scales': jnp.zeros((1, 2, 2)), 'links': jnp.ones((1, 1, 2))}
    every = jnp.stack(jnp.divmod(jnp.arange(25), 5), -1)[:, None]
    p = jnp.exp(jax.vmap(lambda x: model.head.log_prob(dist, x))(every))
    assert abs(float(p.sum()) - 1) < 1e-5

  def test_channels_are_a_chain(self):
    """The product of the chain is the joint probability of a pixel."""
    model = pixels()
    params = model.init(jax.random.key(0))
    x = np.random.default_rng(0).integers(5, size=(6, 2), dtype=np.int32)
    dist = jax.jit(model.conditionals)(params, x, None)
    chain = jax.jit(model.head.chain)(dist, x)
    at = jnp.take_along_axis(chain, x[..., None], -1)[..., 0]
    np.testing.assert_allclose(chain.sum(-1), 1, rtol=1e-5)
    want = jax.jit(model.head.log_prob)(dist, x)
    np.testing.assert_allclose(jnp.log(at).sum(-1), want, rtol=1e-4)


class TestRans:
  def test_push_and_pop_are_inverse_for_every_precision(self):
    rng = np.random.default_rng(1)
    for precision in (2, 11, 16):
      state = rng.integers(2**16, 2**32, 500).astype(np.uint64)
      start = rng.integers(0, 2**precision, 500)
      count = 1 + rng.integers(0, 2**precision - start)
      used = rng.random(500) < 0.7
      pushed, words = rans.push(state, start, count, used, precision)
      assert (pushed >= 2**16).all() and (pushed < 2**32).all()
      u = rans.peek(pushed, precision)[used]
      assert (u >= start[used]).all() and (u < (start + count)[used]).all()
      back, read = rans.pop(pushed, start, count, used, words, precision)
      np.testing.assert_array_equal(back, state)
      assert read == len(words)

  def test_states_are_packed(self):
    state = np.array([2**16, 2**17 - 1, 2**31, 2**32 - 1, 99999], np.uint64)
    data = rans.pack(state)
    assert len(data) == -(-(5 * 4 + 16 + 16 + 31 + 31 + 16) // 8)
    back, size = rans.unpack(data + b'more', 5)
    np.testing.assert_array_equal(back, state)
    assert size == len(data)
