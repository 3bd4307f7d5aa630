"""The codec: files that come back, and files that are refused."""

import dataclasses
import lzma

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import coding, heads, likelihood, models, order, samplers
from parallel_ar.coding import baselines, lanes, quantize
from parallel_ar.testing import case as cases
from parallel_ar.testing import coding_laws, conformance, leaks
from tests import toys

NET = toys.sigmoid_net((7,), rank=order.random((7,), 1), num_values=3)
CASE = conformance.make_case(NET, batch=5)


@pytest.fixture(scope='module', params=['lanes', 'stream'])
def coded(request):
  pair = coding.codec(NET, method=request.param, batch=2)
  return pair, pair.encode(CASE.params, CASE.x)


class TestFiles:
  def test_the_same_events_give_the_same_bytes(self, coded):
    pair, data = coded
    assert pair.encode(CASE.params, CASE.x) == data
    decoded = pair.decode(CASE.params, data)
    np.testing.assert_array_equal(decoded.x, CASE.x)
    assert decoded.x.dtype == NET.event.dtype

  def test_no_events(self, coded):
    pair, _ = coded
    decoded = pair.decode(CASE.params, pair.encode(CASE.params, CASE.x[:0]))
    assert decoded.x.shape == (0, 7) and decoded.evaluations == 0

  def test_every_flipped_bit_is_found(self, coded):
    pair, data = coded
    for at in range(len(data)):
      bad = bytearray(data)
      bad[at] ^= 1 << at % 8
      with pytest.raises(coding.BadFile):
        pair.decode(CASE.params, bytes(bad))

  def test_every_cut_is_found(self, coded):
    pair, data = coded
    for length in range(0, len(data), 3):
      with pytest.raises(coding.BadFile):
        pair.decode(CASE.params, data[:length])

  def test_other_parameters_are_refused(self, coded):
    pair, data = coded
    other = jax.tree.map(lambda p: p + 1e-3, CASE.params)
    with pytest.raises(coding.BadFile, match='other parameters'):
      pair.decode(other, data)

  def test_another_model_is_refused(self, coded):
    _, data = coded
    other = dataclasses.replace(NET, rank=order.raster((7,)))
    pair = coding.codec(other, method=coding.read_header(data).method, batch=2)
    with pytest.raises(coding.BadFile, match='another model'):
      pair.decode(CASE.params, data)

  def test_another_batch_is_refused(self, coded):
    _, data = coded
    pair = coding.codec(NET, method=coding.read_header(data).method, batch=3)
    with pytest.raises(coding.BadFile, match='batch=2.*batch=3'):
      pair.decode(CASE.params, data)

  def test_another_platform_is_refused(self, coded, monkeypatch):
    pair, data = coded
    monkeypatch.setattr(
      coding.container.importlib.metadata, 'version', lambda name: '0.0'
    )
    with pytest.raises(coding.BadFile, match='jaxlib'):
      pair.decode(CASE.params, data)

  def test_another_context_is_found(self):
    model = models.nade(event=(6,), num_values=3, hidden=5, num_classes=2)
    case = conformance.make_case(model)
    pair = coding.codec(model, batch=2)
    data = pair.encode(case.params, case.x, case.context)
    with pytest.raises(coding.BadFile, match='context|lanes'):
      pair.decode(case.params, data, 1 - case.context)
    with pytest.raises(ValueError, match='conditioned'):
      pair.decode(case.params, data)


class TestRefusals:
  def test_continuous_values(self):
    with pytest.raises(ValueError, match='must be quantized'):
      coding.codec(toys.autoregression())

  def test_too_many_values(self):
    with pytest.raises(ValueError, match='at most 16384'):
      coding.codec(toys.sigmoid_net((2,), num_values=16385))
    with pytest.raises(ValueError, match='Raise precision'):
      coding.codec(NET, precision=3)

  def test_arguments(self):
    for wrong in ({'method': 'zip'}, {'batch': 0}):
      with pytest.raises(ValueError, match='lanes'):
        coding.codec(NET, **wrong)
    with pytest.raises(ValueError, match='2 to 16'):
      coding.codec(NET, precision=17)

  def test_events_that_do_not_fit(self, coded):
    with pytest.raises(ValueError, match='out of range'):
      coded[0].encode(CASE.params, CASE.x + 3)

  def test_parameters_that_are_not_finite(self):
    params = jax.tree.map(lambda p: p * jnp.nan, CASE.params)
    with pytest.raises(ValueError, match='not finite'):
      coding.codec(NET).encode(params, CASE.x)

  @pytest.mark.parametrize('leak', leaks.GALLERY[:4], ids=lambda k: k.name)
  def test_a_model_that_reads_the_future_breaks_the_law(self, leak):
    with pytest.raises(conformance.LawBroken, match='Law 6'):
      coding_laws.codec(conformance.make_case(leak.build()))


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

  def test_the_quantized_model_is_a_model(self):
    case = conformance.make_case(coding.quantized(NET), params=CASE.params)
    for law in ('causality', 'normalisation', 'same_integers'):
      conformance.LAWS[law](case)

  def test_channels_are_a_chain(self):
    """The product of the chain is the joint probability of a pixel."""
    head = heads.discretized_logistic(3, channels=2, num_mixtures=2)
    model = models.pixelcnn_pp(
      event=(1, 2, 2), num_values=3, num_mixtures=2, features=4, layers=1
    )
    params = cases.random_params(model, gain=0.3)
    x = jnp.asarray([[[0, 2], [1, 1]]])
    dist = model.conditionals(params, x, None)
    chain = head.chain(dist, x)
    at = jnp.take_along_axis(chain, x[..., None], -1)[..., 0]
    np.testing.assert_allclose(chain.sum(-1), 1, rtol=1e-5)
    want = head.log_prob(dist, x)
    np.testing.assert_allclose(jnp.log(at).sum(-1), want, rtol=1e-4)


class TestLanes:
  def test_push_and_pop_are_inverse_for_every_precision(self):
    rng = np.random.default_rng(1)
    for precision in (2, 11, 16):
      state = rng.integers(2**16, 2**32, 500).astype(np.uint64)
      start = rng.integers(0, 2**precision, 500)
      count = 1 + rng.integers(0, 2**precision - start)
      used = rng.random(500) < 0.7
      pushed, words = lanes.push(state, start, count, used, precision)
      assert (pushed >= 2**16).all() and (pushed < 2**32).all()
      u = lanes.peek(pushed, precision)[used]
      assert (u >= start[used]).all() and (u < (start + count)[used]).all()
      back, read = lanes.pop(pushed, start, count, used, words, precision)
      np.testing.assert_array_equal(back, state)
      assert read == len(words)

  def test_states_are_packed(self):
    state = np.array([2**16, 2**17 - 1, 2**31, 2**32 - 1, 99999], np.uint64)
    data = lanes.pack(state)
    assert len(data) == -(-(5 * 4 + 16 + 16 + 31 + 31 + 16) // 8)
    back, size = lanes.unpack(data + b'more', 5)
    np.testing.assert_array_equal(back, state)
    assert size == len(data)


def test_fewer_passes_than_positions():
  """Where positions hardly depend on each other, few passes decode all."""
  net = toys.sigmoid_net((40,))
  params = cases.random_params(net, gain=0.5)
  keys = jax.random.split(jax.random.key(3), 30)
  x = samplers.fixed_point(net)(params, keys).x
  for method, most in (('lanes', 15), ('stream', 40)):
    pair = coding.codec(net, method=method, batch=30)
    decoded = pair.decode(params, pair.encode(params, x))
    np.testing.assert_array_equal(decoded.x, x)
    assert decoded.evaluations <= most
  assert decoded.evaluations == 40


def test_baselines_hold_the_events():
  x = np.random.default_rng(0).integers(0, 17, (9, 8, 8, 1))
  sizes = baselines.sizes(x, 17)
  assert sizes['raw'] == x.size * 5 // 8
  assert set(sizes) == {'raw', 'zlib', 'bzip2', 'xz', 'PNG'}
  packed = lzma.compress(x.astype(np.uint8).tobytes(), preset=9)
  assert sizes['xz'] <= len(packed) + 16
  assert 'PNG' not in baselines.sizes(x.reshape(9, -1), 17)
