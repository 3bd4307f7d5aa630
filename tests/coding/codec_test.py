"""The codec: files that come back, and files that are refused."""

import dataclasses
import lzma

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar import coding, heads, likelihood, models, order, samplers
from parallel_ar.coding import baselines, cached, container, stream
from parallel_ar.testing import case as cases
from parallel_ar.testing import coding_laws, conformance, leaks
from tests import toys

NET = toys.sigmoid_net((7,), rank=order.random((7,), 1), num_values=3)
CASE = conformance.make_case(NET, batch=5)
METHODS = 'cached', 'lanes', 'stream'


@pytest.fixture
def no_cache(monkeypatch):
  monkeypatch.setattr(cached, 'possible', lambda model: False)


@pytest.fixture(scope='module', params=METHODS)
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
    other = toys.sigmoid_net((7,), num_values=3)  # of another order
    pair = coding.codec(other, method=coding.read_header(data).method, batch=2)
    with pytest.raises(coding.BadFile, match='another model'):
      pair.decode(CASE.params, data)

  def test_another_batch_is_refused(self, coded):
    _, data = coded
    pair = coding.codec(NET, method=coding.read_header(data).method, batch=3)
    with pytest.raises(coding.BadFile, match='batch=2.*batch=3'):
      pair.decode(CASE.params, data)

  def test_what_is_recorded_refuses_nothing_while_the_bits_agree(self, coded):
    pair, data = coded
    head, body = container.read(data)
    facts = head.facts._replace(cores=99, jaxlib=bytes(3), cpu=b'??')
    other = container.write(head._replace(facts=facts), body)
    assert len(other) == len(data) and other != data
    decoded = pair.decode(CASE.params, other)
    np.testing.assert_array_equal(decoded.x, CASE.x)

  def test_other_bits_are_refused_before_the_work_and_say_why(self, coded):
    pair, data = coded
    head, body = container.read(data)
    facts = head.facts._replace(cores=1, jaxlib=b'\x00\x09\x07', flags=b'??')
    probe = bytes(4)
    odd = container.write(head._replace(facts=facts, probe=probe), body)
    wanted = r'other bits.*jaxlib 0\.9\.7 there.*XLA_FLAGS.*taskset -c 0-0'
    with pytest.raises(coding.BadFile, match=wanted):
      pair.decode(CASE.params, odd)
    odd = container.write(head._replace(probe=probe), body)
    with pytest.raises(coding.BadFile, match='Nothing that the header records'):
      pair.decode(CASE.params, odd)

  def test_another_context_is_found(self):
    model = models.nade(event=(6,), num_values=3, hidden=5, num_classes=2)
    case = conformance.make_case(model)
    pair = coding.codec(model, batch=2)
    data = pair.encode(case.params, case.x, case.context)
    with pytest.raises(coding.BadFile, match='another context'):
      pair.decode(case.params, data, 1 - case.context)
    told = 'holds float64; expected integers, int32'
    with pytest.raises(ValueError, match=told):
      pair.decode(case.params, data, case.context * 1.0)
    wide = np.asarray(case.context, np.int64)  # by value, not by dtype
    decoded = pair.decode(case.params, data, wide)
    np.testing.assert_array_equal(decoded.x, case.x)
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
    for wrong in ({'method': 'zip'}, {'batch': 0}, {'batch': 2.5}):
      with pytest.raises(ValueError, match='lanes'):
        coding.codec(NET, **wrong)
    with pytest.raises(ValueError, match='2 to 16'):
      coding.codec(NET, precision=17)

  def test_what_is_no_file(self, coded):
    for wrong in ('PARc', None, 7):
      with pytest.raises(coding.BadFile, match='is bytes; got'):
        coded[0].decode(CASE.params, wrong)

  def test_one_value(self):
    one = dataclasses.replace(NET, head=NET.head._replace(num_values=1))
    with pytest.raises(ValueError, match='nothing to code'):
      coding.codec(one)

  def test_events_that_do_not_fit(self, coded):
    with pytest.raises(ValueError, match='out of range'):
      coded[0].encode(CASE.params, CASE.x + 3)

  def test_parameters_that_are_not_finite(self):
    params = jax.tree.map(lambda p: p * jnp.nan, CASE.params)
    with pytest.raises(ValueError, match='no probabilities: NaN'):
      coding.codec(NET).encode(params, CASE.x)

  @pytest.mark.parametrize('leak', leaks.GALLERY[:4], ids=lambda k: k.name)
  def test_a_model_that_reads_the_future_breaks_the_law(self, leak):
    with pytest.raises(conformance.LawBroken, match='Law 6'):
      coding_laws.codec(conformance.make_case(leak.build()))


class TestProof:
  """`encode` returns no file that it could not decode."""

  @pytest.mark.parametrize('method', ['lanes', 'stream'])
  def test_a_leak_is_named(self, method):
    steps = jnp.array([1.0, -0.7, 0.3, -0.2])
    leak = _own(lambda p, x, c: jnp.tanh(jnp.outer(jnp.cumsum(x), steps)))
    x = np.random.default_rng(0).integers(0, 4, (99, 5))
    pair = coding.codec(leak, method=method, batch=9)
    with pytest.raises(ValueError, match='does not decode.*not causal'):
      pair.encode({}, x)
    free = coding.codec(leak, method=method, batch=9, verify=False)
    with pytest.raises(coding.BadFile, match='could not be decoded'):
      free.decode({}, free.encode({}, x))

  def test_rounding_is_found(self):
    """A causal sum by FFT is changed in its last bits by what is unknown."""

    def fft(p, x, context):
      fed = jnp.concatenate([jnp.zeros(1), x[:-1] + 1.0])
      y = jnp.fft.irfft(jnp.fft.rfft(fed, 32) * jnp.fft.rfft(p, 32), 32)[:16]
      return jnp.tanh(jnp.outer(y, jnp.arange(1.0, 5)))

    model = par.from_function(
      fft,
      event=(16,),
      rank=order.raster((16,)),
      head=heads.categorical(4),
      init=lambda key: jax.random.normal(key, (16,)),
    )
    x = np.random.default_rng(0).integers(0, 4, (256, 16))
    with pytest.raises(ValueError, match='only up to rounding'):
      coding.codec(model, method='stream').encode(
        model.init(jax.random.key(0)), x
      )


class TestAuto:
  def test_takes_the_cache_where_there_is_one(self):
    pair = coding.codec(NET, batch=2)
    data = pair.encode(CASE.params, CASE.x)
    assert coding.read_header(data).method == 'cached'
    np.testing.assert_array_equal(pair.decode(CASE.params, data).x, CASE.x)

  def test_takes_lanes_only_where_their_ends_are_small(self, no_cache):
    pair = coding.codec(NET, batch=2)
    for times, method in ((1, 'stream'), (300, 'lanes')):
      x = np.tile(CASE.x, (times, 1))
      data = pair.encode(CASE.params, x)
      assert coding.read_header(data).method == method
      np.testing.assert_array_equal(pair.decode(CASE.params, data).x, x)

  def test_takes_lanes_without_the_coder_of_streams(
    self, no_cache, monkeypatch
  ):
    monkeypatch.setattr(stream, 'available', lambda: False)
    data = coding.codec(NET, batch=2).encode(CASE.params, CASE.x)
    assert coding.read_header(data).method == 'lanes'

  def test_a_pass_that_cannot_be_cut_has_no_cache(self):
    """Nor has a head that knows whole events only."""
    leak = _own(lambda p, x, c: jnp.outer(jnp.cumsum(x), jnp.arange(4.0)))
    head = heads.categorical(4)._replace(pmf=lambda d: jnp.full((5, 4), 0.25))
    flat = _own(lambda p, x, c: jnp.zeros((5, 4)))
    for model in (leak, dataclasses.replace(flat, head=head)):
      with pytest.raises(ValueError, match='no cache to code with'):
        coding.codec(model, method='cached')
    assert cached.possible(flat)

  def test_lanes_that_no_event_uses_are_not_kept(self):
    sizes = [
      len(coding.codec(NET, method='lanes', batch=b).encode(CASE.params, one))
      for one in [CASE.x[:1]]
      for b in (1, 40)
    ]
    assert sizes[0] == sizes[1]


def _own(conditionals, num_values=4, size=5):
  return par.from_function(
    conditionals,
    event=(size,),
    rank=order.raster((size,)),
    head=heads.categorical(num_values),
    init=lambda key: {},
  )


@pytest.mark.parametrize('method', METHODS)
class TestEdges:
  def test_symbols_that_are_forbidden(self, method):
    """-inf is coded; also an event that the model calls impossible."""

    def fresh(params, x, context):
      before = jnp.concatenate([jnp.full(1, -1), x[:-1]])
      return jnp.where(jax.nn.one_hot(before, 4) > 0, -jnp.inf, 0.0)

    pair = coding.codec(_own(fresh), method=method, batch=2)
    x = np.array([[0, 1, 0, 2, 3], [3, 2, 1, 2, 1], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(pair.decode({}, pair.encode({}, x)).x, x)

  @pytest.mark.parametrize('value', [jnp.nan, jnp.inf, -jnp.inf])
  def test_what_is_no_probability(self, method, value):
    model = _own(lambda p, x, c: jnp.zeros((5, 4)).at[3].set(value))
    with pytest.raises(ValueError, match='no probabilities'):
      coding.codec(model, method=method).encode({}, np.zeros((2, 5), int))

  def test_nan_in_a_leaf_that_the_head_may_swallow(self, method):
    head = heads.categorical(4)._replace(
      log_prob=lambda dist, x: jnp.zeros(x.shape),
      pick=lambda dist, noise: jnp.zeros(dist[0].shape, jnp.int32),
      pmf=lambda dist: jnp.full((*dist[0].shape, 4), 0.25),
      temper=None,
    )
    model = par.from_function(
      lambda p, x, c: (jnp.zeros(5), jnp.zeros(5).at[2].set(jnp.nan)),
      event=(5,),
      rank=order.raster((5,)),
      head=head,
      init=lambda key: {},
    )
    with pytest.raises(ValueError, match='no probabilities'):
      coding.codec(model, method=method).encode({}, np.zeros((2, 5), int))

  @pytest.mark.parametrize('pmf', [(0.5,) * 4, (-0.5, 0.5, 0.5, 0.5)])
  def test_a_pmf_that_is_none(self, method, pmf):
    head = heads.categorical(4)._replace(
      pmf=lambda d: jnp.broadcast_to(jnp.array(pmf), (*d.shape[:-1], 4))
    )
    model = dataclasses.replace(
      _own(lambda p, x, c: jnp.zeros((5, 4))), head=head
    )
    with pytest.raises(ValueError, match='sum that is not 1'):
      coding.codec(model, method=method).encode({}, np.zeros((2, 5), int))

  def test_debugging_nans(self, method):
    pair = coding.codec(NET, method=method, batch=2)
    with jax.debug_nans(True):
      back = pair.decode(CASE.params, pair.encode(CASE.params, CASE.x)).x
    np.testing.assert_array_equal(back, CASE.x)

  def test_float64(self, method):
    with jax.enable_x64(True):
      model = _own(lambda p, x, c: jnp.cumsum(jnp.ones((5, 4)), 1) / 3)
      pair = coding.codec(model, method=method, batch=2)
      x = np.arange(15).reshape(3, 5) % 4
      np.testing.assert_array_equal(pair.decode({}, pair.encode({}, x)).x, x)


def pixels():
  """Six pixels of two channels; a mean of what came before moves the next."""

  def conditionals(params, x, context):
    before = jnp.tril(jnp.ones((6, 6)), -1) @ (x / 4.0) @ params
    return {
      'logits': before[:, :2],
      'means': before[:, 2:6].reshape(6, 2, 2),
      'log_scales': before[:, 6:10].reshape(6, 2, 2),
      'links': before[:, 10:].reshape(6, 1, 2),
    }

  return par.from_function(
    conditionals,
    event=(6, 2),
    rank=order.raster((6,)),
    head=heads.discretized_logistic(5, 2, 2),
    init=lambda key: jax.random.normal(key, (2, 12)) / 3,
  )


@pytest.mark.parametrize(
  ('make', 'batch'),
  [
    (pixels, 3),
    (
      lambda: models.gated_pixelcnn(
        event=(3, 4, 1), num_values=3, features=4, layers=1, num_classes=3
      ),
      1,
    ),
    (lambda: toys.sigmoid_net((6,), rank=np.array([1, 0, 1, 2, 0, 2])), 3),
    (
      lambda: models.transformer(
        event=(70,), num_values=3, features=4, heads=1, layers=1
      ),
      2,
    ),
  ],
  ids=['channels', 'rows', 'groups', 'room'],
)
def test_the_cache_of_any_order_codes(make, batch):
  """In batches, the last one filled up, and alone; sizes as promised."""
  case = conformance.make_case(make(), batch=5)
  nats = likelihood.log_prob(case.model, case.params, case.x, case.context)
  bits = -float(nats.sum()) / np.log(2)
  pair = coding.codec(case.model, method='cached', batch=batch, verify=False)
  data = pair.encode(case.params, case.x, case.context)
  back = pair.decode(case.params, data, case.context)
  np.testing.assert_array_equal(back.x, case.x)
  assert back.evaluations == -(-5 // batch)
  bill = coding.account(case.model, case.params, data, case.x, case.context)
  assert sum(bill[:-1]) == pytest.approx(8 * len(data), abs=1e-6)
  assert abs(bill.coder) < 24  # channels are in it too
  assert 8 * len(data) < 1.01 * bits + 8 * 52 + 21 * batch


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
